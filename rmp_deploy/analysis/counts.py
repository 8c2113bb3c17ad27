"""Exact integer counts, per layer, of what a spiking network did: taken from spikes that really happened.

A synapse is a position of the kernel that meets a pixel, whatever its weight: a weight that is 0 still counts. A value
that is 0 or 1 because a neuron made it costs one accumulate (AC) per synapse it reaches and nothing where it is 0.
Every other value costs one multiply-accumulate (MAC) per synapse and step, zeros included: the hardware cannot skip
what it does not know. Counts add up: over samples, and over the shards of a data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LIF, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Op, Shape
from rmp_deploy.ir.trace import Trace

InputKind = Literal["spikes", "real-valued", "mixed"]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Samples = npt.NDArray[np.generic]


@dataclass(frozen=True)
class LayerCounts:
    """One synaptic layer and the neurons it feeds, summed over all samples and steps.

    Attributes:
        layer: name of the synaptic op (of the LIF or pool itself where it has no synaptic op).
        neurons: the LIF that the layer feeds, if any.
        input: what the layer reads; "mixed" where some samples of a time series are binary and others are not.
        counts: exact integers, one for every name in `TERMS`.
        mac_if_cached: `mac` if a layer whose input does not change over the steps computed it once per sample.
    """

    layer: str
    neurons: str | None
    input: InputKind
    counts: Mapping[str, int]
    mac_if_cached: int

    @property
    def firing_rate(self) -> float | None:
        """Spikes per neuron and step [1]; None for a layer without neurons."""
        steps = self.counts["neuron_active"] + self.counts["neuron_inactive"]
        return self.counts["spike"] / steps if steps else None

    def __add__(self, other: LayerCounts) -> LayerCounts:
        counts = {term: self.counts[term] + other.counts[term] for term in TERMS}
        kind = self.input if self.input == other.input else "mixed"
        return LayerCounts(self.layer, self.neurons, kind, counts, self.mac_if_cached + other.mac_if_cached)


@dataclass(frozen=True)
class Counts:
    """What `samples` samples of T steps did, one row per layer in topological order; `+` joins shards."""

    samples: int
    T: int
    layers: tuple[LayerCounts, ...]

    @property
    def totals(self) -> dict[str, int]:
        """Every term summed over the layers."""
        return {term: sum(row.counts[term] for row in self.layers) for term in TERMS}

    def __add__(self, other: Counts) -> Counts:
        """Counts of both shards.

        Raises:
            RmpDeployError: they are counts of different networks.
        """
        ours, theirs = ((c.T, [(row.layer, row.neurons) for row in c.layers]) for c in (self, other))
        if ours != theirs:
            raise RmpDeployError(
                f"counts: (T, layers) = {theirs}, allowed {ours} (those of the first shard). Add counts of one network."
            )
        rows = tuple(a + b for a, b in zip(self.layers, other.layers, strict=True))
        return Counts(self.samples + other.samples, self.T, rows)


@dataclass(frozen=True)
class TwinLayer:
    """Dense multiply-accumulates of one layer for one sample, with zero padding left out and with it counted."""

    layer: str
    macs: int
    macs_with_padding: int


@dataclass(frozen=True)
class Twin:
    """The ANN of the same layers: one pass over one sample."""

    layers: tuple[TwinLayer, ...]

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.layers)

    @property
    def macs_with_padding(self) -> int:
        return sum(row.macs_with_padding for row in self.layers)


@dataclass(frozen=True)
class _Value:
    """What is known of a value: events [N, T, *shape], which samples hold only 0 and 1 [N], whether steps differ."""

    events: Bools
    binary: Bools
    constant: bool


def count(graph: SpikingGraph, trace: Trace, x: Samples | None = None) -> Counts:
    """Count what `graph` did when it ran the N samples of `trace`; N, T and shapes must agree.

    Per row, summed over N samples and T steps:
        ac, mac             ``sum over input spikes of fan_out``; ``sum(fan_out)`` per step for other inputs
        bias_add            outputs of a synaptic op that has a bias, per step
        pool_add            windows * (kernel - 1), per step; the division by the kernel's size is not counted. A pool
                            belongs to the row that reads it, and makes that row's input real-valued (dense MACs)
        neuron_active       neurons that a synaptic event reached in this step or that spiked; neuron_inactive: the
                            others. Davies 2018 (IEEE Micro 38(1), Table 2) prices both without defining them: this
                            reading is our modelling choice
        neuron_multiply     neurons with decay other than 0 and 1, per step; neuron_add: with decay other than 0
        neuron_compare, state_read, state_write     neurons, per step
        reset, spike        spikes of the neurons
        weight_read         ac + mac

    Args:
        graph: the network as deployed, batch norm folded; pools folded where the target has none.
        trace: a run of `graph` with spikes recorded.
        x: the samples, [N, T, *shape]; needed for time_series input alone. A sample is spikes if all of it is 0 or 1.

    Raises:
        RmpDeployError: spikes are missing or do not fit, `x` is missing or does not fit, or an op has no counting rule.
    """
    if trace.n_samples < 1:
        raise RmpDeployError(f"counts of graph '{graph.name}': samples = 0, allowed >= 1. Run the network first.")
    check(graph)
    values = _values(graph, trace, x)
    row_of = _row_of(graph)
    rows = []
    for name in [op.name for op in graph.ops if op.name in row_of.values()]:
        ops = [op for op in graph.ops if row_of[op.name] == name and type(op) in COUNT]
        counts = dict.fromkeys(TERMS, 0)
        for op in ops:
            for term, n in COUNT[type(op)](op, values[op.inputs[0]], values[op.name]).items():
                counts[term] += n
        head = values[graph.by_name[name].inputs[0]]
        kind: InputKind = "spikes" if head.binary.all() else "mixed" if head.binary.any() else "real-valued"
        cached = counts["mac"] // (graph.T if head.constant else 1)
        neurons = next((op.name for op in ops if isinstance(op, LIF)), None)
        rows.append(LayerCounts(name, neurons, kind, counts, cached))
    return Counts(trace.n_samples, graph.T, tuple(rows))


def check(graph: SpikingGraph) -> None:
    """Raise RmpDeployError if `graph` has an op without a counting rule: ask before a run."""
    for op in graph.ops:
        if type(op) not in REACH and type(op) is not LIF:
            allowed = ", ".join([*(kind.__name__ for kind in REACH), LIF.__name__])
            fold, other = "Fold it (passes.fold_batchnorm)", f"{op.kind} is not counted: use a network without it"
            todo = fold if isinstance(op, BatchNorm) else other
            raise op_error(op.kind, op.name, "counting rule = none", allowed, todo)


def twin(graph: SpikingGraph) -> Twin:
    """Dense MACs of the ANN with the same Conv2d and Linear layers, one pass, per sample.

    Give it the network as designed, before `fold_pool`: an ANN pools first and then multiplies, so the folded kernel
    (k*k times larger for a k-pool) would charge the twin for work that it never does.
    """
    layers = []
    for op in graph.ops:
        if isinstance(op, Linear | Conv2d):
            dense = int(fan_out(op, graph.shapes[op.inputs[0]]).sum())
            fan_in, outputs = math.prod(op.weight.shape[1:]), math.prod(graph.shapes[op.name])
            layers.append(TwinLayer(op.name, dense, fan_in * outputs))
    return Twin(tuple(layers))


def fan_out(op: Op, input_shape: Shape) -> Ints:
    """Synapses that each position of an input of `input_shape` reaches, int64 of that shape.

    Linear: ``N_out`` everywhere. Conv2d: ``C_out / groups * f_H(h) * f_W(w)``, where on each axis
    ``f(n) = #{(o, i): o * stride + i * dilation - padding = n, 0 <= o < size_out, 0 <= i < K}``.
    Its sum is the layer's dense connections, padding excluded.

    Raises:
        RmpDeployError: `op` has no synapses, or `input_shape` does not fit it.
    """
    if not isinstance(op, Linear | Conv2d):
        raise op_error(op.kind, op.name, "fan-out = none", "Conv2d or Linear", "Ask for a synaptic op")
    output_shape = op.output_shape(input_shape)
    if isinstance(op, Linear):
        return np.full(input_shape, output_shape[0], dtype=np.int64)
    per_axis = []
    for size, padding, taps in zip(input_shape[1:], op.padding, _conv_taps(op, output_shape), strict=True):
        padded = np.zeros(size + 2 * padding, dtype=np.int64)
        for tap in taps:
            padded[tap] += 1
        per_axis.append(padded[padding : padding + size])
    per_pixel = op.weight.shape[0] // op.groups * np.outer(*per_axis)
    return np.broadcast_to(per_pixel, input_shape).copy()


def _taps(kernel: int, stride: int, dilation: int, outputs: int) -> list[slice]:
    """Along one axis, for each tap of a kernel, the pixels of the padded input that it meets, one per output."""
    starts = (i * dilation for i in range(kernel))
    return [slice(start, start + (outputs - 1) * stride + 1, stride) for start in starts]


def _conv_taps(op: Conv2d, output_shape: Shape) -> list[list[slice]]:
    axes = zip(op.weight.shape[2:], op.stride, op.dilation, output_shape[1:], strict=True)
    return [_taps(*axis) for axis in axes]


def _any_in_window(events: Bools, taps: list[list[slice]], shape: Shape) -> Bools:
    """[N, T, C, H, W] to [N, T, C, H_out, W_out]: is there an event in the window? One axis at a time."""
    rows = np.zeros((*events.shape[:3], shape[1], events.shape[4]), dtype=np.bool_)
    for tap in taps[0]:
        rows |= events[:, :, :, tap]
    windows = np.zeros((*events.shape[:3], *shape[1:]), dtype=np.bool_)
    for tap in taps[1]:
        windows |= rows[..., tap]
    return windows


def _reach_conv2d(op: Conv2d, events: Bools, shape: Shape) -> Bools:
    n, t, _, h, w = events.shape
    by_group = events.reshape(n, t, op.groups, -1, h, w).any(axis=3)
    ph, pw = op.padding
    padded = np.pad(by_group, ((0, 0), (0, 0), (0, 0), (ph, ph), (pw, pw)))
    return np.repeat(_any_in_window(padded, _conv_taps(op, shape), shape), shape[0] // op.groups, axis=2)


def _reach_pool(op: AvgPool2d, events: Bools, shape: Shape) -> Bools:
    axes = zip(op.kernel, op.stride, shape[1:], strict=True)
    return _any_in_window(events, [_taps(kernel, stride, 1, outputs) for kernel, stride, outputs in axes], shape)


def _reach_linear(op: Linear, events: Bools, shape: Shape) -> Bools:
    return np.broadcast_to(events.any(axis=-1, keepdims=True), (*events.shape[:2], *shape))


def _reach_flatten(op: Flatten, events: Bools, shape: Shape) -> Bools:
    return events.reshape(*events.shape[:2], *shape)


REACH: dict[type[Op], Callable[[Any, Bools, Shape], Bools]] = {
    Linear: _reach_linear,
    Conv2d: _reach_conv2d,
    AvgPool2d: _reach_pool,
    Flatten: _reach_flatten,
}


def _values(graph: SpikingGraph, trace: Trace, x: Samples | None) -> dict[str, _Value]:
    """Where events are in the input and in the value of every op."""
    values = {graph.input.name: _input(graph, trace.n_samples, x)}
    for op in graph.ops:
        read, shape = values[op.inputs[0]], graph.shapes[op.name]
        if isinstance(op, LIF):
            values[op.name] = _Value(_spikes(op, trace, (graph.T, *shape)), np.ones_like(read.binary), constant=False)
        else:
            events, binary = read.events, read.binary
            if isinstance(op, Linear | Conv2d) and not binary.all():  # dense MACs: real values reach every synapse
                events = events | ~binary.reshape(-1, *(1,) * (events.ndim - 1))
            if not isinstance(op, Flatten):
                binary = np.zeros_like(binary)
            values[op.name] = _Value(REACH[type(op)](op, events, shape), binary, read.constant)
    return values


def _input(graph: SpikingGraph, n: int, x: Samples | None) -> _Value:
    shape = (n, graph.T, *graph.input.shape)
    if x is not None:
        graph.check_samples(x)
        if len(x) != n:
            raise RmpDeployError(f"samples: N = {len(x)}, allowed {n} as in the trace. Give the samples that were run.")
    if graph.input.encoding == "direct":
        return _Value(np.broadcast_to(np.True_, shape), np.zeros(n, dtype=np.bool_), constant=True)
    if x is None:
        raise RmpDeployError(
            f"counts of graph '{graph.name}': samples = none, allowed {shape}. "
            "Give the samples: the events of a time series are not in the trace."
        )
    events = x != 0
    binary = (events == x).all(axis=tuple(range(1, x.ndim)))
    return _Value(events | ~binary.reshape(-1, *(1,) * (x.ndim - 1)), binary, constant=False)


def _spikes(op: LIF, trace: Trace, shape: Shape) -> Bools:
    wanted = (trace.n_samples, *shape)
    spikes = trace.spikes.get(op.name)
    if spikes is None:
        raise op_error(op.kind, op.name, "spikes in the trace = none", f"bool {wanted}", "Run with record=['spikes']")
    if spikes.shape != wanted:
        what = f"spikes in the trace = {spikes.shape}"
        raise op_error(op.kind, op.name, what, f"{wanted}", "Give a trace of this graph, latency removed")
    return spikes.astype(np.bool_, copy=False)


def _row_of(graph: SpikingGraph) -> dict[str, str]:
    """Name of the row that each op is counted in: its own, that of the synapse before it or of the synapse after it."""
    rows: dict[str, str] = {}
    for op in graph.ops:
        if isinstance(op, Linear | Conv2d):
            rows[op.name] = op.name
        elif isinstance(op, LIF):
            feeds = (s for s in graph.sources(op.inputs[0]) if isinstance(s, Linear | Conv2d | LIF))
            feeder = next((s.name for s in feeds if isinstance(s, Linear | Conv2d)), op.name)
            taken = any(rows.get(other.name) == feeder for other in graph.of_type(LIF))
            rows[op.name] = op.name if taken else feeder
    for op in reversed(graph.ops):
        if op.name not in rows:  # a pool or a Flatten: counted with what reads it, else with what made its input
            after = [rows[reader.name] for reader in graph.consumers(op.name)]
            before = [rows[source.name] for source in graph.sources(op.inputs[0]) if source.name in rows]
            rows[op.name] = [*after, *before, op.name][0]
    return rows


def _count_synapse(op: Linear | Conv2d, read: _Value, made: _Value) -> dict[str, int]:
    t, shape = read.events.shape[1], read.events.shape[2:]
    synapses = fan_out(op, shape)
    spikes = read.events[read.binary].sum(axis=(0, 1), dtype=np.int64)
    ac = int((spikes * synapses).sum())
    mac = int(np.count_nonzero(~read.binary)) * t * int(synapses.sum())
    return {"ac": ac, "mac": mac, "weight_read": ac + mac, "bias_add": 0 if op.bias is None else made.events.size}


def _count_pool(op: AvgPool2d, read: _Value, made: _Value) -> dict[str, int]:
    return {"pool_add": made.events.size * (math.prod(op.kernel) - 1)}


def _count_neurons(op: LIF, read: _Value, made: _Value) -> dict[str, int]:
    updates, spikes = made.events.size, int(np.count_nonzero(made.events))
    active = int(np.count_nonzero(read.events | made.events))
    decay = np.broadcast_to(op.decay, made.events.shape[2:])
    per_neuron = updates // decay.size  # N * T
    return {
        "neuron_active": active,
        "neuron_inactive": updates - active,
        "neuron_multiply": int(np.count_nonzero((decay != 0) & (decay != 1))) * per_neuron,
        "neuron_add": int(np.count_nonzero(decay)) * per_neuron,
        **dict.fromkeys(("neuron_compare", "state_read", "state_write"), updates),
        **dict.fromkeys(("reset", "spike"), spikes),
    }


COUNT: dict[type[Op], Callable[[Any, _Value, _Value], dict[str, int]]] = {
    Linear: _count_synapse,
    Conv2d: _count_synapse,
    AvgPool2d: _count_pool,
    LIF: _count_neurons,
}
