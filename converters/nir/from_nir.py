"""NIR graph -> SpikingGraph: every node by its type, every parameter honoured or refused by the node's name."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np

from rmp_deploy.converters.nir import file, metadata, rules
from rmp_deploy.converters.nir.metadata import Record
from rmp_deploy.converters.nir.nodes import (
    CONVERTERS,
    Drive,
    Site,
    affine,
    check_stated,
    convert,
    per_channel,
    per_neuron,
)
from rmp_deploy.converters.nir.rules import F64, Rule
from rmp_deploy.converters.nir.wiring import feedback, wiring
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir import ops
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import Op, Shape


def from_nir(
    source: str | Path | nir.NIRGraph,
    dt: float | None,
    rule: str = "euler",
    T: int | None = None,
    readout: str | None = None,
    encoding: str | None = None,
) -> SpikingGraph:
    """The spiking graph of a .nir file, or of a NIR graph in memory, in steps of `dt` [s; the unit of the file's tau].

    `rule` says what a time constant becomes in one step (`rules.RULES`, docs/nir.md): ``euler``, or ``exponential``.
    T [1], `readout` (mean, sum, last over time of what the Output reads) and `encoding` of the input are not part of
    NIR: T must be given; the others are ``mean`` and ``time_series``; a file that `to_nir` wrote says all three.

    Raises:
        RmpDeployError: no dt, no T, a malformed file, or a node, a parameter or a connection that the IR cannot carry
            exactly, by the node's name.
    """
    if isinstance(source, nir.NIRGraph):
        return _graph(source, dt, rule, T, readout, encoding)
    network = file.read(source, {kind.__name__ for kind in CONVERTERS} | {"Input", "NIRGraph", "Output"})
    try:
        return _graph(network, dt, rule, T, readout, encoding)
    except RmpDeployError as e:
        raise RmpDeployError(f"file '{source}': {e}") from e


def _graph(
    network: nir.NIRGraph, dt: float | None, rule: str, T: int | None, readout: str | None, encoding: str | None
) -> SpikingGraph:
    recorded = metadata.read(network.metadata)
    record = recorded or Record()
    step, law = rules.check(dt, rule)
    steps = record.T if T is None else T
    if steps is None:
        raise RmpDeployError("NIR graph: T = none, allowed 1 or more. NIR does not end: say how many steps to run.")
    converter = _Converter(network, step, law, record)
    with np.errstate(all="ignore"):  # what overflows is refused by the op that it belongs to
        made, read = converter.convert()
    name = {generated: own for generated, own in record.names.items() if generated in {op.name for op in made}}
    made = [
        replace(op, name=name.get(op.name, op.name), inputs=tuple(name.get(i, i) for i in op.inputs)) for op in made
    ]
    for value, count in Counter([converter.wires.input, *(op.name for op in made)]).items():
        if count > 1:
            what = f"metadata '{metadata.KEY}': values named '{value}' = {count}"
            raise RmpDeployError(f"NIR graph: {what}, allowed 1. Export it again, or remove that entry.")
    return SpikingGraph(
        name=record.name,
        input=Input(converter.wires.input, converter.wires.input_shape, encoding or record.encoding),  # type: ignore[arg-type]
        ops=_ordered(made, record.order),
        readout=Readout(name.get(read, read), readout or record.readout),  # type: ignore[arg-type]
        T=steps,
        dt=step,
        provenance=record.provenance if recorded else {"imported from": f"NIR, {rule}, dt = {step:g} s"},
    )


MAX_VALUES = 2**27  # of one value of the graph


class _Converter:
    """One conversion: nodes from the input on, so that each knows the shape of what it reads; then the drives."""

    def __init__(self, network: nir.NIRGraph, dt: float, rule: Rule, record: Record) -> None:
        self.wires = wiring(network)
        self.dt, self.rule, self.record = dt, rule, record
        self.ops: dict[str, Op] = {}

    def convert(self) -> tuple[list[Op], str]:
        """All ops, and the value that is read out."""
        wires, late = self.wires, feedback(self.wires)
        consumers = wires.consumers()
        shapes = {wires.input: _sized("Input", wires.input, wires.input_shape)}
        drives: list[Drive] = []
        waiting = deque([wires.input])
        while waiting:
            value = waiting.popleft()
            for name in consumers[value]:
                if name in shapes:
                    continue
                node, shape = wires.nodes[name], shapes[value]
                sources = [_late(s) if (s, name) in late else s for s in wires.sources[name]]
                site = Site(name, sources[0], shape, self.dt, self.rule, self.record)
                if isinstance(node, nir.Scale) and len(sources) > 1 and (per_neuron(node, site, "scale") == 1).all():
                    self._add(ops.Add(name=name, inputs=tuple(sources)))  # a sum that several nodes read
                else:
                    made, driven = convert(node, replace(site, source=self._sum(name, sources)))
                    drives += driven
                    for op in made:
                        self._add(op)
                        shape = op.output_shape(shape)
                shapes[name] = _sized(type(node).__name__, name, shape)
                waiting.append(name)
        for name in wires.nodes:
            if name not in shapes:
                kind = type(wires.nodes[name]).__name__
                raise op_error(kind, name, "not reached from the input", "a path to it", "Connect it or remove it")
        for name, (port, summed) in wires.ports.items():
            stated = (port.input_type or {}).get("input")
            check_stated(port, name, "shape", stated, shapes[summed[0]])
        for value in dict.fromkeys(source for source, _ in sorted(late)):
            self._add(ops.Delay(name=_late(value), inputs=(value,), steps=1, shape=shapes[value]))
        read_out = self._sum(wires.output, wires.read_out)
        reads = Counter([read_out, *(i for op in self.ops.values() for i in op.inputs)])
        for drive in drives:
            self._fold(drive, reads)
        return list(self.ops.values()), read_out

    def _sum(self, name: str, sources: list[str]) -> str:
        """The value that node `name` reads: several edges are a sum."""
        if len(sources) == 1:
            return sources[0]
        self._add(ops.Add(name=f"{name}.sum", inputs=tuple(sources)))
        return f"{name}.sum"

    def _add(self, op: Op) -> None:
        if op.name in self.ops or op.name == self.wires.input:
            raise op_error(op.kind, op.name, "name is used twice", "one op per name", "Rename the node")
        self.ops[op.name] = op

    def _fold(self, drive: Drive, reads: Counter[str]) -> None:
        """Put a drive into the weights and biases before the neuron, or into an op of its own."""
        gain, current = drive.gain.astype(np.float32), drive.current.astype(np.float32)
        if (gain == 1).all() and not current.any():
            return
        neuron = self.ops[drive.neuron]
        (source,) = neuron.inputs
        before = self.ops.get(source)
        branches = before.inputs if isinstance(before, ops.Add) and reads[source] == 1 else (source,)
        drives = {"r * (1 - decay)": drive.gain, "v_leak * (1 - decay)": drive.current}
        of_channels = [per_channel(neuron.kind, neuron.name, what, full) for what, full in drives.items()]
        if all(type(self.ops.get(b)) in FOLD and reads[b] == 1 for b in branches):
            for branch in branches:
                self.ops[branch] = FOLD[type(self.ops[branch])](self.ops[branch], *of_channels)
                of_channels[1] = np.zeros_like(of_channels[1])  # a sum has it once
        else:
            name = f"{drive.neuron}.gain"
            self._add(affine(name, source, *of_channels))
            self.ops[drive.neuron] = replace(neuron, inputs=(name,))


def _late(value: str) -> str:
    return f"{value}.delay"


def _sized(kind: str, name: str, shape: Shape) -> Shape:
    fits = len(shape) >= 1 and min(shape) >= 1 and math.prod(shape) <= MAX_VALUES
    if not fits:
        raise op_error(kind, name, f"shape = {shape}", f"sizes >= 1, {MAX_VALUES} values at most", "Correct it")
    return shape


def _ordered(made: list[Op], order: list[str]) -> tuple[Op, ...]:
    """In topological order: `order` where it is one, else by name; a Delay before its source only in a cycle."""
    by_name = {op.name: op for op in made}
    if sorted(order) == sorted(by_name):
        place = {name: i for i, name in enumerate(order)}
        if all(place.get(i, -1) < place[op.name] for op in made if not isinstance(op, ops.Delay) for i in op.inputs):
            return tuple(by_name[name] for name in order)
    readers: dict[str, list[str]] = {name: [] for name in by_name}
    missing = {op.name: [i for i in op.inputs if i in by_name] for op in made}
    for name, inputs in missing.items():
        for i in inputs:
            readers[i].append(name)
    ready = sorted(name for name, inputs in missing.items() if not inputs)
    sorted_ops: list[Op] = []
    left = set(by_name)
    while left:
        if not ready:  # every cycle holds a Delay
            ready = [min(n for n in left if isinstance(by_name[n], ops.Delay) and _reaches(readers, n, missing[n]))]
        name = heapq.heappop(ready)
        left.remove(name)
        sorted_ops.append(by_name[name])
        for reader in readers[name]:
            if reader in left:
                missing[reader].remove(name)
                if not missing[reader]:
                    heapq.heappush(ready, reader)
    return tuple(sorted_ops)


def _reaches(readers: dict[str, list[str]], start: str, ends: list[str]) -> bool:
    waiting, seen = [start], {start}
    while waiting:
        for reader in readers[waiting.pop()]:
            if reader not in seen:
                seen.add(reader)
                waiting.append(reader)
    return not seen.isdisjoint(ends)


def _fold_synapse(op: Any, gain: F64, current: F64) -> Op:
    """``gain * (W x + b) + current``, rounded to float32 once."""
    weight = op.weight.astype(np.float64) * gain.reshape(-1, *(1,) * (op.weight.ndim - 1))
    bias = None if op.bias is None and not current.any() else (0 if op.bias is None else op.bias) * gain + current
    folded: Op = replace(op, weight=weight.astype(np.float32), bias=None if bias is None else bias.astype(np.float32))
    return folded


def _fold_affine(op: Any, gain: F64, current: F64) -> Op:
    folded: Op = replace(op, gamma=op.gamma * gain, beta=op.beta * gain + current)
    return folded


FOLD: dict[type[Op] | None, Callable[[Any, F64, F64], Op]] = {
    ops.BatchNorm: _fold_affine,
    ops.Conv1d: _fold_synapse,
    ops.Conv2d: _fold_synapse,
    ops.Linear: _fold_synapse,
}
