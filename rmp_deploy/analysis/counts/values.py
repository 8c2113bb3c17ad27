"""What a value is to the hardware (spikes, messages, real values), and where its events are in each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.counts.fan_out import REACH, SYNAPSES, Bools, reach
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

Value = npt.NDArray[Any]  # numbers where they are known (input, spikes, messages), else True where an event arrives
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
    """

    kinds: Kinds
    current: bool = False
    host: bool = False
    constant: bool = False


@dataclass(frozen=True)
class Step:
    """One step of a value: where its events are, [N, *shape], and what is known of it."""

    events: Bools
    facts: Facts

    def of(self, *kinds: int) -> Bools:
        """The events of the samples that are of these kinds."""
        wanted = np.isin(self.facts.kinds, kinds)
        return self.events if wanted.all() else self.events[wanted]


def facts_of(graph: SpikingGraph, kinds: Kinds) -> dict[str, Facts]:
    """What is known of every value by name; `kinds` [N]: what the input is."""
    direct = graph.input.encoding == "direct"
    spikes = np.zeros_like(kinds)
    facts = {op.name: Facts(spikes) for op in graph.ops}
    facts[graph.input.name] = Facts(kinds, host=True, constant=direct)
    for _ in range(1 + REAL * len(graph.of_type(Delay))):  # each that reads what is made after it may raise a kind
        for op in graph.ops:
            facts[op.name] = FACTS[type(op)]([facts[i] for i in op.inputs])
    return facts


def _of_neurons(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, SPIKES))


def _of_integrator(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, REAL))


def _of_synapse(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, REAL), current=True, constant=read[0].constant)


def _of_real(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, REAL), constant=read[0].constant)


def _of_messages(read: list[Facts]) -> Facts:
    return Facts(np.full_like(read[0].kinds, MESSAGES), host=True, constant=read[0].constant)


def _of_sum(read: list[Facts]) -> Facts:
    joined = _of_joined(read)
    return replace(joined, kinds=np.maximum(joined.kinds, np.int8(MESSAGES)))


def _of_joined(read: list[Facts]) -> Facts:
    kinds: Kinds = np.max([of.kinds for of in read], axis=0)
    return Facts(kinds, any(of.current for of in read), constant=all(of.constant for of in read))


def _of_pool(read: list[Facts]) -> Facts:
    """A pool of a current is a number that something has to add."""
    return replace(_of_sum(read), current=False)


def _of_or(read: list[Facts]) -> Facts:
    return Facts(read[0].kinds, constant=read[0].constant)


def _of_delay(read: list[Facts]) -> Facts:
    """A current that waits is a number that something has to add; the first steps are 0."""
    return Facts(read[0].kinds)


def _of_moved(read: list[Facts]) -> Facts:
    return read[0]


FACTS: dict[type[Op], Callable[[list[Facts]], Facts]] = {
    **dict.fromkeys((Linear, Conv1d, Conv2d, LoihiLinear, LoihiConv2d), _of_synapse),
    **dict.fromkeys((LIF, CubaLIF, LoihiLIF), _of_neurons),
    **dict.fromkeys((AvgPool2d, Dequantize), _of_real),
    Quantize: _of_messages,
    LI: _of_integrator,
    Add: _of_sum,
    Concat: _of_joined,
    SumPool2d: _of_pool,
    MaxPool2d: _of_or,
    Delay: _of_delay,
    Flatten: _of_moved,
}


def step_of(value: Value, facts: Facts) -> Step:
    """Where the events of `value` are; every real value of the host is one, zeros included."""
    return Step(_events(value, facts, facts.host), facts)


def _events(value: Value, facts: Facts, dense: bool) -> Bools:
    """`dense`: every real value is an event."""
    events: Bools = value if value.dtype == np.bool_ else value != 0
    real = facts.kinds == REAL
    return events | real.reshape(-1, *(1,) * (events.ndim - 1)) if dense and real.any() else events


def evaluate(op: Op, read: list[Value], facts: list[Facts], shape: Shape) -> Value:
    """The value of an op without a state in one step, from those that it reads."""
    return EVALUATE[type(op)](op, read, facts, shape)


def _reached(op: Op, read: list[Value], facts: list[Facts], shape: Shape) -> Value:
    """Where an event arrives; real values reach every synapse, whatever the events behind them were."""
    return reach(op, _events(read[0], facts[0], facts[0].host or isinstance(op, SYNAPSES)), shape)


def _sum_pool(op: SumPool2d, read: list[Value], facts: list[Facts], shape: Shape) -> Value:
    if _known(facts):
        return STATELESS[SumPool2d](op, read[0].astype(np.float64))
    return _reached(op, read, facts, shape)


def _add(op: Add, read: list[Value], facts: list[Facts], _shape: Shape) -> Value:
    if _known(facts):
        return STATELESS[Add](op, *(value.astype(np.float64) for value in read))
    events: Bools = np.any([_events(v, of, of.host) for v, of in zip(read, facts, strict=True)], axis=0)
    return events


def _known(facts: list[Facts]) -> bool:
    """True for numbers: no current, and no real value, among them."""
    return all(bool((of.kinds != REAL).all()) for of in facts)


def _concat(op: Concat, read: list[Value], facts: list[Facts], _shape: Shape) -> Value:
    if not _known(facts):
        read = [_events(v, of, of.host) for v, of in zip(read, facts, strict=True)]
    return np.concatenate(read, axis=1)


def _flatten(_op: Flatten, read: list[Value], _facts: list[Facts], shape: Shape) -> Value:
    return read[0].reshape(-1, *shape)


def _quantize(op: Quantize, read: list[Value], _facts: list[Facts], _shape: Shape) -> Value:
    return STATELESS[Quantize](op, read[0].astype(np.float64))


def _dequantize(_op: Dequantize, read: list[Value], _facts: list[Facts], _shape: Shape) -> Value:
    return read[0]


EVALUATE: dict[type[Op], Callable[[Any, list[Value], list[Facts], Shape], Value]] = {
    **dict.fromkeys(REACH, _reached),
    SumPool2d: _sum_pool,
    Add: _add,
    Concat: _concat,
    Flatten: _flatten,
    Quantize: _quantize,
    Dequantize: _dequantize,
}
