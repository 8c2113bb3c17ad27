"""One op -> one ONNX node. Derived names hold a '/', which no op's name can: they never collide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.onnx_io import boundary, integer
from rmp_deploy.ir.onnx_io.functions import DOMAIN, SUFFIX
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
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Shape,
    SumPool2d,
)

Tensors = Mapping[str, npt.NDArray[Any]]
STATES: dict[type[Op], tuple[str, ...]] = {
    LIF: ("v",),
    CubaLIF: ("v", "i"),
    LI: ("v",),
    LoihiLIF: ("v", "i"),
    Delay: ("waiting",),
}
INITIALIZERS: dict[type[Op], tuple[str, ...]] = {  # in the order of the node's inputs
    Linear: ("weight", "bias"),
    Conv1d: ("weight", "bias"),
    Conv2d: ("weight", "bias"),
    BatchNorm: ("gamma", "beta", "mean", "var"),
}


def to_node(graph: SpikingGraph, op: Op) -> NodeProto:
    """The node that computes `op`; it and its value carry the op's name."""
    return WRITERS[type(op)](graph, op)


def tensors(op: Op) -> Tensors:
    """The op's parameters that the file keeps as initializers `<op>/<name>`."""
    if isinstance(op, LoihiLinear | LoihiConv2d):
        return {"weight": integer.stored(op)}
    return {k: getattr(op, k) for k in INITIALIZERS.get(type(op), ()) if getattr(op, k) is not None}


def state_shape(graph: SpikingGraph, op: Op) -> Shape:
    """Shape of each of the op's states, without the batch."""
    return (op.steps, *op.shape) if isinstance(op, Delay) else graph.shapes[op.name]


def state_type(op: Op) -> int:
    """Element type of the op's states; all other values of a graph are float32."""
    return TensorProto.INT32 if isinstance(op, LoihiLIF) else TensorProto.FLOAT


def _standard(op: Op, kind: str, attributes: dict[str, Any]) -> NodeProto:
    initializers = [f"{op.name}/{key}" for key in tensors(op)]
    return helper.make_node(kind, [*op.inputs, *initializers], [op.name], name=op.name, **attributes)


def _linear(_graph: SpikingGraph, op: Linear) -> NodeProto:
    return _standard(op, "Gemm", {"transB": 1})


def _conv(_graph: SpikingGraph, op: Conv1d | Conv2d) -> NodeProto:
    pads = [*op.padding, *op.padding]
    return _standard(op, "Conv", {"strides": op.stride, "pads": pads, "dilations": op.dilation, "group": op.groups})


def _batch_norm(_graph: SpikingGraph, op: BatchNorm) -> NodeProto:
    return _standard(op, "BatchNormalization", {"epsilon": op.eps})


def _avg_pool(_graph: SpikingGraph, op: AvgPool2d) -> NodeProto:
    return _standard(op, "AveragePool", {**_windows(op), "kernel_shape": op.kernel, "count_include_pad": 1})


def _max_pool(_graph: SpikingGraph, op: MaxPool2d) -> NodeProto:
    return _standard(op, "MaxPool", {**_windows(op), "kernel_shape": op.kernel})


def _sum_pool(graph: SpikingGraph, op: SumPool2d) -> NodeProto:
    inputs, group = [*op.inputs, f"{op.name}/ones"], graph.shapes[op.name][0]
    return helper.make_node("SumPool2d", inputs, [op.name], name=op.name, domain=DOMAIN, group=group, **_windows(op))


def _windows(op: AvgPool2d | MaxPool2d | SumPool2d) -> dict[str, Any]:
    return {"strides": op.stride, "pads": [*op.padding, *op.padding]}


def _flatten(_graph: SpikingGraph, op: Flatten) -> NodeProto:
    return _standard(op, "Flatten", {"axis": 1})


def _add(_graph: SpikingGraph, op: Add) -> NodeProto:
    return _standard(op, "Sum", {})


def _concat(_graph: SpikingGraph, op: Concat) -> NodeProto:
    return _standard(op, "Concat", {"axis": 1})


def _delay(_graph: SpikingGraph, op: Delay) -> NodeProto:
    return helper.make_node("DelayRead", [f"{op.name}/waiting_prev"], [op.name], name=op.name, domain=DOMAIN)


def _neuron(_graph: SpikingGraph, op: LIF | LI) -> NodeProto:
    """The op's function of our domain: inputs x and the states, outputs value, states and, of spiking neurons, u."""
    n, states = op.name, STATES[type(op)]
    inputs = [*op.inputs, *(f"{n}/{key}_prev" for key in states)]
    outputs = [n, *(f"{n}/{key}" for key in states)]
    attributes: dict[str, Any] = {k: numpy_helper.from_array(v, k) for k, v in op.per_neuron.items()}
    kind = op.kind
    if isinstance(op, LIF):
        outputs.append(f"{n}/u")
        kind += SUFFIX[op.reset]
    return helper.make_node(kind, inputs, outputs, name=n, domain=DOMAIN, **attributes)


WRITERS: dict[type[Op], Callable[[SpikingGraph, Any], NodeProto]] = {
    Linear: _linear,
    Conv1d: _conv,
    Conv2d: _conv,
    BatchNorm: _batch_norm,
    AvgPool2d: _avg_pool,
    SumPool2d: _sum_pool,
    MaxPool2d: _max_pool,
    Flatten: _flatten,
    Add: _add,
    Concat: _concat,
    Delay: _delay,
    LIF: _neuron,
    CubaLIF: _neuron,
    LI: _neuron,
    **integer.WRITERS,
    **boundary.WRITERS,
}
