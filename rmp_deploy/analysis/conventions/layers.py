"""Count the rows of a run as switches say: exact rational numbers, or why a number is not known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from rmp_deploy.analysis.conventions.switches import Switches
from rmp_deploy.analysis.counts import Counts, LayerCounts, fan_out
from rmp_deploy.analysis.counts.count import row_of
from rmp_deploy.analysis.counts.fan_out import SYNAPSES, Convolution, Dense
from rmp_deploy.analysis.counts.shortcut import is_shortcut
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Flatten,
    MaxPool2d,
    Quantize,
    SpikingNeuron,
    SumPool2d,
)

Number = Fraction | str  # a string: why it is not known
DT = Fraction(1, 1000)  # [s], KerasSpiking's default
WORD = 4  # bytes
QUEUE = 1000  # messages
POOLS = (AvgPool2d, SumPool2d, MaxPool2d)


class UnknownError(Exception):
    """Why the counts of a run do not tell a number."""


@dataclass(frozen=True)
class Run:
    """A graph and what it did; `designed`: the graph before BatchNorm was folded; `mean_input`: of ``|x|``."""

    graph: SpikingGraph
    counts: Counts
    designed: SpikingGraph | None = None
    mean_input: float | None = None

    @property
    def steps(self) -> int:
        """Steps of all samples."""
        return self.counts.samples * self.counts.T

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(Layer(self, row) for row in self.counts.layers)

    @cached_property
    def rows(self) -> dict[str, str]:
        return row_of(self.graph)

    @cached_property
    def currents(self) -> frozenset[str]:
        """Values that synapses made and no neuron has read yet."""
        found: set[str] = set()
        for op in self.graph.ops:
            if isinstance(op, SYNAPSES) or (isinstance(op, Add | Concat | Flatten) and found & set(op.inputs)):
                found.add(op.name)
        return frozenset(found)

    @cached_property
    def host(self) -> frozenset[str]:
        """What the host sends: the input, also quantized or flattened. Our counts add it up, and accumulate none."""
        found = {self.graph.input.name}
        for op in self.graph.ops:
            if isinstance(op, Quantize) or (isinstance(op, Flatten) and op.inputs[0] in found):
                found.add(op.name)
        return frozenset(found)

    def events(self, value: str) -> int:
        """Spikes of `value` over samples and steps, from those of the neurons that made it."""
        op = self.graph.by_name.get(value)
        if isinstance(op, SpikingNeuron):
            return next(row.counts["spike"] for row in self.counts.layers if row.layer == self.rows[op.name])
        if isinstance(op, Flatten | Concat):
            return sum(self.events(source) for source in op.inputs)
        read = [layer for layer in self.layers if op is None and layer.synapse and layer.source == value]
        if not read:
            raise UnknownError(f"the spikes of '{value}' are not counted")
        return read[0].activity("input_events")


@dataclass(frozen=True)
class Layer:
    """One row of the counts and its synapse, if it has one that is more than an identity."""

    run: Run
    row: LayerCounts

    @cached_property
    def synapse(self) -> Dense | Convolution | None:
        op = self.run.graph.by_name[self.row.layer]
        return op if isinstance(op, SYNAPSES) and not is_shortcut(self.run.graph, op) else None

    @property
    def op(self) -> Dense | Convolution:
        assert self.synapse is not None
        return self.synapse

    @property
    def source(self) -> str:
        """The value that the synapse reads, before it was flattened."""
        value = self.op.inputs[0]
        while isinstance(self.run.graph.by_name.get(value), Flatten):
            value = self.run.graph.by_name[value].inputs[0]
        return value

    @property
    def outputs(self) -> int:
        return math.prod(self.run.graph.shapes[self.op.name])

    @property
    def size(self) -> int:
        return math.prod(self.run.graph.shapes[self.op.inputs[0]])

    @cached_property
    def inside(self) -> int:
        """Connections, padding left out."""
        return int(fan_out(self.op, self.run.graph.shapes[self.op.inputs[0]]).sum())

    @property
    def connections(self) -> int:
        """Connections, padding counted."""
        return math.prod(self.op.weight.shape[1:]) * self.outputs

    @property
    def kernel(self) -> int:
        """Synapses of one input element, borders and stride ignored."""
        groups = getattr(self.op, "groups", 1)
        return math.prod(self.op.weight.shape[2:]) * (self.op.weight.shape[0] // groups)

    @property
    def strided(self) -> int:
        """As `kernel`, ``ceil(K / stride)`` in place of K on each axis."""
        if isinstance(self.op, Dense):
            return self.kernel
        axes = zip(self.op.weight.shape[2:], self.op.stride, strict=True)
        return math.prod(-(-k // s) for k, s in axes) * (self.op.weight.shape[0] // self.op.groups)

    def activity(self, name: str) -> int:
        if name not in self.row.activity:
            raise UnknownError(f"layer '{self.row.layer}' reads what the counts hold no '{name}' of")
        return self.row.activity[name]

    @cached_property
    def rate(self) -> Fraction:
        """Elements that the synapse read and that were not 0, of all."""
        return Fraction(self.activity("input_events"), self.activity("input_elements"))

    def joined(self, term: str) -> int:
        """Operations of the row that its synapse did not do: spikes and messages that join its current as they are."""
        counted = self.row.counts[term]
        if self.row.input == "real-valued":
            return counted if term == "ac" else counted - self.inside * self.run.steps
        if term != {"spikes": "ac", "graded": "mac"}[self.row.input]:
            return counted
        graph, found = self.run.graph, 0
        for add in graph.of_type(Add):
            if self.run.rows[add.name] == self.row.layer and add.name in self.run.currents:
                for value in add.inputs:
                    joins = value not in self.run.currents | self.run.host
                    found += self.run.events(value) if joins and graph.is_spikes(value) == (term == "ac") else 0
        return found


def count_rows(run: Run, switches: Switches, names: Sequence[str]) -> dict[str, list[tuple[Layer, Number]]]:
    """The named quantities of every row, over all samples and steps."""
    return {name: [(layer, _known(ROWS[name], layer, switches)) for layer in run.layers] for name in names}


def _known(rule: Callable[[Layer, Switches], Fraction | int], layer: Layer, switches: Switches) -> Number:
    try:
        return Fraction(rule(layer, switches))
    except UnknownError as why:
        return str(why)


def _kind(layer: Layer, switches: Switches) -> str:
    """What the layer reads, to this convention."""
    kind: str = layer.row.input
    if kind == "graded":
        return {"messages": kind, "real": "real-valued", "spikes": "spikes"}[switches.graded]
    return kind


def _ac(layer: Layer, switches: Switches) -> Fraction | int:
    return _operations(layer, switches, "ac")


def _mac(layer: Layer, switches: Switches) -> Fraction | int:
    return _operations(layer, switches, "mac")


def _operations(layer: Layer, switches: Switches, term: str) -> Fraction | int:
    """What the synapse does, and what joins it as it is."""
    counted = layer.row.counts[term]
    if switches == replace(Switches(), bias=switches.bias, residual=switches.residual):
        return counted
    if layer.synapse is None:
        return counted if switches.identities == "synapses" else 0
    if layer.row.input == "mixed":
        raise UnknownError(f"layer '{layer.row.layer}' reads spikes in some samples and real values in others")
    joined = layer.joined(term) if switches.identities == "synapses" else 0
    kind = _kind(layer, switches)
    if (term == "ac") != (kind == "spikes"):
        return joined
    return joined + {"spikes": _spikes, "graded": _messages, "real-valued": _real}[kind](layer, switches)


def _spikes(layer: Layer, switches: Switches) -> Fraction | int:
    """Accumulates of a layer that reads spikes, or integers that are taken for spikes."""
    if switches.spikes == "each":
        return _messages(layer, switches)
    if switches.spikes == "kernel":
        return layer.activity("input_events") * layer.strided
    steps = layer.run.steps if switches.steps != "one" else layer.run.counts.samples
    share = layer.rate if switches.spikes == "rate" else 1
    return share * _connections(layer, switches) * steps


def _messages(layer: Layer, switches: Switches) -> int:
    """One operation per synapse that an event reaches, whatever it is called."""
    term = "mac" if layer.row.input == "graded" else "ac"
    if switches.zeros == "skip":
        return layer.activity(f"{term}_nonzero")
    return layer.row.counts[term] - layer.joined(term)


def _real(layer: Layer, switches: Switches) -> Fraction | int:
    """Multiply-accumulates of a layer that reads real values, or integers that are taken for them."""
    if switches.zeros == "skip":
        return layer.activity("mac_nonzero")
    constant = layer.row.mac_if_cached < layer.row.counts["mac"]
    once = switches.steps == "one" or (switches.steps == "first once" and constant)
    dense = _connections(layer, switches) * (layer.run.counts.samples if once else layer.run.steps)
    if switches.real == "all":
        return dense
    if layer.run.mean_input is None or layer.source != layer.run.graph.input.name:
        raise UnknownError(
            f"the mean of what layer '{layer.row.layer}' reads is not known: give mean_input, if it is the input"
        )
    return dense * Fraction(layer.run.mean_input) * DT


def _connections(layer: Layer, switches: Switches) -> int:
    return layer.connections if switches.padding == "in" else layer.inside


def _own_bias(layer: Layer) -> bool:
    """Whether the bias is the synapse's, and not one of Loihi's neurons."""
    return layer.synapse is not None and getattr(layer.synapse, "bias", None) is not None


def _bias_add(layer: Layer, switches: Switches) -> Fraction | int:
    if switches.bias == "every step" or not _own_bias(layer):
        return layer.row.counts["bias_add"]
    kind = _kind(layer, switches)
    return layer.row.counts["bias_add"] * layer.rate if kind == "spikes" else 0


def _bias_mac(layer: Layer, switches: Switches) -> Fraction | int:
    if switches.bias == "every step" or not _own_bias(layer) or _kind(layer, switches) == "spikes":
        return 0
    return layer.row.counts["bias_add"]


def _is_convolution(layer: Layer) -> bool:
    return isinstance(layer.run.graph.by_name[layer.row.layer], Convolution)


def _residual(layer: Layer, switches: Switches) -> int:
    if switches.residual == "messages":
        return layer.row.counts["residual_add"]
    graph, found = layer.run.graph, 0
    for add in graph.of_type(Add):
        if layer.run.rows[add.name] == layer.row.layer:
            spikes = all(graph.is_spikes(value) for value in add.inputs)
            elements = math.prod(graph.shapes[add.name]) * (len(add.inputs) - 1) * layer.run.steps
            found += sum(layer.run.events(value) for value in add.inputs) if spikes else elements
    return found


def _pools(layer: Layer, spikes: bool) -> int:
    graph, found = layer.run.graph, 0
    for pool in graph.of_type(*POOLS):
        if layer.run.rows[pool.name] == layer.row.layer and graph.is_spikes(pool.inputs[0]) == spikes:
            elements = math.prod(graph.shapes[pool.inputs[0]]) * layer.run.steps
            found += layer.run.events(pool.inputs[0]) if spikes else elements
    return found


def _as_counted(term: str) -> Callable[[Layer, Switches], Fraction | int]:
    def rule(layer: Layer, switches: Switches) -> Fraction | int:
        return Fraction(layer.row.counts[term], layer.run.counts.T if switches.steps == "one" else 1)

    return rule


def _reads_spikes(layer: Layer) -> bool:
    return layer.synapse is not None and layer.row.input == "spikes"


def _per_spike(of: Callable[[Layer], int]) -> Callable[[Layer, Switches], Fraction | int]:
    """Of a layer that reads spikes: `of` each of them."""
    return lambda layer, _: layer.activity("input_events") * of(layer) if _reads_spikes(layer) else 0


def _per_synapse_and_sample(layer: Layer, once: bool) -> int:
    """Words of a layer that reads spikes: one per synapse of each of them, and with `once` one per output and sample.

    What is fetched once is fetched by a silent layer too.
    """
    if not _reads_spikes(layer):
        return 0
    return layer.activity("input_events") * layer.kernel + once * layer.outputs * layer.run.counts.samples


def _parameters(layer: Layer, _switches: Switches) -> int:
    return _per_synapse_and_sample(layer, once=_own_bias(layer))


def _potentials(layer: Layer, _switches: Switches) -> int:
    return _per_synapse_and_sample(layer, once=True)


ROWS: dict[str, Callable[[Layer, Switches], Fraction | int]] = {
    **{term: _as_counted(term) for term in TERMS},
    "ac": _ac,
    "mac": _mac,
    "bias_add": _bias_add,
    "residual_add": _residual,
    "bias_mac": _bias_mac,
    "ac_convolution": lambda layer, switches: _ac(layer, switches) if _is_convolution(layer) else 0,
    "ac_dense": lambda layer, switches: 0 if _is_convolution(layer) else _ac(layer, switches),
    "pool_event": lambda layer, _: _pools(layer, spikes=True),
    "pool_element": lambda layer, _: _pools(layer, spikes=False),
    "address_add": _per_spike(lambda of: of.kernel),
    "address_multiply": _per_spike(lambda of: 0 if isinstance(of.op, Dense) else 2),
    "read_spikes": _per_spike(lambda _: 1),
    "write_spikes": lambda layer, _: layer.row.counts["spike"],
    "read_parameters": _parameters,
    "read_potentials": _potentials,
    "write_potentials": _potentials,
}
SIZES: dict[str, Callable[[Layer], int]] = {
    "read_spikes": lambda _: WORD * QUEUE,
    "write_spikes": lambda _: WORD * QUEUE,
    "read_parameters": lambda of: WORD * (of.op.weight.size + (of.op.weight.shape[0] if _own_bias(of) else 0)),
    "read_potentials": lambda of: WORD * of.outputs,
    "write_potentials": lambda of: WORD * of.outputs,
}


def count_batch_norms(run: Run) -> dict[str, Number]:
    """Elements and channels of the BatchNorms of the network as designed, over all samples and steps."""
    norms: Sequence[BatchNorm] = run.designed.of_type(BatchNorm) if run.designed is not None else ()
    shapes = run.designed.shapes if run.designed is not None else {}
    elements, channels = (sum(of(shapes[op.name]) for op in norms) for of in (math.prod, lambda shape: shape[0]))
    return {
        "batch_norm_element": Fraction(elements * run.steps),
        "batch_norm_channel": Fraction(channels * run.steps),
    }
