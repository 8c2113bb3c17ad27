"""What shares one scale: neurons, or the readout, with every synapse whose current they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    BatchNorm,
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
    Op,
    Quantize,
    SpikingNeuron,
    SumPool2d,
)
from rmp_deploy.passes.identity_synapses import PASSING, SYNAPSES, currents

F64 = npt.NDArray[np.float64]
Synapse: TypeAlias = Linear | Conv2d
MAX_GAIN = 1e30  # potentials times it stay in float32


@dataclass(frozen=True)
class Layer:
    """Synapses that share one scale.

    Attributes:
        name: of the neurons, or of the value that is read out.
        neuron: None for the readout.
        current: the value that the neurons read, or the readout.
        synapses: in the graph's order.
        between: the ops that join or move their currents, in the graph's order.
        gain: per output channel, (C,): what weights and bias are multiplied with so that one threshold holds for all
            neurons; (1,) if it does already.
    """

    name: str
    neuron: LIF | None
    current: str
    synapses: tuple[Synapse, ...]
    between: tuple[Op, ...]
    gain: F64

    @property
    def v_threshold(self) -> float | None:
        """The one threshold of the neurons, in float units times `gain`."""
        return None if self.neuron is None else float(self.neuron.v_threshold.max())

    def weight(self, op: Synapse) -> F64:
        """The weights of one of the synapses times the gain."""
        return op.weight * self.gain.reshape(-1, *(1,) * (op.weight.ndim - 1))

    def by_neuron(self, values: F64) -> F64:
        """Values per output channel, (C,), as they broadcast against the neurons: (C, 1, 1) before maps."""
        return values.reshape(-1, *(1,) * (self.synapses[0].weight.ndim - 2)) if values.size > 1 else values.reshape(())


def check_real(graph: SpikingGraph) -> None:
    """Raise RmpDeployError if an op of the graph is Loihi's already."""
    for op in graph.of_type(LoihiLinear, LoihiConv2d, LoihiLIF, Quantize, Dequantize):
        raise op_error(op.kind, op.name, f"op = {op.kind}", "real-valued ops", "The graph is quantized already")


def on_host(graph: SpikingGraph, input_coding: str) -> frozenset[str]:
    """The real-valued ops that stay on the host: from the input to the first neurons, which are among them."""
    if graph.input.message_bits is not None or input_coding == "graded":
        return frozenset()
    real, host = {graph.input.name}, set()
    for op in graph.ops:
        if not real.isdisjoint(op.inputs):
            host.add(op.name)
            if not isinstance(op, SpikingNeuron):
                real.add(op.name)
    return frozenset(host)


def layers_of(graph: SpikingGraph, host: frozenset[str]) -> list[Layer]:
    """The layers that Loihi gets, in order: every neuron op outside of `host`, and a readout of currents.

    Raises:
        RmpDeployError: Loihi has no such op or neuron, or a synapse belongs to no layer or to two.
    """
    moved = currents(graph, host)
    for op in graph.ops:
        _check(graph, op, host, moved)
    owner: dict[str, str] = {}
    found = []
    for name, neuron, current in _readers(graph, host, moved):
        ops = _behind(graph, current, moved)
        for op in ops:
            if owner.setdefault(op.name, name) != name:
                what, todo = f"read by '{owner[op.name]}' and by '{name}'", "Give each synapses of its own"
                raise op_error(op.kind, op.name, what, "one reader (weights share its scale)", todo)
        synapses = tuple(op for op in ops if isinstance(op, Linear | Conv2d))
        between = tuple(op for op in ops if not isinstance(op, Linear | Conv2d))
        _check_biases(neuron, synapses)
        gain = np.ones(1) if neuron is None else _gain(graph, neuron, between)
        found.append(Layer(name, neuron, current, synapses, between, gain))
    for op in graph.ops:
        if op.name in moved and op.name not in owner:
            raise op_error(op.kind, op.name, "read by nobody", "neurons or the readout", "Leave it out")
    if not found:
        what, todo = f"ops outside of the host = {len(graph.ops) - len(host)}", "Use input_coding = 'graded'"
        raise op_error("SpikingGraph", graph.name, what, "at least one layer for Loihi", todo)
    return found


def bias_of(graph: SpikingGraph, layer: Layer) -> F64:
    """What the biases of all synapses add to each neuron at every step, times the gain; broadcasts against the neurons.

    Raises:
        RmpDeployError: a Delay keeps a bias back in its first steps, which a neuron's bias cannot.
    """
    known: dict[str, F64] = {}
    for synapse in layer.synapses:
        bias = np.zeros(1) if synapse.bias is None else synapse.bias * layer.gain
        known[synapse.name] = bias.reshape(-1, *(1,) * (synapse.weight.ndim - 2))
    for op in layer.between:
        read = [known[i] for i in op.inputs]
        if isinstance(op, Delay):
            if read[0].any():
                todo = "Delay the spikes before the synapse"
                raise op_error(op.kind, op.name, f"input = '{op.inputs[0]}', a current with a bias", "no bias", todo)
            known[op.name] = read[0]
        elif isinstance(op, Flatten):
            whole = np.broadcast_to(read[0], graph.shapes[op.inputs[0]]).reshape(-1)
            known[op.name] = whole if whole.any() else np.zeros(1)
        elif isinstance(op, Concat):
            each = [np.broadcast_to(b, graph.shapes[i]) for b, i in zip(read, op.inputs, strict=True)]
            whole = np.concatenate(each)
            known[op.name] = whole if whole.any() else np.zeros((1,) * whole.ndim)
        else:
            known[op.name] = sum(read[1:], start=read[0])
    return known[layer.current]


def _readers(graph: SpikingGraph, host: frozenset[str], moved: frozenset[str]) -> Iterator[tuple[str, LIF | None, str]]:
    """Who reads currents: name, neuron, value that is read."""
    for op in graph.of_type(LIF):
        if op.name not in host:
            yield op.name, op, op.inputs[0]
    if graph.readout.value in moved:
        yield graph.readout.value, None, graph.readout.value


def _behind(graph: SpikingGraph, current: str, moved: frozenset[str]) -> list[Op]:
    """The synapses of a current and the ops between, in the graph's order."""
    names, waiting = set(), [current]
    while waiting:
        value = waiting.pop()
        if value in moved and value not in names:
            names.add(value)
            op = graph.by_name[value]
            waiting += op.inputs if isinstance(op, PASSING) else ()
    return [op for op in graph.ops if op.name in names]


def _check_biases(neuron: LIF | None, synapses: tuple[Synapse, ...]) -> None:
    if not isinstance(neuron, CubaLIF) or not neuron.current_decay.any():
        return
    for op in synapses:
        if op.bias is not None and op.bias.any():
            what = f"current_decay = {neuron.current_decay.max():g} and a bias of '{op.name}'"
            allowed = "one of them (Loihi adds a bias to v, where no current decays)"
            raise op_error(neuron.kind, neuron.name, what, allowed, "Train without a bias")


def _gain(graph: SpikingGraph, neuron: LIF, between: tuple[Op, ...]) -> F64:
    """``max(th) / th`` per channel."""
    th = neuron.v_threshold.astype(np.float64)
    if float(th.min()) <= 0:
        what, todo = f"v_threshold = {th.min():g}", "Scale and shift the layer so that it is above 0"
        raise op_error(neuron.kind, neuron.name, what, "> 0 (Loihi's is at least 0, and its scale is free)", todo)
    if (th == th.max()).all():
        return np.ones(1)
    shape = graph.shapes[neuron.name]
    if th.shape != (shape[0], *(1,) * (len(shape) - 1)):
        todo = "Give one per channel, which folds into the weights"
        raise op_error(neuron.kind, neuron.name, f"v_threshold.shape = {th.shape}", "one, or one per channel", todo)
    for op in between:
        if isinstance(op, Flatten | Concat):
            what, todo = f"v_threshold per neuron behind {op.kind} '{op.name}'", "Give one for all"
            raise op_error(neuron.kind, neuron.name, what, "one threshold, or a synapse right before", todo)
    gain: F64 = th.max() / th.reshape(-1)
    if gain.max() > MAX_GAIN:
        what, todo = f"v_threshold = {th.min():g}..{th.max():g}", "Remove the neurons whose threshold nothing reaches"
        raise op_error(neuron.kind, neuron.name, what, f"a ratio of at most {MAX_GAIN:g} (float32)", todo)
    return gain


def _check(graph: SpikingGraph, op: Op, host: frozenset[str], moved: frozenset[str]) -> None:
    def check(holds: bool, what: str, allowed: str, todo: str) -> None:
        if not holds:
            raise op_error(op.kind, op.name, what, allowed, todo)

    if isinstance(op, BatchNorm):
        check(False, "left in the graph", "folded into its synapse", "Put it right behind a synapse")
    if op.name in host:
        beside = sorted(moved & set(op.inputs))
        what = f"input = '{beside[0]}', a current of Loihi beside the host's values" if beside else ""
        check(not beside, what, "values of the host", "Use input_coding = 'graded'")
        return
    if isinstance(op, LI):
        todo = "Read out the mean or the sum of its current instead"
        check(False, "op = LI, neurons that do not spike", "LIF or CubaLIF", todo)
    if isinstance(op, Conv1d):
        check(False, "op = Conv1d", "Linear or Conv2d", "Train it as a Conv2d of height 1")
    if isinstance(op, (*SYNAPSES, SumPool2d)) and not moved.isdisjoint(op.inputs):
        check(False, f"input = '{op.inputs[0]}', a current", "spikes", "Put neurons between")
    if isinstance(op, LIF):
        todo = "Train with a hard reset"
        check(op.reset == "hard", f"reset = {op.reset!r}", "'hard' (Loihi resets to 0)", todo)
        todo = "Train with v_reset = 0 (a shift of v would start away from 0)"
        check(not op.v_reset.any(), f"v_reset = {op.v_reset.flat[0]:g}", "0", todo)
