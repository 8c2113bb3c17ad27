"""ONNX file -> SpikingGraph, refusing whatever this version would not have written."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, numpy_helper

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.onnx_io.functions import DOMAIN, DOMAIN_VERSION
from rmp_deploy.ir.onnx_io.migrate import migrate
from rmp_deploy.ir.onnx_io.ops_of_nodes import BOOKKEEPING, from_node
from rmp_deploy.ir.onnx_io.writer import GOLDEN_KEY, GRAPH_KEY, Golden, digest, step_of, to_model
from rmp_deploy.ir.ops import LIF

# What a malformed but decodable model makes protobuf, numpy and dict look-ups raise while it is being read.
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


def load(path: str | Path) -> SpikingGraph:
    """Read the graph of an .onnx file that `save` wrote.

    The graph is written again in memory and must give the file's own nodes, functions and outputs: a file that some
    other tool changed is refused and not half understood.

    Raises:
        RmpDeployError: missing, unreadable, truncated or non-spiking file, NaN weights, a newer domain version, or
            nodes that this version does not write. One line, naming the file.
    """
    return _graph(_model(path), path)


def load_golden(path: str | Path) -> Golden | None:
    """Read the golden samples of an .onnx file; None where it holds none.

    Raises:
        RmpDeployError: the file is unreadable, or its golden samples or counts do not fit its graph.
    """
    model = _model(path)
    text = _properties(model).get(GOLDEN_KEY)
    if text is None:
        return None
    graph = _graph(model, path)
    try:
        record = json.loads(text)
        x = np.frombuffer(base64.b64decode(record["x"]), "<f4").reshape(record["shape"]).astype(np.float32)
        golden = Golden(x, {str(k): [int(n) for n in v] for k, v in record["spike_count"].items()})
        graph.check_samples(x)
    except (RmpDeployError, *MALFORMED) as e:
        raise _refused(path, f"its golden samples are malformed ({_first_line(e)})", "Export it again") from e
    neurons = {op.name for op in graph.of_type(LIF)}
    if golden.spike_count.keys() != neurons or any(len(n) != len(x) for n in golden.spike_count.values()):
        raise _refused(path, "its golden spike counts are not those of its neuron ops", "Export it again")
    return golden


def _model(path: str | Path) -> ModelProto:
    try:
        raw = Path(path).read_bytes()
    except OSError as e:
        raise RmpDeployError(f"file '{path}': cannot be read ({e.strerror or e}). Check the path.") from e
    model = ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError as e:
        raise _refused(path, "not an ONNX model, or truncated", "Copy or export it again") from e
    if not raw or not model.graph.node:
        raise _refused(path, "holds no graph", "Copy or export it again")
    return model


def _graph(model: ModelProto, path: str | Path) -> SpikingGraph:
    versions = {o.domain: o.version for o in model.opset_import}
    header_text = _properties(model).get(GRAPH_KEY)
    if DOMAIN not in versions or header_text is None:
        raise _refused(path, f"an ONNX model without spiking ops (domain '{DOMAIN}')", "Export a spiking network")
    version = versions[DOMAIN]
    if not 1 <= version <= DOMAIN_VERSION:
        known = f"allowed 1..{DOMAIN_VERSION}"
        raise _refused(path, f"domain '{DOMAIN}' version = {version}, {known}", "Update rmp-deploy")
    try:
        header = _header(header_text)
        migrate(model, version)
        body = step_of(model.graph.node)
        if any(i.data_location == TensorProto.EXTERNAL for i in body.initializer):
            raise RmpDeployError("weights outside the file. Save it as one file.")
        tensors = {i.name: numpy_helper.to_array(i) for i in body.initializer}
        graph = SpikingGraph(
            name=model.graph.name,
            input=Input(header["input"]["name"], tuple(header["input"]["shape"]), header["input"]["encoding"]),
            ops=tuple(from_node(node, body, tensors) for node in body.node if node.op_type not in BOOKKEEPING),
            readout=Readout(**header["readout"]),
            T=header["T"],
            dt=header["dt"],
            provenance=header["provenance"],
        )
        again = to_model(graph)
    except RmpDeployError as e:
        raise RmpDeployError(f"file '{path}': {e}") from e
    except MALFORMED as e:
        raise _refused(path, f"malformed ({type(e).__name__}: {_first_line(e)})", "Export it again") from e
    _same_model(model, again, path)
    if header["sha256"] != digest(graph, version):
        raise _refused(path, "parameters do not match their checksum", "Copy or export it again")
    return graph


def _header(text: str) -> dict[str, Any]:
    """The record that the nodes do not tell, each entry of the type that `save` writes."""
    header: dict[str, Any] = json.loads(text)
    types = {
        "T": (int,),
        "dt": (float, type(None)),
        "input": (dict,),
        "readout": (dict,),
        "provenance": (dict,),
        "sha256": (str,),
    }
    for key, allowed in types.items():
        if type(header[key]) not in allowed:
            raise TypeError(f"{key} = {header[key]!r}")
    texts = [*header["provenance"].values(), *header["readout"].values(), header["input"]["name"]]
    sizes = header["input"]["shape"]
    if not all(type(t) is str for t in texts) or not all(type(n) is int for n in sizes):
        raise TypeError("a text or a size is of another type")
    return header


def _same_model(model: ModelProto, again: ModelProto, path: str | Path) -> None:
    """Refuse a file whose nodes, functions, inputs or outputs are not those that its own graph gives."""
    pairs = [
        ("node", model.graph.node, again.graph.node),
        ("function", model.functions, again.functions),
        ("input", model.graph.input, again.graph.input),
        ("output", model.graph.output, again.graph.output),
        ("opset", model.opset_import, again.opset_import),
        ("constant", model.graph.initializer, again.graph.initializer),
    ]
    for what, found, wanted in pairs:
        for i in range(max(len(found), len(wanted))):
            a, b = (list(s)[i].SerializeToString(deterministic=True) if i < len(s) else b"" for s in (found, wanted))
            if a != b:
                name = getattr((list(found) + list(wanted))[min(i, len(found))], "name", "") or i
                raise _refused(path, f"{what} '{name}' is not what its spiking graph gives", "Export it again")


def _properties(model: ModelProto) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


def _refused(path: str | Path, what: str, todo: str) -> RmpDeployError:
    return RmpDeployError(f"file '{path}': {what}. {todo}.")


def _first_line(e: Exception) -> str:
    return (str(e).splitlines() or [""])[0][:120]
