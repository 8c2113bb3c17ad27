"""The scale of one layer: candidates judged by the spikes that they make of the quantized network's own spikes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rmp_deploy.errors import op_error
from rmp_deploy.ir.integers import MAX_INTEGER
from rmp_deploy.ir.ops import LoihiConv2d, LoihiLinear
from rmp_deploy.passes.quantize import steps
from rmp_deploy.passes.quantize.build import (
    STATE_UNITS,
    Held,
    Neurons,
    hold,
    largest_sum,
    neurons_of,
    octave,
    synapses_of,
    with_bias,
    with_vth,
)
from rmp_deploy.passes.quantize.layers import F64, Layer
from rmp_deploy.passes.quantize.steps import F32, LoihiRun, Run
from rmp_deploy.passes.quantize.weights import Candidate, Grid, candidates

JUDGED = 4  # candidates that are run
LOWER = 0.9  # than the scales of which none is valid
PARTS = (0.0, 1.0, 0.5)  # of a shift of the biases that are tried
NEURONS = 2**17  # about so many are run to judge a candidate, of one sample at least


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
    """A layer in integers: scale, synapses in the layer's order, neurons (None for a readout)."""

    scale: float
    synapses: tuple[LoihiLinear | LoihiConv2d, ...]
    neurons: Neurons | None


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
    power = [float(np.square(reads[op.inputs[0]][:, :samples], dtype=np.float64).mean()) for op in layer.synapses]
    seen, wanted = {name: x[:, :samples] for name, x in reads.items()}, target.first(samples)
    states = float(np.abs(target.current).max())
    if target.run is not None:
        states = max(states, float(target.run.largest.max()))
    ranked, held = _valid(layer, grids, power, *octave(layer, grids, bias, states))
    trials, corrects = [], target.current.shape[1] > 1
    for k, current in enumerate(_currents(layer, held, seen)):
        neurons = neurons_of(layer, bias, ranked[k].scale)
        trials.append((_error(neurons, current, wanted, ranked[k].scale, corrects), k, neurons, current))
    (mismatches, _), k, neurons, current = min(trials, key=lambda trial: trial[:2])
    scale = ranked[k].scale
    if neurons is not None and layer.v_threshold is not None:
        # where currents are whole multiples, a float threshold just below one (neurons that fire at >=) rounds to it
        lower = with_vth(neurons, math.floor(scale * layer.v_threshold))
        if _error(lower, current, wanted, scale, corrects)[0] < mismatches:
            neurons = lower
    return Choice(scale, synapses_of(layer, grids, held[k]), neurons)


def _valid(
    layer: Layer, grids: Sequence[Grid], power: list[float], lowest: float, highest: float
) -> tuple[list[Candidate], list[Held]]:
    """The best candidates of the octave from `lowest` whose weights, once rounded, leave room for every sum.

    Where there are none, scales are lowered until there are.

    Raises:
        RmpDeployError: only weights that all round to 0 leave room.
    """
    ranked: list[Candidate] = []
    held: list[Held] = []
    for candidate in candidates(list(grids), power, lowest, highest):
        weights = hold(grids, candidate.scale, candidate.kept)
        if not any(w.any() for w in weights.weights) and any(g.largest > 0 for g in grids):
            op, read = layer.synapses[0], max(g.reads for g in grids)
            what = f"{op.weight[0].size} weights of {grids[0].num_weight_bits} bits on integers up to {read} in one sum"
            todo = "Give it more weight bits, or let the host encode the input"
            raise op_error(op.kind, op.name, what, f"{MAX_INTEGER} in all (24 bits and sign)", todo)
        if largest_sum(layer, grids, weights) <= MAX_INTEGER:
            ranked.append(candidate)
            held.append(weights)
        if len(ranked) == JUDGED:
            break
    if ranked:
        return ranked, held
    lower = LOWER * min(highest, 2 * lowest)
    return _valid(layer, grids, power, lower / 2, lower)


def judged_samples(current: F32) -> int:
    """How many samples a candidate is run on."""
    n: int = current.shape[1]
    return min(n, max(1, NEURONS // math.prod(current.shape[2:])))


def corrected(choice: Choice, current: F32, target: Target) -> tuple[Choice, LoihiRun | None]:
    """The choice with all or half of `_shift` in its biases, or none: whatever makes the fewest spikes mismatch.

    A shift found on every other sample is judged on the others, and the other way round: few samples of a small layer
    would else have their noise fitted. `current` is the integer network's, of all samples. Also returned is the run of
    the neurons on it.
    """
    given, run = choice.neurons, target.run
    if given is None or run is None:
        return choice, None
    every_other = slice(0, None, 2), slice(1, None, 2)
    mismatches = dict.fromkeys(PARTS, 0)
    for fitted, judged in (every_other, every_other[::-1]) if current.shape[1] > 1 else ():
        shift = _shift(current[:, fitted], target.current[:, fitted], choice.scale)
        for part in PARTS:
            neurons = with_bias(given, given.bias + part * shift, choice.scale)
            found = steps.loihi_lif(neurons.op, current[:, judged])
            mismatches[part] += int((found.spikes != run.spikes[:, judged]).sum())
    part = min(PARTS, key=lambda part: mismatches[part])
    if part:
        bias = given.bias + part * _shift(current, target.current, choice.scale)
        choice = replace(choice, neurons=with_bias(given, bias, choice.scale))
    assert choice.neurons is not None
    return choice, steps.loihi_lif(choice.neurons.op, current)


def current_of(layer: Layer, synapses: Sequence[LoihiLinear | LoihiConv2d], reads: Mapping[str, F32]) -> F32:
    """The integer current of a layer with these synapses."""
    return _join(layer, {op.name: steps.stateless(op, reads[op.inputs[0]]) for op in synapses})


def _currents(layer: Layer, held: Sequence[Held], reads: Mapping[str, F32]) -> list[F32]:
    """The layer's current with each of the held weights; what a synapse reads is laid out once for all of them."""
    values: list[dict[str, F32]] = [{} for _ in held]
    for k, op in enumerate(layer.synapses):
        totals = steps.currents(op, reads[op.inputs[0]], [h.weights[k] for h in held])
        for of_one, h, total in zip(values, held, totals, strict=True):
            of_one[op.name] = steps.shifted(total, h.exponents[k])
    return [_join(layer, of_one) for of_one in values]


def _join(layer: Layer, values: dict[str, F32]) -> F32:
    for op in layer.between:
        values[op.name] = steps.stateless(op, *(values[i] for i in op.inputs))
    return values[layer.current]


def _shift(current: F32, wanted: F32, scale: float) -> F64:
    """The mean error of each channel's current, as a bias: (C, 1, 1) or (N,), in float units times the gain.

    Rounded weights, and what the layers before send too much or too little of, move the mean of a current.
    """
    over = (0, 1, *range(3, current.ndim))  # all but the channels
    error = (wanted - current / np.float32(scale)).mean(axis=over, dtype=np.float64)
    return error.reshape(-1, *(1,) * (current.ndim - 3))  # type: ignore[no-any-return]


def _error(neurons: Neurons | None, current: F32, target: Target, scale: float, corrects: bool) -> tuple[int, float]:
    """Mismatching spikes, and the mean square of the error of u; of a readout 0, and of its values.

    Neurons are judged with their biases corrected, where they will be (`corrected`; of one sample they are not).
    """
    if neurons is None or target.run is None:
        return 0, _mean_square(current / np.float32(scale), target.current)
    if corrects:
        neurons = with_bias(neurons, neurons.bias + _shift(current, target.current, scale), scale)
    run = steps.loihi_lif(neurons.op, current)
    mismatches = int((run.spikes != target.run.spikes).sum())
    return mismatches, _mean_square(run.u / np.float32(scale * STATE_UNITS), target.run.u)


def _mean_square(found: F32, wanted: F32) -> float:
    return float(np.square(found - wanted, dtype=np.float64).mean())
