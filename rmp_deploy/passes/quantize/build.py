"""One layer's ops in integers, at a given scale, and the scales that no limit forbids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.integers import LARGEST, MAX_INTEGER
from rmp_deploy.ir.ops import CubaLIF, IntArray, Linear, LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.ir.ops.loihi import PARAMETER_SPAN, STATE_SHIFT, WEIGHT_EXP
from rmp_deploy.passes.quantize.layers import F64, Layer
from rmp_deploy.passes.quantize.weights import Grid

LEAST_VTH = 1024  # its rounding is then at most 1/2048 of it: little beside what weights of 8 bits lose
HEADROOM = 1.5  # between the largest current, potential or bias and what there is room for
MAX_VTH, MAX_MANTISSA, MAX_BIAS_EXP = (PARAMETER_SPAN[name][1] for name in ("vth", "bias_mant", "bias_exp"))
STATE_UNITS = 1 << STATE_SHIFT  # units of a state per unit of a current


@dataclass(frozen=True)
class Held:
    """The integer weights and exponents of a layer's synapses, in the layer's order."""

    weights: tuple[IntArray, ...]
    exponents: tuple[int, ...]


@dataclass(frozen=True)
class Neurons:
    """Loihi's neurons, and the biases that theirs stand for, in float units times the layer's gain."""

    op: LoihiLIF
    bias: F64


def octave(layer: Layer, grids: Sequence[Grid], bias: F64, states: float) -> tuple[float, float]:
    """The lowest scale of the octave to search, and the highest that the limits allow.

    `states` is the largest magnitude of a current or potential of the float network. The lowest scale leaves no bit of
    a weight unused, and makes vth at least `LEAST_VTH`.
    """
    given = [g for g in grids if g.largest > 0]
    caps = [math.inf, *(g.full_scale * 2.0 ** WEIGHT_EXP[1] for g in given)]
    if given:
        caps.append(0.98 * MAX_INTEGER / sum(g.worst_sum for g in given))
    if states > 0:
        caps.append(2 ** (23 - STATE_SHIFT) / (HEADROOM * states))
    if layer.v_threshold is None:
        lowest = max((g.full_scale / 2 for g in given), default=1.0)
    else:
        lowest = max([LEAST_VTH / layer.v_threshold] + [g.full_scale * 2.0**g.lowest_exp for g in given])
        caps.append(MAX_VTH / layer.v_threshold)
        if bias.any():
            caps.append((MAX_MANTISSA << MAX_BIAS_EXP) / (HEADROOM * STATE_UNITS * float(np.abs(bias).max())))
    highest = min(caps)
    return (lowest if 2 * lowest <= highest else highest / 2), highest


def hold(grids: Sequence[Grid], scale: float, kept: float) -> Held:
    """The weights nearest to ``scale * weight``, with room for `kept` of the largest."""
    exponents = tuple(g.exponent(scale, kept) for g in grids)
    return Held(tuple(g.stored(scale, e) for g, e in zip(grids, exponents, strict=True)), exponents)


def largest_sum(layer: Layer, grids: Sequence[Grid], held: Held) -> int:
    """The largest integer that the layer's currents can reach, for any input.

    `octave` bounds the sums of the weights themselves; rounded, those that all are about half a level sum up to more.
    """
    known: dict[str, int] = {}
    for op, g, weight, exponent in zip(layer.synapses, grids, held.weights, held.exponents, strict=True):
        by_output = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
        known[op.name] = int(by_output.max()) * g.reads << max(0, exponent)
    for other in layer.between:
        known[other.name] = LARGEST[type(other)](other, *(known[i] for i in other.inputs))
    return max(known.values())


def neurons_of(layer: Layer, bias: F64, scale: float) -> Neurons | None:
    """The layer's neurons at a scale; None for a readout."""
    given = layer.neuron
    if given is None or layer.v_threshold is None:
        return None
    du: npt.NDArray[np.int64] = np.array(PARAMETER_SPAN["du"][1])
    if isinstance(given, CubaLIF):
        du = _decay(given.current_decay) - 1
    op = LoihiLIF(
        name=given.name,
        inputs=given.inputs,
        du=du.astype(np.int32),
        dv=_decay(given.decay).astype(np.int32),
        vth=np.array(min(round(scale * layer.v_threshold), MAX_VTH), np.int32),
    )
    return with_bias(Neurons(op, bias), bias, scale)


def with_bias(neurons: Neurons, bias: F64, scale: float) -> Neurons:
    """The neurons with the nearest mantissas of `bias`, and the smallest exponent that holds the largest of them."""
    wanted = bias * (scale * STATE_UNITS)
    largest, exponent = float(np.abs(wanted).max()), 0
    while exponent < MAX_BIAS_EXP and round(largest / 2**exponent) > MAX_MANTISSA:
        exponent += 1
    mantissa = np.clip(np.rint(wanted / 2**exponent), -MAX_MANTISSA, MAX_MANTISSA).astype(np.int32)
    if not mantissa.any():
        mantissa, exponent = np.zeros((), np.int32), 0
    return Neurons(replace(neurons.op, bias_mant=mantissa, bias_exp=np.array(exponent, np.int32)), bias)


def with_vth(neurons: Neurons, vth: int) -> Neurons:
    """The neurons with another threshold."""
    return replace(neurons, op=replace(neurons.op, vth=np.array(vth, np.int32)))


def synapses_of(layer: Layer, grids: Sequence[Grid], held: Held) -> tuple[LoihiLinear | LoihiConv2d, ...]:
    """The layer's synapses with the weights that they hold."""
    return tuple(
        _synapse(layer, k, g, weight, exponent)
        for k, (g, weight, exponent) in enumerate(zip(grids, held.weights, held.exponents, strict=True))
    )


def _synapse(layer: Layer, k: int, g: Grid, weight: IntArray, exponent: int) -> LoihiLinear | LoihiConv2d:
    op, bits, mode = layer.synapses[k], g.num_weight_bits, g.sign_mode
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


def _decay(keeps: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """``round(4096 * (1 - decay))``"""
    decay: npt.NDArray[np.int64] = np.rint(4096 * (1 - keeps.astype(np.float64))).astype(np.int64)
    return decay
