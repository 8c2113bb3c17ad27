"""What Lava cannot compute exactly, by name: said before anything is built, where a wrong network would hang."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rmp_deploy.converters.lava.neuron import NEURONS
from rmp_deploy.converters.lava.synapse import SYNAPSES
from rmp_deploy.converters.lava.wiring import links
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Delay,
    Dequantize,
    Flatten,
    LoihiConv2d,
    LoihiLinear,
    MaxPool2d,
    Op,
    Quantize,
    SumPool2d,
)
from rmp_deploy.passes.balance_latency import balance_latency
from rmp_deploy.passes.depths import depths
from rmp_deploy.passes.paths import NEURONS as NEURON_OPS
from rmp_deploy.passes.paths import SYNAPSES as SYNAPSE_OPS
from rmp_deploy.passes.paths import currents, parts

SUPPORTED: tuple[type[Op], ...] = (*SYNAPSES, *NEURONS, Add, Concat, Delay, Flatten, MaxPool2d, Quantize, Dequantize)
OTHER_BACKEND = "Use the backend reference or onnxruntime, or a network without it"
INSTEAD: dict[type[Op], str] = {
    BatchNorm: "Apply passes.fold_batchnorm first",
    AvgPool2d: "Apply passes.fold_pool first",
    SumPool2d: "Before a Conv2d or Linear, make it an AvgPool2d, multiply their weights by the window's size and apply "
    "passes.fold_pool; elsewhere use the backend reference or onnxruntime",
}
Refusals = Iterator[tuple[Op, RmpDeployError]]


def check(graph: SpikingGraph) -> None:
    """Raise the first of `refusals`."""
    for _, error in refusals(graph):
        raise error


def refusals(graph: SpikingGraph) -> Refusals:
    """The ops that have no exact counterpart on Lava, each with what `network.build` raises for it."""
    found = list(_of_ops(graph))
    yield from found
    if found:
        return
    try:
        balanced = balance_latency(graph)
    except RmpDeployError as e:
        named = [op for op in graph.ops if f"'{op.name}'" in str(e).partition(":")[0]]
        yield (named or [*graph.ops])[0], e
        return
    read = parts(balanced)  # as Lava reads it: a pool of joined spikes is a layer there, and joins nothing
    for linear in graph.of_type(LoihiLinear):
        reads = read[balanced.by_name[linear.name].inputs[0]]
        if len(links(balanced, linear, reads)) > 1:
            todo = "It reads joined spikes, whose sums Lava would floor apart: use a larger weight_exp"
            yield from _of_exponent(linear, todo)
    yield from _of_pieces(graph, balanced)


def _of_ops(graph: SpikingGraph) -> Refusals:
    current = currents(graph)
    for op in graph.ops:
        if isinstance(op, NEURON_OPS) and op.inputs[0] in current:
            yield from _of_sum(graph, op)
        if type(op) not in SUPPORTED:
            allowed = ", ".join(kind.__name__ for kind in SUPPORTED)
            todo = INSTEAD.get(type(op), OTHER_BACKEND)
            yield op, op_error(op.kind, op.name, f"op = {op.kind}", f"{allowed} [lava]", todo)
        elif isinstance(op, LIF):
            yield from _of_lif(op)
        elif type(op) in SYNAPSES:
            if op.inputs[0] in current:
                todo = "Merge the two into one synapse, or put neurons between them"
                what = f"input = {_maker(graph, op.inputs[0])}"
                yield op, op_error(op.kind, op.name, what, "spikes or the input [lava]", todo)
            elif isinstance(op, LoihiConv2d):
                todo = "Lava's Conv has no exponent and its weights are integers: use a larger weight_exp"
                yield from _of_exponent(op, f"{todo}, or another backend")
        elif isinstance(op, Concat | Delay) and op.name in current:
            what = f"input = {_maker(graph, next(i for i in op.inputs if i in current))}, a current"
            todo = f"Put the {op.kind} before the synapses"
            yield op, op_error(op.kind, op.name, what, "spikes or the input [lava]", todo)
        elif isinstance(op, LI | Dequantize) and (reader := _reader(graph, op.name)) is not None:
            what, todo = f"reader = {reader.kind} '{reader.name}'", "Read it out, or use the backend reference"
            yield op, op_error(op.kind, op.name, what, "the readout [lava]", todo)


def _of_lif(op: LIF) -> Refusals:
    if op.reset != "hard":
        todo = "Lava cannot subtract the threshold: train with the hard reset, or use another backend"
        yield op, op_error(op.kind, op.name, f"reset = {op.reset!r}", "'hard' [lava]", todo)
    if np.any(op.v_reset):
        what = f"v_reset = {op.v_reset.flat[np.argmax(op.v_reset != 0)]:g}"
        yield op, op_error(op.kind, op.name, what, "0 [lava]", "Train with v_reset = 0, or use another backend")


def _of_sum(graph: SpikingGraph, op: Op) -> Refusals:
    """Lava connects two ports once: a current that several ways of an Add lead to would count once."""
    seen: set[str] = set()
    waiting = list(op.inputs)
    while waiting:
        value = waiting.pop()
        if value in seen:
            what, todo = f"'{value}' arrives twice", "Double its weights instead"
            yield op, op_error(op.kind, op.name, what, "every current once [lava]", todo)
            return
        seen.add(value)
        source = graph.by_name.get(value)
        if isinstance(source, Add | Flatten):
            waiting += source.inputs


def _of_pieces(graph: SpikingGraph, balanced: SpikingGraph) -> Refusals:
    """Lava runs what is connected with one process: a piece that only reads the input at other time steps is none."""
    depth, read = depths(balanced), parts(balanced)
    joined: dict[object, object] = {}

    def piece(end: object) -> object:
        while joined.setdefault(end, end) != end:
            joined[end] = end = joined[joined[end]]
        return end

    def sender(value: str, at: int) -> object:
        return value if value in depth else (value, at)  # one process of the host for each time step

    for op in balanced.ops:
        if isinstance(op, SYNAPSE_OPS):
            for part in read[op.inputs[0]]:
                joined[piece(sender(part.source, depth[op.name] - 1 + part.delay))] = piece(op.name)
        elif op.name in depth:
            for value in op.inputs:
                joined[piece(sender(value, depth[op.name]))] = piece(op.name)
    first = next(op for op in balanced.ops if isinstance(op, NEURON_OPS))
    for op in graph.ops:
        if op.name in depth and piece(op.name) != piece(first.name):
            what, todo = f"no way between it and '{first.name}'", "Run the pieces as two networks"
            yield op, op_error(op.kind, op.name, what, "one network, whose readers of the input keep step [lava]", todo)
            return


def _of_exponent(op: LoihiConv2d | LoihiLinear, todo: str) -> Refusals:
    """A negative exponent floors the whole sum: exact in its parts, or in the weights, only if it drops no bits."""
    unit = 1 << max(0, -op.weight_exp)
    wrong = op.weight % unit != 0
    if wrong.any():
        what = f"weight = {op.weight.flat[np.argmax(wrong)]} with weight_exp = {op.weight_exp}"
        yield op, op_error(op.kind, op.name, what, f"multiples of {unit} [lava]", todo)


def _reader(graph: SpikingGraph, value: str) -> Op | None:
    """An op that reads `value`, be it flattened; the readout is none."""
    waiting = [value]
    while waiting:
        readers = graph.consumers(waiting.pop())
        for op in readers:
            if not isinstance(op, Flatten):
                return op
        waiting += [op.name for op in readers]
    return None


def _maker(graph: SpikingGraph, value: str) -> str:
    while isinstance(op := graph.by_name[value], Flatten):
        (value,) = op.inputs
    return f"{op.kind} '{op.name}'"
