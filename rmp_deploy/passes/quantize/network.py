"""Run the float and the integer network side by side on samples, and make integers of one layer after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.integers import LARGEST
from rmp_deploy.ir.ops import LIF, Delay, Dequantize, Linear, Op, Quantize, SpikingNeuron
from rmp_deploy.passes.identity_synapses import currents
from rmp_deploy.passes.quantize import steps
from rmp_deploy.passes.quantize.choose import Target, choose, corrected, current_of, judged_samples
from rmp_deploy.passes.quantize.layers import F64, Layer, Synapse, bias_of
from rmp_deploy.passes.quantize.results import LayerResult, LayerRuns, result_of
from rmp_deploy.passes.quantize.steps import F32
from rmp_deploy.passes.quantize.weights import Grid, grid

MESSAGE_BITS = 8  # of a graded input, at most
REAL_SAMPLES = (1e-30, 1e30)  # largest magnitude: room in float32 for the scale of a graded input, and for sums
MAX_REAL = 1e36  # of the float network's values and states: times a gain they stay in float32
FLOORS = 64  # where a synapse reads integers as large, a shift to the right may drop the lowest bits of its sums


class Calibration:
    """One run through a graph whose pools and BatchNorm are folded, and whose currents all come from synapses.

    `message_bits` are those of a graded input.

    Attributes:
        results: what became of each layer so far.
    """

    def __init__(
        self,
        graph: SpikingGraph,
        host: frozenset[str],
        layers: list[Layer],
        bits: dict[str, int],
        x: npt.NDArray[Any],
        message_bits: int = MESSAGE_BITS,
    ) -> None:
        self.results: list[LayerResult] = []
        self._made: dict[str, Op] = {}  # integer ops by name
        self._dequantize: Dequantize | None = None
        self._graph, self._host, self._bits, self._x = graph, host, bits, x
        self._layers = {layer.current: layer for layer in layers}
        self._moved = currents(graph, host)
        self._quantize: Quantize | None = None
        _check_largest(graph, x)
        name, frames = graph.input.name, steps.frames(graph, x)
        self._float: dict[str, F32] = {name: frames}  # values of the float network, [T, N, *shape]
        self._integer: dict[str, F32] = {name: frames}  # of the integer network; its currents are in no dict
        self._graded: set[str] = set()  # values that are the quantized input, as it is or moved
        self._largest: dict[str, int] = {}  # largest magnitude of a value of the integer network
        if graph.input.message_bits is not None:
            self._largest[name] = max(1, 2**graph.input.message_bits - 1)
        elif any(name in op.inputs and op.name not in host for op in graph.ops):
            self._quantize = _input_op(graph, x, message_bits)
            integers = reference.quantize(self._quantize, x.astype(np.float64))
            self._integer[name] = steps.frames(graph, integers)
            self._largest[name] = self._quantize.largest
            self._graded.add(name)

    def run(self) -> Iterator[LayerResult]:
        """Quantize one layer after the other; `graph` needs all of them."""
        graph, later = self._graph, self._later_spikes()
        for op in graph.ops:
            done = len(self.results)
            if isinstance(op, Delay) and op.name in later:
                self._float[op.name] = self._integer[op.name] = later[op.name]
                self._largest[op.name] = 1
            elif isinstance(op, LIF):
                run = steps.lif(op, self._float[op.inputs[0]])
                _check_finite(op, float(run.largest.max()))
                self._float[op.name] = self._integer[op.name] = run.spikes
                self._largest[op.name] = 1
                if op.inputs[0] in self._layers:
                    self._quantize_layer(self._layers[op.inputs[0]], run)
            else:
                self._stateless(op)
                if op.name == graph.readout.value and op.name in self._moved:
                    self._quantize_layer(self._layers[op.name], None)
            self._forget(op)
            yield from self.results[done:]

    def graph(self) -> SpikingGraph:
        """The integer graph."""
        ops: list[Op] = [self._made.get(op.name, op) for op in self._graph.ops]
        readout = self._graph.readout
        if self._quantize is not None:
            renamed = {self._graph.input.name: self._quantize.name}
            ops = [self._quantize, *(replace(op, inputs=tuple(renamed.get(i, i) for i in op.inputs)) for op in ops)]
        if self._dequantize is not None:
            ops, readout = [*ops, self._dequantize], replace(readout, value=self._dequantize.name)
        return replace(self._graph, ops=tuple(ops), readout=readout)

    def _stateless(self, op: Op) -> None:
        """The value of an op without neurons, in both networks; in the integer one, if it is not a current."""
        with np.errstate(over="ignore", invalid="ignore"):  # of float32, which is what is looked for
            self._float[op.name] = steps.stateless(op, *(self._float[i] for i in op.inputs))
        value = self._float[op.name]
        _check_finite(op, float(np.maximum(value.max(), -value.min())))
        if op.name in self._moved:
            return
        self._integer[op.name] = self._float[op.name]
        if any(self._integer[i] is not self._float[i] for i in op.inputs):
            self._integer[op.name] = steps.stateless(op, *(self._integer[i] for i in op.inputs))
        if op.name not in self._host:
            self._largest[op.name] = LARGEST[type(op)](op, *(self._largest[i] for i in op.inputs))
            if not self._graded.isdisjoint(op.inputs):
                self._graded.add(op.name)

    def _quantize_layer(self, layer: Layer, run: steps.Run | None) -> None:
        """Choose a layer's integers, run it in the integer network, and note what became of it."""
        gain = layer.by_neuron(layer.gain).astype(np.float32)
        if run is not None:
            run = replace(run, u=run.u * gain, largest=run.largest * layer.gain)
        grids, bias = [self._grid(layer, op) for op in layer.synapses], bias_of(self._graph, layer)
        target = Target(self._float[layer.current] * gain - bias.astype(np.float32), run)
        n = judged_samples(target.current)
        reads = {op.inputs[0]: self._integer[op.inputs[0]] for op in layer.synapses}
        choice = choose(layer, grids, bias, target, reads, n)
        current, forced = current_of(layer, choice.synapses, reads), None
        choice, free = corrected(choice, current, target)
        if choice.neurons is not None and free is not None:
            self._made[layer.name] = choice.neurons.op
            self._integer[layer.name] = free.spikes
            worlds = {name: self._integer if name in self._graded else self._float for name in reads}
            of_float = {name: world[name][:, :n] for name, world in worlds.items()}
            forced = steps.loihi_lif(choice.neurons.op, current_of(layer, choice.synapses, of_float))
        else:
            self._dequantize = _output_op(self._graph, layer.name, choice.scale, bias)
        self._made |= {op.name: op for op in choice.synapses}
        self.results.append(result_of(layer, grids, bias, target, choice, LayerRuns(current, free, forced)))

    def _grid(self, layer: Layer, op: Synapse) -> Grid:
        """What a synapse can hold; weights on a graded input are those of its integers."""
        read, unit = op.inputs[0], 1.0
        if read in self._graded and self._quantize is not None:
            unit = 1 / float(self._quantize.scale)
        largest = self._largest[read]
        floors = largest >= FLOORS and isinstance(op, Linear)  # Lava's Conv has no shift: it must drop no bits
        return grid(op, layer.weight(op), unit, self._bits[op.name], largest, floors)

    def _later_spikes(self) -> dict[str, F32]:
        """What recurrent edges carry: the spikes of the float network, by the name of their Delay."""
        graph, known, found = self._graph, {self._graph.input.name}, []
        for op in graph.ops:
            known.add(op.name)
            if isinstance(op, Delay) and op.inputs[0] not in known:
                if not isinstance(graph.by_name[op.inputs[0]], SpikingNeuron):
                    what, todo = f"input = '{op.inputs[0]}', made after it", "Delay the neurons' spikes themselves"
                    raise op_error(op.kind, op.name, what, "the spikes of neurons", todo)
                found.append(op)
        if not found:
            return {}
        spikes = reference.run(graph, self._x, record=("spikes",)).spikes
        return {op.name: steps.stateless(op, spikes[op.inputs[0]].swapaxes(0, 1).astype(np.float32)) for op in found}

    def _forget(self, done: Op) -> None:
        """Drop the values that nobody will read any more: a synapse reads when its layer is made integers."""
        if not isinstance(done, LIF):
            return
        position = self._graph.ops.index(done)
        needed = {i for op in self._graph.ops[position + 1 :] for i in op.inputs}
        for layer in self._layers.values():
            if layer.name not in {result.name for result in self.results}:
                needed |= {op.inputs[0] for op in layer.synapses}
        for values in (self._float, self._integer):
            for name in values.keys() - needed:
                del values[name]


def _check_largest(graph: SpikingGraph, x: npt.NDArray[Any]) -> None:
    """Refuse samples whose scale no float32 holds."""
    largest, (low, high) = float(np.abs(x).max()), REAL_SAMPLES
    if graph.input.message_bits is None and largest > 0 and not low <= largest <= high:
        what = f"largest |x| = {largest:g}, allowed {low:g}..{high:g}"
        raise RmpDeployError(f"samples for graph '{graph.name}': {what} (float32). Scale the data.")


def _input_op(graph: SpikingGraph, x: npt.NDArray[Any], message_bits: int) -> Quantize:
    """Integers of the input, the largest of the samples at full scale."""
    largest = float(np.abs(x).max())
    scale = np.array((2**message_bits - 1) / largest if largest > 0 else 1, np.float32)
    name = _free_name(graph, f"{graph.input.name}_quantize")
    return Quantize(name=name, inputs=(graph.input.name,), scale=scale, message_bits=message_bits)


def _check_finite(op: Op, largest: float) -> None:
    """Refuse a value or state of the float network that float32 does not hold."""
    if not largest <= MAX_REAL:
        todo = "Scale the data, or the weights"
        raise op_error(op.kind, op.name, f"largest |{op.name}| = {largest:g}", f"{MAX_REAL:g} (float32)", todo)


def _output_op(graph: SpikingGraph, current: str, scale: float, bias: F64) -> Dequantize:
    """Real values of the readout's currents, with the float bias."""
    name, factor = _free_name(graph, f"{current}_dequantize"), np.array(1 / scale, np.float32)
    return Dequantize(name=name, inputs=(current,), scale=factor, bias=bias.astype(np.float32))


def _free_name(graph: SpikingGraph, name: str) -> str:
    """`name`, or if an op has it, the first of ``name2``, ``name3`` ... that none has."""
    numbered = (f"{name}{n}" for n in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in graph.by_name)
