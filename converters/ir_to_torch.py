"""SpikingGraph of Loihi's integers -> a torch module of the same arithmetic that can be trained, and back.

The forward pass computes the integers of `rmp_deploy.ir.reference`, every spike and potential: states are integers in
float64, sums of synapses integers below 2^23 in float32, which holds them exactly in any order of summation.
Real-valued layers on the host run in float64, as in the reference. The backward pass goes straight through what rounds,
truncates, wraps or clips, and takes a surrogate gradient at the threshold.

Learnt are the weights of the synapses and the biases of the neurons, as real numbers that every pass rounds to what
Loihi holds. Their unit is the threshold of the neurons they drive (of a readout, that of the real values behind
`Dequantize`), so that learning rates and surrogates mean what they mean for the network in floating point. Thresholds,
decays and scales stay: a LIF with reset to 0 has the same spikes where weights, bias and threshold are scaled together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmp_deploy.converters.torch_integers import (
    HostNeuron,
    HostSynapse,
    Learnt,
    LoihiNeuron,
    LoihiSynapse,
    Readout,
    State,
)
from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.integers import MAX_INTEGER
from rmp_deploy.ir.ops import (
    LIF,
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
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
from rmp_deploy.ir.trace import Layers, Trace
from rmp_deploy.training.surrogate import Rectangular, Surrogate

F64 = npt.NDArray[np.float64]
Watch = Callable[[str, Tensor, Tensor, Tensor], None]  # told each neuron op's name, spikes, v and u in each step


def _quantize(op: Quantize, x: Tensor) -> Tensor:
    return (x * torch.from_numpy(op.scale.astype(np.float64))).round().clamp(-op.largest, op.largest)


def _concat(_op: Concat, *xs: Tensor) -> Tensor:
    return torch.cat(xs, dim=1)


def _sum_pool(op: SumPool2d, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, op.kernel, op.stride, op.padding, divisor_override=1)


STATELESS: dict[type[Op], Callable[..., Tensor]] = {
    Quantize: _quantize,
    Flatten: lambda _op, x: x.flatten(1),
    Add: lambda _op, *xs: sum(xs[1:], start=xs[0]),
    Concat: _concat,
    SumPool2d: _sum_pool,
    AvgPool2d: lambda op, x: F.avg_pool2d(x, op.kernel, op.stride, op.padding),
    MaxPool2d: lambda op, x: F.max_pool2d(x, op.kernel, op.stride, op.padding),
}


class IntegerNet(nn.Module):
    """The network of `graph`: samples [B, *shape] (direct) or [B, T, *shape] (time_series) to the readout [B, K].

    `float_graph` is the network that was quantized (`Quantized.float_graph`), op for op: the weights start at its, each
    as far as it rounds to the integer in `graph`. Without it they start at the integers.
    The surrogate's potentials are in units of the threshold: its default, 1/2 within one threshold of it, is that of
    `rmp_deploy.training` (a width of 1 at a threshold of 0.5).

    Raises:
        RmpDeployError: an op that cannot be trained so, or has no weights in `float_graph`, by name.
    """

    def __init__(
        self, graph: SpikingGraph, float_graph: SpikingGraph | None = None, surrogate: Surrogate | None = None
    ) -> None:
        super().__init__()
        self.graph = graph
        self.layers = nn.ModuleDict()  # of what is learnt or has a state, by `_key` of the op's name
        for op in graph.ops:
            if type(op) in LAYERS:
                self.layers[_key(op.name)] = LAYERS[type(op)](graph, op, surrogate or Rectangular(2.0))
            elif type(op) not in STATELESS and not isinstance(op, Delay):
                kinds: list[type[Op]] = [*LAYERS, *STATELESS, Delay]
                allowed = ", ".join(kind.__name__ for kind in kinds)
                raise op_error(op.kind, op.name, "training in integers = none", allowed, "Train it in floating point")
        if float_graph is not None:
            self._start_from(float_graph)
        self._steady = _steady(graph)

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, lambda *_: None)

    @torch.no_grad()
    def trace(self, x: npt.NDArray[Any]) -> Trace:
        """The readout, spikes, v and u of samples `x`, in the layout of every backend."""
        self.graph.check_samples(x)
        kept: dict[str, list[tuple[Tensor, ...]]] = {op.name: [] for op in self.graph.spiking}
        samples = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        output = self._run(samples, lambda name, *of: kept[name].append(of))
        spikes, v, u = (
            {name: torch.stack([of[i] for of in steps], 1).numpy() for name, steps in kept.items()} for i in range(3)
        )
        fired: Layers = {name: s > 0 for name, s in spikes.items()}
        return Trace("torch", output.numpy(), fired, v, u)

    def to_graph(self) -> SpikingGraph:
        """The graph with the weights and biases as they are now, rounded as the forward pass rounds them."""
        with torch.no_grad():
            ops = tuple(self._layer(op).to_op() if _key(op.name) in self.layers else op for op in self.graph.ops)
        return replace(self.graph, ops=ops)

    def _start_from(self, float_graph: SpikingGraph) -> None:
        for layer in self.layers.values():
            if isinstance(layer, LoihiSynapse):
                op = layer.op
                given = float_graph.by_name.get(op.name)
                if not isinstance(given, Linear | Conv2d) or given.weight.shape != op.weight.shape:
                    allowed, todo = f"{op.weight.shape}", "Give Quantized.float_graph of the same quantization"
                    raise op_error(op.kind, op.name, "weights in the float graph = none", allowed, todo)
                layer.start_from(_in_thresholds(float_graph, given))

    def _layer(self, op: Op) -> Learnt:
        layer = self.layers[_key(op.name)]
        assert isinstance(layer, Learnt)
        return layer

    def _run(self, x: Tensor, watch: Watch) -> Tensor:
        graph = self.graph
        samples = x.float().double()

        def zeros(op: Op) -> Tensor:
            return samples.new_zeros(len(x), *graph.shapes[op.name])

        constants = {op.name: self._layer(op).constants() for op in graph.ops if _key(op.name) in self.layers}
        neurons = graph.of_type(LIF, LoihiLIF)
        states: dict[str, State] = {op.name: (zeros(op),) * self._layer(op).states for op in neurons}
        waiting = {op.name: [zeros(op)] * op.steps for op in graph.of_type(Delay)}
        values: dict[str, Tensor] = {}
        read: list[Tensor] = []
        for t in range(graph.T):
            values[graph.input.name] = samples if graph.input.encoding == "direct" else samples[:, t]
            for op in graph.ops:
                if t > 0 and op.name in self._steady:
                    continue  # a direct sample is the same at every step, and so is what synapses make of it
                if isinstance(op, Delay):
                    values[op.name] = waiting[op.name].pop(0)
                    continue
                inputs = [values[i] for i in op.inputs]
                if isinstance(op, LIF | LoihiLIF):
                    step = self._layer(op).step(inputs[0], states[op.name], constants[op.name])
                    values[op.name], states[op.name] = step.spikes, step.states
                    watch(op.name, step.spikes, step.states[0], step.u)
                elif op.name in constants:
                    values[op.name] = self._layer(op)(inputs[0], constants[op.name])
                else:
                    values[op.name] = STATELESS[type(op)](op, *inputs)
            for op in graph.of_type(Delay):
                waiting[op.name].append(values[op.inputs[0]])
            read.append(values[graph.readout.value])
        steps = torch.stack(read)
        rules = {"mean": lambda: steps.mean(0), "sum": lambda: steps.sum(0), "last": lambda: steps[-1]}
        return rules[graph.readout.rule]().flatten(1)


def _key(name: str) -> str:
    """A module's name holds no dot; an op's name holds no slash."""
    return name.replace(".", "/")


def _steady(graph: SpikingGraph) -> frozenset[str]:
    """The values that are the same at every step: those of a direct input before any neuron or Delay."""
    found = {graph.input.name} if graph.input.encoding == "direct" else set()
    for op in graph.ops:
        if found.issuperset(op.inputs) and not isinstance(op, LIF | LoihiLIF | Delay):
            found.add(op.name)
    return frozenset(found)


def _path(graph: SpikingGraph, value: str) -> tuple[list[str], list[Op]]:
    """The values that a synapse's current becomes a part of, itself first, and what neurons or readouts read them."""
    values, ends = [value], list[Op]()
    for name in values:  # it grows
        for op in graph.consumers(name):
            if isinstance(op, LIF | LoihiLIF | Dequantize):
                ends.append(op)
            elif op.name not in values:
                values.append(op.name)
    return values, ends


def _per_output(value: npt.NDArray[Any], n: int) -> F64:
    """One number, or one for each of `n` outputs; where there are more, their mean."""
    return value.reshape(-1).astype(np.float64) if value.size in (1, n) else np.full(1, value.mean(dtype=np.float64))


def _loihi_synapse(graph: SpikingGraph, op: LoihiLinear | LoihiConv2d, _surrogate: Surrogate) -> Learnt:
    """In units of the threshold or of the real values read out, per real unit of samples that were quantized."""
    if op.inputs[0] in graph.currents:
        what, todo = f"input = '{op.inputs[0]}', a current of Loihi's synapses", "Put a LoihiLIF between"
        raise op_error(op.kind, op.name, what, "spikes or integers of the input", todo)
    values, ends = _path(graph, op.name)
    largest = max(1, *(graph.integers[name] for name in values))
    unit = np.array([float(largest)])  # a current that is read out as it is
    for end in ends[:1]:
        if isinstance(end, LoihiLIF):
            unit = np.maximum(1, _per_output(end.vth, len(op.weight)))
        elif isinstance(end, Dequantize):
            unit = 1 / _per_output(end.scale, len(op.weight))
    for source in graph.sources(op.inputs[0]):
        if isinstance(source, Quantize):
            unit = unit / source.scale.mean(dtype=np.float64)
    one_event = graph.integers[op.inputs[0]] << max(0, op.weight_exp)
    most = graph.integers[op.name] * MAX_INTEGER // largest  # all that is added up may grow by the same factor
    return LoihiSynapse(op, unit, most // one_event)


def _in_thresholds(graph: SpikingGraph, op: Linear | Conv2d) -> F64:
    """The weights in units of the threshold of the neurons that they drive; of a readout, as they are."""
    _, ends = _path(graph, op.name)
    th = next((_per_output(end.v_threshold, len(op.weight)) for end in ends if isinstance(end, LIF)), np.ones(1))
    return op.weight / th.reshape(-1, *(1,) * (op.weight.ndim - 1))


LAYERS: dict[type[Op], Callable[[SpikingGraph, Any, Surrogate], Learnt]] = {
    LoihiLinear: _loihi_synapse,
    LoihiConv2d: _loihi_synapse,
    LoihiLIF: lambda _graph, op, surrogate: LoihiNeuron(op, surrogate),
    Linear: lambda _graph, op, _surrogate: HostSynapse(op),
    Conv2d: lambda _graph, op, _surrogate: HostSynapse(op),
    LIF: lambda _graph, op, surrogate: HostNeuron(op, surrogate),
    Dequantize: lambda _graph, op, _surrogate: Readout(op),
}
