"""Ops on all time steps at once, layer after layer, in float32: how the pass runs the network on its samples.

Values are [T, N, *shape]. Integers are exact: a graph allows none of 2^23 or more, which float32 holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir import reference, reference_loihi
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LIF, Conv1d, Conv2d, CubaLIF, Delay, Linear, LoihiConv2d, LoihiLIF, LoihiLinear, Op
from rmp_deploy.ir.ops.loihi import STATE_SHIFT
from rmp_deploy.passes.quantize.layers import F64

F32 = npt.NDArray[np.float32]
STATE_LIMIT = reference_loihi.STATE_LIMIT
ONE = 1 << reference_loihi.DECAY_SHIFT  # a decay of 1


@dataclass(frozen=True)
class Run:
    """What neurons did: spikes and u [T, N, *shape], and the largest magnitude of their states by channel, (C,)."""

    spikes: F32
    u: F32
    largest: F64


@dataclass(frozen=True)
class LoihiRun:
    """Spikes and u; `wraps`: currents that left 24 bits; `saturations`: potentials that reached their largest."""

    spikes: F32
    u: F32
    wraps: int
    saturations: int


def frames(graph: SpikingGraph, x: npt.NDArray[Any]) -> F32:
    """Samples as [T, N, *shape] in float32; a direct input is one frame, seen T times."""
    x = x.astype(np.float32)
    if graph.input.encoding == "direct":
        return np.broadcast_to(x, (graph.T, *x.shape))
    return np.ascontiguousarray(x.swapaxes(0, 1))


def stateless(op: Op, *xs: F32) -> F32:
    """The value of an op without state from those of its inputs; a Delay moves its input along the steps."""
    if isinstance(op, Delay):
        y = np.zeros_like(xs[0])
        y[op.steps :] = xs[0][: -op.steps]
        return y
    if isinstance(op, Linear | Conv1d | Conv2d):
        y = currents(op, xs[0], [op.weight])[0]
        return y if op.bias is None else y + op.bias.reshape(-1, *(1,) * (op.weight.ndim - 2))
    if isinstance(op, LoihiLinear | LoihiConv2d):
        return shifted(currents(op, xs[0], [op.weight])[0], op.weight_exp)
    return _each_step(lambda *frames: reference.STATELESS[type(op)](op, *frames), *xs)


def shifted(total: F32, weight_exp: int) -> F32:
    """``total << weight_exp`` of integers in float32; to the right it is floored."""
    y = total * np.float32(2.0**weight_exp)
    return y if weight_exp >= 0 else np.floor(y, out=y)


def currents(op: Op, x: F32, weights: Sequence[npt.NDArray[Any]]) -> list[F32]:
    """What a synapse with the geometry of `op` makes of x with each of `weights`; x is laid out once for all."""
    together = np.concatenate([w.astype(np.float32) for w in weights])
    n = len(together) // len(weights)
    if isinstance(op, Linear | LoihiLinear):
        y = _each_step(lambda frames: frames @ together.T, x)
    elif op.groups == 1:  # type: ignore[attr-defined]
        y = _each_step(lambda frames: _convolve(op, frames, together), x)
    else:
        return [_each_step(lambda frames, w=w: _convolve(op, frames, w.astype(np.float32)), x) for w in weights]
    return [y[:, :, k * n : (k + 1) * n] for k in range(len(weights))]


def lif(op: LIF, current: F32) -> Run:
    """Step real-valued neurons."""
    v = i = np.zeros(current.shape[1:])
    spikes, u, largest = np.empty_like(current), np.empty_like(current), np.zeros(current.shape[2])
    others = (0, *range(2, current.ndim - 1))  # axes of a step, [N, C, ...], that are not its channels
    for t, x in enumerate(current):
        if isinstance(op, CubaLIF):
            step = reference.cuba_lif(op, x, v, i)
            i = step.states["i"]
            largest = np.maximum(largest, np.abs(i).max(axis=others))
        else:
            step = reference.lif(op, x, v)
        v = step.states["v"]
        spikes[t], u[t] = step.value, step.u
        largest = np.maximum(largest, np.abs(u[t]).max(axis=others))
    return Run(spikes, u, largest)


def loihi_lif(op: LoihiLIF, current: F32) -> LoihiRun:
    """Step Loihi's neurons."""
    v = i = np.zeros(current.shape[1:], np.int64)
    spikes, u = np.empty_like(current), np.empty_like(current)
    wraps = saturations = 0
    left = ONE - 1 - op.du.astype(np.int64)  # of a current in the next step, in 1/4096
    for t, x in enumerate(current.astype(np.int64)):
        unwrapped = x << STATE_SHIFT
        if left.any():
            unwrapped = unwrapped + np.trunc(i * left / ONE).astype(np.int64)
        spikes[t], v, i, after = reference_loihi.loihi_lif(op, x, v, i)
        u[t] = after
        wraps += int((unwrapped != i).sum())
        saturations += int((np.abs(after) == STATE_LIMIT - 1).sum())
    return LoihiRun(spikes, u, wraps, saturations)


def _each_step(compute: Callable[..., Any], *xs: F32) -> F32:
    """Apply a function of [B, ...] to every step; once, where all steps are one in memory (a direct input)."""
    if all(x.strides[0] == 0 for x in xs):
        y = compute(*(x[0] for x in xs))
        return np.broadcast_to(y, (len(xs[0]), *y.shape))
    T, n = xs[0].shape[:2]
    y = compute(*(x.reshape(T * n, *x.shape[2:]) for x in xs))
    return y.reshape(T, n, *y.shape[1:])  # type: ignore[no-any-return]


def _convolve(op: Any, x: F32, weight: F32) -> F32:
    """Cross-correlation [B, C, H, W] -> [B, C_out, H', W'] as one matrix product per sample (and group)."""
    if weight.ndim == 3:  # Conv1d is one of height 1
        whole = _Geometry((1, *op.stride), (0, *op.padding), (1, *op.dilation), op.groups)
        return _convolve(whole, x[:, :, None], weight[:, :, None])[:, :, 0]
    c_out, c_group, kh, kw = weight.shape
    (sh, sw), (ph, pw), (dh, dw) = op.stride, op.padding, op.dilation
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    reach = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    seen = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]  # type: ignore[call-overload]
    h, w = seen.shape[2:4]
    by_group = weight.reshape(op.groups, c_out // op.groups, c_group * kh * kw)
    y = np.empty((len(x), op.groups, c_out // op.groups, h * w), np.float32)
    for sample, windows in zip(y, seen, strict=True):
        columns = windows.transpose(0, 3, 4, 1, 2).reshape(op.groups, c_group * kh * kw, h * w)
        np.matmul(by_group, columns, out=sample)
    return y.reshape(len(x), c_out, h, w)


@dataclass(frozen=True)
class _Geometry:
    """Of a 2-D convolution."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
