"""One ONNX node -> one op: the inverse of `nodes`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.onnx_io.arrays import to_array
from rmp_deploy.ir.onnx_io.functions import SUFFIX
from rmp_deploy.ir.onnx_io.integer import UNIT
from rmp_deploy.ir.onnx_io.nodes import Tensors
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Quantize,
    Reset,
    Shape,
    SumPool2d,
)

Attributes = dict[str, Any]
Delays = dict[str, tuple[str, int, Shape]]  # by the name of their state: what it reads, steps, shape
BOOKKEEPING = ("DelayWrite", "SpikeCount", "Identity")  # nodes that are no op of the graph


def ops_of(body: GraphProto, tensors: Tensors) -> tuple[Op, ...]:
    """The ops that the nodes of the step graph `body` compute; `tensors` are its initializers by name.

    Raises:
        RmpDeployError: this version writes no such node, or reads no weight so often.
    """
    _check_read_once(body)
    delays = _delays(body)
    return tuple(_from_node(node, delays, tensors) for node in body.node if node.op_type not in BOOKKEEPING)


def _check_read_once(body: GraphProto) -> None:
    """Refuse, before a weight is read, one that several nodes share: every op would hold a copy of its own."""
    reads = Counter(value for node in body.node for value in node.input)
    for tensor in body.initializer:
        if reads[tensor.name] != 1:
            what = f"weight '{tensor.name}': reads = {reads[tensor.name]:,}, allowed 1"
            raise RmpDeployError(f"{what}. Export it again.")


def _from_node(node: NodeProto, delays: Delays, tensors: Tensors) -> Op:
    if node.op_type == "DelayRead":
        value, steps, shape = delays[node.input[0]]
        return Delay(name=node.name, inputs=(value,), steps=steps, shape=shape)
    if node.op_type not in READERS:
        known = ", ".join((*READERS, "DelayRead"))
        raise RmpDeployError(f"node '{node.name}': op = {node.op_type}, allowed {known}. Export a net of these.")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kind, n_inputs, parameters = READERS[node.op_type](node, attributes, tensors)
    return kind(name=node.name, inputs=tuple(node.input[:n_inputs]), **parameters)


Read = tuple[type[Op], int, dict[str, Any]]  # the op's type, how many of the node's inputs are values, its parameters


def _linear(node: NodeProto, _a: Attributes, tensors: Tensors) -> Read:
    return Linear, 1, _synapse(node, tensors)


def _conv(node: NodeProto, a: Attributes, tensors: Tensors) -> Read:
    n = len(a["strides"])
    sizes = {"stride": tuple(a["strides"]), "padding": tuple(a["pads"][:n]), "dilation": tuple(a["dilations"])}
    return (Conv1d if n == 1 else Conv2d), 1, {**_synapse(node, tensors), **sizes, "groups": a["group"]}


def _synapse(node: NodeProto, tensors: Tensors) -> dict[str, Any]:
    return {"weight": tensors[node.input[1]], "bias": tensors[node.input[2]] if len(node.input) > 2 else None}


def _batch_norm(node: NodeProto, a: Attributes, tensors: Tensors) -> Read:
    names = ("gamma", "beta", "mean", "var")
    arrays = {k: tensors[i] for k, i in zip(names, node.input[1:], strict=True)}
    return BatchNorm, 1, {**arrays, "eps": a["epsilon"]}


def _avg_pool(_node: NodeProto, a: Attributes, _tensors: Tensors) -> Read:
    return AvgPool2d, 1, _windows(a["kernel_shape"], a)


def _max_pool(_node: NodeProto, a: Attributes, _tensors: Tensors) -> Read:
    return MaxPool2d, 1, _windows(a["kernel_shape"], a)


def _sum_pool(node: NodeProto, a: Attributes, tensors: Tensors) -> Read:
    return SumPool2d, 1, _windows(tensors[node.input[1]].shape[2:], a)


def _windows(kernel: Sequence[int], a: Attributes) -> dict[str, Any]:
    return {"kernel": tuple(kernel), "stride": tuple(a["strides"]), "padding": tuple(a["pads"][:2])}


def _flatten(_node: NodeProto, _a: Attributes, _tensors: Tensors) -> Read:
    return Flatten, 1, {}


def _add(node: NodeProto, _a: Attributes, _tensors: Tensors) -> Read:
    return Add, len(node.input), {}


def _concat(node: NodeProto, _a: Attributes, _tensors: Tensors) -> Read:
    return Concat, len(node.input), {}


NEURONS: dict[str, tuple[type[Op], Reset | None]] = {
    **{f"LIF{suffix}": (LIF, reset) for reset, suffix in SUFFIX.items()},
    **{f"CubaLIF{suffix}": (CubaLIF, reset) for reset, suffix in SUFFIX.items()},
    "LI": (LI, None),
}


def _neuron(node: NodeProto, a: Attributes, _tensors: Tensors) -> Read:
    kind, reset = NEURONS[node.op_type]
    arrays = {k: to_array(v) for k, v in a.items()}
    return kind, 1, {**arrays, **({} if reset is None else {"reset": reset})}


def _loihi_lif(_node: NodeProto, a: Attributes, _tensors: Tensors) -> Read:
    return LoihiLIF, 1, {k: to_array(v) for k, v in a.items()}


def _loihi_linear(node: NodeProto, a: Attributes, tensors: Tensors) -> Read:
    parameters = _loihi_synapse(node, a, tensors)
    return LoihiLinear, 1, {**parameters, "weight": parameters["weight"].T}


def _loihi_conv2d(node: NodeProto, a: Attributes, tensors: Tensors) -> Read:
    geometry = {"stride": tuple(a["strides"]), "padding": tuple(a["pads"][:2]), "dilation": tuple(a["dilations"])}
    return LoihiConv2d, 1, {**_loihi_synapse(node, a, tensors), **geometry, "groups": a["group"]}


def _loihi_synapse(node: NodeProto, a: Attributes, tensors: Tensors) -> dict[str, Any]:
    sign_mode = a["sign_mode"].decode()
    weight = UNIT[sign_mode] * tensors[node.input[1]].astype(np.int32)
    return {"weight": weight, **{k: a[k] for k in ("weight_exp", "num_weight_bits")}, "sign_mode": sign_mode}


def _quantize(_node: NodeProto, a: Attributes, _tensors: Tensors) -> Read:
    return Quantize, 1, {"scale": to_array(a["scale"]), "message_bits": a["message_bits"]}


def _dequantize(_node: NodeProto, a: Attributes, _tensors: Tensors) -> Read:
    return Dequantize, 1, {k: to_array(a[k]) for k in ("scale", "bias")}


def _delays(body: GraphProto) -> Delays:
    """What a Delay reads stands in its DelayWrite, its steps and shape in the state that both share."""
    sizes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in body.input}
    writes = {node.input[1]: node.input[0] for node in body.node if node.op_type == "DelayWrite"}
    return {waiting: (value, sizes[waiting][1], sizes[waiting][2:]) for waiting, value in writes.items()}


READERS: dict[str, Callable[[NodeProto, Attributes, Tensors], Read]] = {
    "Gemm": _linear,
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "AveragePool": _avg_pool,
    "MaxPool": _max_pool,
    "SumPool2d": _sum_pool,
    "Flatten": _flatten,
    "Sum": _add,
    "Concat": _concat,
    **dict.fromkeys(NEURONS, _neuron),
    "LoihiLIF": _loihi_lif,
    "LoihiLinear": _loihi_linear,
    "LoihiLinearGraded": _loihi_linear,
    "LoihiConv2d": _loihi_conv2d,
    "Quantize": _quantize,
    "Dequantize": _dequantize,
}
