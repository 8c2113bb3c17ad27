"""SpikingGraph -> ONNX model: one `Scan` over time around the step graph."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from rmp_deploy.files import write_atomically
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Readout, SpikingGraph
from rmp_deploy.ir.onnx_io.functions import DOMAIN, DOMAIN_VERSION, FUNCTIONS, IR_VERSION, ONNX_OPSET
from rmp_deploy.ir.onnx_io.nodes import STATES, state_shape, tensors, to_node
from rmp_deploy.ir.ops import LIF, Delay, Op, Shape, SumPool2d
from rmp_deploy.ir.trace import Record

GRAPH_KEY, GOLDEN_KEY = "rmp_deploy.graph", "rmp_deploy.golden"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Golden:
    """Samples [N, *shape] with the spikes that each neuron op must send for them, [N] per op."""

    x: npt.NDArray[np.float32]
    spike_count: dict[str, list[int]]


def to_model(graph: SpikingGraph, record: Sequence[Record] = ()) -> ModelProto:
    """Build the ONNX model; `record` adds outputs `trace/<what>/<neuron op>` [B, T, *shape], never saved."""
    shapes, spiking = graph.shapes, graph.of_type(LIF)
    states = [(op, key) for op in graph.ops for key in STATES.get(type(op), ())]
    suffix = {"spikes": "", "v": "/v", "u": "/u"}
    traced = [(f"trace/{what}/{op.name}", op.name + suffix[what], shapes[op.name]) for what in record for op in spiking]
    scanned = [("time/readout", graph.readout.value, shapes[graph.readout.value]), *traced]
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
            helper.make_node("ConstantOfShape", [f"{name}_batch_shape"], [f"{name}_start"]),
        ]
    zero = numpy_helper.from_array(np.zeros(1, np.int64), "time/zero")
    nodes += [
        helper.make_node("ConstantOfShape", ["time/batch"], ["time/n_start"], value=zero),
        helper.make_node(
            "Scan",
            [f"{op.name}/{key}_start" for op, key in states] + ["time/n_start"] * len(spiking) + ["time/series"],
            [f"{op.name}/{key}_last" for op, key in states]
            + [f"spike_count/{op.name}" for op in spiking]
            + [f"{name}.steps" for name, _, _ in scanned],
            name="time",
            num_scan_inputs=1,
            body=_step(graph, states, scanned),
        ),
        *_readout_nodes(graph.readout, constants),
    ]
    nodes += [
        helper.make_node("Transpose", [f"{name}.steps"], [name], perm=_swapped(len(shape))) for name, _, shape in traced
    ]

    outputs = [_info("output", FLOAT, "B", int(np.prod(shapes[graph.readout.value])))]
    outputs += [_info(f"spike_count/{op.name}", INT64, "B") for op in spiking]
    outputs += [_info(name, FLOAT, "B", graph.T, *shape) for name, _, shape in traced]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    used = {node.op_type for node in step_of(nodes).node if node.domain == DOMAIN}
    model = helper.make_model(
        helper.make_graph(nodes, graph.name, [_info("input", FLOAT, *input_dims)], outputs, initializers),
        functions=[make() for name, make in FUNCTIONS.items() if name in used],
        opset_imports=[helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
        producer_name="rmp-deploy",
    )
    helper.set_model_props(model, {GRAPH_KEY: json.dumps(_header(graph), sort_keys=True)})
    return model


def step_of(nodes: Iterable[NodeProto]) -> GraphProto:
    """The step graph: the body of the one `Scan` among a model's nodes.

    Raises:
        ValueError: there is not exactly one, or it has no body.
    """
    (scan,) = (node for node in nodes if node.op_type == "Scan")
    body: GraphProto
    (body,) = (a.g for a in scan.attribute if a.name == "body")
    return body


def _step(graph: SpikingGraph, states: list[tuple[Op, str]], scanned: list[tuple[str, str, Shape]]) -> GraphProto:
    """The body of the Scan: one time step; `scanned` values leave it at every step."""
    spiking = graph.of_type(LIF)
    nodes = [to_node(graph, op) for op in graph.ops]
    nodes += [
        helper.make_node("DelayWrite", [op.inputs[0], f"{op.name}/waiting_prev"], [f"{op.name}/waiting"], domain=DOMAIN)
        for op in graph.of_type(Delay)
    ]
    nodes += [
        helper.make_node("SpikeCount", [op.name, f"{op.name}/n_prev"], [f"{op.name}/n"], domain=DOMAIN)
        for op in spiking
    ]
    nodes += [helper.make_node("Identity", [value], [f"{name}.step"]) for name, value, _ in scanned]

    def all_states(suffix: str) -> list[ValueInfoProto]:
        kept = [_info(f"{op.name}/{key}{suffix}", FLOAT, "B", *state_shape(graph, op)) for op, key in states]
        return kept + [_info(f"{op.name}/n{suffix}", INT64, "B") for op in spiking]

    constants = {f"{op.name}/{key}": array for op in graph.ops for key, array in tensors(op).items()}
    constants |= {
        f"{pool.name}/ones": np.ones((graph.shapes[pool.name][0], 1, *pool.kernel), np.float32)
        for pool in graph.of_type(SumPool2d)
    }
    return helper.make_graph(
        nodes,
        "step",
        [*all_states("_prev"), _info(graph.input.name, FLOAT, "B", *graph.input.shape)],
        [*all_states(""), *(_info(f"{name}.step", FLOAT, "B", *shape) for name, _, shape in scanned)],
        # here and not outside: ONNX Runtime rearranges a convolution's weights only in the graph that holds them
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )


def _info(name: str, kind: int, *dims: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def _swapped(rank: int) -> list[int]:
    """The permutation that swaps time and batch of a value with `rank` axes besides."""
    return [1, 0, *range(2, rank + 2)]


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
        "dt": None if graph.dt is None else float(graph.dt),
        "input": {"name": graph.input.name, "shape": graph.input.shape, "encoding": graph.input.encoding},
        "readout": {"value": graph.readout.value, "rule": graph.readout.rule},
        "provenance": graph.provenance,
        "sha256": digest(graph),
    }


def digest(graph: SpikingGraph, version: int = DOMAIN_VERSION) -> str:
    """Checksum of every parameter that files of `version` have: a flipped bit would otherwise be another network."""
    sha = hashlib.sha256()
    for op in graph.ops:
        for field in fields(op):
            if field.metadata.get("since", 1) > version:
                continue
            value = getattr(op, field.name)
            content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            sha.update(f"{op.name}/{field.name}:{len(content)}:".encode() + content)
    return sha.hexdigest()


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
