"""Step a trace through its graph once more, and count what each op does."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.counts.fan_out import SYNAPSES, Bools
from rmp_deploy.analysis.counts.rules import COUNT, cost, shortcut
from rmp_deploy.analysis.counts.shortcut import is_shortcut, repeats
from rmp_deploy.analysis.counts.table import Counts, InputKind, LayerCounts
from rmp_deploy.analysis.counts.values import MESSAGES, REAL, SPIKES, Facts, Kinds, Value, evaluate, facts_of, step_of
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LI, BatchNorm, Delay, Quantize, SpikingNeuron
from rmp_deploy.ir.trace import Trace

Samples = npt.NDArray[np.generic]
NEURONS = (SpikingNeuron, LI)


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
    if trace.n_samples < 1:
        raise RmpDeployError(f"counts of graph '{graph.name}': samples = 0, allowed >= 1. Run the network first.")
    check(graph)
    frames, kinds = _input(graph, trace.n_samples, x)
    facts = facts_of(graph, kinds)
    repeating = {op.name for op in graph.spiking if op.name not in trace.spikes and repeats(graph, op)}
    known = [op for op in graph.spiking if op.name not in repeating]
    spikes = {op.name: _spikes(op, trace, (graph.T, *graph.shapes[op.name])) for op in known}
    shortcuts = {op.name for op in graph.ops if is_shortcut(graph, op)}
    row_of = _row_of(graph)
    counts = {row: dict.fromkeys(TERMS, 0) for row in row_of.values()}
    cached = dict.fromkeys(counts, 0)
    none = np.zeros(trace.n_samples, np.bool_)
    waiting = {
        op.name: deque([np.broadcast_to(none.reshape(-1, *(1,) * len(op.shape)), (len(none), *op.shape))] * op.steps)
        for op in graph.of_type(Delay)
    }
    for t in range(graph.T):
        values: dict[str, Value] = {graph.input.name: frames[:, t]}
        for op in graph.ops:
            if isinstance(op, Delay):
                values[op.name] = waiting[op.name].popleft()
            elif op.name in spikes:
                values[op.name] = spikes[op.name][:, t]
            elif isinstance(op, LI) or op.name in shortcuts | repeating:
                values[op.name] = values[op.inputs[0]]
            else:
                read, of = [values[i] for i in op.inputs], [facts[i] for i in op.inputs]
                values[op.name] = evaluate(op, read, of, graph.shapes[op.name])
            # a Delay may read what is not made yet, and its rule does not look at it
            steps = [step_of(values[i], facts[i]) for i in op.inputs if i in values]
            made = step_of(values[op.name], facts[op.name])
            for term, n in (shortcut(steps[0]) if op.name in shortcuts else cost(op, steps, made)).items():
                counts[row_of[op.name]][term] += n
                if term == "mac" and (t == 0 or not all(facts[i].constant for i in op.inputs)):
                    cached[row_of[op.name]] += n
        for op in graph.of_type(Delay):  # at the end of the step: it may read a value that is made after it
            waiting[op.name].append(values[op.inputs[0]])
    rows = [
        LayerCounts(
            layer=op.name,
            neurons=next((n.name for n in graph.spiking if row_of[n.name] == op.name), None),
            input=_kind(facts[op.inputs[0]]),
            counts=counts[op.name],
            mac_if_cached=cached[op.name],
        )
        for op in graph.ops
        if op.name in counts
    ]
    return Counts(trace.n_samples, graph.T, tuple(rows))


def check(graph: SpikingGraph) -> None:
    """Raise RmpDeployError if `graph` has an op without a counting rule: ask before a run."""
    for op in graph.ops:
        if type(op) not in COUNT:
            allowed = ", ".join(kind.__name__ for kind in COUNT)
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
        return np.broadcast_to(np.True_, shape), np.full(n, REAL, np.int8)
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


def _spikes(op: SpikingNeuron, trace: Trace, shape: tuple[int, ...]) -> Bools:
    wanted = (trace.n_samples, *shape)
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


def _row_of(graph: SpikingGraph) -> dict[str, str]:
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
