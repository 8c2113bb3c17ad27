"""The NumPy reference: these functions *are* the definition of the ops; every other path is tested against them.

Values are [B, *shape] arrays of float64. Time is the outer loop, as on the hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.graph import Readout, Rule, SpikingGraph
from rmp_deploy.ir.ops import LIF, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Op, Pair
from rmp_deploy.ir.trace import Record, Trace

F64 = npt.NDArray[np.float64]


def linear(op: Linear, x: F64) -> F64:
    """``y[b, o] = sum_i weight[o, i] * x[b, i] + bias[o]``"""
    y: F64 = x @ op.weight.astype(np.float64).T
    return y if op.bias is None else y + op.bias


def conv2d(op: Conv2d, x: F64) -> F64:
    """Cross-correlation by explicit windows: [B, C, H, W] -> [B, C_out, H_out, W_out]."""
    (ph, pw), (dh, dw) = op.padding, op.dilation
    c_out, c_group, kh, kw = op.weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    windows = _windows(padded, span, op.stride)[..., ::dh, ::dw]  # [B, C, H_out, W_out, KH, KW]
    h_out, w_out = windows.shape[2:4]
    grouped = windows.reshape(len(x), op.groups, c_group, h_out, w_out, kh, kw)
    weight = op.weight.astype(np.float64).reshape(op.groups, c_out // op.groups, c_group, kh, kw)
    y: F64 = np.einsum("bgchwij,gocij->bgohw", grouped, weight, optimize=True).reshape(len(x), c_out, h_out, w_out)
    return y if op.bias is None else y + op.bias.astype(np.float64)[:, None, None]


def batch_norm(op: BatchNorm, x: F64) -> F64:
    """``y = gamma * (x - mean) / sqrt(var + eps) + beta`` on axis 1."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    gamma, beta, mean, var = (p.astype(np.float64).reshape(shape) for p in (op.gamma, op.beta, op.mean, op.var))
    y: F64 = gamma * (x - mean) / np.sqrt(var + op.eps) + beta
    return y


def avg_pool2d(op: AvgPool2d, x: F64) -> F64:
    """Mean of each window."""
    mean: F64 = _windows(x, op.kernel, op.stride).mean(axis=(4, 5))
    return mean


def _windows(x: F64, span: Pair, stride: Pair) -> F64:
    """View [B, C, H, W] as the windows of `span` that start every `stride`: [B, C, H_out, W_out, *span]."""
    view: F64 = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))  # type: ignore[call-overload]
    return view[:, :, :: stride[0], :: stride[1]]


def flatten(op: Flatten, x: F64) -> F64:
    """[B, C, H, W] -> [B, C*H*W]"""
    return x.reshape(x.shape[0], -1)


def lif_step(op: LIF, x: F64, v: F64) -> tuple[npt.NDArray[np.bool_], F64, F64]:
    """One step of LIF: input current and previous membrane to (spikes, u, v); equations in `rmp_deploy.ir.ops.LIF`."""
    u = op.decay.astype(np.float64) * v + x
    spikes = u > op.v_threshold
    after_spike = u - op.v_threshold if op.reset == "soft" else op.v_reset.astype(np.float64)
    return spikes, u, np.where(spikes, after_spike, u)


STATELESS: dict[type[Op], Callable[..., F64]] = {
    Linear: linear,
    Conv2d: conv2d,
    BatchNorm: batch_norm,
    AvgPool2d: avg_pool2d,
    Flatten: flatten,
}


def read_out(readout: Readout, values: F64) -> F64:
    """Apply the readout rule to values [T, B, ...]: their mean, their sum or the last step; [B, K]."""
    rules: dict[Rule, F64] = {"mean": values.mean(axis=0), "sum": values.sum(axis=0), "last": values[-1]}
    return rules[readout.rule].reshape(values.shape[1], -1)


def run(graph: SpikingGraph, x: npt.NDArray[Any], record: Sequence[Record] = ()) -> Trace:
    """Step `graph` T times over samples `x` ([N, *shape] direct, [N, T, *shape] time_series) in float64.

    Raises:
        RmpDeployError: the samples do not fit the graph.
    """
    graph.check_samples(x)
    samples = x.astype(np.float64)
    neurons = graph.of_type(LIF)
    v = {op.name: np.zeros((len(x), *graph.shapes[op.name])) for op in neurons}
    kept: dict[Record, dict[str, list[npt.NDArray[Any]]]] = {r: {op.name: [] for op in neurons} for r in record}
    read: list[F64] = []
    for t in range(graph.T):
        values = {graph.input.name: samples if graph.input.encoding == "direct" else samples[:, t]}
        for op in graph.ops:
            x_t = values[op.inputs[0]]
            if isinstance(op, LIF):
                spikes, u, v[op.name] = lif_step(op, x_t, v[op.name])
                values[op.name] = spikes.astype(np.float64)
                step: dict[Record, npt.NDArray[Any]] = {"spikes": spikes, "v": v[op.name], "u": u}
                for what, layers in kept.items():
                    layers[op.name].append(step[what])
            else:
                values[op.name] = STATELESS[type(op)](op, x_t)
        read.append(values[graph.readout.value])
    traces = {
        str(what): {name: np.stack(steps, axis=1) for name, steps in layers.items()} for what, layers in kept.items()
    }
    return Trace(backend="reference", output=read_out(graph.readout, np.stack(read)), **traces)
