"""Neurons: the ops with a membrane.

Parameters broadcast against the neurons as in torch: (), (C, 1, 1), (C, H, W) or (N,). Every state is 0 before the
first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from rmp_deploy.ir.ops.base import Array, Op, Shape

Reset = Literal["hard", "soft"]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Membrane(Op):
    """A membrane with a leak: ``decay`` is its factor per step, 0..1."""

    per_neuron: ClassVar[tuple[str, ...]] = ("decay",)

    decay: Array

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in self.per_neuron:
            if what.endswith("decay"):
                values: Array = getattr(self, what)
                span = f"{what} = {values.min():g}..{values.max():g}"
                fits = bool((values >= 0).all() and (values <= 1).all())
                self._check(fits, span, "0..1", "Give the factor per step, not tau")

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        for what in self.per_neuron:
            parameter: Shape = getattr(self, what).shape
            try:
                fits = np.broadcast_shapes(parameter, shape) == shape
            except ValueError:
                fits = False
            self._check(fits, f"{what}.shape = {parameter}", f"what broadcasts to {shape}", "Reshape it, as in torch")
        return shape


@dataclass(frozen=True, eq=False, kw_only=True)
class LIF(_Membrane):
    """Leaky integrate-and-fire neurons, strict threshold; IF is ``decay = 1``.

    ``u[t] = decay * v[t-1] + x[t]``, ``s[t] = u[t] > v_threshold``; then hard reset
    ``v[t] = v_reset where s[t] else u[t]`` or soft reset ``v[t] = u[t] - v_threshold * s[t]``.
    Source: docs/rmp_loss.md (decay 0.25, effective threshold 0.5, pre-reset `u` is what fires).
    """

    per_neuron: ClassVar[tuple[str, ...]] = ("decay", "v_threshold", "v_reset")

    v_threshold: Array
    v_reset: Array
    reset: Reset = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.reset in ("hard", "soft"), f"reset = {self.reset!r}", "'hard' or 'soft'", "Choose one")


@dataclass(frozen=True, eq=False, kw_only=True)
class CubaLIF(LIF):
    """Current-based LIF: a synaptic current with a decay of its own, then LIF.

    ``i[t] = current_decay * i[t-1] + x[t]``, ``u[t] = decay * v[t-1] + i[t]``, spikes and reset as `LIF`; a spike
    resets v and leaves i as it is. ``current_decay = 0`` is `LIF`.
    Source: Davies et al. 2018, IEEE Micro 38(1), section on the neuron model; lava/proc/lif/models.py:45-69 with
    current_decay = 1 - du and decay = 1 - dv.
    """

    per_neuron: ClassVar[tuple[str, ...]] = ("current_decay", "decay", "v_threshold", "v_reset")

    current_decay: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class LI(_Membrane):
    """Leaky integrator, a readout that does not spike: ``v[t] = decay * v[t-1] + x[t]``; its value is v."""
