"""Where synapses lead: how many each position of a layer's input reaches, and which outputs an event reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import op_error
from rmp_deploy.ir.ops import (
    AvgPool2d,
    Conv1d,
    Conv2d,
    Linear,
    LoihiConv2d,
    LoihiLinear,
    MaxPool2d,
    Op,
    Shape,
    SumPool2d,
)

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Dense = Linear | LoihiLinear
Convolution = Conv1d | Conv2d | LoihiConv2d
Pool = AvgPool2d | SumPool2d | MaxPool2d
SYNAPSES = (Linear, Conv1d, Conv2d, LoihiLinear, LoihiConv2d)


def fan_out(op: Op, input_shape: Shape) -> Ints:
    """Synapses that each position of an input of `input_shape` reaches, int64 of that shape.

    Dense: ``N_out`` everywhere. Convolution: ``C_out / groups * f_H(h) * f_W(w)``, where on each axis
    ``f(n) = #{(o, i): o * stride + i * dilation - padding = n, 0 <= o < size_out, 0 <= i < K}``.
    Its sum is the layer's dense connections, padding excluded.

    Raises:
        RmpDeployError: `op` has no synapses, or `input_shape` does not fit it.
    """
    if not isinstance(op, SYNAPSES):
        allowed = ", ".join(kind.__name__ for kind in SYNAPSES)
        raise op_error(op.kind, op.name, "fan-out = none", allowed, "Ask for a synaptic op")
    output_shape = op.output_shape(input_shape)
    if isinstance(op, Dense):
        return np.full(input_shape, output_shape[0], dtype=np.int64)
    per_position = np.array(op.weight.shape[0] // op.groups)
    for size, padding, taps in zip(input_shape[1:], op.padding, _taps_of(op, output_shape), strict=True):
        padded = np.zeros(size + 2 * padding, dtype=np.int64)
        for tap in taps:
            padded[tap] += 1
        per_position = np.multiply.outer(per_position, padded[padding : padding + size])
    return np.broadcast_to(per_position, input_shape).astype(np.int64)


def reach(op: Op, events: Bools, shape: Shape) -> Bools:
    """Which outputs of a synapse or a pool an event reaches: [N, *input shape] to [N, *shape]."""
    return REACH[type(op)](op, events, shape)


def _taps(kernel: int, stride: int, dilation: int, outputs: int) -> list[slice]:
    """Along one axis, for each tap of a kernel, the positions of the padded input that it meets, one per output."""
    starts = (i * dilation for i in range(kernel))
    return [slice(start, start + (outputs - 1) * stride + 1, stride) for start in starts]


def _taps_of(op: Convolution | Pool, output_shape: Shape) -> list[list[slice]]:
    """The taps of each axis of a map."""
    kernel = op.kernel if isinstance(op, Pool) else op.weight.shape[2:]
    dilation = (1, 1) if isinstance(op, Pool) else op.dilation
    return [_taps(*axis) for axis in zip(kernel, op.stride, dilation, output_shape[1:], strict=True)]


def _reach_windows(op: Convolution | Pool, events: Bools, shape: Shape) -> Bools:
    """[N, C, *map] to [N, C, *map_out]: is there an event in the window? One axis at a time."""
    for axis, (padding, taps) in enumerate(zip(op.padding, _taps_of(op, shape), strict=True), start=2):
        widths = [(padding, padding) if i == axis else (0, 0) for i in range(events.ndim)]
        padded = np.moveaxis(np.pad(events, widths), axis, -1)
        found = np.zeros((*padded.shape[:-1], shape[axis - 1]), dtype=np.bool_)
        for tap in taps:
            found |= padded[..., tap]
        events = np.moveaxis(found, -1, axis)
    return events


def _reach_convolution(op: Convolution, events: Bools, shape: Shape) -> Bools:
    by_group = events.reshape(len(events), op.groups, -1, *events.shape[2:]).any(axis=2)
    return np.repeat(_reach_windows(op, by_group, shape), shape[0] // op.groups, axis=1)


def _reach_dense(op: Dense, events: Bools, shape: Shape) -> Bools:
    return np.broadcast_to(events.any(axis=-1, keepdims=True), (len(events), *shape))


REACH: dict[type[Op], Callable[[Any, Bools, Shape], Bools]] = {
    **dict.fromkeys((Linear, LoihiLinear), _reach_dense),
    **dict.fromkeys((Conv1d, Conv2d, LoihiConv2d), _reach_convolution),
    **dict.fromkeys((AvgPool2d, SumPool2d, MaxPool2d), _reach_windows),
}
