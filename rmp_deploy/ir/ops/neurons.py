"""Neurons: the ops with a membrane.

Parameters broadcast against the neurons as in torch: (), (C, 1, 1), (C, H, W) or (N,). Every state is 0 before the
first step.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.ops.base import Array, Op, Shape, same

Reset = Literal["hard", "soft"]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Neuron(Op):
    """Parameters that broadcast against the neurons; the value has the shape of the input current."""

    @property
    @abstractmethod
    def per_neuron(self) -> dict[str, npt.NDArray[Any]]:
        """The parameters that broadcast against the neurons, by the name that a file gives them."""

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        for what, values in self.per_neuron.items():
            self._check_broadcast(what, values, shape)
        return shape


@dataclass(frozen=True, eq=False, kw_only=True)
class SpikingNeuron(_Neuron):
    """Neurons that spike: every element of the value is 0 or 1. A trace has their spikes, v and u."""

    @property
    @abstractmethod
    def threshold(self) -> npt.NDArray[Any]:
        """What a trace's u is compared with: ``s = u > threshold``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Membrane(_Neuron):
    """A membrane with a leak.

    Attributes:
        decay: factor of v per step, 0..1: 1 keeps it, 0 forgets it; no unit.
    """

    decay: Array

    @property
    def per_neuron(self) -> dict[str, npt.NDArray[Any]]:
        return {"decay": self.decay}

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, values in self.per_neuron.items():
            if what.endswith("decay"):
                span = f"{what} = {values.min():g}..{values.max():g}"
                fits = bool((values >= 0).all() and (values <= 1).all())
                self._check(fits, span, "0..1", "Give the factor per step, not tau")


@dataclass(frozen=True, eq=False, kw_only=True)
class LIF(_Membrane, SpikingNeuron):
    """Leaky integrate-and-fire neurons, strict threshold; IF is ``decay = 1``.

    ``u[t] = decay * v[t-1] + x[t]``, ``s[t] = u[t] > v_threshold``; then hard reset
    ``v[t] = v_reset where s[t] else u[t]`` or soft reset ``v[t] = u[t] - v_subtract * s[t]``.

    ``v_reset`` belongs to the hard reset. ``v_subtract`` belongs to the soft one; where it is not given, it is
    ``v_threshold``, and 0 is a neuron that never resets. It is apart from the threshold because others' neurons need
    it: one that fires at ``>= th`` has the next smaller float as its threshold and still subtracts th; one that
    subtracts th in the step after the spike, undecayed (snnTorch), is ``v_subtract = th / decay`` here.
    Source: docs/rmp_loss.md (decay 0.25, effective threshold 0.5, pre-reset `u` is what fires).

    Attributes:
        v_threshold: a neuron fires where u is strictly above it; unit of x.
        v_reset: what v becomes by a hard reset; unit of x.
        v_subtract: what a soft reset takes off v, None for v_threshold; unit of x.
        reset: ``'hard'`` or ``'soft'``.
    """

    v_threshold: Array
    v_reset: Array = field(default_factory=lambda: np.zeros((), np.float32))
    v_subtract: Array | None = field(default=None, metadata={"since": 2})
    reset: Reset = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.reset in ("hard", "soft"), f"reset = {self.reset!r}", "'hard' or 'soft'", "Choose one")
        if self.reset == "hard":
            fits = self.v_subtract is None
            self._check(fits, "v_subtract with reset = 'hard'", "reset = 'soft'", "Leave one of them out")
        else:
            fits = not self.v_reset.any()
            self._check(fits, "v_reset with reset = 'soft'", "reset = 'hard'", "Leave one of them out")
            object.__setattr__(self, "v_reset", np.zeros((), np.float32))
            if self.v_subtract is not None and same(self.v_subtract, self.v_threshold):
                object.__setattr__(self, "v_subtract", None)  # one way to say one thing: equal neurons are equal

    @property
    def per_neuron(self) -> dict[str, npt.NDArray[Any]]:
        after = {"v_reset": self.v_reset} if self.reset == "hard" else {"v_subtract": self.subtracted}
        return {**super().per_neuron, "v_threshold": self.v_threshold, **after}

    @property
    def threshold(self) -> Array:
        return self.v_threshold

    @property
    def subtracted(self) -> Array:
        """What a spike takes off v in the soft reset."""
        return self.v_threshold if self.v_subtract is None else self.v_subtract


@dataclass(frozen=True, eq=False, kw_only=True)
class CubaLIF(LIF):
    """Current-based LIF: a synaptic current with a decay of its own, then LIF.

    ``i[t] = current_decay * i[t-1] + x[t]``, ``u[t] = decay * v[t-1] + i[t]``, spikes and reset as `LIF`; a spike
    resets v and leaves i as it is. ``current_decay = 0`` is `LIF`.
    Source: Davies et al. 2018, IEEE Micro 38(1), section on the neuron model; lava/proc/lif/models.py:45-69 with
    current_decay = 1 - du and decay = 1 - dv.

    Attributes:
        current_decay: factor of i per step, 0..1; no unit.
    """

    current_decay: Array

    @property
    def per_neuron(self) -> dict[str, npt.NDArray[Any]]:
        return {"current_decay": self.current_decay, **super().per_neuron}


@dataclass(frozen=True, eq=False, kw_only=True)
class LI(_Membrane):
    """Leaky integrator, a readout that does not spike; its value is v.

    ``v[t] = decay * v[t-1] + x[t]``
    """
