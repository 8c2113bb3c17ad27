"""Real weights as Loihi's: mantissas of few bits times a power of two, for a given scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import op_error
from rmp_deploy.ir.integers import MAX_INTEGER
from rmp_deploy.ir.ops.loihi import WEIGHT_EXP, SignMode, weight_step
from rmp_deploy.passes.quantize.layers import F64, Synapse

CLIPPING = (1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)  # largest weight over largest that is kept
SAMPLED = 4_096  # weights of a synapse that the ranking of scales looks at


@dataclass(frozen=True, eq=False)
class Grid:
    """What one synapse can hold: integers ``level * step << weight_exp`` with ``low <= level <= high``.

    Attributes:
        weight: what is wanted, in real units per unit of what the synapse reads, times the layer's gain.
        unit: real units of what the synapse reads per its integer: 1 for spikes.
        num_weight_bits: of Loihi, with the sign where signs are mixed.
        sign_mode: `mixed`, or the one sign that all weights have, which saves a bit.
        reads: largest magnitude of what it reads, 1 for spikes.
        floors: a shift to the right may drop bits: what it reads is graded, and so large that they do not matter.
    """

    weight: F64
    unit: float
    num_weight_bits: int
    sign_mode: SignMode
    reads: int
    floors: bool

    @property
    def step(self) -> int:
        return weight_step(self.num_weight_bits, self.sign_mode)

    @property
    def span(self) -> tuple[int, int]:
        """Lowest and highest level."""
        bits = self.num_weight_bits
        if self.sign_mode == "mixed":
            return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        return (0, 2**bits - 1) if self.sign_mode == "excitatory" else (1 - 2**bits, 0)

    @property
    def levels(self) -> int:
        """The level that the largest weight is laid on where nothing is clipped."""
        return max(abs(self.span[0]) - (self.sign_mode == "mixed"), self.span[1])

    @cached_property
    def largest(self) -> float:
        return float(np.abs(self.weight).max())

    @property
    def full_scale(self) -> float:
        """The scale at which the largest weight, of weight_exp 0, is on the last level."""
        return self.levels * self.step / self.largest

    @property
    def lowest_exp(self) -> int:
        """The smallest weight_exp that drops no bit, or (where it `floors`) the smallest there is."""
        return WEIGHT_EXP[0] if self.floors else max(WEIGHT_EXP[0], -int(math.log2(self.step)))

    @cached_property
    def worst_sum(self) -> float:
        """Largest magnitude of a sum, in real units, for any input."""
        return float(np.abs(self.weight).reshape(len(self.weight), -1).sum(axis=1).max()) * self.reads

    def exponent(self, scale: float, kept: float) -> int:
        """The smallest weight_exp that holds `kept` of the largest weight, drops no bit and keeps sums below 2^23."""
        if self.largest == 0:
            return 0
        for_weight = scale * kept / self.full_scale
        for_sum = scale * self.worst_sum / (0.98 * MAX_INTEGER)  # of a negative exponent: before the shift
        exponent = math.ceil(math.log2(for_weight) - 1e-9)
        if exponent < 0:
            exponent = min(0, max(exponent, math.ceil(math.log2(for_sum))))
        return min(max(exponent, self.lowest_exp), WEIGHT_EXP[1])

    def stored(self, scale: float, exponent: int, weight: F64 | None = None) -> npt.NDArray[np.int32]:
        """The nearest integer weights of ``scale * weight >> exponent`` that the synapse holds."""
        level = np.rint((self.weight if weight is None else weight) * (scale / (self.step * 2.0**exponent)))
        stored: npt.NDArray[np.int32] = (np.clip(level, *self.span) * self.step).astype(np.int32)
        return stored

    def clipped(self, scale: float, exponent: int) -> int:
        """Weights that lie beyond the span."""
        level = np.rint(self.weight * (scale / (self.step * 2.0**exponent)))
        return int(((level < self.span[0]) | (level > self.span[1])).sum())

    def sample(self) -> F64:
        """Every n-th weight, and the largest."""
        flat = self.weight.reshape(-1)
        return np.append(flat[:: -(-flat.size // SAMPLED)], flat[np.argmax(np.abs(flat))])


@dataclass(frozen=True)
class Candidate:
    """A scale, the part of the largest weight that is kept, and the mean square of what rounding adds to currents."""

    scale: float
    kept: float
    error: float


def grid(op: Synapse, weight: F64, unit: float, bits: int, reads: int, floors: bool) -> Grid:
    """What `op` can hold with `bits` of `weight`, in real units per real unit of what it reads.

    Raises:
        RmpDeployError: one bit for weights of both signs.
    """
    mode: SignMode = "mixed"
    if weight.min() >= 0:
        mode = "excitatory"
    elif weight.max() <= 0:
        mode = "inhibitory"
    if mode == "mixed" and bits < 2:
        todo = "Give it more bits, or weights of one sign"
        raise op_error(op.kind, op.name, f"weight_bits = {bits}", "2..8 for weights of both signs", todo)
    return Grid(weight * unit, unit, bits, mode, reads, floors)


def candidates(grids: list[Grid], power: list[float], lowest: float, highest: float) -> list[Candidate]:
    """Scales in the octave from `lowest`, at most `highest`, best first by the error that rounding makes of currents.

    Where nothing is clipped, the largest weight of a synapse is laid on one of its levels, in the upper half: weights
    that already are multiples of something are found so. `power` is the mean square of what each synapse reads.
    """
    found: set[tuple[float, float]] = set()
    for g in grids:
        if g.largest == 0:
            continue
        exact = [(n * g.step / g.largest, 1.0) for n in range(g.levels // 2 + 1, g.levels + 1)]
        clipping = [(r * g.levels * g.step / g.largest, 1 / r) for r in CLIPPING]
        found |= {(s * 2.0 ** math.ceil(math.log2(lowest / s) - 1e-9), kept) for s, kept in exact + clipping}
    scales = sorted({(min(s, highest), kept) for s, kept in found}) or [(lowest, 1.0)]
    samples = [g.sample() for g in grids]

    def error(scale: float, kept: float) -> float:
        total = 0.0
        for g, weight, of_input in zip(grids, samples, power, strict=True):
            exponent = g.exponent(scale, kept)
            rounded = g.stored(scale, exponent, weight) * (2.0**exponent / scale)
            total += of_input * float(np.square(rounded - weight).mean()) * g.weight.size / len(g.weight)
        return total

    return sorted((Candidate(s, kept, error(s, kept)) for s, kept in scales), key=lambda c: (c.error, -c.scale))
