"""What a value is to the hardware (spikes, messages, real values), and where its events are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.counts.fan_out import REACH, SYNAPSES, reach
from rmp_deploy.analysis.counts.sums import CHANNEL, Events, Ints, non_zero, true
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Quantize,
    Shape,
    SumPool2d,
)
from rmp_deploy.ir.reference import STATELESS

Value = npt.NDArray[Any]  # [N, T, *shape]: numbers where they are known, else True where an event arrives
Kinds = npt.NDArray[np.int8]  # of each sample [N]
SPIKES, MESSAGES, REAL = range(3)  # a value that joins two kinds is the larger one


@dataclass(frozen=True)
class Facts:
    """What holds of a value in all steps.

    Attributes:
        kinds: SPIKES, MESSAGES or REAL, sample by sample [N].
        current: synapses made it and no neuron has read it yet; an Add of currents is one.
        host: the input, also quantized or flattened: the host sends it.
        constant: it is the same in every step.
        known: its numbers are known, or at least which of them are 0.
    """

    kinds: Kinds
    current: bool = False
    host: bool = False
    constant: bool = False
    known: bool = True

    @property
    def any_real(self) -> bool:
        return bool((self.kinds == REAL).any())


@dataclass(frozen=True)
class Step:
    """A value [N, T, *shape] in all steps, and what is known of it; `flattened`: what a Flatten made it of."""

    value: Value
    facts: Facts
    flattened: Step | None = None

    @cached_property
    def nonzero(self) -> Events:
        """Where it is not 0; of a value that is not `known`, where an event arrives."""
        return Events(non_zero(self.value), moved=None if self.flattened is None else self.flattened.nonzero)

    @cached_property
    def dense(self) -> Events:
        """Where it is not 0, and all of its real values."""
        real = self.facts.kinds == REAL
        if real.all():
            return Events(true(self.value.shape))
        if not real.any():
            return self.nonzero
        return Events(self.nonzero.where | real.reshape(-1, *(1,) * (self.value.ndim - 1)))

    @property
    def events(self) -> Events:
        """Where its events are; every real value of the host is one, zeros included."""
        return self.dense if self.facts.host else self.nonzero

    def of(self, kind: int) -> Ints:
        """1 for the samples that are of this kind, else 0: [N, 1], or [1, 1] where all are alike."""
        found: Ints = (self.facts.kinds == kind).astype(np.int64)[:, None]
        return found[:1] if (found == found[0]).all() else found


def facts_of(graph: SpikingGraph, kinds: Kinds, given: bool) -> dict[str, Facts]:
    """What is known of every value by name; `kinds` [N]: what the input is; `given`: its numbers are."""
    direct = graph.input.encoding == "direct"
    spikes = np.zeros_like(kinds)
    facts = {op.name: Facts(spikes) for op in graph.ops}
    facts[graph.input.name] = Facts(kinds, host=True, constant=direct, known=given)
    for _ in range(1 + REAL * len(graph.of_type(Delay))):  # each that reads what is made after it may raise a kind
        for op in graph.ops:
            facts[op.name] = FACTS[type(op)]([facts[i] for i in op.inputs])
    return facts


def _of_neurons(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, SPIKES))


def _of_integrator(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, REAL), known=False)


def _of_synapse(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, REAL), current=True, constant=read[0].constant, known=False)


def _of_mean(read: list[Facts]) -> Facts:
    """A mean of spikes is 0 where no spike is; other numbers may cancel."""
    known = read[0].known and bool((read[0].kinds == SPIKES).all())
    return Facts(np.full_like(read[0].kinds, REAL), constant=read[0].constant, known=known)


def _of_real(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, REAL), constant=read[0].constant, known=False)


def _of_messages(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, MESSAGES), host=True, constant=read[0].constant)


def _of_sum(read: list[Facts]) -> Facts:
    joined = _of_joined(read)
    kinds = np.maximum(joined.kinds, np.int8(MESSAGES))
    return replace(joined, kinds=kinds, known=not joined.any_real)


def _of_joined(read: list[Facts]) -> Facts:
    kinds: Kinds = np.max([of.kinds for of in read], axis=0)
    known = all(of.known and not (of.host and of.any_real) for of in read)
    return Facts(kinds, any(of.current for of in read), constant=all(of.constant for of in read), known=known)


def _of_pool(read: list[Facts]) -> Facts:
    """A pool of a current is a number that something has to add."""
    return replace(_of_sum(read), current=False)


def _of_or(read: list[Facts]) -> Facts:
    return Facts(read[0].kinds, constant=read[0].constant, known=read[0].known)


def _of_delay(read: list[Facts]) -> Facts:
    """A current that waits is a number that something has to add; the first steps are 0."""
    return Facts(read[0].kinds, known=read[0].known and not (read[0].host and read[0].any_real))


def _of_moved(read: list[Facts]) -> Facts:
    return read[0]


FACTS: dict[type[Op], Callable[[list[Facts]], Facts]] = {
    **dict.fromkeys((Linear, Conv1d, Conv2d, LoihiLinear, LoihiConv2d), _of_synapse),
    **dict.fromkeys((LIF, CubaLIF, LoihiLIF), _of_neurons),
    AvgPool2d: _of_mean,
    Dequantize: _of_real,
    Quantize: _of_messages,
    LI: _of_integrator,
    Add: _of_sum,
    Concat: _of_joined,
    SumPool2d: _of_pool,
    MaxPool2d: _of_or,
    Delay: _of_delay,
    Flatten: _of_moved,
}


def evaluate(op: Op, read: list[Step], shape: Shape) -> Value:
    """The value of an op without a state in all steps, from those that it reads."""
    return EVALUATE[type(op)](op, read, shape)


def delayed(op: Delay, source: Value | None, steps: tuple[int, int]) -> Value:
    """``y[t] = x[t - op.steps]``, 0 before that; `steps`: N and T. Without a source nothing has been made yet."""
    n, T = steps
    silent = np.broadcast_to(np.False_, (n, T, *op.shape))
    if source is None:
        return silent
    waiting = min(op.steps, T)
    return np.concatenate([silent[:, :waiting], source[:, : T - waiting]], axis=1)


def _step_by_step(function: Callable[[Value], Value], value: Value) -> Value:
    """`function` of [B, *shape] on [N, T, *shape]; once where all steps are the same."""
    n, T = value.shape[:2]
    steps = value[:, :1] if value.strides[1] == 0 else value
    made = function(steps.reshape(-1, *value.shape[2:]).astype(np.float64))
    return np.broadcast_to(made.reshape(n, -1, *made.shape[1:]), (n, T, *made.shape[1:]))


def _reached(op: Op, read: list[Step], shape: Shape) -> Value:
    """Where an event arrives; real values reach every synapse, whatever the events behind them were."""
    (x,) = read
    return reach(op, x.dense if isinstance(op, SYNAPSES) else x.events, shape)


def _sum_pool(op: SumPool2d, read: list[Step], shape: Shape) -> Value:
    (x,) = read
    if x.facts.any_real:
        return _reached(op, read, shape)
    return _step_by_step(lambda value: STATELESS[SumPool2d](op, value), x.value)


def _add(op: Add, read: list[Step], _shape: Shape) -> Value:
    if any(x.facts.any_real for x in read):
        return reduce(np.logical_or, [x.events.where for x in read])
    return STATELESS[Add](op, *(x.value.astype(np.float64) for x in read))


def _concat(_op: Concat, read: list[Step], _shape: Shape) -> Value:
    numbers = not any(x.facts.any_real for x in read)
    return np.concatenate([x.value if numbers else x.events.where for x in read], axis=CHANNEL)


def _flatten(_op: Flatten, read: list[Step], shape: Shape) -> Value:
    value = read[0].value
    return value.reshape(*value.shape[:CHANNEL], *shape)


def _quantize(op: Quantize, read: list[Step], _shape: Shape) -> Value:
    return _step_by_step(lambda value: STATELESS[Quantize](op, value), read[0].value)


def _dequantize(_op: Dequantize, read: list[Step], _shape: Shape) -> Value:
    return read[0].value


EVALUATE: dict[type[Op], Callable[[Any, list[Step], Shape], Value]] = {
    **dict.fromkeys(REACH, _reached),
    SumPool2d: _sum_pool,
    Add: _add,
    Concat: _concat,
    Flatten: _flatten,
    Quantize: _quantize,
    Dequantize: _dequantize,
}
