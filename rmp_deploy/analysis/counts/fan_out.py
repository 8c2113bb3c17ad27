"""Where synapses lead: how many each position of a layer's input reaches, and which outputs an event reaches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmp_deploy.analysis.counts.sums import CHANNEL, Bools, Events, Ints, distinct
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
        return np.broadcast_to(np.int64(output_shape[0]), input_shape)
    per_position = np.array(op.weight.shape[0] // op.groups)
    for size, padding, taps in zip(input_shape[1:], op.padding, _taps_of(op, output_shape), strict=True):
        padded = np.zeros(size + 2 * padding, dtype=np.int64)
        for tap in taps:
            padded[tap] += 1
        per_position = np.multiply.outer(per_position, padded[padding : padding + size])
    return np.broadcast_to(per_position.astype(np.int64), input_shape)


def fan_out_nonzero(op: Dense | Convolution, input_shape: Shape) -> Ints:
    """`fan_out` over the synapses alone whose weight is not 0."""
    nonzero = op.weight != 0
    if isinstance(op, Dense):
        to_input: Ints = nonzero.sum(axis=0, dtype=np.int64)
        return to_input
    by_group = nonzero.reshape(op.groups, -1, *nonzero.shape[1:]).sum(axis=1, dtype=np.int64)
    of_tap = by_group.reshape(input_shape[0], *nonzero.shape[2:])
    padded = np.zeros(
        (input_shape[0], *(n + 2 * p for n, p in zip(input_shape[1:], op.padding, strict=True))), np.int64
    )
    taps = [list(enumerate(axis)) for axis in _taps_of(op, op.output_shape(input_shape))]
    for tap in itertools.product(*taps):
        at, positions = zip(*tap, strict=True)
        padded[(slice(None), *positions)] += np.expand_dims(of_tap[(slice(None), *at)], tuple(range(1, 1 + len(at))))
    inside = (slice(p, p + n) for n, p in zip(input_shape[1:], op.padding, strict=True))
    return padded[(slice(None), *inside)]


@dataclass(frozen=True)
class FanOut:
    """Synapses that each position of a layer's input reaches, [*shape]: all, and those whose weight is not 0."""

    synapses: Ints
    nonzero: Ints


def fan_outs(op: Dense | Convolution, input_shape: Shape, one_to_one: bool) -> FanOut:
    """Of a synaptic op; `one_to_one`: what it holds beside one synapse for each element is none (a shortcut)."""
    synapses = np.broadcast_to(np.int64(1), input_shape) if one_to_one else fan_out(op, input_shape)
    return FanOut(synapses, synapses if one_to_one or op.weight.all() else fan_out_nonzero(op, input_shape))


def reach(op: Op, events: Events, shape: Shape) -> Bools:
    """Which outputs of a synapse or a pool an event reaches: [N, T, *input shape] to [N, T, *shape]."""
    reached = REACH[type(op)](op, events, shape)
    return np.broadcast_to(reached, (*events.where.shape[:2], *shape))


def _taps(kernel: int, stride: int, dilation: int, outputs: int) -> list[slice]:
    """Along one axis, for each tap of a kernel, the positions of the padded input that it meets, one per output."""
    starts = (i * dilation for i in range(kernel))
    return [slice(start, start + (outputs - 1) * stride + 1, stride) for start in starts]


def _taps_of(op: Convolution | Pool, output_shape: Shape) -> list[list[slice]]:
    """The taps of each axis of a map."""
    kernel = op.kernel if isinstance(op, Pool) else op.weight.shape[2:]
    dilation = (1, 1) if isinstance(op, Pool) else op.dilation
    return [_taps(*axis) for axis in zip(kernel, op.stride, dilation, output_shape[1:], strict=True)]


def _windows(op: Convolution | Pool, events: Bools, shape: Shape) -> Bools:
    """[N, T, C, *map] to [N, T, C, *map_out]: is there an event in the window? One axis at a time.

    Neighbours along an axis lie equally far from each other in memory: all maps, padded, are one row that is moved
    along itself. What passes the end of an axis lands where no window begins.
    """
    kernel = op.kernel if isinstance(op, Pool) else op.weight.shape[2:]
    dilation = (1,) * len(kernel) if isinstance(op, Pool) else op.dilation
    before, maps = events.shape[: CHANNEL + 1], events.shape[CHANNEL + 1 :]
    padded = np.zeros((*before, *(n + 2 * p for n, p in zip(maps, op.padding, strict=True))), np.uint8)
    inside: tuple[Any, ...] = (..., *(slice(p, p + n) for n, p in zip(maps, op.padding, strict=True)))
    padded[inside] = events
    row = padded.reshape(-1)
    for size, step, away in zip(kernel, dilation, padded.strides[CHANNEL + 1 :], strict=True):
        found = row.copy()
        for start in range(step * away, size * step * away, step * away):
            found[:-start] |= row[start:]
        row = found
    starts = (slice(0, (n - 1) * stride + 1, stride) for n, stride in zip(shape[1:], op.stride, strict=True))
    first: tuple[Any, ...] = (..., *starts)
    return np.ascontiguousarray(row.reshape(padded.shape)[first]).view(np.bool_)


def _reach_pool(op: Pool, events: Events, shape: Shape) -> Bools:
    return _windows(op, distinct(events.where, CHANNEL + 1), shape)


def _reach_convolution(op: Convolution, events: Events, shape: Shape) -> Bools:
    """All outputs of a group read the same windows."""
    where = distinct(events.where, CHANNEL + 1)
    if op.groups == 1 or where.shape[CHANNEL] == 1:
        anywhere = np.broadcast_to(events.over_channels != 0, (*where.shape[:CHANNEL], 1, *where.shape[CHANNEL + 1 :]))
        return _windows(op, anywhere, shape)
    by_group = where.reshape(*where.shape[:CHANNEL], op.groups, -1, *where.shape[CHANNEL + 1 :])
    return np.repeat(_windows(op, by_group.any(axis=CHANNEL + 1), shape), shape[0] // op.groups, axis=CHANNEL)


def _reach_dense(_op: Dense, events: Events, _shape: Shape) -> Bools:
    somewhere: Bools = events.per_step[..., None] != 0
    return somewhere


REACH: dict[type[Op], Callable[[Any, Events, Shape], Bools]] = {
    **dict.fromkeys((Linear, LoihiLinear), _reach_dense),
    **dict.fromkeys((Conv1d, Conv2d, LoihiConv2d), _reach_convolution),
    **dict.fromkeys((AvgPool2d, SumPool2d, MaxPool2d), _reach_pool),
}
