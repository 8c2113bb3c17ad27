"""Loihi's integer arithmetic: neurons and synapses as lava-nc 0.10.0 computes them in fixed point, bit for bit.

Values are integers: spikes, graded spikes or synaptic currents. `rmp_deploy.ir.integers` holds what may feed what and
how large a value may become; docs/loihi.md has the equations with their sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import op_error
from rmp_deploy.ir.ops.base import IntArray, Op, Pair, Shape
from rmp_deploy.ir.ops.neurons import SpikingNeuron
from rmp_deploy.ir.ops.synapses import ConvGeometry, dense_shape

SignMode = Literal["mixed", "excitatory", "inhibitory"]
WEIGHT_SPAN: dict[SignMode, tuple[int, int]] = {"mixed": (-256, 255), "excitatory": (0, 255), "inhibitory": (-255, 0)}
WEIGHT_BITS = 8
WEIGHT_EXP = (-8, 7)
STATE_SHIFT = 6  # currents and thresholds are aligned 6 bits above the states' lowest
PARAMETER_SPAN = {  # lava/proc/lif/models.py:232-245; du = -1 and dv = 4096 are what ds_offset and dm_offset are for
    "du": (-1, 4095),
    "dv": (0, 4096),
    "vth": (0, 131_071),
    "bias_mant": (-4096, 4095),
    "bias_exp": (0, 7),
}


def _zero() -> IntArray:
    return np.zeros((), np.int32)


@dataclass(frozen=True, eq=False, kw_only=True)
class LoihiLIF(SpikingNeuron):
    """Loihi's current-based LIF in fixed point; states are 24-bit integers in units of 1/64 of a synaptic current.

    With ``decayed(x, d) = x * (4096 - d) / 4096``, truncated toward zero:

    ``i = wrap(decayed(i, du + 1) + (x << 6))``, 24 bits; ``u = clip(decayed(v, dv) + i + (bias_mant << bias_exp))`` to
    +-(2^23 - 1); ``s = u > vth << 6``; ``v = 0 where s else u``; a spike leaves i as it is.

    The names are the IR's: i is what Lava calls u, and u is v before the reset. ``du = 4095`` keeps no current, so that
    the neuron is `LIF`; ``dv = 4096 * (1 - decay)``. ``du = -1`` keeps the current for ever.
    Source: lava/proc/lif/models.py:72-278, PyLifModelBitAcc (lava-nc 0.10.0).

    Attributes:
        du: decay of i, -1..4095 in 1/4096 per step, one less than what decays.
        dv: decay of v, 0..4096 in 1/4096 per step.
        vth: threshold in units of a synaptic current, 0..131071.
        bias_mant: mantissa of what is added to v at every step, -4096..4095.
        bias_exp: its exponent, 0..7; the bias is in units of the state.
    """

    du: IntArray
    dv: IntArray
    vth: IntArray
    bias_mant: IntArray = field(default_factory=_zero)
    bias_exp: IntArray = field(default_factory=_zero)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high) in PARAMETER_SPAN.items():
            self._check_span(name, getattr(self, name), low, high)

    @property
    def per_neuron(self) -> dict[str, npt.NDArray[Any]]:
        return {name: getattr(self, name) for name in PARAMETER_SPAN}

    @property
    def threshold(self) -> npt.NDArray[np.int64]:
        return self.vth.astype(np.int64) << STATE_SHIFT

    @property
    def bias(self) -> npt.NDArray[np.int64]:
        """What is added to v at every step, in units of the state."""
        return self.bias_mant.astype(np.int64) << self.bias_exp


@dataclass(frozen=True, eq=False, kw_only=True)
class LoihiLinear(Op):
    """Dense integer synapses: ``y[o] = (sum_i weight[o, i] * x[i]) << weight_exp``; weight (N_out, N_in).

    A negative exponent shifts the sum right (floor). A weight has ``num_weight_bits`` of 8 bits, of which a sign takes
    one: with mixed signs it is a multiple of ``2 << (8 - num_weight_bits)`` in -256..255, otherwise of
    ``1 << (8 - num_weight_bits)`` in 0..255 or -255..0. Others are refused; `stored_weight` is what Lava makes of them.
    Source: lava/proc/dense/models.py:57-107, PyDenseModelBitAcc (lava-nc 0.10.0).

    Attributes:
        weight: (N_out, N_in), integers within the span of sign_mode.
        weight_exp: the sum is shifted left by it, -8..7.
        num_weight_bits: bits that a weight is held in, 1..8.
        sign_mode: ``'mixed'``, ``'excitatory'`` or ``'inhibitory'``.
    """

    weight: IntArray
    weight_exp: int = 0
    num_weight_bits: int = WEIGHT_BITS
    sign_mode: SignMode = "mixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.weight.ndim == 2, f"weight.ndim = {self.weight.ndim}", "2 (N_out, N_in)", "Reshape it")
        _check_weight(self)

    def output_shape(self, *shapes: Shape) -> Shape:
        return dense_shape(self, self.weight.shape, *shapes)


@dataclass(frozen=True, eq=False, kw_only=True)
class LoihiConv2d(ConvGeometry):
    """2-D integer convolution: geometry as `Conv2d`; weight, exponent and the shift of the sum as `LoihiLinear`.

    Lava's own Conv knows neither exponent nor weight bits (lava/proc/conv/models.py:69-82); Loihi's synapses do, and
    one network must not have two rules. On Lava the exponent goes into the weights, and where that is not exact the op
    is refused there.

    Attributes:
        weight_exp: the sum is shifted left by it, -8..7.
        num_weight_bits: bits that a weight is held in, 1..8.
        sign_mode: ``'mixed'``, ``'excitatory'`` or ``'inhibitory'``.
    """

    axes: ClassVar[str] = "HW"

    weight: IntArray
    weight_exp: int = 0
    num_weight_bits: int = WEIGHT_BITS
    sign_mode: SignMode = "mixed"
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_weight(self)


def weight_step(num_weight_bits: int, sign_mode: SignMode) -> int:
    """Weights are multiples of this: ``1 << (8 - num_weight_bits + mixed)``."""
    return 1 << (WEIGHT_BITS - num_weight_bits + (sign_mode == "mixed"))


def stored_weight(weight: npt.NDArray[Any], num_weight_bits: int, sign_mode: SignMode) -> npt.NDArray[np.int64]:
    """What Loihi's synapses hold of integer `weight`: clipped to the mode's span, then low bits dropped.

    Mixed signs are floored to a multiple of `weight_step`, the other modes are truncated toward zero.
    Source: lava/utils/weightutils.py, clip_weights and truncate_weights (lava-nc 0.10.0).
    """
    step = weight_step(num_weight_bits, sign_mode)
    clipped = np.clip(weight.astype(np.int64), *WEIGHT_SPAN[sign_mode])
    stored: npt.NDArray[np.int64] = -(-clipped // step * step) if sign_mode == "inhibitory" else clipped // step * step
    return stored


def _check_weight(op: LoihiLinear | LoihiConv2d) -> None:
    def check(holds: bool, what: str, allowed: str, todo: str) -> None:
        if not holds:
            raise op_error(op.kind, op.name, what, allowed, todo)

    mode, bits, exp = op.sign_mode, op.num_weight_bits, op.weight_exp
    check(mode in WEIGHT_SPAN, f"sign_mode = {mode!r}", " or ".join(WEIGHT_SPAN), "Choose one")
    for what, value in (("num_weight_bits", bits), ("weight_exp", exp)):
        check(type(value) is int, f"{what} = {value!r}", "an int", "Correct it")
    check(1 <= bits <= WEIGHT_BITS, f"num_weight_bits = {bits}", f"1..{WEIGHT_BITS}", "Correct it")
    low, high = WEIGHT_EXP
    check(low <= exp <= high, f"weight_exp = {exp}", f"{low}..{high}", "Scale the weights instead")
    wrong = op.weight != stored_weight(op.weight, bits, mode)
    if wrong.any():
        low, high = WEIGHT_SPAN[mode]
        allowed = f"multiples of {weight_step(bits, mode)} in {low}..{high} ({mode}, {bits} bits)"
        todo = "Round the weights to what the synapses hold (stored_weight)"
        raise op_error(op.kind, op.name, f"weight = {op.weight.flat[np.argmax(wrong)]}", allowed, todo)
