"""The ANN of the same layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rmp_deploy.analysis.counts.fan_out import SYNAPSES, fan_out
from rmp_deploy.analysis.counts.shortcut import is_shortcut
from rmp_deploy.ir.graph import SpikingGraph


@dataclass(frozen=True)
class TwinLayer:
    """Dense multiply-accumulates of one layer for one sample, with zero padding left out and with it counted."""

    layer: str
    macs: int
    macs_with_padding: int


@dataclass(frozen=True)
class Twin:
    """The ANN of the same layers: one pass over one sample."""

    layers: tuple[TwinLayer, ...]

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.layers)

    @property
    def macs_with_padding(self) -> int:
        return sum(row.macs_with_padding for row in self.layers)


def twin(graph: SpikingGraph) -> Twin:
    """Dense MACs of the ANN with the same synaptic layers, one pass, per sample.

    Give it the network as designed, before `fold_pool`: an ANN pools first and then multiplies, so the folded kernel
    (k*k times larger for a k-pool) would charge the twin for work that it never does. An identity shortcut is an add
    there, and no MAC, also where the graph holds it as a synapse. A recurrent layer passes once.
    """
    layers = []
    for op in graph.ops:
        if isinstance(op, SYNAPSES) and not is_shortcut(graph, op):
            dense = int(fan_out(op, graph.shapes[op.inputs[0]]).sum())
            fan_in, outputs = math.prod(op.weight.shape[1:]), math.prod(graph.shapes[op.name])
            layers.append(TwinLayer(op.name, dense, fan_in * outputs))
    return Twin(tuple(layers))
