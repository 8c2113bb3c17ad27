"""The ANN of the same layers."""

from __future__ import annotations

import math

import numpy as np

from rmp_deploy.analysis.counts.fan_out import SYNAPSES, Convolution, Dense, fan_out
from rmp_deploy.analysis.counts.table import Twin, TwinLayer
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Add


def twin(graph: SpikingGraph) -> Twin:
    """Dense MACs of the ANN with the same synaptic layers, one pass, per sample.

    Give it the network as designed, before `fold_pool`: an ANN pools first and then multiplies, so the folded kernel
    (k*k times larger for a k-pool) would charge the twin for work that it never does. An identity shortcut is an add
    there, and no MAC, also where the graph holds it as a synapse. A recurrent layer passes once.
    """
    layers = []
    for op in graph.ops:
        if isinstance(op, SYNAPSES) and not _is_identity(graph, op):
            dense = int(fan_out(op, graph.shapes[op.inputs[0]]).sum())
            fan_in, outputs = math.prod(op.weight.shape[1:]), math.prod(graph.shapes[op.name])
            layers.append(TwinLayer(op.name, dense, fan_in * outputs))
    return Twin(tuple(layers))


def _is_identity(graph: SpikingGraph, op: Dense | Convolution) -> bool:
    """A shortcut: one synapse from every position to its own, all of one weight, that only Adds read."""
    readers, weight = graph.consumers(op.name), op.weight
    if not readers or not all(isinstance(reader, Add) for reader in readers) or getattr(op, "bias", None) is not None:
        return False
    if isinstance(op, Dense):
        return weight.shape[0] == weight.shape[1] and bool((weight == weight[0, 0] * np.eye(len(weight))).all())
    one_to_one = math.prod(weight.shape[1:]) == 1 and op.groups == len(weight)
    return one_to_one and set(op.stride) == {1} and not any(op.padding) and bool((weight == weight.flat[0]).all())
