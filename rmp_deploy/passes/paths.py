"""Where currents flow, and what spikes a synapse reads: values followed to the synapses and neurons that make them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLinear,
    Quantize,
    SpikingNeuron,
)

SYNAPSES = (Linear, Conv1d, Conv2d, LoihiLinear, LoihiConv2d)
NEURONS = (SpikingNeuron, LI)
MAX_PARTS = 1024


@dataclass(frozen=True)
class Part:
    """What one neuron op, or the host, contributes to a value: from element `start` of its flat order on, `delay` steps
    late. Of a pool's value, which is not made of its input's elements, `start` means nothing.
    """

    source: str
    start: int = 0
    delay: int = 0


def currents(graph: SpikingGraph) -> frozenset[str]:
    """The values that synapses made and no neuron has read yet, also where they were joined, delayed or flattened."""
    found = {op.name for op in graph.of_type(*SYNAPSES)}
    passing, before = [op for op in graph.ops if not isinstance(op, (*SYNAPSES, *NEURONS))], -1
    while len(found) > before:  # one round, unless a Delay reads what is made after it
        before = len(found)
        for op in passing:
            if not found.isdisjoint(op.inputs):
                found.add(op.name)
        passing.reverse()
    return frozenset(found)


def host_values(graph: SpikingGraph) -> frozenset[str]:
    """The input, also quantized or flattened: what the host sends, at any time step that is wanted."""
    found = {graph.input.name}
    for op in graph.of_type(Quantize, Flatten):
        if op.inputs[0] in found:
            found.add(op.name)
    return frozenset(found)


def parts(graph: SpikingGraph) -> Mapping[str, tuple[Part, ...]]:
    """What every value that is no current is made of: Flatten, Concat, Add, Delay, pools followed to neurons and host.

    Raises:
        RmpDeployError: a loop has no neurons, or more than 1024 parts join.
    """
    host, current = host_values(graph), currents(graph)
    known = [*host, *(op.name for op in graph.ops if isinstance(op, NEURONS))]
    found: dict[str, tuple[Part, ...]] = {name: (Part(name),) for name in known}
    waiting = [op for op in graph.ops if op.name not in found and op.name not in current]
    while waiting:
        later = []
        for op in waiting:
            if not found.keys() >= set(op.inputs):
                later.append(op)
                continue
            made: list[Part] = []
            start, delay = 0, op.steps if isinstance(op, Delay) else 0
            for read in op.inputs:
                made += [Part(part.source, part.start + start, part.delay + delay) for part in found[read]]
                start += math.prod(graph.shapes[read]) if isinstance(op, Concat) else 0
            if len(made) > MAX_PARTS:
                raise op_error(op.kind, op.name, f"parts = {len(made)}", f"{MAX_PARTS}", "Join fewer values")
            found[op.name] = tuple(made)
        if len(later) == len(waiting):
            op = later[0]
            raise op_error(op.kind, op.name, "a loop without neurons", "neurons in every loop", "Put neurons into it")
        waiting = later[::-1]  # a Delay may read what is made after it
    return found
