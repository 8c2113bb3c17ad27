"""Where the host's real values and Loihi's integers meet: `Quantize` on the way in, `Dequantize` on the way out.

`rmp_deploy.ir.integers` holds what they may read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rmp_deploy.ir.ops.base import MAX_MESSAGE_BITS, Array, Op, Shape


def _zero() -> Array:
    return np.zeros((), np.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Boundary(Op):
    """A factor > 0 that broadcasts against the input; the value has the shape of the input."""

    scale: Array

    def __post_init__(self) -> None:
        super().__post_init__()
        lowest = self.scale.min()
        self._check(bool(lowest > 0), f"scale = {lowest:g}", "> 0", "Give the factor from one unit to the other")

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        self._check_broadcast("scale", self.scale, shape)
        return shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantize(_Boundary):
    """Real samples to integers, on the host: what Loihi reads as graded spikes.

    ``y = clip(rint(x * scale), -(2^message_bits - 1), 2^message_bits - 1)``

    A half goes to its even neighbour. x and scale are float32 and their product is exact in float64, so that every
    backend gives the same integers; for that reason it reads the graph's input, as it is or flattened, and nothing that
    was computed, which rounds differently from backend to backend.

    Attributes:
        scale: integers per unit of x, > 0; broadcasts against x as in torch: (), (C, 1, 1), (C, H, W) or (N,).
        message_bits: of the largest magnitude, 1..23.
    """

    message_bits: int

    def __post_init__(self) -> None:
        super().__post_init__()
        bits = self.message_bits
        self._check(type(bits) is int, f"message_bits = {bits!r}", "an int", "Correct it")
        self._check(1 <= bits <= MAX_MESSAGE_BITS, f"message_bits = {bits}", f"1..{MAX_MESSAGE_BITS}", "Correct it")

    @property
    def largest(self) -> int:
        """The largest magnitude of its value: ``2^message_bits - 1``."""
        return int(2**self.message_bits - 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dequantize(_Boundary):
    """Currents of Loihi's synapses to real values, on the host: a readout.

    ``y = scale * x + bias``

    Attributes:
        scale: real units per unit of the current, > 0; broadcasts against x as in torch: (), (C, 1, 1) or (N,).
        bias: what is added at every step, in real units; broadcasts as scale does.
    """

    bias: Array = field(default_factory=_zero)

    def output_shape(self, *shapes: Shape) -> Shape:
        self._check_broadcast("bias", self.bias, *shapes)
        return super().output_shape(*shapes)
