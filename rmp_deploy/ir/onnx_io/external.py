"""Weights beside the model: ONNX external data, for models that protobuf's 2 GiB cannot hold.

``net.onnx.data`` holds the arrays of the step graph's initializers in their order, each at a multiple of 4096 bytes,
so that it can be mapped, with zeros between them.
Source: onnx.proto, TensorProto.external_data; https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from onnx import GraphProto, TensorProto

from rmp_deploy.ir.onnx_io.nodes import Tensors
from rmp_deploy.ir.onnx_io.wire import Chunk, Span

MAX_INSIDE = 2**31 - 2**27  # bytes of weights in the model itself; the rest of it has what is left of 2 GiB
PAGE = 4096  # bytes


def is_outside(weights: Tensors) -> bool:
    """Weights that need a file of their own: their size alone decides."""
    return sum(array.nbytes for array in weights.values()) > MAX_INSIDE


def refer(body: GraphProto, weights: Tensors, location: str) -> None:
    """Let the step graph's initializers refer to the file `location` in the model's folder."""
    spans = _layout(weights[tensor.name].nbytes for tensor in body.initializer)
    for tensor, span in zip(body.initializer, spans, strict=True):
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(span.offset)), ("length", str(span.length))):
            tensor.external_data.add(key=key, value=value)


def contents(weights: Tensors) -> list[Chunk]:
    """What the file holds."""
    return [chunk for array in weights.values() for chunk in (array, bytes(_padding(array.nbytes)))]


def _layout(lengths: Iterable[int]) -> Iterator[Span]:
    """Where arrays of `lengths` bytes stand, in their order."""
    offset = 0
    for length in lengths:
        yield Span(offset, length)
        offset += length + _padding(length)


def _padding(length: int) -> int:
    """Bytes from the end of an array of `length` to the next page."""
    return -length % PAGE


def location_of(body: GraphProto) -> str | None:
    """The file that the step graph's initializers refer to; None where they refer to none.

    Raises:
        ValueError: some do and some do not, to several files, or to a name that is not a plain one.
    """
    found = {
        next((e.value for e in tensor.external_data if e.key == "location"), None)
        if tensor.data_location == TensorProto.EXTERNAL
        else None
        for tensor in body.initializer
    }
    if len(found) > 1:
        raise ValueError("weights in several places")
    location = next(iter(found), None)
    if location is not None and (location in ("", ".", "..") or any(c in location for c in "/\\:\0")):
        raise ValueError(f"weights in '{location}', allowed a file beside the model")
    return location


def path_of(model: Path, location: str) -> Path:
    """Where `location` of the file `model` is; a link may not lead out of the folder.

    Raises:
        ValueError: it does.
    """
    path = (model.parent / location).resolve()
    if path.parent != model.parent.resolve():
        raise ValueError(f"weights in '{location}', which leads out of the folder")
    return path


def spans_of(tensors: Sequence[TensorProto], size: int) -> list[Span]:
    """Where each initializer's bytes stand in a file of `size` bytes.

    Raises:
        ValueError: no offset or length, beyond the file, or not where `refer` puts it: what overlaps is read twice.
    """
    spans = []
    for tensor in tensors:
        entries = {e.key: e.value for e in tensor.external_data}
        if not all(entries[key].isdecimal() and len(entries[key]) < 20 for key in ("offset", "length")):
            raise ValueError(f"tensor '{tensor.name}' without an offset and a length")
        span = Span(int(entries["offset"]), int(entries["length"]))
        if span.offset + span.length > size:
            raise ValueError(f"tensor '{tensor.name}' ends beyond its file")
        spans.append(span)
    for tensor, span, place in zip(tensors, spans, _layout(span.length for span in spans), strict=True):
        if span != place:
            raise ValueError(f"tensor '{tensor.name}' at {span.offset}, allowed {place.offset}")
    return spans
