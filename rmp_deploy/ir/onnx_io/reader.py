"""ONNX file -> SpikingGraph, refusing whatever this version would not have written.

What a file can make its reader allocate is bounded by the file's own size, and checked before it is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.onnx_io import external, wire
from rmp_deploy.ir.onnx_io.arrays import Weights, take_out
from rmp_deploy.ir.onnx_io.functions import DOMAIN, DOMAIN_VERSION
from rmp_deploy.ir.onnx_io.migrate import REWRITTEN, checksum_of_1, migrate, state
from rmp_deploy.ir.onnx_io.model import GRAPH_KEY, step_of, to_bytes, to_skeleton
from rmp_deploy.ir.onnx_io.nodes import Tensors
from rmp_deploy.ir.onnx_io.ops_of_nodes import ops_of
from rmp_deploy.ir.onnx_io.properties import Golden, golden_of, header_of
from rmp_deploy.ir.onnx_io.writer import CHECKSUM_KEY, GOLDEN_KEY, contents, finish

# What a malformed but decodable model makes protobuf, numpy and dict look-ups raise while it is being read.
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


def load(path: str | Path) -> SpikingGraph:
    """Read the graph of an .onnx file that `save` wrote.

    The graph is written again in memory and must give the file's own bytes: a file that some other tool changed, or
    that lost a bit, is refused and not half understood.

    Raises:
        RmpDeployError: missing, unreadable, truncated or non-spiking file, NaN weights, a newer domain version, or
            nodes that this version does not write. One line, naming the file.
    """
    with _in_one_line(path):
        return _read(Path(path)).graph


def load_runnable(path: str | Path) -> tuple[SpikingGraph, bytes | str]:
    """The graph of an .onnx file, and what a runtime is to run for it: the path, now that the file is checked.

    Of version 1, which is checked as the graph that it migrates to, the bytes of that graph.

    Raises:
        RmpDeployError: as `load`.
    """
    with _in_one_line(path):
        read = _read(Path(path))
        return read.graph, to_bytes(read.graph) if read.version <= REWRITTEN else str(Path(path).resolve())


def load_golden(path: str | Path) -> Golden | None:
    """Read the golden samples of an .onnx file; None where it holds none.

    Raises:
        RmpDeployError: as `load`, or its golden samples or counts do not fit its graph.
    """
    with _in_one_line(path):
        read = _read(Path(path))
        if read.golden is None:
            return None
        try:
            return golden_of(read.graph, read.golden)
        except (RmpDeployError, *MALFORMED) as e:
            raise RmpDeployError(f"its golden samples are malformed ({e}). Export it again.") from e


@contextmanager
def _in_one_line(path: str | Path) -> Iterator[None]:
    """Name the file in what is raised; text from the file is shortened, and nothing in it moves the terminal."""

    def refuse(what: str, e: Exception) -> NoReturn:
        words = " ".join(what.split())
        shown = "".join(c if c.isprintable() else "\ufffd" for c in words[:400])
        raise RmpDeployError(f"file '{path}': {shown}") from e

    try:
        yield
    except RmpDeployError as e:
        refuse(str(e), e)
    except OSError as e:
        refuse(f"cannot be read ({e.strerror or e}). Check the path.", e)
    except MALFORMED as e:
        refuse(f"malformed ({type(e).__name__}: {str(e)[:200]}). Export it again.", e)


class _Read(NamedTuple):
    graph: SpikingGraph
    golden: str | None
    version: int


def _read(path: Path) -> _Read:
    """The graph and the golden record of a file, once its bytes are what this version gives for them."""
    with ExitStack() as files:
        file = files.enter_context(_open(path))
        size = _size(file)
        if size == 0:
            raise RmpDeployError("holds no graph. Copy or export it again.")
        try:
            rest, spans = wire.split(file, size)
            model = ModelProto.FromString(rest)
        except (DecodeError, ValueError) as e:
            raise RmpDeployError(f"not an ONNX model, or truncated ({e}). Copy or export it again.") from e
        version, properties = _version(model), {p.key: p.value for p in model.metadata_props}
        header = header_of(properties[GRAPH_KEY])
        body = step_of(model.graph.node)
        location = external.location_of(body)
        source = file
        if location is not None:
            source = files.enter_context(_open(external.path_of(path.resolve(), location), location))
            spans = external.spans_of(body.initializer, _size(source))
        weights: Tensors = Weights(body, source, spans)
        if version < DOMAIN_VERSION:
            migrate(model, version)
        if version <= REWRITTEN:
            weights = take_out(body)
        graph = SpikingGraph(
            name=model.graph.name,
            input=Input(**{**header["input"], "shape": tuple(header["input"]["shape"])}),
            ops=ops_of(body, weights),
            readout=Readout(**header["readout"]),
            T=header["T"],
            dt=header["dt"],
            provenance=header["provenance"],
        )
        golden = properties.get(GOLDEN_KEY)
        again, arrays = to_skeleton(graph)
        if location is not None:
            external.refer(step_of(again.graph.node), arrays, location)
        _same_structure(model, again)
        if version <= REWRITTEN:  # its checksum covers the parameters, and its bytes are not written any more
            if _bytes(model.graph) != _bytes(again.graph):
                raise RmpDeployError("its graph is not what its spiking graph gives. Export it again.")
            if header["sha256"] != checksum_of_1(graph):
                raise RmpDeployError("its parameters do not match their checksum. Copy or export it again.")
            return _Read(graph, golden, version)
        state(again, version)
        if finish(again, arrays, golden) != properties.get(CHECKSUM_KEY):
            raise RmpDeployError("its content does not match its checksum. Copy or export it again.")
        inside, outside = contents(again, arrays)
        if not wire.equal(file, inside) or (location is not None and not wire.equal(source, outside)):
            raise RmpDeployError("its bytes are not what its spiking graph gives. Copy or export it again.")
        return _Read(graph, golden, version)


def _open(path: Path, beside: str | None = None) -> BinaryIO:
    if beside is not None and not path.exists():
        raise RmpDeployError(f"its weights are in '{beside}', which is not beside it. Copy both files.")
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device would never end
        raise RmpDeployError("not a regular file. Check the path.")
    return path.open("rb")


def _size(file: BinaryIO) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


def _version(model: ModelProto) -> int:
    """The domain's version, 1..DOMAIN_VERSION."""
    versions = {o.domain: o.version for o in model.opset_import}
    if DOMAIN not in versions or all(p.key != GRAPH_KEY for p in model.metadata_props):
        what = f"an ONNX model without spiking ops (domain '{DOMAIN}')" if model.graph.node else "holds no graph"
        raise RmpDeployError(f"{what}. Export a spiking network.")
    version: int = versions[DOMAIN]
    if not 1 <= version <= DOMAIN_VERSION:
        known = f"allowed 1..{DOMAIN_VERSION}"
        raise RmpDeployError(f"domain '{DOMAIN}' version = {version}, {known}. Update rmp-deploy.")
    return version


def _same_structure(model: ModelProto, again: ModelProto) -> None:
    """Refuse a file whose nodes, functions, inputs or outputs are not those that its own graph gives, by name."""
    found, wanted = ((m, m.graph, step_of(m.graph.node)) for m in (model, again))
    whole, outer, step = range(3)
    parts = [
        ("node", step, "node"),
        ("weight", step, "initializer"),
        ("input", step, "input"),
        ("output", step, "output"),
        ("node", outer, "node"),
        ("constant", outer, "initializer"),
        ("input", outer, "input"),
        ("output", outer, "output"),
        ("function", whole, "functions"),
        ("opset", whole, "opset_import"),
    ]
    for what, level, field in parts:
        a, b = (list(getattr(levels[level], field)) for levels in (found, wanted))
        for i in range(max(len(a), len(b))):
            if i >= len(a) or i >= len(b) or _bytes(a[i]) != _bytes(b[i]):
                name = getattr((a if i < len(a) else b)[i], "name", "") or i
                raise RmpDeployError(f"{what} '{name}' is not what its spiking graph gives. Export it again.")


def _bytes(message: Any) -> bytes:
    content: bytes = message.SerializeToString(deterministic=True)
    return content
