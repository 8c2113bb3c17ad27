"""Give every value that joins a current a synapse of its own: Loihi adds up currents, not spikes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    Add,
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Linear,
    Op,
    SpikingNeuron,
)
from rmp_deploy.passes.as_synapses import identity

SYNAPSES = (Linear, Conv1d, Conv2d)
PASSING = (Add, Concat, Delay, Flatten)  # of currents, on their way to the neurons


def identity_synapses(graph: SpikingGraph, host: Collection[str] = ()) -> SpikingGraph:
    """Return the graph with a synapse ``y = x`` wherever a value joins a current, or feeds neurons, without one.

    The shortcut of a residual block, ``current + spikes``, becomes ``current + identity(spikes)``: a depthwise 1x1
    Conv2d of ones for a map, a Linear with the unit matrix for flat values, named ``<add>_identity`` (``_identity2``
    ... if there are several), or ``<neurons>_identity``. The ops in `host` are left as they are.

    Raises:
        RmpDeployError: a Concat joins currents and spikes.
    """
    known = currents(graph, host)
    ops: list[Op] = []
    for op in graph.ops:
        bare: list[str] = []
        if op.name not in host:
            if isinstance(op, SpikingNeuron) or (isinstance(op, Add) and op.name in known):
                bare = [i for i in op.inputs if i not in known]
            if isinstance(op, Concat) and op.name in known and not known.issuperset(op.inputs):
                what, todo = f"inputs = {', '.join(op.inputs)}", "Put a synapse before each, or neurons behind each"
                raise op_error(op.kind, op.name, what, "all currents or all spikes", todo)
        synapses: dict[str, str] = {}
        for i in bare:
            if i not in synapses:
                nth = len(synapses) + 1 + sum(value.startswith(f"{op.name}_identity") for value in op.inputs)
                synapses[i] = f"{op.name}_identity{nth if nth > 1 else ''}"
                ops.append(identity(synapses[i], i, graph.shapes[i], loihi=False))
        ops.append(replace(op, inputs=tuple(synapses.get(i, i) for i in op.inputs)) if bare else op)
    return replace(graph, ops=tuple(ops))


def currents(graph: SpikingGraph, host: Collection[str] = ()) -> frozenset[str]:
    """The values of synapses outside of `host`, also where they were joined, moved or delayed; no neuron has read them.

    An Add with one current among its inputs is a current.
    """
    found = {op.name for op in graph.of_type(*SYNAPSES) if op.name not in host}
    passing, before = [op for op in graph.of_type(*PASSING) if op.name not in host], -1
    while len(found) > before:  # one round, unless a Delay reads what is made after it
        before = len(found)
        for op in passing:
            if not found.isdisjoint(op.inputs):
                found.add(op.name)
        passing.reverse()
    return frozenset(found)
