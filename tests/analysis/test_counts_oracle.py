"""Counts of random small graphs of every op against a walk over every connection of every sample and step."""

from __future__ import annotations

import collections
import itertools
import math
import sys
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmp_deploy import backends
from rmp_deploy.analysis.counts import ACTIVITY, Counter, count, fan_out, twin
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
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
    SumPool2d,
)
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.as_synapses import as_synapses
from rmp_deploy.passes.balance_latency import balance_latency, relays
from rmp_deploy.passes.fold_pool import fold_pool

SYNAPSES = (Linear, Conv1d, Conv2d, LoihiLinear, LoihiConv2d)
POOLS = (AvgPool2d, SumPool2d, MaxPool2d)
NEURONS = (LIF, CubaLIF, LoihiLIF, LI)

# --- random graphs ----------------------------------------------------------------------------------------------------


class Builder:
    """Adds random ops that fit to a graph; `value` is the last one's."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], loihi: bool) -> None:
        self.rng, self.loihi, self.value = rng, loihi, "x"
        self.ops, self.shapes = [], {"x": shape}

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[self.value]

    def add(self, kind: type, *inputs: str, **parameters: object) -> str:
        op = kind(name=f"{kind.__name__.lower()}{len(self.ops)}", inputs=inputs or (self.value,), **parameters)
        self.ops.append(op)
        self.shapes[op.name] = op.output_shape(*(self.shapes[i] for i in op.inputs if i in self.shapes))
        self.value = op.name
        return op.name

    def weights(self, *shape: int) -> dict[str, object]:
        if self.loihi:
            return {"weight": 2 * self.rng.integers(-4, 5, shape)}
        return {
            "weight": self.rng.normal(size=shape),
            "bias": self.rng.normal(size=shape[0]) if self.rng.integers(2) else None,
        }

    def synapse(self, same: bool = False) -> str:
        """With `same`, its output has the shape of its input."""
        rng, shape = self.rng, self.shape
        if len(shape) == 1:
            return self.add(
                LoihiLinear if self.loihi else Linear,
                **self.weights(shape[0] if same else int(rng.integers(1, 5)), shape[0]),
            )
        kind = {2: Conv1d, 3: LoihiConv2d if self.loihi else Conv2d}[len(shape)]
        groups = 2 if shape[0] % 2 == 0 and rng.integers(2) else 1
        c_out = shape[0] if same else groups * int(rng.integers(1, 3))
        axes = len(shape) - 1
        dilation = tuple(int(d) for d in rng.integers(1, 3, axes))
        kernel = (3,) * axes if same else tuple(int(k) for k in rng.integers(1, 4, axes))
        geometry = {
            "stride": (1,) * axes if same else tuple(int(s) for s in rng.choice([1, 1, 2, 3], axes)),
            "padding": dilation if same else tuple(int(p) for p in rng.integers(2, 4, axes)),
            "dilation": dilation,
            "groups": groups,
        }
        return self.add(kind, **self.weights(c_out, shape[0] // groups, *kernel), **geometry)

    def neurons(self) -> str:
        rng, shape = self.rng, self.shape
        if self.loihi:
            choices = [np.array([-1, 0, 4095, 4094]), np.array([0, 1, 4096])]
            du, dv = (rng.choice(c, shape) for c in choices)
            return self.add(LoihiLIF, du=du, dv=dv, vth=1, bias_mant=int(rng.integers(2)))
        decay = rng.choice([0, 0.5, 1], shape)
        kind = [LIF, CubaLIF][int(rng.integers(2))]
        extra = {"current_decay": rng.choice([0, 0.5, 1], shape)} if kind is CubaLIF else {}
        return self.add(kind, decay=decay, v_threshold=0.5, **extra)

    def layer(self) -> None:
        """A synapse and neurons, perhaps with a shortcut or a recurrent edge; behind them a delay, joint or pool."""
        rng, before = self.rng, self.value
        way = rng.integers(4)
        if way == 0:  # a shortcut of two currents, or of what was there and a current
            first = self.synapse(same=True)
            if rng.integers(2):
                self.value = before
                self.add(Add, first, self.synapse(same=True))
            elif before != "x" or not self.loihi:
                self.add(Add, first, before)
        elif way == 1:  # a recurrent edge
            current = self.synapse(same=True)
            shape, at = self.shape, len(self.ops)
            self.shapes["later"] = shape
            self.add(Delay, "later", steps=int(rng.integers(1, 3)), shape=shape)
            self.synapse(same=True)
            self.add(Add, current, self.value)
            spikes = self.neurons()
            self.ops[at] = replace(self.ops[at], inputs=(spikes,))
            return
        else:
            self.synapse()
            if len(self.shape) == 3 and min(self.shape[1:]) > 2 and not rng.integers(3):
                self.pool(SumPool2d)  # of a current
        spikes = self.neurons()
        match int(rng.integers(7)):
            case 0:
                self.add(Delay, steps=int(rng.integers(1, 3)), shape=self.shape)
            case 1:
                late = self.add(Delay, steps=1, shape=self.shape)
                self.add(Concat, spikes, late)
            case 2:
                late = self.add(Delay, steps=1, shape=self.shape)
                self.add(Add, spikes, late)
            case 3 | 4 if len(self.shape) == 3 and min(self.shape[1:]) > 2:
                kinds = [SumPool2d, MaxPool2d] + [AvgPool2d] * (not self.loihi)
                self.pool(kinds[int(rng.integers(len(kinds)))])

    def pool(self, kind: type) -> None:
        self.add(
            kind,
            kernel=(3, 2),
            stride=tuple(int(s) for s in self.rng.integers(1, 3, 2)),
            padding=(1, int(self.rng.integers(2))),
        )


def random_graph(rng: np.random.Generator) -> SpikingGraph:
    loihi = bool(rng.integers(2))
    shape = [(2, 6, 5), (3,), (2, 6)][int(rng.integers(2 if loihi else 3))]
    builder = Builder(rng, shape, loihi)
    encoding, bits = str(rng.choice(["direct", "time_series"])), None
    if loihi and encoding == "direct" and rng.integers(2):
        builder.add(Quantize, scale=3.0, message_bits=3)
    elif loihi:
        bits = int(rng.choice([0, 2]))
    for _ in range(int(rng.integers(1, 4))):
        builder.layer()
    if rng.integers(2):
        if len(builder.shape) > 1:
            builder.add(Flatten)
        builder.synapse()
        if loihi and rng.integers(2):
            builder.add(Dequantize, scale=0.5)
        elif not loihi and rng.integers(2):
            builder.add(LI, decay=rng.choice([0, 0.5, 1], builder.shape))
    return SpikingGraph(
        "random",
        Input("x", shape, encoding, bits),
        tuple(builder.ops),
        Readout(builder.value, "sum"),
        int(rng.integers(1, 5)),
    )


def random_run(rng: np.random.Generator, graph: SpikingGraph, n: int) -> tuple[np.ndarray, Trace]:
    """Samples and any spikes: counting must not depend on dynamics."""
    steps = () if graph.input.encoding == "direct" else (graph.T,)
    shape, bits = (n, *steps, *graph.input.shape), graph.input.message_bits
    x = (rng.random(shape) < 0.4) * 1.0
    if bits:
        x = rng.integers(0, 2**bits, shape)
    elif bits is None and (steps == () or rng.integers(2)):
        x[0] = rng.integers(0, 3, shape[1:]) * 0.4  # of a time series, one sample is real-valued
    spikes = {op.name: rng.random((n, graph.T, *graph.shapes[op.name])) < rng.uniform(0.1, 0.6) for op in graph.spiking}
    return x, Trace("any", np.zeros((n, 1)), spikes)


# --- the oracle -------------------------------------------------------------------------------------------------------


def connections(op, shape):
    """Every (output, input) pair that a synapse or a window joins, one by one; padding joins nothing."""
    out = op.output_shape(shape)
    if isinstance(op, Linear | LoihiLinear):
        yield from (((o,), (i,)) for o in range(out[0]) for i in range(shape[0]))
        return
    pool = isinstance(op, POOLS)
    kernel = op.kernel if pool else op.weight.shape[2:]
    group_in = 1 if pool else op.weight.shape[1]
    group_out = 1 if pool else out[0] // op.groups
    dilation = (1,) * len(kernel) if pool else op.dilation
    for o, *place in itertools.product(*map(range, out)):
        for c, *tap in itertools.product(range(group_in), *map(range, kernel)):
            at = [
                p * s + t * d - pad for p, s, t, d, pad in zip(place, op.stride, tap, dilation, op.padding, strict=True)
            ]
            if all(0 <= a < size for a, size in zip(at, shape[1:], strict=True)):
                yield (o, *place), (o // group_out * group_in + c, *at)


def weight_of(op, o, i):
    """Of the synapse from input place i to output place o."""
    if isinstance(op, Linear | LoihiLinear):
        return op.weight[o[0], i[0]]
    geometry = zip(o[1:], i[1:], op.stride, op.padding, op.dilation, strict=True)
    tap = [(a + pad - p * s) // d for p, a, s, pad, d in geometry]
    return op.weight[(o[0], i[0] % op.weight.shape[1], *tap)]


class Oracle:
    """One sample, step by step, element by element. A value is {place: number}; of real values, an event or none."""

    def __init__(self, graph, x, spikes, real_input):
        self.graph, self.x, self.spikes, self.terms = graph, x, spikes, collections.Counter(dict.fromkeys(TERMS, 0))
        self.activity = {op.name: collections.Counter(dict.fromkeys(ACTIVITY, 0)) for op in graph.of_type(*SYNAPSES)}
        self.kind = {graph.input.name: "real" if real_input else "message" if graph.input.message_bits else "spike"}
        self.past = {graph.input.name: []}
        for op in graph.ops:
            self.past[op.name] = []
            self.kind[op.name] = "spike"
        order = ("spike", "message", "real")
        for _ in range(4):
            for op in graph.ops:
                top = max((self.kind[i] for i in op.inputs), key=order.index)
                if isinstance(op, (*SYNAPSES, AvgPool2d, LI, Dequantize)):
                    self.kind[op.name] = "real"
                elif isinstance(op, Add | SumPool2d | Quantize):
                    self.kind[op.name] = "message" if isinstance(op, Quantize) else max(top, "message", key=order.index)
                elif not isinstance(op, NEURONS):
                    self.kind[op.name] = top
        self.current = {op.name for op in graph.ops if isinstance(op, SYNAPSES)}
        self.host = {graph.input.name}
        for op in graph.ops:
            if isinstance(op, Add | Concat | Flatten) and self.current & set(op.inputs):
                self.current.add(op.name)
            if isinstance(op, Quantize | Flatten) and op.inputs[0] in self.host:
                self.host.add(op.name)

    def walk(self):
        for t in range(self.graph.T):
            frame = self.x if self.graph.input.encoding == "direct" else self.x[t]
            self.now = {self.graph.input.name: {place: float(v) for place, v in np.ndenumerate(frame)}}
            for op in self.graph.ops:
                shape = self.graph.shapes[op.name]
                if isinstance(op, Delay):
                    past = self.past[op.inputs[0]]
                    value = past[t - op.steps] if t >= op.steps else {}
                    self.now[op.name] = {p: value.get(p, 0) for p in np.ndindex(*shape)}
                    self.terms.update(state_read=len(self.now[op.name]), state_write=len(self.now[op.name]))
                else:
                    self.now[op.name] = self.step(op, shape, t)
            for name, value in self.now.items():
                self.past[name].append(value)
        return self.terms

    def is_event(self, name, place):
        return self.now[name][place] != 0 or (name in self.host and self.kind[name] == "real")

    def operation(self, name, place, dense):
        """An operation on one element; `dense`: real values always take one."""
        if self.kind[name] == "real":
            self.terms["mac"] += dense
            return dense or self.is_event(name, place)
        if self.now[name][place] == 0:
            return False
        self.terms["ac" if self.kind[name] == "spike" else "mac"] += 1
        self.terms["weight_read"] += not dense
        return True

    def step(self, op, shape, t):
        places, read = list(np.ndindex(*shape)), op.inputs
        if isinstance(op, SYNAPSES):
            made = dict.fromkeys(places, 0)
            before = self.terms["ac"] + self.terms["mac"]
            numbers, activity = self.now[read[0]], self.activity[op.name]
            activity.update(input_elements=len(numbers), input_events=sum(n != 0 for n in numbers.values()))
            for o, i in connections(op, self.graph.shapes[read[0]]):
                made[o] |= int(self.operation(read[0], i, dense=True))
                if numbers[i] != 0 and weight_of(op, o, i) != 0:
                    activity["ac_nonzero" if self.kind[read[0]] == "spike" else "mac_nonzero"] += 1
            self.terms["weight_read"] += self.terms["ac"] + self.terms["mac"] - before
            self.terms["bias_add"] += len(places) * (getattr(op, "bias", None) is not None)
            return made
        if isinstance(op, POOLS):
            self.terms["pool_or" if isinstance(op, MaxPool2d) else "pool_add"] += len(places) * (
                math.prod(op.kernel) - 1
            )
            made = dict.fromkeys(places, 0)
            for o, i in connections(op, self.graph.shapes[read[0]]):
                if isinstance(op, SumPool2d) and self.kind[op.name] == "message":
                    made[o] += self.now[read[0]][i]
                else:
                    made[o] |= int(self.is_event(read[0], i))
            return made
        if isinstance(op, NEURONS):
            return self.neurons(op, shape, places, t)
        return self.add(op, places) if isinstance(op, Add) else self.moved(op, places)

    def moved(self, op, places):
        read = op.inputs
        if isinstance(op, Flatten):
            return dict(zip(places, self.now[read[0]].values(), strict=True))
        if isinstance(op, Concat):
            return dict(zip(places, [v for name in read for v in self.now[name].values()], strict=True))
        if isinstance(op, Quantize):
            self.terms["conversion"] += len(places)
            scale, top = float(op.scale), 2**op.message_bits - 1
            return {p: float(np.clip(np.rint(np.float32(self.now[read[0]][p]) * scale), -top, top)) for p in places}
        self.terms["conversion"] += len(places)
        return self.now[read[0]]

    def join(self, name, place):
        """One element of what is no current joins a current, or a neuron."""
        if name in self.host:
            self.terms["residual_add"] += self.is_event(name, place)
        elif self.kind[name] == "real":
            self.terms["residual_add"] += 1
        else:
            self.operation(name, place, dense=False)

    def add(self, op, places):
        made = {}
        for place in places:
            if op.name in self.current:
                for name in op.inputs:
                    if name not in self.current:
                        self.join(name, place)
            elif self.kind[op.name] == "real":
                self.terms["residual_add"] += len(op.inputs) - 1
            else:
                self.terms["residual_add"] += max(0, sum(self.now[name][place] != 0 for name in op.inputs) - 1)
            numbers = [self.now[name][place] for name in op.inputs]
            made[place] = (
                sum(numbers)
                if self.kind[op.name] == "message"
                else int(any(self.is_event(name, place) for name in op.inputs))
            )
        return made

    def neurons(self, op, shape, places, t):
        (source,) = op.inputs
        if isinstance(op, LoihiLIF):
            kept = [(4096 - op.dv) / 4096, (4095 - op.du) / 4096]
        else:
            kept = [op.decay, op.current_decay] if isinstance(op, CubaLIF) else [op.decay]
        kept = [np.broadcast_to(k, shape) for k in kept]
        made = {}
        for place in places:
            spike = not isinstance(op, LI) and bool(self.spikes[op.name][t][place])
            event = self.is_event(source, place)
            if source not in self.current | self.host:
                self.join(source, place)
            self.terms["neuron_active" if spike or event else "neuron_inactive"] += 1
            factors = [k[place] for k in kept]
            self.terms["neuron_multiply"] += sum(f not in (0, 1) for f in factors)
            self.terms["neuron_add"] += sum(f != 0 for f in factors)
            words = 1 + sum(f != 0 for f in factors[1:])
            self.terms.update(state_read=words, state_write=words, spike=spike, reset=spike)
            self.terms["neuron_compare"] += not isinstance(op, LI)
            self.terms["bias_add"] += bool(isinstance(op, LoihiLIF) and op.bias_mant.any())
            made[place] = int(event if isinstance(op, LI) else spike)
        return made


def oracles(graph, x, trace):
    """The oracle of each sample."""
    for i, sample in enumerate(x):
        binary = bool(((sample == 0) | (sample == 1)).all())
        real = graph.input.message_bits is None and not (graph.input.encoding == "time_series" and binary)
        yield Oracle(graph, sample, {name: s[i] for name, s in trace.spikes.items()}, real)


def walked(graph, x, trace):
    terms = collections.Counter(dict.fromkeys(TERMS, 0))
    for oracle in oracles(graph, x, trace):
        terms.update(oracle.walk())
    return dict(terms)


def part_of(trace, samples, steps=slice(None)):
    return Trace("any", trace.output[samples], {name: s[samples, steps] for name, s in trace.spikes.items()})


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_every_term_of_random_graphs_is_that_of_a_walk_over_all_connections(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x, trace = random_run(rng, graph, 2)
    assert count(graph, trace, x).totals == walked(graph, x, trace)


def test_the_random_graphs_hold_every_op():
    kinds = collections.Counter(type(op) for seed in range(300) for op in random_graph(np.random.default_rng(seed)).ops)
    assert set(kinds) == {*SYNAPSES, *POOLS, *NEURONS, Add, Concat, Delay, Flatten, Quantize, Dequantize}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_non_zero_operations_are_those_of_a_walk_over_the_weights_that_are_not_0(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x, trace = random_run(rng, graph, 2)
    rows = {row.layer: row for row in count(graph, trace, x).layers}
    walks = list(oracles(graph, x, trace))
    for walk in walks:
        walk.walk()
    for name, row in rows.items():
        found = sum((walk.activity.get(name, collections.Counter()) for walk in walks), collections.Counter())
        assert row.activity == {term: found[term] for term in row.activity}
        known = set(row.activity) == set(ACTIVITY)
        assert known or (set(row.activity) == {"input_elements"} and row.input in ("real-valued", "mixed"))
        assert known or graph.by_name[name].inputs[0] != "x"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_rows_steps_and_samples_sum_to_the_totals(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x, trace = random_run(rng, graph, 3)
    whole = count(graph, trace, x)
    alone = [count(graph, part_of(trace, slice(i, i + 1)), x[i : i + 1]) for i in range(len(x))]
    for term in TERMS:
        samples = [counts.totals[term] for counts in alone]
        assert whole.totals[term] == sum(row.counts[term] for row in whole.layers) == sum(samples)
        spread = whole.spreads[term]
        assert (spread.minimum, spread.maximum) == (min(samples), max(samples))
        assert spread.squares == sum(n * n for n in samples)
        assert spread.std(sum(samples), len(x)) == pytest.approx(np.std(samples))
        for i, row in enumerate(whole.layers):
            of_row = [counts.layers[i].counts[term] for counts in alone]
            assert sum(row.steps[term]) == row.counts[term] == sum(of_row)
            assert len(row.steps[term]) == graph.T
            spread = row.spreads[term]
            assert (spread.minimum, spread.maximum) == (min(of_row), max(of_row))
            assert spread.squares == sum(n * n for n in of_row)
    for row in whole.layers:
        assert (row.neuron_spikes is None) == (row.neurons is None)
        if row.neurons is not None:
            fired = trace.spikes[row.neurons].reshape(len(x) * graph.T, -1)
            assert row.neuron_spikes.tolist() == fired.sum(axis=0).tolist()
            assert (row.dead, row.saturated) == (int((~fired.any(axis=0)).sum()), int(fired.all(axis=0).sum()))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_counts_at_t_are_those_of_a_network_of_t_steps(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x, trace = random_run(rng, graph, 2)
    series = graph.input.encoding == "time_series"
    if series and graph.input.message_bits is None and not ((x == 0) | (x == 1)).all():
        x[0, 0].flat[0] = 0.4  # what a sample is, is judged by all of its steps: the first tells
    whole = count(graph, trace, x)
    for t in range(1, graph.T + 1):
        shorter = count(replace(graph, T=t), part_of(trace, slice(None), slice(t)), x[:, :t] if series else x)
        assert whole.at(t) == shorter.totals
    assert whole.at(graph.T) == whole.totals
    for t in (0, graph.T + 1):
        with pytest.raises(RmpDeployError, match=rf"^counts: t = {t}, allowed 1..{graph.T}\. "):
            whole.at(t)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), at_once=st.integers(1, 3))
def test_counts_add_up_over_samples_and_never_fall_with_another_spike(seed, at_once):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x, trace = random_run(rng, graph, 4)
    whole = count(graph, trace, x)
    cuts = [0, *sorted(rng.choice([1, 2, 3], int(rng.integers(1, 4)), replace=False).tolist()), 4]
    shards = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    assert reduce(add, [count(graph, part_of(trace, part), x[part]) for part in shards]) == whole
    with pytest.MonkeyPatch.context() as patch:  # as of a trace that is too large to be counted at once
        largest = max(map(math.prod, graph.shapes.values()))
        patch.setattr(sys.modules[count.__module__], "AT_ONCE", at_once * graph.T * largest)
        assert count(graph, trace, x) == whole
    louder = {name: spikes.copy() for name, spikes in trace.spikes.items()}
    one_more = louder[str(rng.choice(list(louder)))]
    one_more.flat[rng.integers(one_more.size)] = True
    more = count(graph, replace(trace, spikes=louder), x).totals
    for term, n in whole.totals.items():
        assert more[term] >= n or term == "neuron_inactive", term


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_counter_counts_batch_after_batch_what_count_does(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    counter = Counter(graph)
    for n in (2, 1, 3):
        x, trace = random_run(rng, graph, n)
        assert counter.count(trace, x) == count(graph, trace, x)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_shortcut_costs_what_its_identity_synapse_costs(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    if graph.of_type(AvgPool2d, MaxPool2d):
        return  # of real values an identity synapse would multiply; an OR becomes neurons
    x, trace = random_run(rng, graph, 2)
    assert count(as_synapses(graph), trace, x).totals == count(graph, trace, x).totals


@pytest.mark.parametrize("seed", range(12))
def test_every_backend_gives_the_same_counts(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    x, _ = random_run(rng, graph, 3)
    traces = [backends.run(graph, x.astype(np.float32), name, ("spikes",)) for name in ("reference", "onnxruntime")]
    first, second = (count(graph, trace, x) for trace in traces)
    assert first == second


@pytest.mark.parametrize("integer", [False, True])
def test_lava_gives_the_same_counts(convnet, quantized, images, integer):
    pytest.importorskip("lava", reason="Lava is an optional extra")
    graph, x = convnet(), images(5)
    graph = quantized(graph) if integer else fold_pool(graph)
    counted = [count(graph, backends.run(graph, x, name, ("spikes",)), x) for name in backends.BACKENDS]
    assert all(each == counted[0] for each in counted)


# --- a residual block by hand -----------------------------------------------------------------------------------------


def block(shortcut: str) -> SpikingGraph:
    """lif1 -> conv2 -> + -> lif2, with lif1's spikes, or a convolution of them, joining at the +."""
    ones = np.ones((2, 2, 3, 3))
    ops = [
        Conv2d(name="conv1", inputs=("x",), weight=np.ones((2, 1, 1, 1))),
        LIF(name="lif1", inputs=("conv1",), decay=0.5, v_threshold=0.5),
        Conv2d(name="conv2", inputs=("lif1",), weight=ones, padding=(1, 1)),
        Conv2d(name="side", inputs=("lif1",), weight=np.ones((2, 2, 1, 1))),
        Add(name="sum", inputs=("conv2", shortcut)),
        LIF(name="lif2", inputs=("sum",), decay=0.5, v_threshold=0.5),
    ]
    ops = [op for op in ops if op.name != "side" or shortcut == "side"]
    return SpikingGraph("block", Input("x", (1, 4, 4), "time_series"), tuple(ops), Readout("lif2", "sum"), 1)


def block_run(graph: SpikingGraph) -> dict[str, dict[str, int]]:
    """One spike of channel 0 in the corner, and one of channel 1 inside."""
    spikes = {name: np.zeros((1, 1, 2, 4, 4), bool) for name in ("lif1", "lif2")}
    spikes["lif1"][0, 0, 0, 0, 0] = spikes["lif1"][0, 0, 1, 2, 1] = True
    counts = count(graph, Trace("by hand", np.zeros((1, 1)), spikes), np.zeros((1, 1, 1, 4, 4)))
    return {row.layer: dict(row.counts) for row in counts.layers}


def test_an_identity_shortcut_is_one_accumulate_for_each_spike():
    rows = block_run(block("lif1"))
    assert list(rows) == ["conv1", "conv2"]
    assert (
        rows["conv2"]["ac"] == 2 * 4 + 2 * 9 + 2
    )  # both channels: the corner's 4 outputs, the other's 9, the shortcut
    assert rows["conv2"]["weight_read"] == rows["conv2"]["ac"]
    assert rows["conv2"]["residual_add"] == 0  # the neuron accumulates both


def test_a_convolution_in_the_shortcut_is_a_layer_of_its_own():
    rows = block_run(block("side"))
    assert (rows["conv2"]["ac"], rows["side"]["ac"]) == (2 * 4 + 2 * 9, 2 * 2)
    assert sum(row["residual_add"] for row in rows.values()) == 0
    assert sum(row["neuron_active"] for row in rows.values()) == 2 + 2 * 11  # lif1's spikes; whom conv2 reaches


@pytest.mark.parametrize("flat", [True, False])
def test_a_synapse_of_zeros_is_no_shortcut(flat):
    """It is counted like any other weights: one accumulate for each connection that a spike meets."""
    zeros = np.zeros((2, 2)) if flat else np.zeros((2, 1, 1, 1))
    side = (
        Linear(name="side", inputs=("lif1",), weight=zeros)
        if flat
        else Conv2d(name="side", inputs=("lif1",), weight=zeros, groups=2)
    )
    shape, eye = ((2,), np.eye(2)) if flat else ((2, 1, 1), np.eye(2)[..., None, None])
    synapse = Linear if flat else Conv2d
    ops = (
        synapse(name="fc1", inputs=("x",), weight=eye),
        LIF(name="lif1", inputs=("fc1",), decay=0.5, v_threshold=0.5),
        synapse(name="fc2", inputs=("lif1",), weight=eye + 1),
        side,
        Add(name="sum", inputs=("fc2", "side")),
        LIF(name="lif2", inputs=("sum",), decay=0.5, v_threshold=0.5),
    )
    graph = SpikingGraph("zeros", Input("x", shape, "time_series", 0), ops, Readout("lif2", "sum"), 1)
    x = np.ones((1, 1, *shape), np.float32)
    rows = {row.layer: row.counts for row in count(graph, reference.run(graph, x, ("spikes",)), x).layers}
    assert (rows["fc2"]["ac"], rows["side"]["ac"]) == (4, 4 if flat else 2)


def test_the_ann_twin_adds_a_shortcut_and_multiplies_nothing_for_it():
    plain, written = twin(block("lif1")), twin(as_synapses(block("lif1")))
    assert plain == written
    assert [row.layer for row in plain.layers] == ["conv1", "conv2"]
    assert plain.macs == 32 + 2 * 2 * 10 * 10  # 3 taps on 4 pixels with a border meet 10 of 12
    assert [row.macs for row in twin(block("side")).layers] == [32, 400, 64]


def test_a_message_of_0_is_not_sent_and_others_multiply():
    ops = (
        Quantize(name="q", inputs=("x",), scale=10.0, message_bits=4),
        LoihiLinear(name="fc", inputs=("q",), weight=[[2, 4, 6], [2, 2, 2]]),
        LoihiLIF(name="lif", inputs=("fc",), du=4095, dv=4096, vth=1000),
        Flatten(name="flat", inputs=("lif",)),
        LoihiLinear(name="out", inputs=("flat",), weight=[[2, 2]]),
        Dequantize(name="real", inputs=("out",), scale=0.1),
    )
    graph = SpikingGraph("graded", Input("x", (3,), "direct"), ops, Readout("real", "mean"), 3)
    x = np.array([[0.0, 0.04, 0.5], [-0.2, 1.0, 2.0]], np.float32)  # 0, 0, 5 and -2, 10, 15 (clipped)
    counts = count(graph, reference.run(graph, x, ("spikes",)), x)
    row, out = counts.layers
    assert (row.layer, row.input, row.mac_if_cached) == ("fc", "graded", (1 + 3) * 2)
    assert (row.counts["mac"], row.counts["ac"], row.counts["conversion"]) == (3 * (1 + 3) * 2, 0, 3 * 2 * 3)
    assert (out.input, out.counts["conversion"], out.counts["mac"]) == ("spikes", 3 * 2, 0)


def test_fan_out_of_one_axis():
    op = Conv1d(name="c", inputs=("x",), weight=np.ones((4, 1, 3)), padding=(1,), stride=(2,), groups=2)
    np.testing.assert_array_equal(fan_out(op, (2, 4)), [[2, 4, 2, 2]] * 2)


# --- relays -----------------------------------------------------------------------------------------------------------


def residual(loihi: bool, flat: bool = False) -> SpikingGraph:
    """Two layers with a shortcut around the second, behind it an OR pool; on a map, or on flat values."""
    rng = np.random.default_rng(3)

    def synapse(name: str, source: str) -> Op:
        shape = (4, 4) if flat else (2, 2, 3, 3)
        if loihi:
            kind, weight = LoihiLinear if flat else LoihiConv2d, 2 * rng.integers(-2, 5, shape)
        else:
            kind, weight = Linear if flat else Conv2d, rng.normal(0.2, 0.5, shape)
        return kind(name=name, inputs=(source,), weight=weight, **({} if flat else {"padding": (1, 1)}))

    def neurons(name: str, source: str) -> Op:
        if loihi:
            return LoihiLIF(name=name, inputs=(source,), du=4095, dv=2048, vth=4)
        return LIF(name=name, inputs=(source,), decay=0.5, v_threshold=0.5)

    ops = [synapse("w1", "x"), neurons("s1", "w1"), synapse("w2", "s1"), neurons("s2", "w2"), synapse("w3", "s2")]
    ops += [Add(name="sum", inputs=("w3", "s1")), neurons("s3", "sum")]
    if not flat:
        ops.append(MaxPool2d(name="pool", inputs=("s3",), kernel=(2, 2), stride=(2, 2)))
    ops.append(synapse("w4", ops[-1].name))
    shape = (4,) if flat else (2, 4, 4)
    return SpikingGraph("residual", Input("x", shape, "time_series", 0), tuple(ops), Readout("w4", "sum"), 4)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("loihi", [False, True])
def test_relays_count_as_the_neurons_that_they_are_and_need_no_trace_of_their_own(loihi, flat):
    graph = residual(loihi, flat)
    x = (np.random.default_rng(4).random((5, 4, *graph.input.shape)) < 0.4) * 1.0
    trace = reference.run(graph, x, ("spikes",))
    balanced = balance_latency(graph)
    assert relays(graph) == {"s1": 1}
    counts = count(balanced, trace, x)
    assert counts == count(balanced, reference.run(balanced, x, ("spikes",)), x)
    row = next(row.counts for row in counts.layers if row.layer == "relay_s1_1")
    spikes, size = int(trace.spikes["s1"].sum()), trace.spikes["s1"].size
    assert row["ac"] == row["weight_read"] == row["spike"] == row["neuron_active"] == spikes > 0
    assert row["neuron_compare"] == size
    more = {term: n - count(graph, trace, x).totals[term] for term, n in counts.totals.items()}
    if flat:
        assert {term: n for term, n in more.items() if n} == {term: n for term, n in row.items() if n}
    else:
        assert more["pool_or"] == -count(graph, trace, x).totals["pool_or"]
        assert more["ac"] == spikes + int(trace.spikes["s3"].sum())  # each window's pixel is one synapse


@pytest.mark.parametrize("loihi", [False, True])
def test_lava_gives_the_same_counts_of_a_residual_network(loihi):
    """Its relays, which Lava runs, are in no trace."""
    pytest.importorskip("lava", reason="Lava is an optional extra")
    graph = residual(loihi)
    x = (np.random.default_rng(4).random((3, 4, *graph.input.shape)) < 0.4) * 1.0
    traces = [backends.run(graph, x, name, ("spikes",)) for name in ("reference", "lava")]
    assert count(graph, traces[0], x) == count(graph, traces[1], x)
    assert traces[0].spikes["s3"].any()
