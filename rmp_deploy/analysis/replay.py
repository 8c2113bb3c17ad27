"""Replay a trace: is it a run of this graph, up to float rounding, judged neuron by neuron?

Every neuron is stepped in float64 from the spikes that the trace itself says its inputs sent and that it sent itself.
So each spike is judged on its own potential: one tie excuses nothing downstream, and a wrong layer cannot hide.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Dequantize,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    Op,
    Quantize,
    SumPool2d,
)
from rmp_deploy.ir.reference import STATELESS, loihi_lif, read_out
from rmp_deploy.ir.trace import Trace

F64 = npt.NDArray[np.float64]
EPS = float(np.finfo(np.float32).eps)
LAMBDA = 8.0  # of `_growth`: at most n * 3e-14 chances that a sum of n products rounds by more


@dataclass(frozen=True)
class LayerReplay:
    """One neuron op: potentials before and after the reset, and what rounding explains of each; [N, T, *shape]."""

    u: F64
    v: F64
    tolerance: F64  # of u
    v_tolerance: F64


@dataclass(frozen=True)
class Replay:
    """The layers by name, and the readout [N, K] that the trace's spikes give, with its tolerance."""

    layers: dict[str, LayerReplay]
    output: F64
    output_tolerance: F64


def replay(graph: SpikingGraph, x: npt.NDArray[Any], trace: Trace) -> Replay:
    """Step `graph` in float64 with every neuron's spikes taken from `trace`, a run of samples `x`.

    Beside each value goes a bound of the error that float32 arithmetic has made of it by then, step after step:

        an op       ``e_y = |W| (e_x + eps c(n) |x|) + eps c(n) |b|`` for ``y = W x + b``, sums of n products
        a neuron    ``e_u = decay e_v + e_x + eps (|decay v| + |u|)``; a hard reset forgets, a soft one keeps ``e_u``

    with eps = 2^-23 and c(n) the smaller of n (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
    section 3.1) and 8 sqrt(n) (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4, lambda = 8). Spikes are
    exact, so errors do not pass from neuron to neuron; integers (Loihi's, and what `Quantize` makes) do not round.
    """
    samples = x.astype(np.float64)
    n = len(samples)
    absolute = {op.name: _absolute(op) for op in graph.ops}

    def zeros(op: Op) -> F64:
        return np.zeros((2, n, *graph.shapes[op.name]))  # [value, error]

    v = {op.name: zeros(op) for op in graph.ops if isinstance(op, LIF | LI | LoihiLIF)}
    i = {op.name: zeros(op) for op in graph.of_type(CubaLIF, LoihiLIF)}
    waiting = {op.name: deque([zeros(op)] * op.steps) for op in graph.of_type(Delay)}
    steps: dict[str, list[tuple[F64, F64, F64, F64]]] = {op.name: [] for op in graph.spiking}
    read: list[F64] = []
    for t in range(graph.T):
        frame = samples if graph.input.encoding == "direct" else samples[:, t]
        values: dict[str, F64] = {graph.input.name: np.stack([frame, EPS * np.abs(frame)])}
        for op in graph.ops:
            if isinstance(op, Delay):
                values[op.name] = waiting[op.name].popleft()
            elif isinstance(op, LIF):
                s = trace.spikes[op.name][:, t]
                current = values[op.inputs[0]]
                if isinstance(op, CubaLIF):
                    current = i[op.name] = _leak(op.current_decay, i[op.name], current)
                u = _leak(op.decay, v[op.name], current)
                v[op.name] = _reset(op, u, s)
                steps[op.name].append((u[0], v[op.name][0], u[1], v[op.name][1]))
                values[op.name] = _exact(s)
            elif isinstance(op, LoihiLIF):
                s = trace.spikes[op.name][:, t]
                step = loihi_lif(op, values[op.inputs[0]][0].astype(np.int64), v[op.name][0], i[op.name][0])
                assert step.u is not None
                i[op.name][0], v[op.name][0] = step.states["i"], np.where(s, 0, step.u)
                steps[op.name].append((step.u, v[op.name][0].copy(), v[op.name][1], v[op.name][1]))
                values[op.name] = _exact(s)
            elif isinstance(op, LI):
                values[op.name] = v[op.name] = _leak(op.decay, v[op.name], values[op.inputs[0]])
            else:
                values[op.name] = _stateless(op, absolute[op.name], [values[name] for name in op.inputs])
        for op in graph.of_type(Delay):
            waiting[op.name].append(values[op.inputs[0]])
        read.append(values[graph.readout.value])
    layers = {
        name: LayerReplay(*(np.stack(part, axis=1) for part in zip(*of, strict=True))) for name, of in steps.items()
    }
    by_step = np.stack(read)  # [T, 2, N, ...]
    output, error, size = (read_out(graph.readout, y) for y in (by_step[:, 0], by_step[:, 1], np.abs(by_step[:, 0])))
    return Replay(layers, output, error + EPS * _readout_growth(graph) * size)


def _readout_growth(graph: SpikingGraph) -> float:
    """Roundings of the readout: none of a sum of integers, one of their mean; c(T) + 1 of real values."""
    if graph.readout.value in graph.currents:  # read out in float64 by everybody
        return 0.0
    if graph.readout.value in graph.integers:
        return 1.0 if graph.readout.rule == "mean" else 0.0
    return _growth(graph.T) + 1


def _exact(x: npt.NDArray[Any]) -> F64:
    return np.stack([x.astype(np.float64), np.zeros(x.shape)])


def _leak(decay: npt.NDArray[Any], state: F64, x: F64) -> F64:
    """``decay * state + x`` and its error."""
    y: F64 = decay.astype(np.float64) * state + x
    y[1] += EPS * (np.abs(y[0] - x[0]) + np.abs(y[0]))
    return y


def _reset(op: LIF, u: F64, spikes: npt.NDArray[Any]) -> F64:
    """The membrane after the reset, and its error."""
    if op.reset == "soft":
        after = u[0] - op.subtracted.astype(np.float64) * spikes
        return np.stack([after, u[1] + EPS * np.abs(after) * spikes])
    to = np.broadcast_to(op.v_reset.astype(np.float64), spikes.shape)
    return np.where(spikes, np.stack([to, np.zeros(spikes.shape)]), u)


def _stateless(op: Op, absolute: Op, inputs: list[F64]) -> F64:
    """The value and its error, of an op without a state."""
    if isinstance(op, Quantize):
        return _exact(STATELESS[Quantize](op, inputs[0][0]))
    compute, growth = STATELESS[type(op)], EPS * _growth(_summands(op, len(inputs)))
    value = compute(op, *(x[0] for x in inputs))
    error = compute(absolute, *(x[1] + growth * np.abs(x[0]) for x in inputs))
    constant = _constant(op, value.ndim - 2)
    if constant is not None:
        error += growth * constant
    return np.stack([value, error])


def _growth(n: int) -> float:
    """c(n) of `replay`; one rounding more for the products, another for a bias."""
    return 0.0 if n == 0 else min(n, LAMBDA * np.sqrt(n)) + 2


def _summands(op: Op, inputs: int) -> int:
    """Terms of each sum that the op takes; 0 where it rounds nothing."""
    if isinstance(op, Linear | Conv1d | Conv2d):
        return op.weight.size // len(op.weight)
    if isinstance(op, AvgPool2d | SumPool2d):
        return op.kernel[0] * op.kernel[1]
    if isinstance(op, BatchNorm):
        return 6  # difference, sum with eps, root, quotient, product, sum
    if isinstance(op, Dequantize):
        return 1
    return inputs if isinstance(op, Add) else 0


def _absolute(op: Op) -> Op:
    """The op that turns the errors of its inputs into that of its value: absolute weights, no constants."""
    if isinstance(op, Linear | Conv1d | Conv2d):
        return replace(op, weight=np.abs(op.weight), bias=None)
    if isinstance(op, LoihiLinear | LoihiConv2d):
        return replace(op, weight=np.zeros_like(op.weight))  # integers do not round
    if isinstance(op, Dequantize):
        return replace(op, bias=np.zeros_like(op.bias))
    if isinstance(op, BatchNorm):
        return replace(op, gamma=np.abs(op.gamma), beta=np.zeros_like(op.beta), mean=np.zeros_like(op.mean))
    return op


def _constant(op: Op, axes: int) -> F64 | None:
    """Magnitude of what the op adds; broadcasts against its value, which has `axes` axes behind its channels."""

    def by_channel(x: F64) -> F64:
        return np.abs(x).reshape(-1, *(1,) * axes)

    if isinstance(op, Linear | Conv1d | Conv2d):
        return None if op.bias is None else by_channel(op.bias.astype(np.float64))
    if isinstance(op, Dequantize):
        return np.abs(op.bias.astype(np.float64))
    if isinstance(op, BatchNorm):
        gamma, beta, mean, var = (p.astype(np.float64) for p in (op.gamma, op.beta, op.mean, op.var))
        return by_channel(np.abs(beta) + np.abs(gamma * mean) / np.sqrt(var + op.eps))
    return None
