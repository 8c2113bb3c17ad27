"""Bounds that hold whatever the samples are: how large can a membrane potential become?

Interval arithmetic over the graph: spikes are 0..1, integers what their bits hold, a weight counts at the end of its
input's interval that its sign asks for. A real-valued input has no bounds, nor has what is computed from it until
neurons spike or `Quantize` clips it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

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
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Quantize,
    Shape,
    SpikingNeuron,
    SumPool2d,
)
from rmp_deploy.ir.ops.loihi import STATE_SHIFT
from rmp_deploy.ir.reference import STATELESS
from rmp_deploy.ir.reference_loihi import DECAY_SHIFT, STATE_LIMIT

F64 = npt.NDArray[np.float64]  # an interval is [2, *shape]: lowest, highest
DECAY_UNIT, STATE_UNIT = 1 << DECAY_SHIFT, 1 << STATE_SHIFT
INT32_LIMIT = 1 << 31  # in which Lava adds
ROUNDING = 1e-12  # relative, by which a sum over the steps is rounded outwards


class Reach(NamedTuple):
    """How far the states of a neuron op can go, whatever the samples are; intervals [2, *shape]: lowest, highest.

    current: what is added to the membrane at a step: the input, or the synaptic current of CubaLIF and LoihiLIF, before
    it wraps. u: the potential, before it saturates. Both in the op's own units: 1/64 of a weight for LoihiLIF.
    """

    current: F64
    u: F64


def largest_u(graph: SpikingGraph) -> dict[str, F64]:
    """Upper bound of u, before the first spike and within T steps, where there is one; [*shape] by spiking neuron op.

    ``u[t] = sum_k decay^k x[t-k]`` until a neuron has fired, so that u <= x * (1 - decay^T) / (1 - decay) where the
    largest current x is positive, and u <= x where it is not. A neuron whose bound is not above its threshold never
    fires; its spikes are 0 for what reads them.
    """
    return {op.name: reach.u[1].copy() for op, reach in reaches(graph) if isinstance(op, SpikingNeuron)}


def reaches(graph: SpikingGraph) -> Iterator[tuple[Op, Reach]]:
    """Every neuron op whose input has bounds, with how far it can go; one at a time, since large ones are gigabytes."""
    values: dict[str, F64] = {}

    def spikes(name: str) -> F64:
        return np.stack([np.zeros(graph.shapes[name]), np.ones(graph.shapes[name])])

    last_use = {value: at for at, op in enumerate(graph.ops) for value in (op.name, *op.inputs)}
    if graph.input.message_bits is not None:
        values[graph.input.name] = _integers(graph.input.shape, graph.input.message_bits)
    for at, op in enumerate(graph.ops):
        inputs = [values[i] if i in values else spikes(i) for i in op.inputs if i in values or graph.is_spikes(i)]
        if graph.is_spikes(op.name):
            values[op.name] = spikes(op.name)
        if isinstance(op, Quantize):
            values[op.name] = _integers(graph.shapes[op.name], op.message_bits)
        elif type(op) in BOUNDS and len(inputs) == len(op.inputs):  # else no bounds, or 0..1 if it is spikes
            result = BOUNDS[type(op)](op, graph.T, *inputs)
            if isinstance(result, Reach):
                yield op, result
                result = result.u
            if isinstance(op, SpikingNeuron):
                values[op.name][1] = (result[1] > op.threshold).astype(np.float64)
            else:
                values[op.name] = result
        for value in (op.name, *op.inputs):
            if last_use[value] <= at:  # of a large network, all values at once are gigabytes
                values.pop(value, None)


def _integers(shape: Shape, message_bits: int) -> F64:
    """``|x| < 2^message_bits``; 0 bits are spikes."""
    low, high = (0.0, 1.0) if message_bits == 0 else (1.0 - 2**message_bits, 2.0**message_bits - 1)
    return np.stack([np.full(shape, low), np.full(shape, high)])


def _monotone(op: Op, _T: int, *xs: F64) -> F64:
    """Ops whose value never falls where an input rises: the ends of the intervals are inputs like any others."""
    return STATELESS[type(op)](op, *xs)


def _synapse(op: Linear | Conv1d | Conv2d, _T: int, x: F64) -> F64:
    y = _weighted(replace(op, bias=None), x)
    return y if op.bias is None else y + op.bias.astype(np.float64).reshape(-1, *(1,) * (y.ndim - 2))


def _loihi_synapse(op: LoihiLinear | LoihiConv2d, _T: int, x: F64) -> F64:
    weight = op.weight.astype(np.float32)  # exact; real-valued ops do not check what a synapse can hold
    if isinstance(op, LoihiLinear):
        total = _weighted(Linear(name=op.name, inputs=op.inputs, weight=weight), x)
    else:
        geometry = {key: getattr(op, key) for key in ("stride", "padding", "dilation", "groups")}
        total = _weighted(Conv2d(name=op.name, inputs=op.inputs, weight=weight, **geometry), x)
    shifted: F64 = np.floor(np.ldexp(total, op.weight_exp))
    return shifted  # a larger sum is not smaller behind the shift


def _weighted(op: Linear | Conv1d | Conv2d, x: F64) -> F64:
    """Positive weights at the same end of the interval, negative ones at the other."""
    compute = STATELESS[type(op)]
    positive, negative = (replace(op, weight=part(op.weight, 0)) for part in (np.maximum, np.minimum))
    if x[0].any():
        y: F64 = np.add(compute(positive, x), compute(negative, x[::-1]))
        return y
    return np.concatenate([compute(negative, x[1:]), compute(positive, x[1:])])  # of spikes, the lower end adds nothing


def _batch_norm(op: BatchNorm, _T: int, x: F64) -> F64:
    return np.sort(STATELESS[BatchNorm](op, x), axis=0)  # a negative gamma turns the interval round


def _leak(decay: npt.NDArray[Any], T: int, x: F64) -> F64:
    """``v[t] = decay * v[t-1] + x[t]`` from 0 over T steps."""
    d = decay.astype(np.float64)
    once = (d == 0) | (T == 1)
    gain = np.where(d == 1, T, (1 - d**T) / np.where(d == 1, 1, 1 - d)) * np.where(once, 1, 1 + ROUNDING)
    return np.stack([np.minimum(x[0], x[0] * gain), np.maximum(x[1], x[1] * gain)])


def _lif(op: LIF, T: int, x: F64) -> Reach:
    return Reach(x, _leak(op.decay, T, x))


def _cuba_lif(op: CubaLIF, T: int, x: F64) -> Reach:
    current = _leak(op.current_decay, T, x)
    return Reach(current, _leak(op.decay, T, current))


def _li(op: LI, T: int, x: F64) -> Reach:
    return Reach(x, _leak(op.decay, T, x))


def _loihi_lif(op: LoihiLIF, T: int, x: F64) -> Reach:
    """Decays truncate toward zero, so that a state is nowhere farther from it than without. Between spikes v is at most
    the threshold, so that u is at most what is left of that and one step's current.

    A current that can wrap can have either sign. It wraps once: beyond 3 * 2^23 it stays out of 24 bits. Where steps
    add up to more than int32, it can be all that is left of int32 when it wraps once.
    """
    current = _leak(1 - (op.du + 1) / DECAY_UNIT, T, x * STATE_UNIT)
    wraps = (current[0] <= -STATE_LIMIT) | (current[1] > STATE_LIMIT)
    largest = np.abs(current).max(axis=0)
    left = np.maximum(np.minimum(largest, INT32_LIMIT) - 2 * STATE_LIMIT, STATE_LIMIT)
    current = np.where(wraps, np.stack([-largest, largest]), current)
    kept: F64 = np.where(wraps, np.stack([-left, left]), current)
    decay, step = 1 - op.dv / DECAY_UNIT, kept + op.bias.astype(np.float64)
    u = _leak(decay, T, step)
    u[1] = np.minimum(u[1], decay * np.maximum(op.threshold, 0) + step[1])
    return Reach(current, u)


def _delay(_op: Delay, _T: int, x: F64) -> F64:
    return np.stack([np.minimum(x[0], 0), np.maximum(x[1], 0)])  # 0 in the first steps


BOUNDS: dict[type[Op], Callable[..., F64 | Reach]] = {
    **dict.fromkeys((AvgPool2d, SumPool2d, MaxPool2d, Flatten, Add, Concat), _monotone),
    **dict.fromkeys((Linear, Conv1d, Conv2d), _synapse),
    **dict.fromkeys((LoihiLinear, LoihiConv2d), _loihi_synapse),
    BatchNorm: _batch_norm,
    LIF: _lif,
    CubaLIF: _cuba_lif,
    LI: _li,
    LoihiLIF: _loihi_lif,
    Delay: _delay,
}
