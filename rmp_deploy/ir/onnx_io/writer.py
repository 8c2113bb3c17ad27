"""SpikingGraph -> ONNX model. Derived names hold a '/', which no op's name can: they never collide."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rmp_deploy.files import write_atomically
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Readout, SpikingGraph
from rmp_deploy.ir.onnx_io.functions import (
    DOMAIN,
    DOMAIN_VERSION,
    IR_VERSION,
    ONNX_OPSET,
    lif_function,
    spike_count_function,
)
from rmp_deploy.ir.ops import LIF, Array, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Op
from rmp_deploy.ir.trace import Record

GRAPH_KEY, GOLDEN_KEY = "rmp_deploy.graph", "rmp_deploy.golden"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Tensors = dict[str, Array]


@dataclass(frozen=True)
class Golden:
    """Samples [N, *shape] with the spikes that each neuron op must send for them, [N] per op."""

    x: npt.NDArray[np.float32]
    spike_count: dict[str, list[int]]


def _node(op: Op, kind: str, attributes: dict[str, Any]) -> NodeProto:
    tensors = [f"{op.name}/{key}" for key in _tensors(op)]
    return helper.make_node(kind, [*op.inputs, *tensors], [op.name], name=op.name, **attributes)


def _linear_node(op: Linear) -> NodeProto:
    return _node(op, "Gemm", {"transB": 1})


def _conv_node(op: Conv2d) -> NodeProto:
    pads = [*op.padding, *op.padding]
    return _node(op, "Conv", {"strides": op.stride, "pads": pads, "dilations": op.dilation, "group": op.groups})


def _batch_norm_node(op: BatchNorm) -> NodeProto:
    return _node(op, "BatchNormalization", {"epsilon": op.eps})


def _avg_pool_node(op: AvgPool2d) -> NodeProto:
    return _node(op, "AveragePool", {"kernel_shape": op.kernel, "strides": op.stride})


def _flatten_node(op: Flatten) -> NodeProto:
    return _node(op, "Flatten", {"axis": 1})


def _lif_node(op: LIF) -> NodeProto:
    n = op.name
    return helper.make_node(
        "LIF",
        [*op.inputs, f"{n}/v_prev"],
        [n, f"{n}/v", f"{n}/u"],
        name=n,
        domain=DOMAIN,
        reset=op.reset,
        **{k: numpy_helper.from_array(getattr(op, k), k) for k in ("decay", "v_threshold", "v_reset")},
    )


def _tensors(op: Op) -> Tensors:
    """The op's parameters that the file keeps as initializers `<op>/<name>`, in the order of the node's inputs."""
    names = {Linear: ("weight", "bias"), Conv2d: ("weight", "bias"), BatchNorm: ("gamma", "beta", "mean", "var")}
    return {k: getattr(op, k) for k in names.get(type(op), ()) if getattr(op, k) is not None}


WRITERS: dict[type[Op], Callable[[Any], NodeProto]] = {
    Linear: _linear_node,
    Conv2d: _conv_node,
    BatchNorm: _batch_norm_node,
    AvgPool2d: _avg_pool_node,
    Flatten: _flatten_node,
    LIF: _lif_node,
}


def to_model(graph: SpikingGraph, record: Sequence[Record] = ()) -> ModelProto:
    """Build the ONNX model; `record` adds outputs `trace/<what>/<neuron op>` [B, T, *shape], never saved."""
    neurons = graph.of_type(LIF)
    shapes, value = graph.shapes, graph.readout.value
    suffix = {"spikes": "", "v": "/v", "u": "/u"}
    traced = [(f"trace/{what}/{op.name}", op.name + suffix[what], shapes[op.name]) for what in record for op in neurons]

    def info(name: str, kind: int, *dims: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(dims))

    body_nodes = [WRITERS[type(op)](op) for op in graph.ops]
    body_nodes += [
        helper.make_node("SpikeCount", [op.name, f"{op.name}/n_prev"], [f"{op.name}/n"], domain=DOMAIN)
        for op in neurons
    ]
    scanned = [("time/readout.step", value), *((f"{name}.step", v) for name, v, _ in traced)]
    body_nodes += [helper.make_node("Identity", [v], [name]) for name, v in scanned]
    body = helper.make_graph(
        body_nodes,
        "step",
        [info(f"{op.name}/v_prev", FLOAT, "B", *shapes[op.name]) for op in neurons]
        + [info(f"{op.name}/n_prev", INT64, "B") for op in neurons]
        + [info(graph.input.name, FLOAT, "B", *graph.input.shape)],
        [info(f"{op.name}/v", FLOAT, "B", *shapes[op.name]) for op in neurons]
        + [info(f"{op.name}/n", INT64, "B") for op in neurons]
        + [info("time/readout.step", FLOAT, "B", *shapes[value])]
        + [info(f"{name}.step", FLOAT, "B", *shape) for name, _, shape in traced],
    )

    constants: dict[str, npt.NDArray[Any]] = {}
    nodes = [helper.make_node("Shape", ["input"], ["time/batch"], start=0, end=1)]
    if graph.input.encoding == "direct":
        constants["time/T"] = np.array([graph.T], np.int64)
        nodes += [
            helper.make_node("Shape", ["input"], ["time/sample_shape"]),
            helper.make_node("Concat", ["time/T", "time/sample_shape"], ["time/series_shape"], axis=0),
            helper.make_node("Expand", ["input", "time/series_shape"], ["time/series"]),
        ]
        input_dims: tuple[int | str, ...] = ("B", *graph.input.shape)
    else:
        order = [1, 0, *range(2, len(graph.input.shape) + 2)]
        nodes += [helper.make_node("Transpose", ["input"], ["time/series"], perm=order)]
        input_dims = ("B", graph.T, *graph.input.shape)
    for op in neurons:
        constants[f"{op.name}/shape"] = np.array(shapes[op.name], np.int64)
        nodes += [
            helper.make_node("Concat", ["time/batch", f"{op.name}/shape"], [f"{op.name}/v_shape"], axis=0),
            helper.make_node("ConstantOfShape", [f"{op.name}/v_shape"], [f"{op.name}/v_start"]),
        ]
    zero = numpy_helper.from_array(np.zeros(1, np.int64), "time/zero")
    nodes += [helper.make_node("ConstantOfShape", ["time/batch"], ["time/n_start"], value=zero)]
    nodes += [
        helper.make_node(
            "Scan",
            [f"{op.name}/v_start" for op in neurons] + ["time/n_start"] * len(neurons) + ["time/series"],
            [f"{op.name}/v_last" for op in neurons]
            + [f"spike_count/{op.name}" for op in neurons]
            + [f"{name.removesuffix('.step')}.steps" for name, _ in scanned],
            name="time",
            num_scan_inputs=1,
            body=body,
        )
    ]
    nodes += _readout_nodes(graph.readout, constants)
    for name, _, shape in traced:
        nodes += [helper.make_node("Transpose", [f"{name}.steps"], [name], perm=[1, 0, *range(2, len(shape) + 2)])]

    k = int(np.prod(shapes[value]))
    outputs = [info("output", FLOAT, "B", k)] + [info(f"spike_count/{op.name}", INT64, "B") for op in neurons]
    outputs += [info(name, FLOAT, "B", graph.T, *shape) for name, _, shape in traced]
    tensors = {f"{op.name}/{key}": array for op in graph.ops for key, array in _tensors(op).items()}
    initializers = [numpy_helper.from_array(array, name) for name, array in {**constants, **tensors}.items()]
    model = helper.make_model(
        helper.make_graph(nodes, graph.name, [info("input", FLOAT, *input_dims)], outputs, initializers),
        functions=[lif_function(), spike_count_function()],
        opset_imports=[helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
        producer_name="rmp-deploy",
    )
    helper.set_model_props(model, {GRAPH_KEY: json.dumps(_header(graph), sort_keys=True)})
    return model


def _readout_nodes(readout: Readout, constants: dict[str, npt.NDArray[Any]]) -> list[NodeProto]:
    constants["time/first_axis"] = np.array([0], np.int64)
    if readout.rule == "last":
        constants["time/last_step"] = np.array(-1, np.int64)
        rule = helper.make_node("Gather", ["time/readout.steps", "time/last_step"], ["time/read"], axis=0)
        del constants["time/first_axis"]
    else:
        kind = "ReduceMean" if readout.rule == "mean" else "ReduceSum"
        rule = helper.make_node(kind, ["time/readout.steps", "time/first_axis"], ["time/read"], keepdims=0)
    return [rule, helper.make_node("Flatten", ["time/read"], ["output"], axis=1)]


def _header(graph: SpikingGraph) -> dict[str, Any]:
    """What the nodes do not say."""
    return {
        "T": graph.T,
        "dt": graph.dt,
        "input": {"name": graph.input.name, "shape": graph.input.shape, "encoding": graph.input.encoding},
        "readout": {"value": graph.readout.value, "rule": graph.readout.rule},
        "provenance": graph.provenance,
        "sha256": _digest(graph),
    }


def _digest(graph: SpikingGraph) -> str:
    """Checksum of every parameter: a flipped bit in a weight would otherwise be another network, not an error."""
    digest = hashlib.sha256()
    for op in graph.ops:
        for field in fields(op):
            value = getattr(op, field.name)
            content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            digest.update(f"{op.name}/{field.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def save(graph: SpikingGraph, path: str | Path, golden: npt.NDArray[Any] | None = None) -> Path:
    """Write `graph` to an .onnx file, whole or not at all; the same graph gives the same bytes.

    `golden` samples [N, *shape] go into the file together with the spike counts that the NumPy reference finds for
    them, so that any copy of the file can be checked by `rmp-deploy verify` or by hand.

    Raises:
        RmpDeployError: the folder cannot be written, or the golden samples do not fit the graph.
    """
    model = to_model(graph)
    if golden is not None:
        x = golden.astype("<f4")
        spikes = reference.run(graph, x, record=("spikes",)).spikes
        counts = {name: s.reshape(len(x), -1).sum(axis=1).tolist() for name, s in spikes.items()}
        record = {"shape": x.shape, "x": base64.b64encode(x.tobytes()).decode(), "spike_count": counts}
        model.metadata_props.add(key=GOLDEN_KEY, value=json.dumps(record, sort_keys=True))
    onnx.checker.check_model(model, full_check=True)
    return write_atomically(path, model.SerializeToString(deterministic=True))
