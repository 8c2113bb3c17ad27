"""The header of an AEDAT 4.0 file, checked before it is decoded.

A file is ``#!AER-DAT4.0\\r\\n``, a length of 4 bytes, so many bytes of a FlatBuffer (table IOHeader: compression int32,
data table position int64, description string), then packets. The decoder (aedat 2.2, which tonic calls) takes the
header unchecked, and a damaged one ends the whole process; the packets it checks itself. Sources: iniVation, "AEDAT
4.0"; FlatBuffers, "FlatBuffer Internals".
"""

from __future__ import annotations

import struct
from pathlib import Path

MAGIC = b"#!AER-DAT4.0\r\n"
FIELD_BYTES = (4, 8, 4)  # compression, data table position, offset of the description
MAX_HEADER = 2**20


def check_header(path: Path) -> None:
    """Raise ValueError unless every offset of the header stays inside it and its description is text."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("does not begin with #!AER-DAT4.0")
        length = _unsigned(file.read(4), 0)
        if length > MAX_HEADER:
            raise ValueError(f"header of {length} bytes, allowed {MAX_HEADER}")
        header = file.read(length)
    if len(header) < length:
        raise ValueError("header cut off")
    table = _unsigned(header, 0)
    (to_vtable,) = _unpack("<i", header, table)
    vtable = table - to_vtable
    vtable_bytes, table_bytes = _unpack("<HH", header, vtable)
    if vtable_bytes < 4 + 2 * len(FIELD_BYTES):
        raise ValueError("header without a description")
    fields = _unpack("<HHH", header, vtable + 4)
    if any(at + size > table_bytes for at, size in zip(fields, FIELD_BYTES, strict=True)) or not fields[2]:
        raise ValueError("header without a description")
    at = table + fields[2]
    text = at + _unsigned(header, at)
    text_bytes = _unsigned(header, text)
    if text + 4 + text_bytes > length or table + table_bytes > length or vtable + vtable_bytes > length:
        raise ValueError("header points outside of itself")
    header[text + 4 : text + 4 + text_bytes].decode()


def _unsigned(header: bytes, at: int) -> int:
    (value,) = _unpack("<I", header, at)
    return int(value)


def _unpack(layout: str, header: bytes, at: int) -> tuple[int, ...]:
    if not 0 <= at <= len(header) - struct.calcsize(layout):
        raise ValueError("header points outside of itself")
    return struct.unpack_from(layout, header, at)
