"""How late every value is where a synapse takes a time step, and how long spikes wait for what joins them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Delay, Op
from rmp_deploy.passes.paths import NEURONS, SYNAPSES, currents, parts


def depths(graph: SpikingGraph) -> dict[str, int]:
    """Depth of every synapse, neuron and current of a graph `as_synapses`: its latency in time steps.

    What a current passes (Add, Flatten, neurons) is as deep as its synapse. 1 is the least, or 0 for neurons that read
    the host's values themselves. How deep spikes are that were delayed, flattened or joined follows from their `parts`.

    Raises:
        RmpDeployError: as `passes.balance_latency`.
    """
    layer = _layers(graph)
    reads = list(reads_of(graph, layer))
    depth = _withoutwaits(layer.values(), reads)
    if depth is None:
        depth = _as_early_as_possible(graph, layer, reads)
        later = _postponed(graph, depth, reads)
        if _cost(graph, later, reads) < _cost(graph, depth, reads):
            depth = later
    return {name: depth[of] for name, of in layer.items()}


@dataclass(frozen=True)
class Read:
    """A layer's synapse `op` reads spikes of `neurons` in the layer `source` (None: the host's values), and is `step`
    deeper, or more."""

    reader: str
    source: str | None
    step: int
    op: Op
    neurons: str


def reads_of(graph: SpikingGraph, layer: Mapping[str, str]) -> Iterator[Read]:
    made_of, current = parts(graph), currents(graph)
    for op in graph.of_type(*SYNAPSES):
        if op.inputs[0] in current:
            todo = "Merge the two into one synapse, or put neurons between them"
            raise op_error(op.kind, op.name, f"input = '{op.inputs[0]}', a current", "spikes or the input", todo)
        for part in made_of[op.inputs[0]]:
            yield Read(layer[op.name], layer.get(part.source), 1 - part.delay, op, part.source)


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


def _withoutwaits(layers: Iterable[str], reads: Sequence[Read]) -> dict[str, int] | None:
    """Depths at which all spikes are read as soon as they are there, if the ways to every join allow that."""
    beside: dict[str, list[tuple[str, int]]] = {name: [] for name in layers}
    for read in reads:
        if read.source is not None:
            beside[read.source].append((read.reader, read.step))
            beside[read.reader].append((read.source, -read.step))
    depth: dict[str, int] = {}
    part: dict[str, str] = {}  # what the host alone connects may move on its own
    for first in beside:
        if first in depth:
            continue
        depth[first], connected = 0, [first]
        for name in connected:
            part[name] = first
            for other, step in beside[name]:
                if other not in depth:
                    depth[other] = depth[name] + step
                    connected.append(other)
                elif depth[other] != depth[name] + step:
                    return None
    return _from_the_start(depth, part, reads)


def _from_the_start(depth: Mapping[str, int], part: Mapping[str, str], reads: Iterable[Read]) -> dict[str, int]:
    """`depth` with every part of the graph moved to where synapses are at 1 or later, and the host sends from 0 on."""
    late: dict[str, int] = {}
    for read in reads:
        least = max(1, read.step) if read.source is None else 1
        name = part[read.reader]
        late[name] = max(late.get(name, least - depth[read.reader]), least - depth[read.reader])
    return {name: found + late.get(part[name], 0) for name, found in depth.items()}


def _as_early_as_possible(graph: SpikingGraph, layer: Mapping[str, str], reads: Sequence[Read]) -> dict[str, int]:
    """Depths at which every layer reads what it reads as early as it can."""
    readers = dict.fromkeys(read.reader for read in reads)
    depth = dict.fromkeys(set(layer.values()) - readers.keys(), 0)  # neurons of the host's values
    for read in reads:
        if read.source is None:
            depth[read.reader] = max(read.step, depth.get(read.reader, read.step))
    _settle(graph, depth, reads)
    for reader in readers:
        if reader not in depth:  # a loop that the input does not reach
            depth[reader] = 1
            _settle(graph, depth, reads)
    return _from_the_start(depth, dict.fromkeys(depth, ""), reads)


def _settle(graph: SpikingGraph, depth: dict[str, int], reads: Sequence[Read]) -> None:
    """Put every layer that `depth` reaches as early as what it reads allows: longest ways, by Bellman and Ford."""
    latest: dict[str, Read] = {}  # what each layer has to wait for
    readers = {read.reader for read in reads}
    for _ in range(len(readers) + 1):
        moved: Read | None = None
        for read in reads:
            if read.source in depth:
                least = depth[read.source] + read.step
                if read.reader not in depth or depth[read.reader] < least:
                    depth[read.reader], latest[read.reader], moved = least, read, read
        if moved is None:
            return
    assert moved is not None
    read = moved
    for _ in readers:  # what moved in the last round has waited for as many layers, so that this ends in a loop
        read = latest[read.source or ""]
    loop: dict[str, Read] = {}
    while read.reader not in loop:  # once around it
        loop[read.reader] = read
        read = latest[read.source or ""]
    raise _never_settles(graph, list(loop.values()))


def _never_settles(graph: SpikingGraph, loop: list[Read]) -> RmpDeployError:
    """Why layers that wait for each other would get later and later."""
    steps = sum(1 - read.step for read in loop)
    if steps:
        op = next(read.op for read in loop if read.step < 1)
        what, allowed = f"synapses in its loop = {len(loop)}, steps of delay = {steps}", "as many: each takes a step"
        return op_error(op.kind, op.name, what, allowed, "Give the Delay in it more steps")
    layer, late = _layers(graph), {read.reader for read in loop}
    joined = [op for op in graph.ops if layer.get(op.name) in late and op.name in currents(graph)]
    shared = next(current for current in joined if len(graph.consumers(current.name)) > 1)
    names = ", ".join(f"'{reader.name}'" for reader in graph.consumers(shared.name))
    what, todo = f"its current has readers {names} at different depths", "Give each a synapse of its own"
    return op_error(shared.kind, shared.name, what, "one depth", todo)


def _postponed(graph: SpikingGraph, depth: dict[str, int], reads: Sequence[Read]) -> dict[str, int]:
    """`depth` with every layer, from the back, as late as its readers allow where that makes no more relays."""
    depth = dict(depth)
    of: dict[str, list[Read]] = {}
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


def _cost(graph: SpikingGraph, depth: dict[str, int], reads: Sequence[Read]) -> int:
    return sum(math.prod(graph.shapes[name]) * steps for name, steps in waits(depth, reads).items())


def waits(depth: dict[str, int], reads: Iterable[Read]) -> dict[str, int]:
    """Steps that each neuron op's spikes wait: the most that any reader asks for."""
    found: dict[str, int] = {}
    for read in reads:
        if read.source is not None:
            steps = depth[read.reader] - read.step - depth[read.source]
            found[read.neurons] = max(found.get(read.neurons, 0), steps)
    return found
