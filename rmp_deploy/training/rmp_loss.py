"""RMP-Loss: regularize membrane potentials towards the two values that a spike can take.

Source: Guo et al., "RMP-Loss: Regularizing Membrane Potential Distribution for Spiking Neural Networks", ICCV 2023,
arXiv 2308.06787. First power, triangle schedule and k = 0.1 are not verified against the paper's text
(docs/rmp_loss.md says how each is known); all three are options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rmp_deploy.training.config import SCHEDULES, Schedule
from rmp_deploy.training.neurons import LIF, neurons


def quantization_distance(u: Tensor, power: int = 1) -> Tensor:
    """``mean( min(|u|, |1 - u|) ** power )`` over all elements of the membrane potentials `u` before the reset."""
    return torch.minimum(u.abs(), (1 - u).abs()).pow(power).mean()


def weight_at(epoch: int, epochs: int, k: float = 0.1, schedule: Schedule = "triangle") -> float:
    """lambda(n), the weight of RMP-Loss in epoch n of N.

    triangle: ``2k n/N`` up to N/2, then ``2k (1 - n/N)``; ramp_hold: ``2k n/N`` up to N/2, then k; constant: k.

    Raises:
        ValueError: not 0 <= n <= N and N >= 1, k < 0 or not finite, or a schedule that is not known.
    """
    if not (epochs >= 1 and 0 <= epoch <= epochs and 0 <= k < math.inf) or schedule not in SCHEDULES:
        raise ValueError(
            f"weight_at: epoch = {epoch} of epochs = {epochs}, k = {k}, schedule = {schedule!r}, "
            f"allowed epochs >= 1, epoch 0..epochs, finite k >= 0, schedule {' | '.join(SCHEDULES)}."
        )
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

    Each call is of a forward pass of its own and takes the layers' `distance` with it; a second `RMPLoss` on a layer
    replaces the first. With k = 0 the layers compute no distance and the loss is 0.

    Raises:
        ValueError: the model has no LIF layers, or not those named; k < 0 or not finite; a power or schedule that is
            not known. When called: an epoch outside of the schedule, no forward pass since the last call or one
            without gradient, or another `RMPLoss` has given a layer another power.
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
        if unknown or (layers is not None and not layers):
            what = f"layers = {unknown[0]!r}" if unknown else "layers = none"
            raise ValueError(f"RMPLoss: {what}, allowed {', '.join(found)}. Name the model's spiking layers.")
        self.layers = found if layers is None else {name: found[name] for name in layers}
        if not 0 <= k < math.inf or power not in (1, 2) or schedule not in SCHEDULES:
            raise ValueError(
                f"RMPLoss: k = {k}, power = {power}, schedule = {schedule!r}, "
                f"allowed finite k >= 0, power 1 or 2, schedule {' | '.join(SCHEDULES)}."
            )
        self.k, self.power, self.schedule = k, power, schedule
        for layer in self.layers.values():
            layer.distance_power = power if k > 0 else None

    def __call__(self, epoch: int, epochs: int) -> Tensor:
        weight = weight_at(epoch, epochs, self.k, self.schedule)
        if self.k == 0:
            return torch.zeros(())
        mean = torch.stack([self._distance(name, layer) for name, layer in self.layers.items()]).mean()
        if torch.is_grad_enabled() and not mean.requires_grad:
            todo = "Call it right after the training pass, or under torch.no_grad()"
            raise ValueError(f"RMPLoss: the last forward pass had no gradient, allowed one with it. {todo}.")
        for layer in self.layers.values():
            layer.distance = None  # so that no later call takes it for that of its own pass
        return weight * mean

    def _distance(self, name: str, layer: LIF) -> Tensor:
        """The layer's distance of the last forward pass."""
        if layer.distance_power != self.power:
            what = f"power of layer '{name}' = {layer.distance_power}, allowed {self.power}"
            raise ValueError(f"RMPLoss: {what}. Another RMPLoss has set it: use one for each layer.")
        if layer.distance is None:
            what = f"membrane potentials of layer '{name}' = none, allowed those of one forward pass for each call"
            raise ValueError(f"RMPLoss: {what}. Run the model forward first.")
        return layer.distance
