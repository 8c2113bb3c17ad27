"""Give every way to a join the same number of synapses, where each synapse takes a time step: relays for the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LI, Delay, LoihiLIF, Op
from rmp_deploy.passes.as_synapses import as_synapses, forgetful, identity
from rmp_deploy.passes.paths import NEURONS, SYNAPSES, currents, parts


def balance_latency(graph: SpikingGraph) -> SpikingGraph:
    """Return the graph with relays, so that all ways to every join are equally deep; it means the same, step by step.

    On Loihi, and in Lava, a synapse hands on what it received one time step before. A value's depth is how many steps
    late it is there: ``depth = depth of what a synapse reads + 1``, ``depth - steps`` behind a Delay, and the same for
    every other op, so that the values that one reads must be equally deep. Every layer is put as early as what it reads
    allows, and spikes that come too early wait in relays: a relay is an identity synapse, ``relay_<value>_<k>``, and
    neurons without a memory, ``relay_<value>_<k>_lif``. It hands spikes on one step later there, and in the graph,
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


def depths(graph: SpikingGraph) -> dict[str, int]:
    """Depth of every synapse, neuron and current of a graph `as_synapses`: its latency in time steps.

    What a current passes (Add, Flatten, neurons) is as deep as its synapse. 1 is the least, or 0 for neurons that read
    the host's values themselves. How deep spikes are that were delayed, flattened or joined follows from their `parts`.

    Raises:
        RmpDeployError: as `balance_latency`.
    """
    layer = _layers(graph)
    reads = list(_reads(graph, layer))
    readers = dict.fromkeys(read.reader for read in reads)
    depth = dict.fromkeys(set(layer.values()) - readers.keys(), 0)  # neurons of the host's values
    for read in reads:
        if read.source is None:
            depth[read.reader] = max(read.step, depth.get(read.reader, read.step))
    _settle(depth, reads)
    for reader in readers:
        if reader not in depth:  # a loop that the input does not reach
            depth[reader] = 1
            _settle(depth, reads)
    later = _postponed(graph, depth, reads)
    if _cost(graph, later, reads) < _cost(graph, depth, reads):
        depth = later
    late = max(0, 1 - min((depth[reader] for reader in readers), default=1))
    return {name: depth[of] + late for name, of in layer.items()}


@dataclass(frozen=True)
class _Read:
    """A layer's synapse `op` reads spikes of `neurons` in the layer `source` (None: the host's values), and is `step`
    deeper, or more."""

    reader: str
    source: str | None
    step: int
    op: Op
    neurons: str


def _reads(graph: SpikingGraph, layer: Mapping[str, str]) -> Iterator[_Read]:
    made_of, current = parts(graph), currents(graph)
    for op in graph.of_type(*SYNAPSES):
        if op.inputs[0] in current:
            todo = "Merge the two into one synapse, or put neurons between them"
            raise op_error(op.kind, op.name, f"input = '{op.inputs[0]}', a current", "spikes or the input", todo)
        for part in made_of[op.inputs[0]]:
            yield _Read(layer[op.name], layer.get(part.source), 1 - part.delay, op, part.source)


def _layers(graph: SpikingGraph) -> dict[str, str]:
    """What a current joins is one layer, all of one depth: {op: the layer's name}."""
    current = currents(graph)
    joins = {op.name: op.name for op in graph.ops if op.name in current or isinstance(op, NEURONS)}

    def layer(name: str) -> str:
        while joins[name] != name:
            joins[name] = name = joins[joins[name]]
        return name

    for op in graph.ops:
        if op.name not in joins or isinstance(op, SYNAPSES):
            continue
        if isinstance(op, Delay):
            todo = "Delay the spikes that its synapses read"
            raise op_error(op.kind, op.name, f"input = '{op.inputs[0]}', a current", "spikes", todo)
        for read in op.inputs:
            if read in current:
                joins[layer(read)] = layer(op.name)
    return {name: layer(name) for name in joins}


def _settle(depth: dict[str, int], reads: Sequence[_Read]) -> None:
    """Put every layer that `depth` reaches as early as what it reads allows: longest ways, by Bellman and Ford."""
    moved: _Read | None = None
    for _ in range(len({read.reader for read in reads}) + 1):
        moved = None
        for read in reads:
            if read.source in depth:
                least = depth[read.source] + read.step
                if read.reader not in depth or depth[read.reader] < least:
                    depth[read.reader], moved = least, read
        if moved is None:
            return
    if moved is not None:
        todo = "Give the Delay in it as many steps as it has synapses"
        what, allowed = "in a loop with more synapses than steps of delay", "as many: each synapse takes a step"
        raise op_error(moved.op.kind, moved.op.name, what, allowed, todo)


def _postponed(graph: SpikingGraph, depth: dict[str, int], reads: Sequence[_Read]) -> dict[str, int]:
    """`depth` with every layer, from the back, as late as its readers allow where that makes no more relays."""
    depth = dict(depth)
    of: dict[str, list[_Read]] = {}
    touched: dict[str, set[str]] = {}  # neurons that wait longer or shorter when a layer moves
    for read in reads:
        if read.source is not None:
            of.setdefault(read.neurons, []).append(read)
            for layer in (read.reader, read.source):
                touched.setdefault(layer, set()).add(read.neurons)
    for name in reversed(dict.fromkeys(read.reader for read in reads)):
        nearby = [read for neurons in touched.get(name, ()) for read in of[neurons]]
        earlier, cost = depth[name], _cost(graph, depth, nearby)
        latest = [depth[read.reader] - read.step for read in nearby if read.source == name != read.reader]
        depth[name] = min(latest, default=earlier)
        if _cost(graph, depth, nearby) > cost:
            depth[name] = earlier
    return depth


def _cost(graph: SpikingGraph, depth: dict[str, int], reads: Sequence[_Read]) -> int:
    return sum(math.prod(graph.shapes[name]) * steps for name, steps in _waits(depth, reads).items())


def _relays(graph: SpikingGraph, depth: dict[str, int]) -> dict[str, int]:
    """Steps that spikes wait, of the neuron ops whose spikes do; `depth` is that of every op."""
    by_op = _reads(graph, {name: name for name in depth})
    return {name: steps for name, steps in _waits(depth, by_op).items() if steps}


def _waits(depth: dict[str, int], reads: Iterable[_Read]) -> dict[str, int]:
    """Steps that each neuron op's spikes wait: the most that any reader asks for."""
    waits: dict[str, int] = {}
    for read in reads:
        if read.source is not None:
            steps = depth[read.reader] - read.step - depth[read.source]
            waits[read.neurons] = max(waits.get(read.neurons, 0), steps)
    return waits


class _Balanced:
    """The balanced graph of one in the making."""

    def __init__(self, graph: SpikingGraph, depth: dict[str, int]) -> None:
        self.old, self.depth = graph, depth
        self.parts = parts(graph)
        self.made: dict[str, Op] = {}
        self.wanted: list[tuple[str, Op, int]] = []  # under that name, that op at that depth

    def graph(self) -> SpikingGraph:
        waits = _relays(self.old, self.depth)
        if not waits:
            return self.old
        for op in self.old.ops:
            if isinstance(op, SYNAPSES):
                self.made[op.name] = replace(op, inputs=(self._at(op.inputs[0], self.depth[op.name] - 1),))
            elif op.name in self.depth:  # neurons and what joins currents
                self.made[op.name] = op
                for relay in self._relays(op, waits.get(op.name, 0)):
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
            name = f"relay_{op.name}_{k}"
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
            return f"relay_{value}_{late}_lif" if late else value
        name = f"relay_{value}_{late}" if late else value
        self.wanted.append((name, op, depth))
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
