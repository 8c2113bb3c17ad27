"""What quantization did to each layer, in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmp_deploy.ir.ops import LIF, CubaLIF, LoihiConv2d, LoihiLinear
from rmp_deploy.passes.quantize.build import STATE_UNITS, Neurons
from rmp_deploy.passes.quantize.choose import Choice, Target
from rmp_deploy.passes.quantize.layers import F64, Layer
from rmp_deploy.passes.quantize.steps import F32, LoihiRun
from rmp_deploy.passes.quantize.weights import Grid


@dataclass(frozen=True)
class SynapseResult:
    """One synapse: how its weights are held, and what rounding and clipping did to them.

    Attributes:
        name: of the op.
        weight_bits: per weight, the sign included where signs are mixed.
        weight_exp: sums are shifted by it.
        sign_mode: mixed, excitatory or inhibitory.
        weights: how many.
        clipped: how many lay beyond the largest that is held.
        rms_error: root of the mean square of ``stored / scale - weight``, in units of the float weights.
        max_error: largest magnitude of that.
        relative_error: root of its sum of squares over that of the weights; None if all are 0.
    """

    name: str
    weight_bits: int
    weight_exp: int
    sign_mode: str
    weights: int
    clipped: int
    rms_error: float
    max_error: float
    relative_error: float | None


@dataclass(frozen=True)
class NeuronResult:
    """The neurons of a layer. Spikes are those of the calibration samples.

    Attributes:
        vth: Loihi's threshold.
        threshold_error: ``vth / scale`` over the float threshold, less 1.
        bias_exp: of the biases; 0 if there are none.
        bias_error: largest rounding error of a bias, over the threshold.
        bias_shift: largest correction of a bias by the mean error of its current, over the threshold.
        decay_error: largest ``|1 - dv / 4096 - decay|``, that of the current's decay included.
        compared: spikes that were compared, neurons * T * samples.
        mismatches: of these, how many differ from the float network's, each network running on its own.
        forced_compared: the same for the layer that gets the float network's spikes, on some of the samples.
        forced_mismatches: how many differ then: what this layer alone adds.
        rate_float: spikes per neuron and step of the float network.
        rate: of the integer network.
        wraps: currents that left 24 bits.
        saturations: potentials that reached 24 bits.
    """

    vth: int
    threshold_error: float
    bias_exp: int
    bias_error: float
    bias_shift: float
    decay_error: float
    compared: int
    mismatches: int
    forced_compared: int
    forced_mismatches: int
    rate_float: float
    rate: float
    wraps: int
    saturations: int

    @property
    def agreement(self) -> float:
        """Part of the spikes that are the float network's."""
        return 1 - self.mismatches / self.compared

    @property
    def forced_agreement(self) -> float:
        """The same where the layer gets the float network's spikes."""
        return 1 - self.forced_mismatches / self.forced_compared


@dataclass(frozen=True)
class LayerResult:
    """One layer: neurons, or the readout, and the synapses that share its scale.

    Attributes:
        name: of the neurons, or of the value that is read out.
        scale: units of Loihi's current per unit of the float one; where thresholds differ by channel, of the highest.
        synapses: in the graph's order.
        neuron: None for the readout.
        output_error: of the readout, root of the mean square of its error over that of its currents; None for neurons,
            and where all currents are 0.
    """

    name: str
    scale: float
    synapses: tuple[SynapseResult, ...]
    neuron: NeuronResult | None
    output_error: float | None = None


@dataclass(frozen=True)
class LayerRuns:
    """A chosen layer on the calibration samples, [T, N, *shape].

    Attributes:
        current: of the integer network.
        free: its neurons, on the integer network's spikes; None for a readout.
        forced: the same neurons on the float network's spikes, of the first samples.
    """

    current: F32
    free: LoihiRun | None
    forced: LoihiRun | None


def result_of(
    layer: Layer, grids: Sequence[Grid], bias: F64, target: Target, choice: Choice, runs: LayerRuns
) -> LayerResult:
    """What `choice` made of a layer."""
    synapses = tuple(_synapse(layer, g, op, choice.scale) for g, op in zip(grids, choice.synapses, strict=True))
    if layer.neuron is not None and choice.neurons is not None:
        neuron = _neuron(layer.neuron, choice.neurons, choice.scale, bias, target, runs)
        return LayerResult(layer.name, choice.scale, synapses, neuron)
    power = float(np.square(target.current, dtype=np.float64).mean())
    missed = float(np.square(runs.current / choice.scale - target.current, dtype=np.float64).mean())
    return LayerResult(layer.name, choice.scale, synapses, None, math.sqrt(missed / power) if power > 0 else None)


def _synapse(layer: Layer, g: Grid, op: LoihiLinear | LoihiConv2d, scale: float) -> SynapseResult:
    gain = layer.gain.reshape(-1, *(1,) * (g.weight.ndim - 1))
    error = (op.weight * (2.0**op.weight_exp / scale) - g.weight) / (gain * g.unit)
    power = float(np.square(g.weight / (gain * g.unit)).sum())
    squares = float(np.square(error).sum())
    return SynapseResult(
        name=op.name,
        weight_bits=op.num_weight_bits,
        weight_exp=op.weight_exp,
        sign_mode=op.sign_mode,
        weights=op.weight.size,
        clipped=g.clipped(scale, op.weight_exp),
        rms_error=math.sqrt(squares / op.weight.size),
        max_error=float(np.abs(error).max()),
        relative_error=math.sqrt(squares / power) if power > 0 else None,
    )


def _neuron(given: LIF, neurons: Neurons, scale: float, bias: F64, target: Target, runs: LayerRuns) -> NeuronResult:
    assert target.run is not None and runs.free is not None and runs.forced is not None  # of neurons, all are there
    op, v_threshold = neurons.op, float(given.v_threshold.max())
    decay_errors = [np.abs(1 - op.dv / 4096 - given.decay).max()]
    if isinstance(given, CubaLIF):
        decay_errors.append(np.abs(1 - (op.du + 1) / 4096 - given.current_decay).max())
    wanted, forced = target.run.spikes, runs.forced.spikes
    return NeuronResult(
        vth=int(op.vth),
        threshold_error=int(op.vth) / (scale * v_threshold) - 1,
        bias_exp=int(op.bias_exp),
        bias_error=float(np.abs(op.bias / (scale * STATE_UNITS) - neurons.bias).max()) / v_threshold,
        bias_shift=float(np.abs(neurons.bias - bias).max()) / v_threshold,
        decay_error=float(max(decay_errors)),
        compared=wanted.size,
        mismatches=int((runs.free.spikes != wanted).sum()),
        forced_compared=forced.size,
        forced_mismatches=int((forced != wanted[:, : forced.shape[1]]).sum()),
        rate_float=float(wanted.mean(dtype=np.float64)),
        rate=float(runs.free.spikes.mean(dtype=np.float64)),
        wraps=runs.free.wraps,
        saturations=runs.free.saturations,
    )
