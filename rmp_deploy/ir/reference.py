"""The NumPy reference: these functions *are* the definition of the ops; every other path is tested against them.

Values are [B, *shape] arrays of float64. Time is the outer loop, as on the hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.graph import Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Op
from rmp_deploy.ir.trace import Record, Trace

F64 = npt.NDArray[np.float64]


def linear(op: Linear, x: F64) -> F64:
    """``y[b, o] = sum_i weight[o, i] * x[b, i] + bias[o]``"""
    y = x @ op.weight.astype(np.float64).T
    return y if op.bias is None else y + op.bias


def conv2d(op: Conv2d, x: F64) -> F64:
    """Cross-correlation by explicit windows: [B, C, H, W] -> [B, C_out, H_out, W_out]."""
    b, c, _, _ = x.shape
    (ph, pw), (sh, sw), (dh, dw) = op.padding, op.stride, op.dilation
    c_out, c_group, kh, kw = op.weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    # [B, C, H_out, W_out, KH, KW]
    windows = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
    h_out, w_out = windows.shape[2:4]
    grouped = windows.reshape(b, op.groups, c_group, h_out, w_out, kh, kw)
    weight = op.weight.astype(np.float64).reshape(op.groups, c_out // op.groups, c_group, kh, kw)
    y = np.einsum("bgchwij,gocij->bgohw", grouped, weight, optimize=True).reshape(b, c_out, h_out, w_out)
    return y if op.bias is None else y + op.bias.astype(np.float64)[:, None, None]


def batch_norm(op: BatchNorm, x: F64) -> F64:
    """``y = gamma * (x - mean) / sqrt(var + eps) + beta`` on axis 1."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    gamma, beta, mean, var = (p.astype(np.float64).reshape(shape) for p in (op.gamma, op.beta, op.mean, op.var))
    return gamma * (x - mean) / np.sqrt(var + op.eps) + beta


def avg_pool2d(op: AvgPool2d, x: F64) -> F64:
    """Mean of each window."""
    (kh, kw), (sh, sw) = op.kernel, op.stride
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(2, 3))[:, :, ::sh, ::sw]
    return windows.mean(axis=(4, 5))


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
    """Apply the readout rule to values [T, B, ...]; mean, sum or the last step."""
    if readout.rule == "last":
        return values[-1]
    return values.mean(axis=0) if readout.rule == "mean" else values.sum(axis=0)


def run(graph: SpikingGraph, x: np.ndarray, record: Sequence[Record] = ()) -> Trace:
    """Step `graph` T times over samples `x` ([N, *shape] direct, [N, T, *shape] time_series) in float64.

    Raises:
        RmpDeployError: the samples do not fit the graph.
    """
    graph.check_samples(x)
    samples = x.astype(np.float64)
    n = x.shape[0]
    neurons = graph.of_type(LIF)
    v = {op.name: np.zeros((n, *graph.shapes[op.name])) for op in neurons}
    kept: dict[Record, dict[str, list[np.ndarray]]] = {r: {op.name: [] for op in neurons} for r in record}
    read: list[F64] = []
    for t in range(graph.T):
        values: dict[str, F64] = {graph.input.name: samples if graph.input.encoding == "direct" else samples[:, t]}
        for op in graph.ops:
            x_t = values[op.inputs[0]]
            if isinstance(op, LIF):
                spikes, u, v[op.name] = lif_step(op, x_t, v[op.name])
                values[op.name] = spikes.astype(np.float64)
                for what, array in (("spikes", spikes), ("u", u), ("v", v[op.name])):
                    if what in kept:
                        kept[what][op.name].append(array)
            else:
                values[op.name] = STATELESS[type(op)](op, x_t)
        read.append(values[graph.readout.value])
    traces = {r: {name: np.stack(steps, axis=1) for name, steps in layers.items()} for r, layers in kept.items()}
    output = read_out(graph.readout, np.stack(read)).reshape(n, -1)
    return Trace(backend="reference", output=output, **traces)
