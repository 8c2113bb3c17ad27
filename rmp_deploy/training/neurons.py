"""Spiking neurons as torch modules. Shapes: T time steps first, then B batch, then the layer: [T, B, ...]."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rmp_deploy.training.surrogate import rectangular_spike


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons over T steps: currents [T, B, ...] in, spikes [T, B, ...] out.

    ``u[t] = decay * v[t-1] + x[t]``, ``s[t] = u[t] > v_threshold``, ``v[-1] = 0``; hard reset
    ``v[t] = u[t] * (1 - s[t]) + v_reset * s[t]`` or soft reset ``v[t] = u[t] - v_threshold * s[t]``. The reset is not
    detached: gradients flow through it. IF is ``decay = 1``. Defaults: docs/rmp_loss.md.

    After a forward pass `u` holds the membrane potentials before the reset, [T, B, ...], on which RMP-Loss and its
    diagnostics are computed, and in eval mode `v` holds those after it.

    Raises:
        ValueError: a decay outside 0..1, a width <= 0, or a reset that is neither hard nor soft.
    """

    decay: Tensor
    v_threshold: Tensor
    v_reset: Tensor

    def __init__(
        self,
        decay: float | Tensor = 0.25,
        v_threshold: float | Tensor = 0.5,
        v_reset: float | Tensor = 0.0,
        reset: Literal["hard", "soft"] = "hard",
        surrogate_width: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("decay", decay), ("v_threshold", v_threshold), ("v_reset", v_reset)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).clone())
        if not bool(((self.decay >= 0) & (self.decay <= 1)).all()):
            raise ValueError(f"LIF: decay = {decay}, allowed 0..1. Give the factor of v per step, not tau.")
        if surrogate_width <= 0:
            raise ValueError(f"LIF: surrogate_width = {surrogate_width}, allowed > 0.")
        if reset not in ("hard", "soft"):
            raise ValueError(f"LIF: reset = {reset!r}, allowed 'hard' or 'soft'.")
        if reset == "soft" and bool(self.v_reset.any()):
            raise ValueError(f"LIF: v_reset = {v_reset} with reset = 'soft', allowed 0. A soft reset has no v_reset.")
        self.reset: Literal["hard", "soft"] = reset
        self.surrogate_width = surrogate_width
        self.u: Tensor | None = None
        self.v: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x[0])
        spikes, u_steps, v_steps = [], [], []
        for x_t in x.unbind(0):
            u = self.decay * v + x_t
            s = rectangular_spike(u, self.v_threshold, self.surrogate_width)
            v = u - self.v_threshold * s if self.reset == "soft" else u * (1 - s) + self.v_reset * s
            spikes.append(s)
            u_steps.append(u)
            v_steps.append(v)
        self.u = torch.stack(u_steps)
        self.v = None if self.training else torch.stack(v_steps)
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        return f"decay={self.decay.tolist()}, v_threshold={self.v_threshold.tolist()}, reset={self.reset!r}"


def neurons(model: nn.Module) -> dict[str, LIF]:
    """The LIF layers of `model` by module path, in the order of registration."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LIF)}
