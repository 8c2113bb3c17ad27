"""The scale of one layer: candidates judged by the spikes that they make of the quantized network's own spikes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.integers import MAX_INTEGER
from rmp_deploy.ir.ops import CubaLIF, Linear, LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.ir.ops.loihi import PARAMETER_SPAN, STATE_SHIFT, WEIGHT_EXP
from rmp_deploy.passes.quantize import steps
from rmp_deploy.passes.quantize.layers import F64, Layer, Synapse
from rmp_deploy.passes.quantize.steps import F32, Run
from rmp_deploy.passes.quantize.weights import Candidate, Grid, candidates

JUDGED = 6  # candidates that are run
NEURONS = 2**17  # about so many are run to judge a candidate, of one sample at least
LEAST_VTH = 1024  # its rounding is then at most 1/2048 of it: little beside what weights of 8 bits lose
HEADROOM = 2.0  # between the largest current, potential or bias and what there is room for
MAX_VTH, MAX_MANTISSA, MAX_BIAS_EXP = (PARAMETER_SPAN[name][1] for name in ("vth", "bias_mant", "bias_exp"))


@dataclass(frozen=True)
class Target:
    """What the float network did in this layer, times the layer's gain: its current and, of neurons, spikes and u."""

    current: F32
    run: Run | None

    def first(self, n: int) -> Target:
        """Of the first n samples."""
        run = None if self.run is None else replace(self.run, spikes=self.run.spikes[:, :n], u=self.run.u[:, :n])
        return Target(self.current[:, :n], run)


@dataclass(frozen=True)
class Choice:
    """A layer in integers: scale, synapses in the layer's order, neurons (None for a readout).

    `bias` is what the neurons' biases stand for, in float units times the layer's gain.
    """

    scale: float
    synapses: tuple[LoihiLinear | LoihiConv2d, ...]
    neuron: LoihiLIF | None
    bias: F64


def choose(
    layer: Layer, grids: Sequence[Grid], bias: F64, target: Target, reads: Mapping[str, F32], samples: int
) -> Choice:
    """The choice with the fewest mismatching spikes; of equals, the one whose potentials are nearest to the float ones.

    Args:
        layer: synapses, neurons, gain.
        grids: what each synapse can hold.
        bias: `bias_of` the layer.
        target: of the float network, running on its own.
        reads: what the synapses read in the quantized network so far, [T, N, *shape] by name.
        samples: how many of the N are run to judge a candidate.
    """
    power = [float(np.square(reads[op.inputs[0]][:, :samples]).mean(dtype=np.float64)) for op in layer.synapses]
    seen = {name: x[:, :samples] for name, x in reads.items()}
    wanted = target.first(samples)
    ranked = candidates(list(grids), power, *_octave(layer, grids, bias, target))
    choices = [_build(layer, grids, bias, c) for c in ranked[:JUDGED]]
    currents = _currents(layer, choices, seen)
    errors = [_error(choice, current, wanted) for choice, current in zip(choices, currents, strict=True)]
    k = min(range(len(choices)), key=lambda k: errors[k])
    return _with_threshold(layer, choices[k], currents[k], wanted)


def judged_samples(current: F32) -> int:
    """How many samples a candidate is run on."""
    n: int = current.shape[1]
    return min(n, max(1, NEURONS // math.prod(current.shape[2:])))


def corrected(choice: Choice, current: F32, target: Target) -> Choice:
    """The choice with the mean error of each channel's current in its bias, if that makes fewer spikes mismatch.

    Rounded weights, and what the layers before send too much or too little of, move the mean of a current; a bias takes
    that back. `current` is the integer network's, of all samples.
    """
    if choice.neuron is None:
        return choice
    over = (0, 1, *range(3, current.ndim))  # all but the channels
    error = (target.current - current / np.float32(choice.scale)).mean(axis=over, dtype=np.float64)
    bias = choice.bias + error.reshape(-1, *(1,) * (current.ndim - 3))
    mantissa, exponent = _bias(bias * (choice.scale * (1 << STATE_SHIFT)))
    other = replace(choice, neuron=replace(choice.neuron, bias_mant=mantissa, bias_exp=exponent), bias=bias)
    errors = [_error(c, current, target)[0] for c in (choice, other)]
    return other if errors[1] < errors[0] else choice


def current_of(layer: Layer, synapses: Sequence[LoihiLinear | LoihiConv2d], reads: Mapping[str, F32]) -> F32:
    """The integer current of a layer with these synapses."""
    return _join(layer, {op.name: steps.stateless(op, reads[op.inputs[0]]) for op in synapses})


def _octave(layer: Layer, grids: Sequence[Grid], bias: F64, target: Target) -> tuple[float, float]:
    """The lowest scale of the octave that is searched, and the highest that no limit forbids."""
    exact = [g for g in grids if g.largest > 0]
    lowest = max((g.full_scale / 2 for g in exact), default=1.0)
    if layer.v_threshold is not None:
        lowest = max([LEAST_VTH / layer.v_threshold] + [g.full_scale * 2.0**g.lowest_exp for g in exact])
    states = float(np.abs(target.current).max())
    if target.run is not None:
        states = max(states, target.run.largest)
    caps = [math.inf]
    caps += [g.full_scale * 2.0 ** WEIGHT_EXP[1] for g in exact]
    if (total := sum(g.worst_sum for g in exact)) > 0:
        caps.append(0.98 * MAX_INTEGER / total)
    if states > 0:
        caps.append(2 ** (23 - STATE_SHIFT) / (HEADROOM * states))
    if layer.v_threshold is not None:
        caps.append(MAX_VTH / layer.v_threshold)
        if bias.any():
            caps.append((MAX_MANTISSA << MAX_BIAS_EXP) / (HEADROOM * float(np.abs(bias).max()) * (1 << STATE_SHIFT)))
    highest = min(caps)
    return (lowest if 2 * lowest <= highest else highest / 2), highest


def _build(layer: Layer, grids: Sequence[Grid], bias: F64, candidate: Candidate) -> Choice:
    """The layer's ops in integers at a scale."""
    scale, synapses = candidate.scale, []
    for op, g in zip(layer.synapses, grids, strict=True):
        exponent = g.exponent(scale, candidate.kept)
        synapses.append(_synapse(op, g, g.stored(scale, exponent), exponent))
    if layer.neuron is None:
        return Choice(scale, tuple(synapses), None, bias)
    neuron, v_threshold = layer.neuron, layer.v_threshold
    assert v_threshold is not None
    bias_mant, bias_exp = _bias(bias * (scale * (1 << STATE_SHIFT)))
    du: npt.NDArray[np.int64] = np.array(PARAMETER_SPAN["du"][1])
    if isinstance(neuron, CubaLIF):
        du = _decay(neuron.current_decay) - 1
    loihi = LoihiLIF(
        name=neuron.name,
        inputs=neuron.inputs,
        du=du.astype(np.int32),
        dv=_decay(neuron.decay).astype(np.int32),
        vth=np.array(min(round(scale * v_threshold), MAX_VTH), np.int32),
        bias_mant=bias_mant,
        bias_exp=bias_exp,
    )
    return Choice(scale, tuple(synapses), loihi, bias)


def _decay(keeps: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """``round(4096 * (1 - decay))``"""
    decay: npt.NDArray[np.int64] = np.rint(4096 * (1 - keeps.astype(np.float64))).astype(np.int64)
    return decay


def _bias(wanted: F64) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Mantissas and their one exponent, the smallest that holds the largest."""
    largest, exponent = float(np.abs(wanted).max()), 0
    while exponent < MAX_BIAS_EXP and round(largest / 2**exponent) > MAX_MANTISSA:
        exponent += 1
    mantissa = np.clip(np.rint(wanted / 2**exponent), -MAX_MANTISSA, MAX_MANTISSA).astype(np.int32)
    if not mantissa.any():
        return np.zeros((), np.int32), np.zeros((), np.int32)
    return mantissa, np.array(exponent, np.int32)


def _synapse(op: Synapse, g: Grid, weight: npt.NDArray[np.int32], exponent: int) -> LoihiLinear | LoihiConv2d:
    bits, mode = g.num_weight_bits, g.sign_mode
    if isinstance(op, Linear):
        return LoihiLinear(
            name=op.name, inputs=op.inputs, weight=weight, weight_exp=exponent, num_weight_bits=bits, sign_mode=mode
        )
    return LoihiConv2d(
        name=op.name,
        inputs=op.inputs,
        weight=weight,
        weight_exp=exponent,
        num_weight_bits=bits,
        sign_mode=mode,
        stride=op.stride,
        padding=op.padding,
        dilation=op.dilation,
        groups=op.groups,
    )


def _currents(layer: Layer, choices: Sequence[Choice], reads: Mapping[str, F32]) -> list[F32]:
    """The layer's current under each choice; what a synapse reads is laid out once for all of them."""
    by_choice: list[dict[str, F32]] = [{} for _ in choices]
    for k, op in enumerate(layer.synapses):
        totals = steps.currents(op, reads[op.inputs[0]], [choice.synapses[k].weight for choice in choices])
        for values, choice, total in zip(by_choice, choices, totals, strict=True):
            values[op.name] = steps.shifted(total, choice.synapses[k].weight_exp)
    return [_join(layer, values) for values in by_choice]


def _join(layer: Layer, values: dict[str, F32]) -> F32:
    for op in layer.between:
        values[op.name] = steps.stateless(op, *(values[i] for i in op.inputs))
    return values[layer.current]


def _error(choice: Choice, current: F32, target: Target) -> tuple[int, float]:
    """Mismatching spikes, and the mean square of the error of u; of a readout 0, and of its values."""
    if choice.neuron is None or target.run is None:
        return 0, _mean_square(current / choice.scale, target.current)
    run = steps.loihi_lif(choice.neuron, current)
    mismatches = int((run.spikes != target.run.spikes).sum())
    return mismatches, _mean_square(run.u / (choice.scale * (1 << STATE_SHIFT)), target.run.u)


def _mean_square(found: F32, wanted: F32) -> float:
    return float(np.square(found - wanted).mean(dtype=np.float64))


def _with_threshold(layer: Layer, choice: Choice, current: F32, target: Target) -> Choice:
    """The choice with vth rounded down instead, if that makes fewer spikes mismatch.

    It does where currents are whole multiples and the float threshold lies just below one (neurons that fire at >=).
    """
    if choice.neuron is None or layer.v_threshold is None:
        return choice
    floor = math.floor(choice.scale * layer.v_threshold)
    other = replace(choice, neuron=replace(choice.neuron, vth=np.array(floor, np.int32)))
    errors = [_error(c, current, target)[0] for c in (choice, other)]
    return other if errors[1] < errors[0] else choice
