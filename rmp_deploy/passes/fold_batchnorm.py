"""Fold inference BatchNorm into the synapse before it; the chip has no BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import BatchNorm, Conv2d, Linear, Op


def fold_batchnorm(graph: SpikingGraph) -> SpikingGraph:
    """Return the graph without BatchNorm: ``weight' = weight * g``, ``bias' = (bias - mean) * g + beta``.

    ``g = gamma / sqrt(var + eps)`` per output channel, computed in float64 and rounded to float32 once. The
    folded synapse keeps its own name; who read the BatchNorm's value reads the synapse's.

    Raises:
        RmpDeployError: a BatchNorm does not follow a Linear or Conv2d, or that synapse feeds something else too.
    """
    renamed: dict[str, str] = {}
    ops: list[Op] = []
    for op in graph.ops:
        if not isinstance(op, BatchNorm):
            ops.append(replace(op, inputs=tuple(renamed.get(i, i) for i in op.inputs)))
            continue
        synapse = _synapse_of(graph, op)
        ops[[o.name for o in ops].index(synapse.name)] = _folded(synapse, op)
        renamed[op.name] = synapse.name
    value = renamed.get(graph.readout.value, graph.readout.value)
    return replace(graph, ops=tuple(ops), readout=replace(graph.readout, value=value))


def refusals(graph: SpikingGraph) -> Iterator[tuple[Op, RmpDeployError]]:
    """The BatchNorms that cannot be folded, each with what `fold_batchnorm` raises for it."""
    for op in graph.of_type(BatchNorm):
        try:
            _synapse_of(graph, op)
        except RmpDeployError as e:
            yield op, e


def _synapse_of(graph: SpikingGraph, op: BatchNorm) -> Linear | Conv2d:
    """The synapse that `op` folds into."""
    synapse = graph.by_name.get(op.inputs[0])
    if not isinstance(synapse, Linear | Conv2d):
        kind = synapse.kind if synapse else "the network's input"
        raise op_error("BatchNorm", op.name, f"input = {kind}", "Linear or Conv2d", "Put it right after one")
    readers = [reader.name for reader in graph.consumers(synapse.name)]
    if graph.readout.value == synapse.name:
        readers.append("the readout")
    if len(readers) > 1:
        what = f"readers of '{synapse.name}' = {readers}"
        raise op_error("BatchNorm", op.name, what, "the BatchNorm alone", "Split the synapse")
    return synapse


def _folded(synapse: Linear | Conv2d, norm: BatchNorm) -> Linear | Conv2d:
    gain = norm.gamma.astype(np.float64) / np.sqrt(norm.var.astype(np.float64) + norm.eps)
    bias = np.zeros(len(gain)) if synapse.bias is None else synapse.bias.astype(np.float64)
    weight = synapse.weight * gain.reshape(-1, *(1,) * (synapse.weight.ndim - 1))
    return replace(
        synapse,
        weight=weight.astype(np.float32),
        bias=((bias - norm.mean) * gain + norm.beta).astype(np.float32),
    )
