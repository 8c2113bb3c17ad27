"""SpikingGraph -> file: golden samples, checksum, and the bytes, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, helper

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import target_of, write_together
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.onnx_io import external, wire
from rmp_deploy.ir.onnx_io.model import GRAPH_KEY, step_of, to_skeleton
from rmp_deploy.ir.onnx_io.nodes import Tensors
from rmp_deploy.ir.onnx_io.properties import Golden, golden_of, golden_to_text, header_of
from rmp_deploy.ir.onnx_io.wire import Chunk
from rmp_deploy.ir.trace import Record

GOLDEN_KEY, CHECKSUM_KEY = "rmp_deploy.golden", "rmp_deploy.sha256"


def save(graph: SpikingGraph, path: str | Path, golden: npt.NDArray[Any] | None = None) -> Path:
    """Write `graph` to an .onnx file, whole or not at all; the same graph gives the same bytes.

    `golden` samples [N, *shape] go into the file together with the spike counts that the NumPy reference finds for
    them, so that any copy of the file can be checked by `rmp-deploy verify --self` or by hand. Weights of more than
    2 GiB go into a second file beside it, `<path>.data`; one that an earlier network left there is left as it is, for
    another model may refer to it. No weight is held twice in memory.

    Raises:
        RmpDeployError: `path` is no regular file, its folder cannot be written, the golden samples do not fit the
            graph, its name or provenance is no text, or what it holds besides its weights is too large.
    """
    place = target_of(path)
    record = None if golden is None else golden_text(graph, golden)
    model, weights = to_skeleton(graph)
    onnx.checker.check_model(_checkable(model), full_check=True)
    if external.is_outside(weights):
        external.refer(step_of(model.graph.node), weights, f"{place.name}.data")
    finish(model, weights, record)
    _check_readable(graph, model)
    _write(model, weights, place)
    return Path(path)


@contextmanager
def runnable(graph: SpikingGraph, record: Sequence[Record] = ()) -> Iterator[bytes | str]:
    """What a runtime runs for `graph`: the model's bytes or, beyond 2 GiB, the path of files that last as long.

    `record` adds outputs as in `to_model`.
    """
    model, weights = to_skeleton(graph, record)
    if not external.is_outside(weights):
        yield b"".join(wire.pieces(contents(model, weights)[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        external.refer(step_of(model.graph.node), weights, "net.onnx.data")
        yield str(_write(model, weights, Path(folder) / "net.onnx"))


def _write(model: ModelProto, weights: Tensors, path: Path) -> Path:
    inside, outside = contents(model, weights)
    beside = {path.with_name(f"{path.name}.data"): wire.pieces(outside)} if outside else {}
    write_together({**beside, path: wire.pieces(inside)})  # the model last: it is what people open
    return path


def golden_text(graph: SpikingGraph, samples: npt.NDArray[Any]) -> str:
    """The golden record as the file keeps it, with the reference's spike counts.

    Raises:
        RmpDeployError: the samples do not fit the graph.
    """
    graph.check_samples(samples)
    with np.errstate(over="ignore"):
        x = samples.astype("<f4")
    graph.check_samples(x)  # what the file keeps of them
    counts: dict[str, list[int]] = {}
    for sample in x:  # one by one: memory does not follow their number
        for name, spikes in reference.run(graph, sample[None], record=("spikes",)).spikes.items():
            counts.setdefault(name, []).append(int(spikes.sum()))
    return golden_to_text(Golden(x, counts))


def finish(model: ModelProto, weights: Tensors, golden: str | None) -> str:
    """Add to the skeleton `model` the golden record and the checksum, and return this.

    It is the SHA-256 of the model's bytes, with 64 zeros in the checksum's own place, and of the file beside it.
    """
    if golden is not None:
        model.metadata_props.add(key=GOLDEN_KEY, value=golden)
    checksum = model.metadata_props.add(key=CHECKSUM_KEY, value="0" * 64)
    inside, outside = contents(model, weights)
    sha = hashlib.sha256()
    for piece in wire.pieces([*inside, *outside]):
        sha.update(piece)
    found = sha.hexdigest()
    checksum.value = found
    return found


def contents(model: ModelProto, weights: Tensors) -> tuple[list[Chunk], list[Chunk]]:
    """The bytes of the .onnx file and of the file beside it, which is empty where there is none."""
    if external.location_of(step_of(model.graph.node)) is None:
        return wire.join(model, iter(weights.values())), []
    return [model.SerializeToString(deterministic=True)], external.contents(weights)


def _checkable(model: ModelProto) -> ModelProto:
    """`model` with its weights as inputs of their type and shape: the same to the checker, which would copy them."""
    checkable = ModelProto()
    checkable.CopyFrom(model)
    tensors = step_of(checkable.graph.node).initializer
    for tensor in tensors:
        checkable.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del tensors[:]
    return checkable


def _check_readable(graph: SpikingGraph, model: ModelProto) -> None:
    """Refuse to write what `load` would refuse to read."""
    rest = model.SerializeToString(deterministic=True)
    try:
        wire.split(io.BytesIO(rest), len(rest))
        properties = {p.key: p.value for p in model.metadata_props}
        header_of(properties[GRAPH_KEY])
        if GOLDEN_KEY in properties:
            golden_of(graph, properties[GOLDEN_KEY])
    except ValueError as e:
        todo = "Save fewer ops, golden samples or entries of the provenance"
        raise RmpDeployError(f"SpikingGraph '{graph.name}': its file would have {e}. {todo}.") from e
