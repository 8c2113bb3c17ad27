"""Tensors of a model: their description apart from their numbers, and the numbers where a file says they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, TensorProto, helper

from rmp_deploy.ir.onnx_io.wire import Span

DTYPES: dict[int, str] = {  # what our files hold, little-endian
    TensorProto.FLOAT: "<f4",
    TensorProto.DOUBLE: "<f8",
    TensorProto.UINT8: "u1",
    TensorProto.INT8: "i1",
    TensorProto.INT16: "<i2",
    TensorProto.INT32: "<i4",
    TensorProto.INT64: "<i8",
}


def describe(array: npt.NDArray[Any], name: str) -> TensorProto:
    """`array`'s name, type and shape as a tensor that lacks its numbers."""
    return TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)


def to_array(tensor: TensorProto) -> npt.NDArray[Any]:
    """The numbers inside `tensor`; unlike `onnx.numpy_helper.to_array` it follows no reference to another file.

    Raises:
        ValueError: of another type, stored otherwise, or not of its dims' size.
    """
    _check(tensor, len(tensor.raw_data))
    if tensor.data_location != TensorProto.DEFAULT:
        raise ValueError(f"tensor '{tensor.name}' outside the file")
    return np.frombuffer(tensor.raw_data, DTYPES[tensor.data_type]).reshape(tuple(tensor.dims))


def take_out(body: GraphProto) -> dict[str, npt.NDArray[Any]]:
    """The numbers inside the step graph's initializers by name, which lack them afterwards.

    Raises:
        ValueError: as `to_array`.
    """
    arrays = {tensor.name: to_array(tensor) for tensor in body.initializer}
    for tensor in body.initializer:
        tensor.ClearField("raw_data")
    return arrays


class Weights(Mapping[str, npt.NDArray[Any]]):
    """The step graph's initializers by name, each read from the file when it is asked for: one in memory at a time."""

    def __init__(self, body: GraphProto, file: BinaryIO, spans: list[Span]) -> None:
        self._tensors = {tensor.name: (tensor, span) for tensor, span in zip(body.initializer, spans, strict=True)}
        self._file = file

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        tensor, span = self._tensors[name]
        _check(tensor, span.length)
        array = np.empty(tuple(tensor.dims), DTYPES[tensor.data_type])
        self._file.seek(span.offset)
        if self._file.readinto(array.reshape(-1).view(np.uint8)) != span.length:  # type: ignore[attr-defined]
            raise ValueError(f"tensor '{name}' truncated")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _check(tensor: TensorProto, length: int) -> None:
    """Refuse, before anything is allocated, a tensor that does not have `length` bytes."""
    if tensor.data_type not in DTYPES:
        raise ValueError(f"tensor '{tensor.name}' of data type {tensor.data_type}")
    size = math.prod(tensor.dims) * np.dtype(DTYPES[tensor.data_type]).itemsize
    if size != length or min(tensor.dims, default=1) < 0:
        raise ValueError(f"tensor '{tensor.name}' of {length} bytes with dims {list(tensor.dims)[:8]}")
