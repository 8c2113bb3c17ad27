"""Who reads whom in a NIR graph: nested graphs made flat, cycles given the step of delay that they mean."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import nir
import numpy as np

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.graph import NAME, RESERVED
from rmp_deploy.ir.ops import Shape

# What integrates or fires: a cycle goes through one of them, or it has no solution.
NEURONS = (nir.CubaLI, nir.CubaLIF, nir.I, nir.IF, nir.LI, nir.LIF, nir.Threshold)
INPUT = "x"


@dataclass(frozen=True)
class Wiring:
    """A flat graph: its nodes, and for each the values that it sums, in the order of the file's edges."""

    input: str
    input_shape: Shape
    nodes: dict[str, nir.NIRNode]
    sources: dict[str, list[str]]
    output: str  # a name for the sum of what the Output node reads
    read_out: list[str]
    ports: dict[str, tuple[nir.Input | nir.Output, list[str]]]  # the other Inputs and Outputs: what each sums

    def consumers(self) -> dict[str, list[str]]:
        """The nodes that read each value, by name: the same whatever the order in the file."""
        readers: dict[str, list[str]] = {name: [] for name in (self.input, *self.nodes)}
        for name in sorted(self.sources):
            for source in self.sources[name]:
                readers[source].append(name)
        return readers


def wiring(graph: nir.NIRGraph) -> Wiring:
    """Flatten `graph`: a node `b` of a nested graph `a` is called `a.b`; Inputs and Outputs inside dissolve.

    Raises:
        RmpDeployError: an edge ends nowhere or stands twice, a graph has not one Input and one Output, a node reads
            nothing, or two nodes get one name.
    """
    flat = _Flat()
    input_port, output_port = flat.add(graph, "")
    inputs = flat.nodes[input_port].input_type
    shape = None if inputs is None else inputs.get("input")
    if shape is None:
        raise op_error("Input", input_port, "shape = none", "sizes >= 1", "State one sample's shape, without time")
    sizes = np.asarray(shape).reshape(-1)
    if sizes.dtype.kind not in "iuf" or not np.isfinite(sizes).all() or (sizes != np.rint(sizes)).any():
        raise op_error("Input", input_port, f"shape = {sizes.tolist()!r:.80}", "whole numbers", "Correct it")
    taken = {_legal(name) for name, node in flat.nodes.items() if not isinstance(node, nir.Input | nir.Output)}
    name = _legal(input_port) if _is_legal(input_port) else INPUT
    while name in taken:
        name += "_"
    names = {input_port: name}
    for node_name, node in flat.nodes.items():
        if not isinstance(node, nir.Input | nir.Output):
            names[node_name] = _legal(node_name)
    double = [n for n, count in Counter(names.values()).items() if count > 1]
    if double:
        raise RmpDeployError(f"NIR graph: {double[0]!r} names two nodes, allowed one. Rename one.")
    return Wiring(
        input=name,
        input_shape=tuple(int(n) for n in sizes),
        nodes={names[n]: node for n, node in flat.nodes.items() if not isinstance(node, nir.Input | nir.Output)},
        sources={names[n]: [names[s] for s in flat.real(n)] for n in names if n != input_port},
        output=_legal(output_port),
        read_out=[names[s] for s in flat.real(output_port)],
        ports={
            path: (node, [names[s] for s in flat.real(path)])
            for path, node in flat.nodes.items()
            if isinstance(node, nir.Input | nir.Output) and path != input_port
        },
    )


class _Flat:
    """All nodes of all levels by path, the Inputs and Outputs still among them, and the edges between them."""

    def __init__(self) -> None:
        self.nodes: dict[str, nir.NIRNode] = {}
        self.sources: dict[str, list[str]] = {}
        self.edges: set[tuple[str, str]] = set()
        self.input = ""

    def add(self, graph: nir.NIRGraph, prefix: str) -> tuple[str, str]:
        """Take in `graph`; the paths of its Input and its Output."""
        starts, ends = {}, {}
        where = f"NIR graph '{prefix.rstrip('.')}'" if prefix else "NIR graph"
        ports: dict[str, list[str]] = {nir.Input.__name__: [], nir.Output.__name__: []}
        for key, node in graph.nodes.items():
            path = f"{prefix}{key}"
            if isinstance(node, nir.NIRGraph):
                ends[key], starts[key] = self.add(node, f"{path}.")
                continue
            if path in self.nodes:
                raise RmpDeployError(f"{where}: '{path}' names two nodes, allowed one. Rename one.")
            ends[key] = starts[key] = path
            self.nodes[path], self.sources[path] = node, []
            for kind in (nir.Input, nir.Output):
                if isinstance(node, kind):
                    ports[kind.__name__].append(path)
        for kind, paths in ports.items():
            if len(paths) != 1:
                raise RmpDeployError(f"{where}: {kind} nodes = {len(paths)}, allowed 1. Join or name them.")
        (entry,), (leave,) = ports.values()
        self.input = entry if not prefix else self.input
        for start, end in graph.edges:
            missing = [key for key in (start, end) if key not in graph.nodes]
            if missing:
                raise RmpDeployError(f"{where}: edge ({start}, {end}): no node '{missing[0]}'. Remove the edge.")
            if ends[end] == entry or starts[start] == leave:
                raise RmpDeployError(
                    f"{where}: edge ({start}, {end}), allowed from the Input to the Output. Turn it round."
                )
            edge = (starts[start], ends[end])
            if edge in self.edges:
                raise RmpDeployError(f"{where}: edge ({start}, {end}) stands twice. Remove one, or double the weight.")
            self.edges.add(edge)
            self.sources[ends[end]].append(starts[start])
        return entry, leave

    def real(self, name: str) -> list[str]:
        """What node `name` sums, seen through the Inputs and Outputs of nested graphs."""
        found: list[str] = []
        waiting, seen = list(reversed(self.sources[name])), set()
        while waiting:
            source = waiting.pop()
            if source in seen:
                raise op_error(
                    type(self.nodes[name]).__name__, name, f"sums '{source}' twice", "once", "Double the weight"
                )
            seen.add(source)
            if isinstance(self.nodes[source], nir.Input | nir.Output) and source != self.input:
                waiting += reversed(self.sources[source])
            else:
                found.append(source)
        if not found:
            raise op_error(
                type(self.nodes[name]).__name__, name, "edges into it = 0", "1 or more", "Connect it or remove it"
            )
        return found


def feedback(wiring: Wiring) -> set[tuple[str, str]]:
    """The edges that carry the value of one step before: one in every cycle without a Delay node.

    A depth-first walk from the input, consumers by name, meets a node that it stands behind: that edge closes the
    cycle. Where it comes from a node that reads one value and feeds nothing else (the recurrent weights), the delay
    moves to the edge into that node, and so on up to a neuron: what is delayed is spikes, as on an axon, and a
    recurrent bias acts from the first step on, as in snnTorch's RLeaky.

    Raises:
        RmpDeployError: a cycle without a neuron.
    """
    consumers = wiring.consumers()
    found: set[tuple[str, str]] = set()
    done: set[str] = set()
    for root in (wiring.input, *sorted(wiring.nodes)):
        if root in done:
            continue
        path: dict[str, None] = {root: None}  # the nodes that the walk stands behind, in order
        waiting = [iter(consumers[root])]
        while waiting:
            node = next((n for n in waiting[-1] if n not in done), None)
            if node is None:
                done.add(path.popitem()[0])
                waiting.pop()
            elif isinstance(wiring.nodes[node], nir.Delay):
                continue  # it may read what is made after it
            elif node in path:
                last = next(reversed(path))
                found.add(_upstream(wiring, consumers, last, node, _from(path, node)))
            else:
                path[node] = None
                waiting.append(iter(consumers[node]))
    return found


def _from(path: Iterable[str], node: str) -> list[str]:
    """The part of the path that begins at `node`: the cycle."""
    whole = list(path)
    return whole[whole.index(node) :]


def _upstream(
    wiring: Wiring, consumers: dict[str, list[str]], start: str, end: str, cycle: list[str]
) -> tuple[str, str]:
    if not any(isinstance(wiring.nodes[n], NEURONS) for n in cycle):
        raise op_error(
            type(wiring.nodes[end]).__name__,
            end,
            f"cycle {' -> '.join([*cycle, end])} has neither a neuron nor a Delay",
            "one in every cycle",
            "Put one there",
        )
    while not isinstance(wiring.nodes[start], NEURONS) and len(wiring.sources[start]) == len(consumers[start]) == 1:
        if start in wiring.read_out:
            break
        start, end = wiring.sources[start][0], start
    return start, end


def _is_legal(name: str) -> bool:
    return bool(NAME.fullmatch(name)) and name not in RESERVED


def _legal(name: str) -> str:
    """`name` as the IR allows it: other characters are `_`, and so is the end of a name that the file format keeps."""
    clean = re.sub(r"[^A-Za-z0-9_.\-]", "_", name) or "_"
    return f"{clean}_" if clean in RESERVED else clean
