"""RMP-Loss: regularize membrane potentials towards the two values that a spike can take.

Source: Guo et al., "RMP-Loss: Regularizing Membrane Potential Distribution for Spiking Neural Networks", ICCV 2023,
arXiv 2308.06787. First power, triangle schedule and k = 0.1 are not verified against the paper's text
(docs/rmp_loss.md says how each is known); all three are options.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rmp_deploy.training.config import SCHEDULES, Schedule
from rmp_deploy.training.neurons import neurons


def quantization_distance(u: Tensor, power: int = 1) -> Tensor:
    """``mean( min(|u|, |1 - u|) ** power )`` over all elements of the membrane potentials `u` before the reset."""
    return torch.minimum(u.abs(), (1 - u).abs()).pow(power).mean()


def weight_at(epoch: int, epochs: int, k: float = 0.1, schedule: Schedule = "triangle") -> float:
    """lambda(n), the weight of RMP-Loss in epoch n of N.

    triangle: ``2k n/N`` up to N/2, then ``2k (1 - n/N)``; ramp_hold: ``2k n/N`` up to N/2, then k; constant: k.
    """
    progress = epoch / epochs
    if schedule == "constant":
        return k
    if progress <= 0.5:
        return 2 * k * progress
    return k if schedule == "ramp_hold" else 2 * k * (1 - progress)


class RMPLoss:
    """The weighted loss of a model's last forward pass: ``lambda(n) * mean over layers of quantization_distance(u)``.

    In any training loop::

        rmp_loss = RMPLoss(model)
        ...
        loss = cross_entropy(model(x), y) + rmp_loss(epoch, epochs)

    Raises:
        ValueError: the model has no LIF layers, k < 0, or a power or schedule that is not known.
    """

    def __init__(
        self,
        model: nn.Module,
        k: float = 0.1,
        power: int = 1,
        schedule: Schedule = "triangle",
        layers: Sequence[str] | None = None,
    ) -> None:
        found = neurons(model)
        if not found:
            raise ValueError("RMPLoss: LIF layers in the model = 0, allowed at least 1. Use rmp_deploy's LIF neurons.")
        unknown = [name for name in layers or () if name not in found]
        if unknown or layers == []:
            what = f"layers = {unknown[0]!r}" if unknown else "layers = []"
            raise ValueError(f"RMPLoss: {what}, allowed {', '.join(found)}. Name the model's spiking layers.")
        self.layers = list(found.values()) if layers is None else [found[name] for name in layers]
        if k < 0 or power not in (1, 2) or schedule not in SCHEDULES:
            raise ValueError(
                f"RMPLoss: k = {k}, power = {power}, schedule = {schedule!r}, "
                f"allowed k >= 0, power 1 or 2, schedule {' | '.join(SCHEDULES)}."
            )
        self.k, self.schedule = k, schedule
        for layer in self.layers:
            layer.distance_power = power if k > 0 else None

    def __call__(self, epoch: int, epochs: int) -> Tensor:
        if self.k == 0:
            return torch.zeros(())
        distances = [layer.distance for layer in self.layers]
        if any(d is None for d in distances):
            raise ValueError("RMPLoss: no membrane potentials yet. Run the model forward first.")
        mean = torch.stack([d for d in distances if d is not None]).mean()
        return weight_at(epoch, epochs, self.k, self.schedule) * mean
