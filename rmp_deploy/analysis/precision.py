"""How many bits a network's integers take, and where that is more than a profile allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LoihiConv2d, LoihiLIF, LoihiLinear, Op, Quantize

DECAY_BITS, STATE_BITS = 12, 24  # of Loihi's arithmetic (docs/loihi.md)


def excess_errors(graph: SpikingGraph, profile: HardwareProfile) -> Iterator[RmpDeployError]:
    """Where integers of the input or of an op take more bits than `profile` has; a limit that is unknown holds."""
    bits, allowed = graph.input.message_bits, profile.limits["graded_spike_bits"].value
    if bits is not None and allowed is not None and bits > allowed:
        todo = "Use a profile with graded spikes of so many bits"
        yield op_error("Input", graph.input.name, f"message_bits = {bits}", f"{allowed} [{profile.name}]", todo)
    for op in graph.ops:
        for limit, what, bits in needed(op):
            allowed = profile.limits[limit].value
            if allowed is not None and bits > allowed:
                todo = REMEDY[limit]
                yield op_error(op.kind, op.name, f"{what} = {bits}", f"{allowed} [{profile.name}]", todo)


def needed(op: Op) -> Iterator[tuple[str, str, int]]:
    """The limits that an op touches: name of the limit, what takes bits, how many."""
    if isinstance(op, LoihiLinear | LoihiConv2d):
        yield "weight_bits", "bits of a weight", op.num_weight_bits
    elif isinstance(op, Quantize):
        yield "graded_spike_bits", "bits of a graded spike", op.message_bits
    elif isinstance(op, LoihiLIF):
        yield "threshold_bits", "bits of vth", int(op.vth.max()).bit_length()
        yield "decay_bits", "bits of a decay", max(_decay_bits(op.du + 1), _decay_bits(op.dv))
        yield "bias_bits", "bits of bias_mant and its sign", _signed_bits(op.bias_mant)
        yield "state_bits", "bits of a state", STATE_BITS


def _decay_bits(decay: npt.NDArray[Any]) -> int:
    """Bits of a decay in 1/4096 without the zeros at its end; none of 0 and 1."""
    together = int(np.bitwise_or.reduce(decay.reshape(-1))) % (1 << DECAY_BITS)
    return DECAY_BITS - (together & -together).bit_length() + 1 if together else 0


def _signed_bits(values: npt.NDArray[Any]) -> int:
    """Of two's complement, which reaches one further down than up; none of 0."""
    return max(int(values.max()), ~int(values.min())).bit_length() + 1 if values.any() else 0


REMEDY: dict[str, str] = {
    "weight_bits": "Ask for fewer weight bits",
    "graded_spike_bits": "Let the host encode the input",
    "threshold_bits": "Use another profile",
    "decay_bits": "Train with a decay of fewer bits",
    "bias_bits": "Use another profile",
    "state_bits": "Use another profile (the arithmetic here has 24)",
}
