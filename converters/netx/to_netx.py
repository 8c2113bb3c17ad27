"""SpikingGraph of Loihi's integer ops -> .net file that lava-dl's `netx.hdf5.Network` reads as the same network."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from rmp_deploy.converters.netx import file
from rmp_deploy.converters.netx.from_netx import BIAS_EXP, INPUT_BITS, of_content
from rmp_deploy.converters.netx.weights import in_dense, of_synapse
from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import Rule, SpikingGraph
from rmp_deploy.ir.ops import Flatten, LoihiConv2d, LoihiLIF, LoihiLinear, Op, Shape

READOUT: Rule = "sum"  # what `from_netx` reads unless it is told another: a .net file has none


def to_netx(graph: SpikingGraph, path: str | Path) -> Path:
    """Write a .net file: one chain of layers, each a synapse and its neurons.

    Neurons that read the input itself become the input layer, which netx feeds through biases; its weight is 1 and its
    bias 0, so that data are those integers. What was made is read back before it is written: T, input, readout and
    what every op computes must be equal. A .net file has no names, dt or provenance; no spike depends on them.

    Raises:
        RmpDeployError: an op that .net does not carry, ops that are not one chain, parameters that differ from neuron
            to neuron, weights or biases that netx would change, a readout or an input that would come back as another,
            or the folder cannot be written; one line.
    """
    layers: list[file.Content] = []
    value = graph.input.name
    for i, op in enumerate(graph.ops):
        if type(op) not in (LoihiLIF, LoihiLinear, LoihiConv2d, Flatten):
            allowed = "LoihiLinear, LoihiConv2d, LoihiLIF, Flatten [.net]"
            raise op_error(op.kind, op.name, f"op = {op.kind}", allowed, "Quantize the network, or use .onnx")
        if op.inputs != (value,):
            raise op_error(op.kind, op.name, f"input = '{op.inputs[0]}'", f"'{value}' (a chain) [.net]", "Use .onnx")
        if isinstance(op, LoihiLIF):
            if i == 0:
                layers.append(_input(graph, op))
            elif isinstance(graph.ops[i - 1], LoihiLinear | LoihiConv2d):
                layers[-1] |= _neurons(op, graph.shapes[op.name])
            else:
                raise op_error(op.kind, op.name, f"input = '{value}'", "a synapse's current [.net]", "Use .onnx")
        elif i == 0:
            layers.append(_spike_input(graph))
        if isinstance(op, LoihiLinear | LoihiConv2d):
            layers.append(_synapse(graph, op))
        elif isinstance(op, Flatten):
            layers.append({"type": "flatten", "shape": np.array(graph.shapes[op.name])})
        value = op.name
    _check_end(graph)
    numbered = {str(i): layer for i, layer in enumerate(layers)}
    content = {"layer": numbered, "simulation": {"Ts": np.array(1), "tSample": np.array(graph.T)}}
    _check_same(graph, of_content(content, path))
    return file.write(content, path)


def _check_end(graph: SpikingGraph) -> None:
    last, (value, rule) = graph.ops[-1], (graph.readout.value, graph.readout.rule)
    if value != last.name:
        raise op_error("SpikingGraph", graph.name, f"readout = '{value}'", f"'{last.name}' [.net]", "Cut it")
    if rule != READOUT:
        allowed, todo = f"'{READOUT}' over the steps [.net]", "Make it a sum, or use .onnx"
        raise op_error("SpikingGraph", graph.name, f"readout rule = '{rule}'", allowed, todo)
    if isinstance(last, LoihiConv2d | Flatten):
        raise op_error(last.kind, last.name, "no neurons behind it", "a LoihiLIF at the end [.net]", "Add it")


def _check_same(graph: SpikingGraph, again: SpikingGraph) -> None:
    for what in ("T", "readout.rule", "input.shape", "input.encoding", "input.message_bits"):
        own, found = attrgetter(what)(graph), attrgetter(what)(again)
        if own != found:
            raise op_error(
                "SpikingGraph", graph.name, f"{what} = {own}", f"{found}, as it would come back", "Use .onnx"
            )
    for op, twin in zip(graph.ops, again.ops, strict=True):
        own, found = (_computed(o, graph.shapes[op.name]) for o in (op, twin))
        lost = [what for what in own if what not in found or not np.array_equal(own[what], found[what])]
        if type(op) is not type(twin) or lost:
            what = f"{', '.join(lost) or 'the op'} would come back from .net as another"
            raise op_error(op.kind, op.name, what, "what .net holds exactly", "Use .onnx")


def _computed(op: Op, shape: Shape) -> dict[str, Any]:
    """What an op computes with, however it is written: a weight with its exponent, parameters of every neuron."""
    if isinstance(op, LoihiLIF):
        given: dict[str, Any] = {"du": op.du, "dv": op.dv, "vth": op.vth, "bias": op.bias}
        return {what: np.broadcast_to(values, shape) for what, values in given.items()}
    if isinstance(op, LoihiLinear):
        return {"weight": of_synapse(op.weight, op.weight_exp)}
    if isinstance(op, LoihiConv2d):
        geometry = {what: getattr(op, what) for what in ("stride", "padding", "dilation", "groups")}
        return {"weight": of_synapse(op.weight, op.weight_exp), **geometry}
    return {}


def _spike_input(graph: SpikingGraph) -> file.Content:
    if graph.input.message_bits != 0 or graph.input.encoding != "time_series":
        what = f"input = {graph.input.encoding}, message_bits = {graph.input.message_bits}"
        allowed = "time_series of spikes, or LoihiLIF first [.net]"
        raise op_error("SpikingGraph", graph.name, what, allowed, "Use .onnx")
    return {"type": "input", "shape": np.array(graph.input.shape)}


def _input(graph: SpikingGraph, op: LoihiLIF) -> file.Content:
    bits = graph.input.message_bits
    if graph.input.encoding != "direct" or bits != INPUT_BITS:
        what = f"input = {graph.input.encoding}, message_bits = {bits}"
        todo = f"State message_bits = {INPUT_BITS} where there are fewer, or use .onnx"
        raise op_error(op.kind, op.name, what, f"direct, {INPUT_BITS} (a bias) [.net]", todo)
    if (op.du != 4095).any() or op.bias.any():
        raise op_error(op.kind, op.name, "du other than 4095, or a bias", "neither at the input [.net]", "Use .onnx")
    one = {"weight": np.array(1.0, np.float32), "bias": np.array(0.0, np.float32)}
    return {"type": "input", "shape": np.array(graph.input.shape), **one, **_neurons(op, graph.input.shape)}


def _neurons(op: LoihiLIF, shape: Shape) -> file.Content:
    """The fields of a layer that its neurons give: `neuron`, and `bias` in units of a weight."""

    def one(name: str) -> int:
        values = np.unique(getattr(op, name))
        if values.size > 1:
            what = f"{name} = {values.min()}..{values.max()}"
            raise op_error(op.kind, op.name, what, "one for all neurons [.net]", "Use .onnx")
        return int(values[0])

    neuron = {
        "type": "CUBA",
        "iDecay": np.array(one("du") + 1),
        "vDecay": np.array(one("dv")),
        "vThMant": np.array(one("vth")),
        "refDelay": np.array(1),
        "gradedSpike": np.array(False),
    }
    bias = np.broadcast_to(op.bias, shape)
    if not bias.any():
        return {"neuron": neuron}
    units = bias >> BIAS_EXP
    if (units << BIAS_EXP != bias).any() or units.min() < -4096 or units.max() > 4095:
        allowed = f"multiples of 64 in {-4096 << BIAS_EXP}..{4095 << BIAS_EXP} [.net]"
        raise op_error(op.kind, op.name, f"bias = {bias.min()}..{bias.max()}", allowed, "Round it to weight units")
    if len(shape) == 3:
        per_channel = units[:, :1, :1]
        units = per_channel[:, 0, 0] if (units == per_channel).all() and len(units) > 1 else units.transpose(2, 1, 0)
    return {"neuron": neuron, "bias": np.ascontiguousarray(units).astype(np.float32)}


def _synapse(graph: SpikingGraph, op: LoihiLinear | LoihiConv2d) -> file.Content:
    weight = of_synapse(op.weight, op.weight_exp)
    if weight is None:
        what = f"weight_exp = {op.weight_exp}"
        raise op_error(op.kind, op.name, what, "one that leaves every weight an integer [.net]", "Use .onnx")
    shape = {"shape": np.array(graph.shapes[op.name]), "weight": weight.astype(np.float32)}
    if isinstance(op, LoihiLinear):
        computed = in_dense(weight)
        if computed is None or (computed != weight).any():
            what = f"weight = {weight.min()}..{weight.max()}"
            raise op_error(op.kind, op.name, what, "what netx computes with unchanged [.net]", "Use .onnx")
        n_out, n_in = weight.shape
        return {"type": "dense", **shape, "inFeatures": np.array(n_in), "outFeatures": np.array(n_out)}
    pairs = {name: np.array(getattr(op, name)) for name in ("stride", "padding", "dilation")}
    channels: dict[str, Any] = {
        "kernelSize": np.array(weight.shape[2:]),
        "inChannels": np.array(weight.shape[1] * op.groups),
        "outChannels": np.array(len(weight)),
        "groups": np.array(op.groups),
    }
    return {"type": "conv", **shape, **pairs, **channels}
