"""Run a trace through its graph once more, all steps at once, and count what each op does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.counts.fan_out import SYNAPSES, fan_outs
from rmp_deploy.analysis.counts.rules import COUNT, Tally, cost, synapses
from rmp_deploy.analysis.counts.shortcut import is_shortcut, repeats
from rmp_deploy.analysis.counts.sums import Bools, Ints, per_neuron, true
from rmp_deploy.analysis.counts.table import ACTIVITY, Counts, InputKind, LayerCounts, Spread
from rmp_deploy.analysis.counts.values import (
    MESSAGES,
    REAL,
    SPIKES,
    Facts,
    Kinds,
    Step,
    Value,
    delayed,
    evaluate,
    facts_of,
)
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LI, BatchNorm, Delay, Flatten, Op, Quantize, SpikingNeuron
from rmp_deploy.ir.trace import Trace

Samples = npt.NDArray[np.generic]
NEURONS = (SpikingNeuron, LI)
AT_ONCE = 2**24  # elements of the largest value, over samples and steps: what is counted at a time


def count(graph: SpikingGraph, trace: Trace, x: Samples | None = None) -> Counts:
    """Count what `graph` did when it ran the N samples of `trace`; N, T and shapes must agree.

    Per row, summed over N samples and T steps:
        ac, mac             ``sum over input spikes of fan_out``; the same over graded spikes, and ``sum(fan_out)`` per
                            step for real values. A spike or a message that joins a current, or neurons, without a
                            synapse passes an identity synapse: one ac or mac
        bias_add            outputs of a synaptic op, or neurons, that have a bias, per step
        residual_add        what an Add adds that no synapse accumulates: real values, per element and step; spikes and
                            messages that meet others and no current
        pool_add, pool_or   windows * (kernel - 1), per step; the division by the kernel's size is not counted. A pool
                            belongs to the row that reads it; a mean makes that row's input real-valued (dense MACs)
        conversion          elements of a Quantize or Dequantize, per step
        neuron_active       neurons that a synaptic event reached in this step or that spiked; neuron_inactive: the
                            others. Davies 2018 (IEEE Micro 38(1), Table 2) prices both without defining them: this
                            reading is our modelling choice
        neuron_multiply     states with a decay other than 0 and 1, per step; neuron_add: with one other than 0. A state
                            is a membrane, or a synaptic current that is kept
        neuron_compare      neurons that can spike, per step
        reset, spike        spikes of the neurons
        weight_read         ac + mac
        state_read, state_write     states, and elements of a Delay, per step

    Args:
        graph: the network as deployed, batch norm folded; pools folded where the target has none.
        trace: a run of `graph` with spikes recorded. Those of relays, which no trace has, follow from the others.
        x: the samples, [N, T, *shape] or [N, *shape]; not needed where the input is real-valued and direct. A sample of
            a real-valued time series is spikes if all of it is 0 or 1.

    Raises:
        RmpDeployError: spikes are missing or do not fit, `x` is missing or does not fit, or an op has no counting rule.
    """
    return Counter(graph).count(trace, x)


class Counter:
    """Counts runs of one graph, batch after batch: what follows from the graph alone is found once.

    Raises:
        RmpDeployError: an op has no counting rule.
    """

    def __init__(self, graph: SpikingGraph) -> None:
        check(graph)
        self.graph = graph
        self.rows = row_of(graph)
        self.relays = {op.name for op in graph.spiking if repeats(graph, op)}
        self.shortcuts = {op.name for op in graph.ops if is_shortcut(graph, op)}
        self.fan_out = {
            op.name: fan_outs(op, graph.shapes[op.inputs[0]], op.name in self.shortcuts)
            for op in graph.ops
            if isinstance(op, SYNAPSES)
        }

    def count(self, trace: Trace, x: Samples | None = None) -> Counts:
        """As `rmp_deploy.analysis.counts.count`, which says what is counted.

        Raises:
            RmpDeployError: spikes are missing or do not fit, or `x` is missing or does not fit.
        """
        graph = self.graph
        if trace.n_samples < 1:
            raise RmpDeployError(f"counts of graph '{graph.name}': samples = 0, allowed >= 1. Run the network first.")
        frames, kinds = _input(graph, trace.n_samples, x)
        relays = self.relays - set(trace.spikes)
        spikes = {op.name: _spikes(op, trace, graph) for op in graph.spiking if op.name not in relays}
        at_once = max(1, AT_ONCE // (graph.T * max(math.prod(shape) for shape in graph.shapes.values())))
        parts = [slice(start, start + at_once) for start in range(0, trace.n_samples, at_once)]
        return reduce(
            add,
            (
                self._count(
                    {graph.input.name: frames[part], **{name: found[part] for name, found in spikes.items()}},
                    facts_of(graph, kinds[part], given=x is not None),
                    relays,
                )
                for part in parts
            ),
        )

    def _count(self, recorded: dict[str, Value], facts: dict[str, Facts], relays: set[str]) -> Counts:
        """Counts of samples whose input and spikes are `recorded`."""
        graph, n = self.graph, len(recorded[self.graph.input.name])
        steps = _steps(graph, recorded, facts, self.shortcuts | relays)
        tallies: dict[str, dict[str, Tally]] = {row: dict.fromkeys(TERMS, 0) for row in self.rows.values()}
        cached = dict.fromkeys(tallies, 0)
        active = {row: dict.fromkeys(ACTIVITY, 0) for row in tallies}
        neurons: dict[str, SpikingNeuron] = {}
        for op in graph.ops:
            row, read = self.rows[op.name], [steps[i] for i in op.inputs]
            if isinstance(op, SYNAPSES):
                terms, active[row] = synapses(op, read[0], steps[op.name], self.fan_out[op.name])
            else:
                terms = cost(op, read, steps[op.name])
            for term, tally in terms.items():
                tallies[row][term] = tallies[row][term] + tally
            mac = np.broadcast_to(terms.get("mac", 0), (n, graph.T))
            once = all(facts[i].constant for i in op.inputs)
            cached[row] += int((mac[:, :1] if once else mac).sum())
            if isinstance(op, SpikingNeuron):
                neurons.setdefault(row, op)
        rows = []
        for op in graph.ops:
            if op.name in tallies:
                found = _summed(tallies[op.name], n, graph.T)
                fires = neurons.get(op.name)
                rows.append(
                    LayerCounts(
                        layer=op.name,
                        neurons=None if fires is None else fires.name,
                        input=_kind(facts[op.inputs[0]]),
                        counts=found.totals,
                        mac_if_cached=cached[op.name],
                        spreads=found.spreads,
                        steps=found.steps,
                        activity=active[op.name],
                        neuron_spikes=None if fires is None else per_neuron(steps[fires.name].events.where),
                    )
                )
        whole: dict[str, Tally] = {term: sum(row[term] for row in tallies.values()) for term in TERMS}
        return Counts(n, graph.T, tuple(rows), _summed(whole, n, graph.T).spreads)


class _Sums(NamedTuple):
    """Of tallies, by term: over all samples and steps, of each step over the samples, and from sample to sample."""

    totals: dict[str, int]
    steps: dict[str, tuple[int, ...]]
    spreads: dict[str, Spread]


def _summed(tallies: Mapping[str, Tally], n: int, T: int) -> _Sums:
    """Of what each term was tallied at in n samples and T steps."""
    differ = [term for term, tally in tallies.items() if np.ndim(tally) and np.size(tally) > 1]
    found = np.empty((len(differ), n, T), np.int64)
    for row, term in zip(found, differ, strict=True):
        row[:] = tallies[term]
    of_step = dict(zip(differ, found.sum(axis=1).tolist(), strict=True))
    spread = dict(zip(differ, _spreads(found.sum(axis=2)), strict=True))
    sums = _Sums({}, {}, {})
    for term, tally in tallies.items():
        if term in of_step:
            sums.steps[term], sums.spreads[term] = tuple(of_step[term]), spread[term]
        else:  # in every sample and step alike
            each = int(np.ravel(tally)[0])
            sums.steps[term], sums.spreads[term] = (each * n,) * T, Spread(each * T, each * T, (each * T) ** 2 * n)
        sums.totals[term] = sum(sums.steps[term])
    return sums


def _steps(
    graph: SpikingGraph, recorded: dict[str, Value], facts: dict[str, Facts], passing: set[str]
) -> dict[str, Step]:
    """Every value in all steps by name; `passing`: synapses and neurons that hand on what they read.

    A loop that no recorded neuron cuts is evaluated again until nothing changes: each time one more step is right.
    """
    n, made = len(recorded[graph.input.name]), {name: Step(value, facts[name]) for name, value in recorded.items()}
    place = {op.name: i for i, op in enumerate(graph.ops) if op.name not in recorded}
    late = {op.inputs[0] for op in graph.of_type(Delay) if place.get(op.inputs[0], -1) > place[op.name]}
    while True:
        before = {name: made.get(name) for name in late}
        for op in graph.ops:
            if op.name in recorded:
                continue
            if isinstance(op, Delay):
                source = made.get(op.inputs[0])
                value = delayed(op, None if source is None else source.value, (n, graph.T))
            elif isinstance(op, LI) or op.name in passing:
                value = made[op.inputs[0]].value
            else:
                value = evaluate(op, [made[i] for i in op.inputs], graph.shapes[op.name])
            made[op.name] = Step(value, facts[op.name], made[op.inputs[0]] if isinstance(op, Flatten) else None)
        if all(old is not None and np.array_equal(old.value, made[name].value) for name, old in before.items()):
            return made


def _spreads(counts: Ints) -> list[Spread]:
    """Of the counts of each sample, [terms, N]."""
    low, high = counts.min(axis=1).tolist(), counts.max(axis=1).tolist()
    exact = counts if max(high, default=0) ** 2 * counts.shape[1] < 2**63 else counts.astype(object)
    return [Spread(*found) for found in zip(low, high, (exact * exact).sum(axis=1).tolist(), strict=True)]


def check(graph: SpikingGraph) -> None:
    """Raise RmpDeployError if `graph` has an op without a counting rule: ask before a run."""
    for op in graph.ops:
        if type(op) not in COUNT and not isinstance(op, SYNAPSES):
            counted: list[type[Op]] = [*SYNAPSES, *COUNT]
            allowed = ", ".join(kind.__name__ for kind in counted)
            fold, other = "Fold it (passes.fold_batchnorm)", f"{op.kind} is not counted: use a network without it"
            todo = fold if isinstance(op, BatchNorm) else other
            raise op_error(op.kind, op.name, "counting rule = none", allowed, todo)


def _input(graph: SpikingGraph, n: int, x: Samples | None) -> tuple[Value, Kinds]:
    """The input in every step, [N, T, *shape], and what each sample of it is."""
    shape, bits = (n, graph.T, *graph.input.shape), graph.input.message_bits
    if x is not None:
        graph.check_samples(x)
        if len(x) != n:
            raise RmpDeployError(f"samples: N = {len(x)}, allowed {n} as in the trace. Give the samples that were run.")
    direct = graph.input.encoding == "direct"
    if x is None and direct and bits is None and not graph.of_type(Quantize):
        return true(shape), np.full(n, REAL, np.int8)
    if x is None:
        what = shape[:1] + shape[2:] if direct else shape
        raise RmpDeployError(
            f"counts of graph '{graph.name}': samples = none, allowed {what}. "
            f"Give the samples: the events of {'an integer input' if direct else 'a time series'} are not in the trace."
        )
    frames = np.broadcast_to(x[:, None], shape) if direct else x
    if bits is not None:
        return frames, np.full(n, SPIKES if bits == 0 else MESSAGES, np.int8)
    binary = np.zeros(n, np.bool_) if direct else ((x == 0) | (x == 1)).all(axis=tuple(range(1, x.ndim)))
    return frames, np.where(binary, SPIKES, REAL).astype(np.int8)


def _spikes(op: SpikingNeuron, trace: Trace, graph: SpikingGraph) -> Bools:
    wanted = (trace.n_samples, graph.T, *graph.shapes[op.name])
    spikes = trace.spikes.get(op.name)
    if spikes is None:
        raise op_error(op.kind, op.name, "spikes in the trace = none", f"bool {wanted}", "Run with record=['spikes']")
    if spikes.shape != wanted:
        what = f"spikes in the trace = {spikes.shape}"
        raise op_error(op.kind, op.name, what, f"{wanted}", "Give a trace of this graph, latency removed")
    return spikes.astype(np.bool_, copy=False)


def _kind(facts: Facts) -> InputKind:
    names: dict[int, InputKind] = {SPIKES: "spikes", MESSAGES: "graded", REAL: "real-valued"}
    kinds: list[Any] = np.unique(facts.kinds).tolist()
    return names[kinds[0]] if len(kinds) == 1 else "mixed"


def row_of(graph: SpikingGraph) -> dict[str, str]:
    """Name of the row that each op is counted in: its own, that of the synapse before it or of the synapse after it."""
    rows: dict[str, str] = {}
    for op in graph.ops:
        if isinstance(op, SYNAPSES):
            rows[op.name] = op.name
        elif isinstance(op, NEURONS):
            feeds = (s for s in graph.sources(op.inputs[0]) if isinstance(s, (*SYNAPSES, *NEURONS)))
            feeder = next((s.name for s in feeds if isinstance(s, SYNAPSES)), op.name)
            taken = any(rows.get(other.name) == feeder for other in graph.ops if isinstance(other, NEURONS))
            rows[op.name] = op.name if taken else feeder
    for op in reversed(graph.ops):
        if op.name not in rows:  # counted with what reads it, else with what made its input
            after = [rows[reader.name] for reader in graph.consumers(op.name) if reader.name in rows]
            made = (source for value in op.inputs for source in graph.sources(value))
            before = [rows[source.name] for source in made if source.name in rows]
            rows[op.name] = [*after, *before, op.name][0]
    return rows
