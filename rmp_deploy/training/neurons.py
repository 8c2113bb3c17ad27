"""Spiking neurons as torch modules. Shapes: T time steps first, then B batch, then the layer: [T, B, ...]."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rmp_deploy.training import fused
from rmp_deploy.training.fused import Options, Reset
from rmp_deploy.training.surrogate import Rectangular, Surrogate

State = tuple[Tensor, ...]  # what a step hands to the next, each [B, ...]


class _Leaky(nn.Module):
    """A state with a decay: fixed, or learnt as ``decay = sigmoid(decay_logit)``, which stays inside 0..1."""

    def __init__(self, decay: float | Tensor, learn_decay: bool) -> None:
        super().__init__()
        _check_decay(type(self).__name__, "decay", decay, learn_decay)
        value = torch.as_tensor(decay, dtype=torch.float32).clone()
        if learn_decay:
            self.decay_logit = nn.Parameter(torch.logit(value))
        else:
            self.register_buffer("fixed_decay", value)

    @property
    def decay(self) -> Tensor:
        """The factor of the state per step: [], or what broadcasts against [B, ...]."""
        learnt: Tensor | None = getattr(self, "decay_logit", None)
        return self.get_buffer("fixed_decay") if learnt is None else torch.sigmoid(learnt)


class LIF(_Leaky):
    """Leaky integrate-and-fire neurons over T steps: currents [T, B, ...] in, spikes [T, B, ...] out.

    ``u[t] = decay * v[t-1] + x[t]``, ``s[t] = u[t] > v_threshold``, ``v[-1] = 0``; hard reset
    ``v[t] = u[t] * (1 - s[t]) + v_reset * s[t]`` or soft reset ``v[t] = u[t] - v_threshold * s[t]``. The reset is not
    detached unless `detach_reset`: gradients flow through it. Parameters are numbers, per channel (C, 1, 1) or per
    neuron; `learn_decay` learns as many decays as it is given. Defaults: docs/rmp_loss.md.

    After a forward pass `u` holds the membrane potentials before the reset, [T, B, ...], and in eval mode `v` those
    after it. Where `distance_power` is set (`RMPLoss` does), `distance` is their mean distance to the spikes, [],
    until the loss has read it.

    Raises:
        ValueError: a decay outside 0..1 (or on its ends, to be learnt), a v_reset with the soft reset, or a reset
            that is neither hard nor soft.
    """

    v_threshold: Tensor
    v_reset: Tensor
    of_the_last_pass: ClassVar[tuple[str, ...]] = ("u", "distance")

    def __init__(
        self,
        decay: float | Tensor = 0.25,
        v_threshold: float | Tensor = 0.5,
        v_reset: float | Tensor = 0.0,
        reset: Reset = "hard",
        surrogate: Surrogate | None = None,
        detach_reset: bool = False,
        learn_decay: bool = False,
    ) -> None:
        super().__init__(decay, learn_decay)
        for name, value in (("v_threshold", v_threshold), ("v_reset", v_reset)):
            _check_finite(type(self).__name__, name, value)
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).clone())
        if reset not in ("hard", "soft"):
            raise ValueError(f"{type(self).__name__}: reset = {reset!r}, allowed 'hard' or 'soft'.")
        if reset == "soft" and bool(torch.as_tensor(v_reset, device="cpu").any()):
            what = f"v_reset = {v_reset} with reset = 'soft'"
            raise ValueError(f"{type(self).__name__}: {what}, allowed 0. A soft reset has no v_reset.")
        self.reset: Reset = reset
        self.surrogate: Surrogate = surrogate or Rectangular()
        self.detach_reset = detach_reset
        self.distance_power: int | None = None
        self.u: Tensor | None = None
        self.distance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        options = Options(self.reset, self.detach_reset, self.surrogate, self.distance_power)
        decay, v_threshold, v_reset = (_number(p) for p in (self.decay, self.v_threshold, self.v_reset))
        spikes, self.u, distance = fused.lif(self._current(x), decay, v_threshold, v_reset, options)
        self.distance = None if self.distance_power is None else distance
        return spikes

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts without the last pass: torch copies no tensor that has a gradient's history."""
        return {**self.__dict__, **dict.fromkeys(self.of_the_last_pass)}

    def _current(self, x: Tensor) -> Tensor:
        """The current that the membrane integrates."""
        return x

    @property
    def v(self) -> Tensor | None:
        """The membrane potentials after the reset of the last pass in eval mode, [T, B, ...]."""
        if self.u is None or self.training:
            return None
        s = (self.u > self.v_threshold).to(self.u.dtype)
        return self.u - self.v_threshold * s if self.reset == "soft" else self.u * (1 - s) + self.v_reset * s

    @torch.no_grad()
    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One time step, for streaming: currents [B, ...] and the state before (None: zeros) to spikes and (v,)."""
        decay, v_threshold, v_reset = (_number(p) for p in (self.decay, self.v_threshold, self.v_reset))
        v = None if state is None else state[0]
        spikes, v = fused.lif_step(x, v, decay, v_threshold, v_reset, self.reset)
        return spikes, (v,)

    def extra_repr(self) -> str:
        return f"decay={self.decay.tolist()}, v_threshold={self.v_threshold.tolist()}, reset={self.reset!r}"


class IF(LIF):
    """Integrate-and-fire neurons: `LIF` with ``decay = 1``."""

    def __init__(
        self,
        v_threshold: float | Tensor = 0.5,
        v_reset: float | Tensor = 0.0,
        reset: Reset = "hard",
        surrogate: Surrogate | None = None,
        detach_reset: bool = False,
    ) -> None:
        super().__init__(1.0, v_threshold, v_reset, reset, surrogate, detach_reset)


class CubaLIF(LIF):
    """Current-based LIF: ``i[t] = current_decay * i[t-1] + x[t]``, then `LIF` on i; a spike leaves i as it is.

    Source: Davies et al. 2018, IEEE Micro 38(1), with current_decay = 1 - du and decay = 1 - dv.
    """

    current_decay: Tensor

    def __init__(
        self,
        current_decay: float | Tensor = 0.25,
        decay: float | Tensor = 0.25,
        v_threshold: float | Tensor = 0.5,
        v_reset: float | Tensor = 0.0,
        reset: Reset = "hard",
        surrogate: Surrogate | None = None,
        detach_reset: bool = False,
        learn_decay: bool = False,
    ) -> None:
        super().__init__(decay, v_threshold, v_reset, reset, surrogate, detach_reset, learn_decay)
        _check_decay("CubaLIF", "current_decay", current_decay, learnt=False)
        self.register_buffer("current_decay", torch.as_tensor(current_decay, dtype=torch.float32).clone())

    def _current(self, x: Tensor) -> Tensor:
        return fused.leaky_sum(x, _number(self.current_decay))

    @torch.no_grad()
    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One time step, for streaming: currents [B, ...] and the state before (None: zeros) to spikes and (v, i)."""
        i = fused.leaky_step(x, None if state is None else state[1], _number(self.current_decay))
        spikes, (v,) = super().step(i, state)
        return spikes, (v, i)


class LI(_Leaky):
    """Leaky integrator, a readout that does not spike: ``v[t] = decay * v[t-1] + x[t]``; its value is v [T, B, ...]."""

    def __init__(self, decay: float | Tensor = 0.25, learn_decay: bool = False) -> None:
        super().__init__(decay, learn_decay)

    def forward(self, x: Tensor) -> Tensor:
        return fused.leaky_sum(x, _number(self.decay))

    @torch.no_grad()
    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One time step, for streaming: currents [B, ...] and the state before (None: zeros) to the value and (v,)."""
        v = fused.leaky_step(x, None if state is None else state[0], _number(self.decay))
        return v, (v,)


def neurons(model: nn.Module) -> dict[str, LIF]:
    """The spiking layers of `model` by module path, in the order of registration."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LIF)}


def _number(p: Tensor) -> Tensor | float:
    """A plain number where nothing is learnt and reading it waits for no device: the kernels are faster with it."""
    return p.item() if p.dim() == 0 and not p.requires_grad and p.device.type == "cpu" else p


def _check_finite(kind: str, what: str, value: float | Tensor) -> Tensor:
    """The value on the CPU, whatever device the layer is made on: `meta` has no values to look at."""
    found = torch.as_tensor(value, dtype=torch.float32, device="cpu")
    if found.numel() == 0 or not bool(found.isfinite().all()):
        raise ValueError(f"{kind}: {what} = {found.tolist()}, allowed finite numbers. Correct it.")
    return found


def _check_decay(kind: str, what: str, value: float | Tensor, learnt: bool) -> None:
    decay = _check_finite(kind, what, value)
    inside = (decay > 0) & (decay < 1) if learnt else (decay >= 0) & (decay <= 1)
    if not bool(inside.all()):
        allowed = "between 0 and 1, both excluded, to be learnt" if learnt else "0..1"
        raise ValueError(f"{kind}: {what} = {decay.tolist()}, allowed {allowed}. Give the factor per step, not tau.")
