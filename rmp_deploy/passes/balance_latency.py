"""Give every way to a join the same number of synapses, where each synapse takes a time step: relays for the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LI, Delay, LoihiLIF, Op
from rmp_deploy.passes.as_synapses import as_synapses, forgetful, identity
from rmp_deploy.passes.depths import depths, reads_of, waits
from rmp_deploy.passes.paths import NEURONS, SYNAPSES, parts


def balance_latency(graph: SpikingGraph) -> SpikingGraph:
    """Return the graph with relays, so that all ways to every join are equally deep; it means the same, step by step.

    On Loihi, and in Lava, a synapse hands on what it received one time step before. A value's depth is how many steps
    late it is there: ``depth = depth of what a synapse reads + 1``, ``depth - steps`` behind a Delay, and the same for
    every other op, so that the values that one reads must be equally deep. Every layer is put as early as what it reads
    allows, and spikes that come too early wait in relays: a relay is an identity synapse, ``relay_<value>_<k>``, and
    neurons without a memory, ``relay_<value>_<k>_lif`` (with one more ``_`` behind k for as long as an op of the graph
    has that name). It hands spikes on one step later there, and in the graph,
    where synapses take no time, it is the identity in the same step.

    Relays stand right behind the neurons whose spikes wait, and all readers share them: one that waits two steps reads
    the second relay, one that waits one step the first. What lies between (Flatten, Concat, Delay, Add, pools of
    spikes) is read anew behind the relay. The input needs none: the host sends it as late as it is wanted, and where
    this makes fewer relays in all, layers are put as late as their readers allow instead. Spikes that only the readout
    reads wait for nothing. `as_synapses` comes first, since its synapses take time too.

    It costs, for every step that spikes wait, as many neurons as the value has, each with a synaptic operation and a
    message per spike; `relays` counts them. The other way, delays inside the synapses (Lava's DelayDense), costs no
    neurons but buffers of currents, and there is none for convolutions.

    Raises:
        RmpDeployError: a loop has more synapses than its Delay has steps, a Delay reads a current, whose synapses
            could not be told to wait, or a value that does not spike would have to wait.
    """
    graph = as_synapses(graph)
    return _Balanced(graph, depths(graph)).graph()


def relays(graph: SpikingGraph) -> dict[str, int]:
    """Relay layers that `balance_latency` adds behind each value of neurons, where it adds any.

    Raises:
        RmpDeployError: as `balance_latency`.
    """
    graph = as_synapses(graph)
    return _relays(graph, depths(graph))


def relay_neurons(graph: SpikingGraph) -> int:
    """Neurons that `balance_latency` adds as relays: for every value, its size times the steps that it waits.

    Raises:
        RmpDeployError: as `balance_latency`.
    """
    shapes = as_synapses(graph).shapes
    return sum(math.prod(shapes[value]) * steps for value, steps in relays(graph).items())


def _relays(graph: SpikingGraph, depth: dict[str, int]) -> dict[str, int]:
    """Steps that spikes wait, of the neuron ops whose spikes do; `depth` is that of every op."""
    by_op = reads_of(graph, {name: name for name in depth})
    return {name: steps for name, steps in waits(depth, by_op).items() if steps}


class _Balanced:
    """The balanced graph of one in the making."""

    def __init__(self, graph: SpikingGraph, depth: dict[str, int]) -> None:
        self.old, self.depth = graph, depth
        self.parts = parts(graph)
        self.taken = {graph.input.name, *graph.by_name}
        self.made: dict[str, Op] = {}
        self.wanted: list[tuple[str, Op, int]] = []  # under that name, that op at that depth

    def graph(self) -> SpikingGraph:
        steps = _relays(self.old, self.depth)
        if not steps:
            return self.old
        for op in self.old.ops:
            if isinstance(op, SYNAPSES):
                self.made[op.name] = replace(op, inputs=(self._at(op.inputs[0], self.depth[op.name] - 1),))
            elif op.name in self.depth:  # neurons and what joins currents
                self.made[op.name] = op
                for relay in self._relays(op, steps.get(op.name, 0)):
                    self.made[relay.name] = relay
        while self.wanted:
            name, op, depth = self.wanted.pop()
            if name not in self.made:
                deeper = depth + op.steps if isinstance(op, Delay) else depth
                inputs = tuple(self._at(i, deeper) for i in op.inputs)
                self.made[name] = replace(op, name=name, inputs=inputs)
        self._keep_the_rest()
        return replace(self.old, ops=tuple(_ordered(self.made)))

    def _relays(self, op: Op, steps: int) -> Iterator[Op]:
        if steps and isinstance(op, LI):
            raise op_error(op.kind, op.name, f"it would have to wait {steps} steps", "spikes", "Read spikes")
        value, loihi = op.name, isinstance(op, LoihiLIF)
        for k in range(1, steps + 1):
            name = self._free(op.name, k)
            yield identity(name, value, self.old.shapes[op.name], loihi)
            value = f"{name}_lif"
            yield forgetful(value, name, loihi)

    def _at(self, value: str, depth: int) -> str:
        """The name of what is equal to `value` and is `depth` deep; what lies before relays is made anew for it."""
        ways = [self.depth[part.source] - part.delay for part in self.parts[value] if part.source in self.depth]
        late = depth - max(ways, default=depth)
        op = self.old.by_name.get(value)
        if op is None or not ways:  # of the host alone
            return value
        if isinstance(op, NEURONS):
            return f"{self._free(value, late)}_lif" if late else value
        name = self._free(value, late) if late else value
        self.wanted.append((name, op, depth))
        return name

    def _free(self, value: str, late: int) -> str:
        """A name for `value` `late` steps later, always the same; no op of the graph has it, nor with ``_lif``."""
        name = f"relay_{value}_{late}"
        while name in self.taken or f"{name}_lif" in self.taken:
            name += "_"
        return name

    def _keep_the_rest(self) -> None:
        """Leave as it is what the host sends, and what only the readout or nobody reads."""
        read = {value for op in self.old.ops for value in op.inputs}
        waiting = [op.name for op in self.old.ops if op.name not in read or op.name == self.old.readout.value]
        waiting += [value for op in self.made.values() for value in op.inputs]
        while waiting:
            op = self.old.by_name.get(waiting.pop())
            if op is not None and op.name not in self.made:
                self.made[op.name] = op
                waiting += op.inputs


def _ordered(ops: dict[str, Op]) -> list[Op]:
    """Topological order, else as given; a Delay may read what is made after it."""
    ordered: dict[str, Op] = {}
    for first in ops.values():
        waiting = [first]
        while waiting:
            op = waiting[-1]
            before = [] if isinstance(op, Delay) else [ops[i] for i in op.inputs if i in ops and i not in ordered]
            if op.name in ordered or not before:
                ordered[op.name] = op
                waiting.pop()
            else:
                waiting += before
    return list(ordered.values())
