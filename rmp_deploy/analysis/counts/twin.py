"""The ANN of the same layers: one pass over a sample, ReLU in place of every spiking neuron."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.analysis.counts.fan_out import SYNAPSES, fan_out
from rmp_deploy.analysis.counts.shortcut import is_shortcut, repeats
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.correlate import correlate
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LI, LIF, CubaLIF, Delay, LoihiConv2d, LoihiLIF, LoihiLinear, Op, SpikingNeuron
from rmp_deploy.ir.ops.loihi import STATE_SHIFT
from rmp_deploy.ir.reference import STATELESS

F64 = npt.NDArray[np.float64]
SAMPLES = 16  # in memory at a time, with every activation of theirs


@dataclass(frozen=True)
class TwinLayer:
    """Multiply-accumulates of one layer.

    Attributes:
        layer: name of the synaptic op.
        macs: one per synapse, zero padding left out, for one sample.
        macs_with_padding: the same with zero padding counted.
        effective_macs: one per synapse whose input is not 0, summed over the twin's `samples`; None without samples.
    """

    layer: str
    macs: int
    macs_with_padding: int
    effective_macs: int | None = None


@dataclass(frozen=True)
class Twin:
    """The ANN of the same layers, one pass per sample; `+` joins shards of a data set.

    Attributes:
        layers: one row per synaptic layer.
        samples: how many the effective MACs are of; 0 where they were not counted.
        bits: of an activation of the quantized twin, ``ceil(log2(T + 1))``: T steps of spikes tell T + 1 values apart
            (Yan 2024, arXiv 2409.08290). Its MACs are the dense ones, of that precision. None where T was not given.
    """

    layers: tuple[TwinLayer, ...]
    samples: int = 0
    bits: int | None = None

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.layers)

    @property
    def macs_with_padding(self) -> int:
        return sum(row.macs_with_padding for row in self.layers)

    @property
    def effective_macs(self) -> int | None:
        """Summed over the layers and the samples; None without samples."""
        return sum(row.effective_macs or 0 for row in self.layers) if self.samples else None

    def __add__(self, other: Twin) -> Twin:
        """The twin over the samples of both.

        Raises:
            RmpDeployError: they are twins of different networks.
        """
        ours, theirs = ([(r.layer, r.macs, r.macs_with_padding) for r in t.layers] for t in (self, other))
        if (ours, self.bits) != (theirs, other.bits):
            raise RmpDeployError(f"twins: layers = {theirs}, allowed {ours} (the first shard's). Add one network's.")
        samples = self.samples + other.samples
        rows = (
            TwinLayer(*row, (a.effective_macs or 0) + (b.effective_macs or 0) if samples else None)
            for row, a, b in zip(ours, self.layers, other.layers, strict=True)
        )
        return Twin(tuple(rows), samples, self.bits)


def quantized_bits(T: int) -> int:
    """``ceil(log2(T + 1))``, in integers: what tells the T + 1 spike counts of T steps apart."""
    return T.bit_length()


def twin(graph: SpikingGraph, x: npt.NDArray[Any] | None = None) -> Twin:
    """MACs of the ANN with the same synaptic layers, one pass: dense per sample and, given samples `x`, effective.

    Give it the network as designed, before `fold_pool`: an ANN pools first and then multiplies, so the folded kernel
    (k*k times larger for a k-pool) would charge the twin for work that it never does. An identity shortcut is an add
    there, and no MAC, also where the graph holds it as a synapse. A recurrent layer passes once.

    A MAC is effective if its input is not 0 (`activations`); a weight of 0 is a synapse as any other, as in the dense
    MACs. 16 samples are in memory at a time; twins of
    batches add up.

    Raises:
        RmpDeployError: the samples do not fit, or a neuron has no ReLU twin; without `x`, never.
    """
    if x is not None:
        graph.check_samples(x)
    synapses = [op for op in graph.ops if isinstance(op, SYNAPSES) and not is_shortcut(graph, op)]
    reached = {op.name: fan_out(op, graph.shapes[op.inputs[0]]) for op in synapses}
    effective = dict.fromkeys(reached, 0)
    for part in [] if x is None else (x[start : start + SAMPLES] for start in range(0, len(x), SAMPLES)):
        values = activations(graph, part)
        for op in synapses:
            effective[op.name] += int((np.count_nonzero(values[op.inputs[0]], axis=0) * reached[op.name]).sum())
    layers = []
    for op in synapses:
        fan_in, outputs = math.prod(op.weight.shape[1:]), math.prod(graph.shapes[op.name])
        used = None if x is None else effective[op.name]
        layers.append(TwinLayer(op.name, int(reached[op.name].sum()), fan_in * outputs, used))
    return Twin(tuple(layers), 0 if x is None else len(x), quantized_bits(graph.T))


def activations(graph: SpikingGraph, x: npt.NDArray[Any]) -> dict[str, F64]:
    """Every value of the ANN twin by name, [N, *shape], for samples `x` ([N, *shape], time series [N, T, *shape]).

    A spiking neuron becomes ``max(current, 0) / v_threshold``: the spikes per step of a neuron without a leak that
    keeps what is over its threshold, so that the weights and biases behind it meet values in the unit they are made
    for. A time series, spikes of a Poisson code among them, is read as its mean over the T steps. LI hands its current
    on, a Delay its value. One that leads back (a recurrent edge) holds what a first pass without it gave. OR of spikes
    is the largest value. Loihi's synapses multiply without rounding.

    The weights were not trained for this: how many activations are 0 is an indication of what an ANN would have.

    Raises:
        RmpDeployError: the samples do not fit, or a threshold is not > 0.
    """
    graph.check_samples(x)
    sample = x.astype(np.float64) if graph.input.encoding == "direct" else x.mean(axis=1, dtype=np.float64)
    made: set[str] = {graph.input.name}
    back = False
    for op in graph.ops:
        back |= isinstance(op, Delay) and op.inputs[0] not in made
        made.add(op.name)
    before: dict[str, F64] = {op.inputs[0]: np.zeros((len(x), *op.shape)) for op in graph.of_type(Delay)}
    for _ in range(2 if back else 1):
        values = {graph.input.name: sample}
        for op in graph.ops:
            read = [values.get(i, before.get(i)) for i in op.inputs]  # only a Delay reads what is made after it
            if isinstance(op, SpikingNeuron) and repeats(graph, op):
                values[op.name] = np.maximum(values[op.inputs[0]], 0)
            else:
                values[op.name] = VALUES[type(op)](op, *read)
        before = values
    return values


def _lif(op: LIF, x: F64) -> F64:
    return _rate(op, np.maximum(x, 0), op.v_threshold.astype(np.float64))


def _loihi_lif(op: LoihiLIF, x: F64) -> F64:
    return _rate(op, np.maximum(x * (1 << STATE_SHIFT) + op.bias, 0), op.threshold.astype(np.float64))


def _rate(op: SpikingNeuron, x: F64, threshold: F64) -> F64:
    if threshold.min() <= 0:
        what = f"threshold = {threshold.min():g}"
        raise op_error(op.kind, op.name, what, "> 0 for its ReLU twin", "Leave the effective MACs out")
    return x / threshold


def _same(_op: LI | Delay, x: F64) -> F64:
    return x


def _loihi_linear(op: LoihiLinear, x: F64) -> F64:
    y: F64 = x @ op.weight.T.astype(np.float64) * 2.0**op.weight_exp
    return y


def _loihi_conv2d(op: LoihiConv2d, x: F64) -> F64:
    return correlate(x, op.weight, op.stride, op.padding, op.dilation, op.groups) * 2.0**op.weight_exp


VALUES: dict[type[Op], Callable[..., Any]] = {
    **STATELESS,
    **dict.fromkeys((LIF, CubaLIF), _lif),
    LoihiLIF: _loihi_lif,
    **dict.fromkeys((LI, Delay), _same),
    LoihiLinear: _loihi_linear,
    LoihiConv2d: _loihi_conv2d,
}
