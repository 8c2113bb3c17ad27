"""A model's bytes with its weights apart, so that no weight is held twice: protobuf's wire format, by hand.

A field is a varint ``number << 3 | wire type``, then its value; text, bytes and messages are preceded by their length.
Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import ModelProto

Chunk = bytes | npt.NDArray[Any]
# model.graph.node.attribute.g.initializer.raw_data, as field numbers: where the step graph's weights stand
WEIGHTS = (7, 1, 5, 6, 5, 9)
VARINT, I64, BYTES, I32 = 0, 1, 2, 5  # wire types

# What a file may hold besides its weights. A convolution with its neurons is 145 fields.
MAX_FIELDS = 2**17
MAX_REST = 2**26  # [bytes]
MAX_DEPTH = 32
PIECE = 2**20  # bytes in memory at a time


class Span(NamedTuple):
    """Where a weight's bytes stand in its file."""

    offset: int
    length: int


def split(file: BinaryIO, size: int) -> tuple[bytes, list[Span]]:
    """The bytes of the model in `file` [size bytes] without its weights, and where the weights are, in their order.

    What a small file can make its reader allocate is bounded here, before protobuf sees it.

    Raises:
        ValueError: not a ModelProto, truncated, or beyond a limit.
    """
    reader = _Reader(file)
    rest = reader.message(size, ModelProto.DESCRIPTOR, WEIGHTS, 0)
    return rest, reader.spans


class _Reader:
    """Walks the fields of a message; every length is checked against the message around it before it is used."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at = file, 0
        self.fields = self.rest = 0
        self.spans: list[Span] = []

    def message(self, end: int, kind: Any, path: Sequence[int], depth: int) -> bytes:
        """The message of descriptor `kind` that ends at `end`; `path`: the field numbers from it to the weights."""
        if depth > MAX_DEPTH:
            raise ValueError(f"messages nested more than {MAX_DEPTH} deep")
        parts: list[bytes] = []
        while self.at < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS:,} fields")
            tag = self.varint(end)
            number, wire_type = tag >> 3, tag & 7
            field = kind.fields_by_number.get(number)
            if field is None:
                raise ValueError(f"{kind.name} with an unknown field {number}")
            if wire_type == VARINT:
                parts += varint(tag), varint(self.varint(end))
            elif wire_type in (I64, I32):
                parts += varint(tag), self.read(8 if wire_type == I64 else 4, end)
            elif wire_type == BYTES and field.type in (field.TYPE_MESSAGE, field.TYPE_STRING, field.TYPE_BYTES):
                length = self.varint(end)
                if length > end - self.at:
                    raise ValueError("a field longer than what holds it")
                inner = path[1:] if path[:1] == (number,) else ()
                if path == (number,):
                    self.spans.append(Span(self.at, length))
                    self.at += length
                    self.file.seek(self.at)
                elif field.type == field.TYPE_MESSAGE:
                    content = self.message(self.at + length, field.message_type, inner, depth + 1)
                    parts += varint(tag), varint(len(content)), content
                else:
                    parts += varint(tag), varint(length), self.read(length, end)
            else:
                raise ValueError(f"{kind.name}.{field.name} with wire type {wire_type}")
        return b"".join(parts)

    def read(self, n: int, end: int) -> bytes:
        self.rest += n
        if n > end - self.at or self.rest > MAX_REST:
            raise ValueError("truncated" if n > end - self.at else f"more than {MAX_REST:,} bytes besides the weights")
        content = self.file.read(n)
        if len(content) != n:
            raise ValueError("truncated")
        self.at += n
        return content

    def varint(self, end: int) -> int:
        """Seven bits a byte, the lowest first; the eighth says that more follow."""
        value = 0
        for shift in range(0, 70, 7):
            (byte,) = self.read(1, end)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number of more than 64 bits")


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def join(model: ModelProto, weights: Iterator[npt.NDArray[Any]]) -> list[Chunk]:
    """The bytes of `model` with the raw data of its step graph's initializers, which it lacks, put in.

    ``b"".join`` of them is what `SerializeToString(deterministic=True)` gives for the model with its weights.
    """
    return _join(model, WEIGHTS, weights)


def _join(message: Any, path: Sequence[int], weights: Iterator[npt.NDArray[Any]]) -> list[Chunk]:
    number, *inner = path
    tag = varint(number << 3 | BYTES)
    chunks: list[Chunk] = [_fields(message, lambda n: n < number)]
    if not inner:
        weight = next(weights)
        chunks += [tag + varint(weight.nbytes), weight]
    for value in _values(message, number) if inner else ():
        content = _join(value, inner, weights)
        chunks += [tag + varint(size(content)), *content]
    return [*chunks, _fields(message, lambda n: n > number)]


def _fields(message: Any, wanted: Any) -> bytes:
    part = type(message)()
    part.CopyFrom(message)
    for field, _ in message.ListFields():
        if not wanted(field.number):
            part.ClearField(field.name)
    content: bytes = part.SerializeToString(deterministic=True)
    return content


def _values(message: Any, number: int) -> Sequence[Any]:
    for field, value in message.ListFields():
        if field.number == number:
            return [value] if isinstance(value, Message) else value
    return ()


def size(chunks: Sequence[Chunk]) -> int:
    """Bytes in all."""
    return sum(len(c) if isinstance(c, bytes) else c.nbytes for c in chunks)


def pieces(chunks: Sequence[Chunk]) -> Iterator[bytes]:
    """The bytes of `chunks`, arrays little-endian in C order, at most 1 MiB of an array at a time."""
    for chunk in chunks:
        if isinstance(chunk, bytes):
            yield chunk
            continue
        flat = np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")).reshape(-1)
        step = PIECE // flat.itemsize
        for start in range(0, flat.size, step):
            yield flat[start : start + step].tobytes()


def equal(file: BinaryIO, chunks: Sequence[Chunk]) -> bool:
    """True where `file`, from its beginning to its end, holds the bytes of `chunks`."""
    file.seek(0)
    return all(file.read(len(piece)) == piece for piece in pieces(chunks)) and not file.read(1)
