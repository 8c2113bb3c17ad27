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
    BatchNorm,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    Op,
)
from rmp_deploy.ir.reference import STATELESS, loihi_lif, read_out
from rmp_deploy.ir.trace import Trace

F64 = npt.NDArray[np.float64]
EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class LayerReplay:
    """One neuron op: potentials before and after the reset, and what float32 rounding can explain; [N, T, *shape]."""

    u: F64
    v: F64
    tolerance: F64


@dataclass(frozen=True)
class Replay:
    """The layers by name, and the readout [N, K] that the trace's spikes give, with its tolerance."""

    layers: dict[str, LayerReplay]
    output: F64
    output_tolerance: F64


def replay(graph: SpikingGraph, x: npt.NDArray[Any], trace: Trace) -> Replay:
    """Step `graph` in float64 with every neuron's spikes taken from `trace`, a run of samples `x`.

    The tolerance of a potential is the forward error bound of its sum, ``eps * (fan_in + T) * m``, where m is the sum
    of the magnitudes: ``m[t] = decay * m[t-1] + sum_i |weight_i| |x_i| + |bias|`` (Higham, Accuracy and Stability of
    Numerical Algorithms, 2nd ed., section 3.1, carried over the steps), eps that of float32.
    """
    samples = x.astype(np.float64)
    n = len(samples)
    absolute = {op.name: _absolute(op) for op in graph.ops}
    terms = {op.name: _terms(graph, op) for op in graph.ops}

    def zeros(op: Op) -> F64:
        return np.zeros((2, n, *graph.shapes[op.name]))  # [value, magnitude]

    v = {op.name: zeros(op) for op in graph.ops if isinstance(op, LIF | LI | LoihiLIF)}
    i = {op.name: zeros(op) for op in graph.of_type(CubaLIF, LoihiLIF)}
    waiting = {op.name: deque([zeros(op)] * op.steps) for op in graph.of_type(Delay)}
    steps: dict[str, list[tuple[F64, F64, F64]]] = {op.name: [] for op in graph.spiking}
    read: list[F64] = []
    for t in range(graph.T):
        frame = samples if graph.input.encoding == "direct" else samples[:, t]
        values: dict[str, F64] = {graph.input.name: np.stack([frame, np.abs(frame)])}
        for op in graph.ops:
            if isinstance(op, Delay):
                values[op.name] = waiting[op.name].popleft()
            elif isinstance(op, LIF):
                s = trace.spikes[op.name][:, t]
                current = values[op.inputs[0]]
                if isinstance(op, CubaLIF):
                    current = i[op.name] = op.current_decay.astype(np.float64) * i[op.name] + current
                u = op.decay.astype(np.float64) * v[op.name] + current
                v[op.name] = _reset(op, u, s)
                steps[op.name].append((u[0], v[op.name][0], u[1]))
                values[op.name] = np.stack([s, s]).astype(np.float64)
            elif isinstance(op, LoihiLIF):  # integers do not round: their magnitude, and so the tolerance, is 0
                s = trace.spikes[op.name][:, t]
                step = loihi_lif(op, values[op.inputs[0]][0].astype(np.int64), v[op.name][0], i[op.name][0])
                assert step.u is not None
                i[op.name][0], v[op.name][0] = step.states["i"], np.where(s, 0, step.u)
                steps[op.name].append((step.u, v[op.name][0].copy(), v[op.name][1]))
                values[op.name] = np.stack([s, s]).astype(np.float64)
            elif isinstance(op, LI):
                values[op.name] = v[op.name] = op.decay.astype(np.float64) * v[op.name] + values[op.inputs[0]]
            else:
                exact, magnitude = zip(*(values[name] for name in op.inputs), strict=True)
                compute = STATELESS[type(op)]
                values[op.name] = np.stack([compute(op, *exact), compute(absolute[op.name], *magnitude)])
        for op in graph.of_type(Delay):
            waiting[op.name].append(values[op.inputs[0]])
        read.append(values[graph.readout.value])
    layers: dict[str, LayerReplay] = {}
    for name, layer in steps.items():
        u, after, magnitude = (np.stack(part, axis=1) for part in zip(*layer, strict=True))
        layers[name] = LayerReplay(u, after, EPS * (terms[name] + graph.T) * magnitude)
    by_step = np.stack(read)  # [T, 2, N, ...]
    output, size = (read_out(graph.readout, by_step[:, k]) for k in (0, 1))
    return Replay(layers, output, EPS * (terms[graph.readout.value] + 2 * graph.T) * size)


def _reset(op: LIF, u: F64, spikes: npt.NDArray[Any]) -> F64:
    """The membrane after the reset, and its magnitude."""
    if op.reset == "soft":
        taken = op.subtracted.astype(np.float64)
        after: F64 = u + np.stack([-taken * spikes, np.abs(taken) * spikes])
    else:
        to = np.broadcast_to(op.v_reset.astype(np.float64), spikes.shape)
        after = np.where(spikes, np.stack([to, np.abs(to)]), u)
    return after


def _absolute(op: Op) -> Op:
    """The op that turns its inputs' magnitudes into its value's: the same with absolute parameters."""
    if isinstance(op, Linear | Conv1d | Conv2d):
        return replace(op, weight=np.abs(op.weight), bias=None if op.bias is None else np.abs(op.bias))
    if isinstance(op, LoihiLinear | LoihiConv2d):
        return replace(op, weight=np.zeros_like(op.weight))  # integers do not round
    if isinstance(op, BatchNorm):
        return replace(op, gamma=np.abs(op.gamma), beta=np.abs(op.beta), mean=-np.abs(op.mean))
    return op


def _terms(graph: SpikingGraph, op: Op) -> int:
    """Products summed on the way from the nearest spikes to the op's value, at most: the n of the error bound."""
    synapses = [s for s in (op, *graph.sources(op.inputs[0])) if isinstance(s, Linear | Conv1d | Conv2d)]
    return 8 + sum(s.weight.size // len(s.weight) for s in synapses)  # 8: roundings of parameters, pools and norms
