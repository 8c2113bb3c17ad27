"""What quantization cost: the spikes of two networks of the same neurons, compared. A loss, not a proof.

Parity compares two runs of one graph and judges them. Here the graphs differ, so that nothing is judged: spikes differ
because weights were rounded, and what they change is stated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.digest import QUANTIZED_FROM, digest
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Dequantize, LoihiConv2d, LoihiLIF, LoihiLinear, Quantize
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm


@dataclass(frozen=True)
class LayerAgreement:
    """One layer of both networks: N * T * neurons spikes `compared`."""

    layer: str
    compared: int
    mismatches: int

    @property
    def agreement(self) -> float:
        """Equal spikes and silences, 0..1 [1]."""
        return 1 - self.mismatches / self.compared


@dataclass(frozen=True)
class Agreement:
    """All layers of both networks over `samples` samples; `+` joins two parts of a data set."""

    samples: int
    same_predictions: int
    layers: tuple[LayerAgreement, ...]

    @property
    def compared(self) -> int:
        return sum(layer.compared for layer in self.layers)

    @property
    def mismatches(self) -> int:
        return sum(layer.mismatches for layer in self.layers)

    def __add__(self, other: Agreement) -> Agreement:
        pairs = zip(self.layers, other.layers, strict=True)
        return Agreement(
            samples=self.samples + other.samples,
            same_predictions=self.same_predictions + other.same_predictions,
            layers=tuple(
                LayerAgreement(a.layer, a.compared + b.compared, a.mismatches + b.mismatches) for a, b in pairs
            ),
        )


def agreement(graph: SpikingGraph, a: Trace, b: Trace) -> Agreement:
    """Compare trace `a` of `graph` with trace `b` of the graph quantized from it, layer by layer by their names."""
    layers = tuple(
        LayerAgreement(op.name, a.spikes[op.name].size, int(np.count_nonzero(a.spikes[op.name] != b.spikes[op.name])))
        for op in graph.spiking
    )
    return Agreement(a.n_samples, int((a.predictions() == b.predictions()).sum()), layers)


def is_integer(graph: SpikingGraph) -> bool:
    """True for a network of Loihi's integer ops; layers on the host may be real-valued beside them."""
    return bool(graph.of_type(LoihiLIF, LoihiLinear, LoihiConv2d))


def input_coding(graph: SpikingGraph) -> str | None:
    """How samples reach Loihi's ops: ``host``, ``graded``, ``spikes`` or ``integers``; None for a float network.

    ``host``: the first synapses and neurons are real-valued, and spikes cross. ``graded``: a Quantize rounds the
    samples. The other two say what the samples are.
    """
    if not is_integer(graph):
        return None
    if graph.of_type(Quantize):
        return "graded"
    bits = graph.input.message_bits
    return "host" if bits is None else "integers" if bits else "spikes"


def check_pair(graph: SpikingGraph, quantized: SpikingGraph) -> None:
    """Raise RmpDeployError unless `quantized` was made of `graph`.

    The one holds none of Loihi's integer ops, the other some. Both have the same T, samples, readout, outputs, and
    spiking neurons of the same names and shapes; and the digest of `graph`, parameters and all, stands in the
    provenance of `quantized`, where `passes.quantize` put it.
    """
    if is_integer(graph):
        raise _refused("float", graph, "ops", "Loihi's integers", "real values")
    if not is_integer(quantized):
        raise _refused("quantized", quantized, "ops", "real values", "Loihi's integers")
    ours, theirs = _facts(graph), _facts(quantized)
    for what in (*ours, *theirs):
        if ours.get(what) != theirs.get(what):
            found, wanted = (of.get(what, "none") for of in (theirs, ours))
            raise _refused("quantized", quantized, what, found, f"{wanted} as in the float graph '{graph.name}'")
    made_of, wanted = quantized.provenance.get(QUANTIZED_FROM), digest(graph)
    if made_of != wanted:
        found = "not stated" if made_of is None else f"sha256 {made_of[:12]!r}"
        allowed = f"sha256 '{wanted[:12]}', the float graph '{graph.name}' with its parameters"
        raise _refused("quantized", quantized, QUANTIZED_FROM, found, allowed)


def _facts(graph: SpikingGraph) -> dict[str, object]:
    readout = fold_batchnorm(graph).readout  # as a network is before it is quantized
    read = graph.by_name.get(readout.value)
    return {
        "T": graph.T,
        "input": f"{graph.input.shape}, {graph.input.encoding}",
        "message_bits": graph.input.message_bits,
        "readout": f"{readout.rule} of '{read.inputs[0] if isinstance(read, Dequantize) else readout.value}'",
        "outputs": int(np.prod(graph.shapes[graph.readout.value])),
        **{f"neurons '{op.name}'": graph.shapes[op.name] for op in graph.spiking},
    }


def _refused(role: str, graph: SpikingGraph, what: str, value: object, allowed: str) -> RmpDeployError:
    todo = "Give a float file and the file quantized from it"
    return RmpDeployError(f"{role} graph '{graph.name}': {what} = {value}, allowed {allowed}. {todo}.")
