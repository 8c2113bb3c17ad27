"""Bounds that hold whatever the samples are: how large can a membrane potential become?

Interval arithmetic over the graph: spikes are 0..1, a weight counts at the end of its input's interval that its sign
asks for. A real-valued input has no bounds, nor has what is computed from it until neurons spike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Linear,
    MaxPool2d,
    Op,
    SumPool2d,
)
from rmp_deploy.ir.reference import STATELESS

F64 = npt.NDArray[np.float64]  # an interval is [2, *shape]: lowest, highest
ROUNDING = 1e-12  # relative, by which a sum over the steps is rounded outwards


def largest_u(graph: SpikingGraph) -> dict[str, F64]:
    """Upper bound of u, before the first spike and within T steps, where there is one; [*shape] by LIF or CubaLIF.

    ``u[t] = sum_k decay^k x[t-k]`` until a neuron has fired, so that u <= x * (1 - decay^T) / (1 - decay) where the
    largest current x is positive, and u <= x where it is not. A neuron whose bound is not above its threshold never
    fires; its spikes are 0 for what reads them.
    """
    values: dict[str, F64] = {}
    found: dict[str, F64] = {}

    def spikes(name: str) -> F64:
        return np.stack([np.zeros(graph.shapes[name]), np.ones(graph.shapes[name])])

    last_use = {value: at for at, op in enumerate(graph.ops) for value in (op.name, *op.inputs)}
    if graph.is_spikes(graph.input.name):
        values[graph.input.name] = spikes(graph.input.name)
    for at, op in enumerate(graph.ops):
        inputs = [values[i] if i in values else spikes(i) for i in op.inputs if i in values or graph.is_spikes(i)]
        if graph.is_spikes(op.name):
            values[op.name] = spikes(op.name)
        if type(op) in BOUNDS and len(inputs) == len(op.inputs):  # else no bounds, or 0..1 if it is spikes
            result = BOUNDS[type(op)](op, graph.T, *inputs)
            if isinstance(op, LIF):
                found[op.name] = result[1].copy()  # without the lower end
                values[op.name][1] = (result[1] > op.v_threshold).astype(np.float64)
            else:
                values[op.name] = result
        for value in (op.name, *op.inputs):
            if last_use[value] <= at:  # of a large network, all values at once are gigabytes
                values.pop(value, None)
    return found


def _monotone(op: Op, _T: int, *xs: F64) -> F64:
    """Ops whose value never falls where an input rises: the ends of the intervals are inputs like any others."""
    return STATELESS[type(op)](op, *xs)


def _synapse(op: Linear | Conv1d | Conv2d, _T: int, x: F64) -> F64:
    """Positive weights at the same end of the interval, negative ones at the other."""
    compute = STATELESS[type(op)]
    positive, negative = (replace(op, weight=part(op.weight, 0), bias=None) for part in (np.maximum, np.minimum))
    if x[0].any():
        y = np.add(compute(positive, x), compute(negative, x[::-1]))
    else:  # of spikes, the lower end adds nothing: half the work
        y = np.concatenate([compute(negative, x[1:]), compute(positive, x[1:])])
    return y if op.bias is None else y + op.bias.astype(np.float64).reshape(-1, *(1,) * (y.ndim - 2))


def _batch_norm(op: BatchNorm, _T: int, x: F64) -> F64:
    return np.sort(STATELESS[BatchNorm](op, x), axis=0)  # a negative gamma turns the interval round


def _leak(decay: npt.NDArray[Any], T: int, x: F64) -> F64:
    """``v[t] = decay * v[t-1] + x[t]`` from 0 over T steps."""
    d = decay.astype(np.float64)
    once = (d == 0) | (T == 1)
    gain = np.where(d == 1, T, (1 - d**T) / np.where(d == 1, 1, 1 - d)) * np.where(once, 1, 1 + ROUNDING)
    return np.stack([np.minimum(x[0], x[0] * gain), np.maximum(x[1], x[1] * gain)])


def _lif(op: LIF, T: int, x: F64) -> F64:
    return _leak(op.decay, T, x)


def _cuba_lif(op: CubaLIF, T: int, x: F64) -> F64:
    return _leak(op.decay, T, _leak(op.current_decay, T, x))


def _li(op: LI, T: int, x: F64) -> F64:
    return _leak(op.decay, T, x)


def _delay(_op: Delay, _T: int, x: F64) -> F64:
    return np.stack([np.minimum(x[0], 0), np.maximum(x[1], 0)])  # 0 in the first steps


BOUNDS: dict[type[Op], Callable[..., F64]] = {
    **dict.fromkeys((AvgPool2d, SumPool2d, MaxPool2d, Flatten, Add, Concat), _monotone),
    **dict.fromkeys((Linear, Conv1d, Conv2d), _synapse),
    BatchNorm: _batch_norm,
    LIF: _lif,
    CubaLIF: _cuba_lif,
    LI: _li,
    Delay: _delay,
}
