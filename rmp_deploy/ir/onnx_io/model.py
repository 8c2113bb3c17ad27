"""SpikingGraph -> ONNX model: one `Scan` over time around the step graph."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.onnx_io import boundary, integer
from rmp_deploy.ir.onnx_io.arrays import describe
from rmp_deploy.ir.onnx_io.external import MAX_INSIDE, is_outside
from rmp_deploy.ir.onnx_io.functions import DOMAIN, DOMAIN_VERSION, FUNCTIONS, IR_VERSION, ONNX_OPSET
from rmp_deploy.ir.onnx_io.nodes import STATES, Tensors, state_shape, state_type, tensors, to_node
from rmp_deploy.ir.onnx_io.wire import join, pieces
from rmp_deploy.ir.ops import Delay, Op, Shape, SumPool2d
from rmp_deploy.ir.trace import Record

GRAPH_KEY = "rmp_deploy.graph"
FLOAT, DOUBLE, INT64, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL


def to_model(graph: SpikingGraph, record: Sequence[Record] = ()) -> ModelProto:
    """Build the ONNX model; `record` adds outputs `trace/<what>/<op>` [B, T, *shape], never saved."""
    model = ModelProto()
    model.ParseFromString(to_bytes(graph, record))
    return model


def to_bytes(graph: SpikingGraph, record: Sequence[Record] = ()) -> bytes:
    """`to_model`, serialized, with its weights once in memory.

    Raises:
        RmpDeployError: its weights are more than protobuf holds.
    """
    model, weights = to_skeleton(graph, record)
    if is_outside(weights):
        raise RmpDeployError(
            f"SpikingGraph '{graph.name}': weights of > {MAX_INSIDE:,} bytes. Save it and run the file."
        )
    return b"".join(pieces(join(model, iter(weights.values()))))


def to_skeleton(graph: SpikingGraph, record: Sequence[Record] = ()) -> tuple[ModelProto, Tensors]:
    """The ONNX model without its weights' numbers, and these by name, in the order of the step graph's initializers.

    Raises:
        RmpDeployError: the graph's name or its provenance is no text.
    """
    header, weights = _header(graph), _weights(graph)
    shapes, spiking = graph.shapes, graph.spiking
    states = [(op, key) for op in graph.ops for key in STATES.get(type(op), ())]
    suffix = {"spikes": "", "v": "/v", "u": "/u"}
    traced = [
        (f"trace/{what}/{op.name}", op.name + suffix[what], BOOL if what == "spikes" else state_type(op))
        for what in record
        if what != "readout"
        for op in spiking
    ]
    if "readout" in record:
        traced.append((f"trace/readout/{graph.readout.value}", graph.readout.value, FLOAT))
    scanned = [("time/readout", graph.readout.value, FLOAT), *traced]
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
        nodes += [helper.make_node("Transpose", ["input"], ["time/series"], perm=_swapped(len(graph.input.shape)))]
        input_dims = ("B", graph.T, *graph.input.shape)
    for op, key in states:
        name = f"{op.name}/{key}"
        constants[f"{name}_shape"] = np.array(state_shape(graph, op), np.int64)
        nodes += [
            helper.make_node("Concat", ["time/batch", f"{name}_shape"], [f"{name}_batch_shape"], axis=0),
            helper.make_node("ConstantOfShape", [f"{name}_batch_shape"], [f"{name}_start"], **_zero(state_type(op))),
        ]
    nodes += [
        helper.make_node("ConstantOfShape", ["time/batch"], ["time/n_start"], **_zero(INT64)),
        helper.make_node(
            "Scan",
            [f"{op.name}/{key}_start" for op, key in states] + ["time/n_start"] * len(spiking) + ["time/series"],
            [f"{op.name}/{key}_last" for op, key in states]
            + [f"spike_count/{op.name}" for op in spiking]
            + [f"{name}.steps" for name, _, _ in scanned],
            name="time",
            num_scan_inputs=1,
            body=_step(graph, states, scanned, weights),
        ),
        *_readout_nodes(graph, constants),
    ]
    nodes += [
        helper.make_node("Transpose", [f"{name}.steps"], [name], perm=_swapped(len(_shape_of(graph, value))))
        for name, value, _ in traced
    ]

    outputs = [_info("output", _output_type(graph), "B", math.prod(shapes[graph.readout.value]))]
    outputs += [_info(f"spike_count/{op.name}", INT64, "B") for op in spiking]
    outputs += [_info(name, kind, "B", graph.T, *_shape_of(graph, value)) for name, value, kind in traced]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    used = {node.op_type for node in step_of(nodes).node if node.domain == DOMAIN}
    functions = FUNCTIONS | integer.FUNCTIONS | boundary.FUNCTIONS
    model = helper.make_model(
        helper.make_graph(nodes, graph.name, [_info("input", FLOAT, *input_dims)], outputs, initializers),
        functions=[make() for name, make in functions.items() if name in used],
        opset_imports=[helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
        producer_name="rmp-deploy",
    )
    model.metadata_props.add(key=GRAPH_KEY, value=json.dumps(header, sort_keys=True))
    return model, weights


def step_of(nodes: Iterable[NodeProto]) -> GraphProto:
    """The step graph: the body of the one `Scan` among a model's nodes.

    Raises:
        ValueError: there is not exactly one, or it has no body.
    """
    (scan,) = (node for node in nodes if node.op_type == "Scan")
    body: GraphProto
    (body,) = (a.g for a in scan.attribute if a.name == "body")
    return body


def _weights(graph: SpikingGraph) -> Tensors:
    arrays: dict[str, npt.NDArray[Any]] = {
        f"{op.name}/{key}": array for op in graph.ops for key, array in tensors(op).items()
    }
    ones = np.ones((), np.float32)  # a view of any shape: a pool of many channels takes no memory before it is written
    for pool in graph.of_type(SumPool2d):
        arrays[f"{pool.name}/ones"] = np.broadcast_to(ones, (graph.shapes[pool.name][0], 1, *pool.kernel))
    return arrays


def _step(
    graph: SpikingGraph, states: list[tuple[Op, str]], scanned: list[tuple[str, str, int]], weights: Tensors
) -> GraphProto:
    """The body of the Scan: one time step; `scanned` values leave it at every step."""
    spiking = graph.spiking
    nodes = [to_node(graph, op) for op in graph.ops]
    nodes += [
        helper.make_node("DelayWrite", [op.inputs[0], f"{op.name}/waiting_prev"], [f"{op.name}/waiting"], domain=DOMAIN)
        for op in graph.of_type(Delay)
    ]
    nodes += [
        helper.make_node("SpikeCount", [op.name, f"{op.name}/n_prev"], [f"{op.name}/n"], domain=DOMAIN)
        for op in spiking
    ]
    nodes += [
        helper.make_node("Cast", [value], [f"{name}.step"], to=BOOL)  # a quarter of the memory
        if kind == BOOL
        else helper.make_node("Identity", [value], [f"{name}.step"])
        for name, value, kind in scanned
    ]

    def all_states(suffix: str) -> list[ValueInfoProto]:
        kept = [_info(f"{op.name}/{key}{suffix}", state_type(op), "B", *state_shape(graph, op)) for op, key in states]
        return kept + [_info(f"{op.name}/n{suffix}", INT64, "B") for op in spiking]

    leaving = [_info(f"{name}.step", kind, "B", *_shape_of(graph, value)) for name, value, kind in scanned]
    return helper.make_graph(
        nodes,
        "step",
        [*all_states("_prev"), _info(graph.input.name, FLOAT, "B", *graph.input.shape)],
        [*all_states(""), *leaving],
        # here and not outside: ONNX Runtime rearranges a convolution's weights only in the graph that holds them
        [describe(array, name) for name, array in weights.items()],
    )


def _info(name: str, kind: int, *dims: int | str) -> ValueInfoProto:
    sizes = [d if isinstance(d, str) else int(d) for d in dims]  # NumPy's integers are none to ONNX
    return helper.make_tensor_value_info(name, kind, sizes)


def _zero(kind: int) -> dict[str, TensorProto]:
    """The attribute that makes a ConstantOfShape of `kind`; its default is float32."""
    if kind == FLOAT:
        return {}
    return {"value": numpy_helper.from_array(np.zeros(1, helper.tensor_dtype_to_np_dtype(kind)), "time/zero")}


def _shape_of(graph: SpikingGraph, value: str) -> Shape:
    """Shape of an op's value or, `<op>/v`, of what else it makes."""
    return graph.shapes[value.partition("/")[0]]


def _output_type(graph: SpikingGraph) -> int:
    """float64 for Loihi's currents, whose sum over the steps float32 may not hold."""
    return DOUBLE if graph.readout.value in graph.currents else FLOAT


def _swapped(rank: int) -> list[int]:
    """The permutation that swaps time and batch of a value with `rank` axes besides."""
    return [1, 0, *range(2, rank + 2)]


def _readout_nodes(graph: SpikingGraph, constants: dict[str, npt.NDArray[Any]]) -> list[NodeProto]:
    readout, steps = graph.readout, "time/readout.steps"
    before = []
    if _output_type(graph) == DOUBLE:
        before = [helper.make_node("Cast", [steps], ["time/readout.double"], to=DOUBLE)]
        steps = "time/readout.double"
    constants["time/first_axis"] = np.array([0], np.int64)
    if readout.rule == "last":
        constants["time/last_step"] = np.array(-1, np.int64)
        rule = helper.make_node("Gather", [steps, "time/last_step"], ["time/read"], axis=0)
        del constants["time/first_axis"]
    else:
        kind = "ReduceMean" if readout.rule == "mean" else "ReduceSum"
        rule = helper.make_node(kind, [steps, "time/first_axis"], ["time/read"], keepdims=0)
    return [*before, rule, helper.make_node("Flatten", ["time/read"], ["output"], axis=1)]


def _header(graph: SpikingGraph) -> dict[str, Any]:
    """What the nodes do not say."""
    for what, text in (("name", graph.name), *graph.provenance.items()):
        if not (is_text(what) and is_text(text)):
            raise RmpDeployError(f"SpikingGraph '{graph.name}': {what} = {text!r}, allowed text. Give it as a str.")
    return {
        "T": int(graph.T),
        "dt": None if graph.dt is None else float(graph.dt),
        "input": {
            "name": graph.input.name,
            "shape": [int(n) for n in graph.input.shape],
            "encoding": graph.input.encoding,
            "message_bits": None if graph.input.message_bits is None else int(graph.input.message_bits),
        },
        "readout": {"value": graph.readout.value, "rule": graph.readout.rule},
        "provenance": graph.provenance,
    }


def is_text(value: object) -> bool:
    """A str that has characters, and none that UTF-8 cannot hold."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= c <= "\udfff" for c in value)
