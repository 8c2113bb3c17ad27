"""Which values of a graph are integers, and how large they can become: what Loihi's arithmetic needs to know.

A graph is real-valued, or integer, or both. Loihi's ops read integers (spikes of any neuron, an input with
`message_bits`, a `Quantize`, each other's values); real-valued ops read everything but Loihi's currents. So real values
reach Loihi as the spikes of a first layer on the host, or as the graded spikes that a `Quantize` makes of the samples;
and Loihi's answer is its currents, its spikes read by a real-valued readout, or its currents behind a `Dequantize`.

Every integer is smaller than 2^23 in magnitude, for any input that the graph allows: the width of Loihi's states, of
Lava's Conv (lava/proc/conv/models.py:81, which would wrap) and of what float32 holds exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rmp_deploy.errors import op_error
from rmp_deploy.ir.ops import (
    Add,
    Concat,
    Delay,
    Dequantize,
    Flatten,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Quantize,
    SpikingNeuron,
    SumPool2d,
)
from rmp_deploy.ir.ops.base import MAX_MESSAGE_BITS

MAX_INTEGER = 2**MAX_MESSAGE_BITS - 1
SYNAPSES = (LoihiLinear, LoihiConv2d)


def limits(ops: Sequence[Op], input_name: str, message_bits: int | None) -> dict[str, int]:
    """Largest magnitude of every integer value by name; real values, and what loops without a neuron, are absent.

    Spikes are integers too. `message_bits` is the input's: None for real values, 0 for spikes, n for ``|x| < 2^n``.

    Raises:
        RmpDeployError: an op of Loihi reads what is no integer, a real-valued op reads Loihi's currents, a Quantize
            reads anything but real samples, a Dequantize anything but currents, or an integer could reach 2^23.
    """
    known: dict[str, int] = {} if message_bits is None else {input_name: max(1, 2**message_bits - 1)}
    known |= {op.name: 1 for op in ops if isinstance(op, SpikingNeuron)}
    known |= {op.name: op.largest for op in ops if isinstance(op, Quantize)}
    passing, before = [op for op in ops if type(op) in LARGEST], -1
    while len(known) > before:  # one round, unless a Delay reads what is made after it
        before = len(known)
        for op in passing:
            if op.name not in known and known.keys() >= set(op.inputs):
                known[op.name] = _largest(op, *(known[i] for i in op.inputs))
        passing.reverse()
    moved, samples = currents(ops), _samples(ops, input_name)
    for op in ops:
        if isinstance(op, Quantize):
            _check_quantize(op, known, samples)
        else:
            _check(op, known, moved)
    return known


def currents(ops: Sequence[Op]) -> frozenset[str]:
    """The values of Loihi's synapses, also where ops without weights have moved, joined or delayed them."""
    found = {op.name for op in ops if isinstance(op, SYNAPSES)}
    passing, before = [op for op in ops if type(op) in LARGEST], -1
    while len(found) > before:
        before = len(found)
        for op in passing:
            if not found.isdisjoint(op.inputs):
                found.add(op.name)
        passing.reverse()
    return frozenset(found)


def _samples(ops: Sequence[Op], input_name: str) -> frozenset[str]:
    """The input, and what is it flattened."""
    found = {input_name}
    for op in ops:
        if isinstance(op, Flatten) and op.inputs[0] in found:
            found.add(op.name)
    return frozenset(found)


def _largest(op: Op, *read: int) -> int:
    largest = LARGEST[type(op)](op, *read)
    if largest > MAX_INTEGER:
        todo = "Use smaller weights, a smaller weight_exp, fewer message_bits or fewer summands"
        what = f"largest possible |{op.name}| = {largest}"
        raise op_error(op.kind, op.name, what, f"{MAX_INTEGER} (24 bits and sign)", todo)
    return largest


def _check_quantize(op: Quantize, known: dict[str, int], samples: frozenset[str]) -> None:
    read = op.inputs[0]
    if read in known:
        raise op_error(op.kind, op.name, f"input = '{read}', integers", "real values", "Leave the Quantize out")
    if read not in samples:
        allowed = "the graph's input, as it is or flattened (what is computed rounds differently on every backend)"
        raise op_error(op.kind, op.name, f"input = '{read}', a computed value", allowed, "Quantize the samples")


def _check(op: Op, known: dict[str, int], moved: frozenset[str]) -> None:
    real = [i for i in op.inputs if i not in known]
    if isinstance(op, (*SYNAPSES, LoihiLIF)):
        if real:
            todo = "State the input's message_bits, or put real-valued neurons between"
            raise op_error(op.kind, op.name, f"input = '{real[0]}', real-valued", "integers", todo)
    elif isinstance(op, Dequantize):
        if real or op.inputs[0] not in moved:
            what, allowed = f"input = '{op.inputs[0]}'", "a current of Loihi's synapses (no loop without neurons)"
            raise op_error(op.kind, op.name, what, allowed, "Leave the Dequantize out")
    elif (read := moved & set(op.inputs)) and not (type(op) in LARGEST and op.name in known):
        what, todo = f"input = '{min(read)}', a current of Loihi's synapses", "Put a LoihiLIF or a Dequantize between"
        raise op_error(op.kind, op.name, what, "real values or spikes (and no loop without neurons)", todo)


def _same(_op: Op, *read: int) -> int:
    return max(read)


def _add(_op: Add, *read: int) -> int:
    return sum(read)


def _sum_pool(op: SumPool2d, read: int) -> int:
    return op.kernel[0] * op.kernel[1] * read


def _synapse(op: LoihiLinear | LoihiConv2d, read: int) -> int:
    """The larger of the sum before and after its shift."""
    by_output = np.abs(op.weight.astype(np.int64)).reshape(len(op.weight), -1).sum(axis=1)
    return int(by_output.max()) * read << max(0, op.weight_exp)


LARGEST: dict[type[Op], Callable[..., int]] = {
    LoihiLinear: _synapse,
    LoihiConv2d: _synapse,
    Add: _add,
    SumPool2d: _sum_pool,
    **dict.fromkeys((Flatten, Concat, Delay, MaxPool2d), _same),
}
