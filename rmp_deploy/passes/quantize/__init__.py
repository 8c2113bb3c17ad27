"""Post-training quantization: a float network in Loihi's integers, every layer's scale chosen by the spikes it makes.

A neuron with reset to 0 is free of units: multiply its threshold, its bias and all weights of its synapses by one
S > 0 and it spikes as before, with u times S. So each layer (neurons, and every synapse that they read) has a scale S
of its own, and in integers it is

    weight      stored(S w / 2^weight_exp), multiples of the step of `num_weight_bits`; one weight_exp per synapse
    vth         round(S v_threshold), at most 131071
    bias        round(64 S b / 2^bias_exp) << bias_exp, a mantissa of 13 bits for each neuron, one exponent
    dv          round(4096 (1 - decay)); du = 4095 for LIF, round(4096 (1 - current_decay)) - 1 for CubaLIF
    readout     the same weights; `Dequantize` takes S back and adds the float bias

A threshold per channel folds into weights and bias (``w max(th) / th``), so that a layer has one vth. S is searched,
not computed: candidates run, and the one with the fewest spikes that differ from the float network's wins (`choose`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.digest import QUANTIZED_FROM, digest
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Delay, Flatten
from rmp_deploy.ir.ops.loihi import WEIGHT_BITS
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.passes.fold_pool import fold_pool
from rmp_deploy.passes.identity_synapses import identity_synapses
from rmp_deploy.passes.quantize.layers import Layer, check_real, layers_of, on_host
from rmp_deploy.passes.quantize.network import MESSAGE_BITS, Calibration
from rmp_deploy.passes.quantize.recurrent import running_free
from rmp_deploy.passes.quantize.results import LayerResult, NeuronResult, SynapseResult

__all__ = [
    "INPUT_CODINGS",
    "InputCoding",
    "LayerResult",
    "NeuronResult",
    "Quantized",
    "SynapseResult",
    "quantize",
]

InputCoding = Literal["host", "graded"]
INPUT_CODINGS: tuple[InputCoding, ...] = get_args(InputCoding)
LEAST_MESSAGE_BITS = 3
JUDGED_SAMPLES = 16  # with which they are chosen


@dataclass(frozen=True)
class Quantized:
    """An integer network and what it cost.

    Attributes:
        graph: the network in Loihi's integers; its provenance holds the digest of the graph that was quantized.
        float_graph: the network that it was made of, pools and BatchNorm folded, with identity synapses: op for op.
        input_coding: how samples reach Loihi: ``host`` (the first synapses and neurons stay real-valued), ``graded``
            (a Quantize makes integers of them), ``spikes`` or ``integers`` (they are that already).
        samples: how many were calibrated on.
        layers: what became of each layer, in order.
    """

    graph: SpikingGraph
    float_graph: SpikingGraph
    input_coding: str
    samples: int
    layers: tuple[LayerResult, ...]


def quantize(
    graph: SpikingGraph,
    x: npt.NDArray[Any],
    weight_bits: int | Mapping[str, int] = WEIGHT_BITS,
    input_coding: InputCoding = "host",
    on_layer: Callable[[Sequence[LayerResult], int], None] | None = None,
    message_bits: int = MESSAGE_BITS,
) -> Quantized:
    """Return `graph` in Loihi's integers, its scales chosen on samples `x`.

    BatchNorm and pools are folded first; a shortcut without weights becomes an identity synapse
    (`passes.identity_synapses`). Layers are quantized from the input on, each on the spikes that the layers before it
    send in integers, against the spikes of the float network: errors add up where they are seen. A recurrent edge is
    the one exception: while its layer is being quantized it carries the float network's spikes.

    Args:
        graph: real-valued: LIF or CubaLIF with hard reset to 0, Linear, Conv2d, Add, Concat, Flatten, Delay, pools.
        x: calibration samples, [N, *shape] (direct) or [N, T, *shape] (time_series); 8 to 64 do.
        weight_bits: of all synapses, 1..8 with the sign, or by the name of a synapse; others have 8.
        input_coding: what a real-valued input becomes, see `Quantized`.
        on_layer: called after every layer with the results so far and the number of layers.
        message_bits: of a graded input, at most: 1..8.

    Raises:
        RmpDeployError: what Loihi cannot do, by name, or options and samples that do not fit.
    """
    if input_coding not in INPUT_CODINGS:
        allowed = " or ".join(INPUT_CODINGS)
        raise RmpDeployError(f"quantize: input_coding = {input_coding!r}, allowed {allowed}. Choose one.")
    if type(message_bits) is not int or not 1 <= message_bits <= MESSAGE_BITS:
        what = f"message_bits = {message_bits!r}, allowed 1..{MESSAGE_BITS}"
        raise RmpDeployError(f"quantize: {what}. Choose a number of bits.")
    check_real(graph)
    graph.check_samples(x)
    folded = fold_pool(fold_batchnorm(graph))
    host = on_host(folded, input_coding)
    folded = identity_synapses(folded, host)
    layers = layers_of(folded, host)
    bits = _bits_by_synapse([op.name for layer in layers for op in layer.synapses], weight_bits)
    given = graph.input.message_bits
    coding = input_coding if given is None else "integers" if given else "spikes"
    if coding == "graded":
        message_bits = _message_bits(
            lambda n: Calibration(folded, host, layers, bits, x[:JUDGED_SAMPLES], n), folded, layers, message_bits
        )
    calibration = Calibration(folded, host, layers, bits, x, message_bits)
    for _ in calibration.run():
        if on_layer is not None:
            on_layer(calibration.results, len(layers))
    integer, results = calibration.graph(), tuple(calibration.results)
    integer = replace(integer, provenance={**integer.provenance, QUANTIZED_FROM: digest(graph)})
    if any(isinstance(op, Delay) for op in folded.ops):
        results = running_free(folded, integer, x, results)
    return Quantized(integer, folded, coding, len(x), results)


def _message_bits(
    calibration: Callable[[int], Calibration], graph: SpikingGraph, layers: Sequence[Layer], most: int
) -> int:
    """Bits of a graded input: those with which the layers that read it have the fewest mismatching spikes.

    A current has 17 bits for the sum of weights times messages. What messages do not take is left to the weights; fewer
    than 3 bits are tried only where more leave none.
    """
    graded = {graph.input.name}
    graded |= {op.name for op in graph.of_type(Flatten) if op.inputs[0] in graded}
    first = {layer.name for layer in layers if any(op.inputs[0] in graded for op in layer.synapses)}
    mismatches: dict[int, int] = {}
    for bits in range(most, 0, -1):
        if bits < LEAST_MESSAGE_BITS and mismatches:
            break
        waiting, wrong = set(first), 0
        try:
            for result in calibration(bits).run():
                if result.name in waiting and result.neuron is not None:
                    wrong += result.neuron.mismatches
                waiting.discard(result.name)
                if not waiting:
                    break
        except RmpDeployError:  # messages of so many bits leave no room for weights
            if bits == 1 and not mismatches:
                raise
            continue
        mismatches[bits] = wrong
    return min(mismatches, key=lambda bits: (mismatches[bits], -bits))


def _bits_by_synapse(synapses: list[str], weight_bits: int | Mapping[str, int]) -> dict[str, int]:
    """Weight bits of every synapse that becomes Loihi's."""
    given = dict(weight_bits) if isinstance(weight_bits, Mapping) else dict.fromkeys(synapses, weight_bits)
    for name, bits in given.items():
        if name not in synapses:
            allowed = ", ".join(synapses)
            raise RmpDeployError(
                f"quantize: weight_bits of '{name}', allowed synapses of Loihi: {allowed}. Correct it."
            )
        if type(bits) is not int or not 1 <= bits <= WEIGHT_BITS:
            what = f"weight_bits of '{name}' = {bits!r}"
            raise RmpDeployError(f"quantize: {what}, allowed 1..{WEIGHT_BITS}. Choose a number of bits.")
    return {name: given.get(name, WEIGHT_BITS) for name in synapses}
