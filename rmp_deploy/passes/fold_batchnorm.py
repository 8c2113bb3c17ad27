"""Fold inference BatchNorm into the synapses around it; the chip has no BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Add, AvgPool2d, BatchNorm, Conv1d, Conv2d, Flatten, Linear, Op
from rmp_deploy.passes.as_synapses import identity
from rmp_deploy.passes.paths import currents

F64 = npt.NDArray[np.float64]
Synapse: TypeAlias = Linear | Conv1d | Conv2d


def fold_batchnorm(graph: SpikingGraph) -> SpikingGraph:
    """Return the graph with every BatchNorm ``y = gain * x + shift`` folded that can be folded exactly.

    ``gain = gamma / sqrt(var + eps)`` and ``shift = beta - gain * mean`` per channel, in float64, rounded to float32
    once. A folded synapse keeps its own name; who read the BatchNorm's value reads what it read.

    - Into the synapse before it: ``weight' = gain * weight``, ``bias' = gain * bias + shift``; through an Add into the
      synapse of every branch, the shift into the first. Nothing else may read what is scaled.
    - Else into all synapses after it, behind Flatten and unpadded AvgPool2d too: ``weight' = weight * gain``,
      ``bias' = bias + sum(weight * shift)``. A padded convolution pads zeros where the BatchNorm would give `shift`, so
      that it takes a BatchNorm only if the shift is 0.

    - Else into the synapses before it, and into one of its own for what joins their sum without one: the identity
      shortcut of spikes becomes a synapse of ``gain``, ``<add>_identity`` as in `as_synapses`.

    This is repeated until nothing folds: one BatchNorm may stand between another and its synapse. Any other BatchNorm
    stays in the graph as it is; `refusals` says why. A limit: Concat and pools are not looked through to the synapses
    before them, which could take it.
    """
    return _fold(graph)[0]


def refusals(graph: SpikingGraph) -> Iterator[tuple[Op, RmpDeployError]]:
    """The BatchNorms that `fold_batchnorm` leaves in the graph, each with the reason."""
    yield from _fold(graph)[1]


class _CannotFoldError(Exception):
    """Why one side of a BatchNorm does not take it."""


def _fold(graph: SpikingGraph) -> tuple[SpikingGraph, list[tuple[Op, RmpDeployError]]]:
    """The folded graph, and the BatchNorms that stay in it."""
    folded, kept = _fold_each_once(graph)
    while folded is not graph:
        graph = folded
        folded, kept = _fold_each_once(graph)
    return graph, kept


def _fold_each_once(graph: SpikingGraph) -> tuple[SpikingGraph, list[tuple[Op, RmpDeployError]]]:
    """The graph with what folds in it as it stands, itself if nothing does, and the BatchNorms that did not."""
    kept: list[tuple[Op, RmpDeployError]] = []
    for name in [norm.name for norm in graph.of_type(BatchNorm)]:
        (norm,) = (op for op in graph.of_type(BatchNorm) if op.name == name)  # its input may have folded before it
        reasons: dict[str, None] = {}  # each once
        for side in (_into_synapses_before, _into_synapses_after, _into_synapses_and_shortcuts_before):
            try:
                graph = side(graph, norm)
                break
            except _CannotFoldError as e:
                reasons[str(e)] = None
        else:
            what, todo = "; ".join(reasons), "Put it right behind a synapse"
            kept.append((norm, op_error(norm.kind, name, what, "a synapse of its own before or after it", todo)))
    return graph, kept


def _into_synapses_before(graph: SpikingGraph, norm: BatchNorm) -> SpikingGraph:
    gain, shift = _affine(norm)
    changed: dict[str, Op] = {}
    for synapse in _synapses_before(graph, norm.inputs[0], norm.name):
        bias = None if synapse.bias is None else gain * synapse.bias
        if not changed and shift.any():  # the sum is shifted once
            bias = shift if bias is None else bias + shift
        weight = synapse.weight * gain.reshape(-1, *(1,) * (synapse.weight.ndim - 1))
        changed[synapse.name] = _with(synapse, weight, bias)
    return _without(graph, norm, changed)


def _synapses_before(graph: SpikingGraph, value: str, reader: str) -> list[Synapse]:
    """The synapses whose sum `value` is, if `reader` alone reads it."""
    op = graph.by_name.get(value)
    if not isinstance(op, Linear | Conv1d | Conv2d | Add):
        raise _CannotFoldError(f"input = {op.kind if op else 'the input of the network,'} '{value}'")
    readers = [other.name for other in graph.consumers(value)]
    readers += ["the readout"] * (graph.readout.value == value)
    if readers != [reader]:
        raise _CannotFoldError(f"readers of '{value}' = {readers}")
    if not isinstance(op, Add):
        return [op]
    if len(set(op.inputs)) < len(op.inputs):
        raise _CannotFoldError(f"Add '{value}' reads a value twice")
    return [synapse for branch in op.inputs for synapse in _synapses_before(graph, branch, value)]


def _into_synapses_and_shortcuts_before(graph: SpikingGraph, norm: BatchNorm) -> SpikingGraph:
    return _into_synapses_before(_with_synaptic_shortcuts(graph, norm.inputs[0]), norm)


def _with_synaptic_shortcuts(graph: SpikingGraph, value: str) -> SpikingGraph:
    """The graph with an identity synapse wherever something that is no current joins the sum `value`."""
    known = currents(graph)
    sums = _sums(graph, value)
    ops: list[Op] = []
    for op in graph.ops:
        bare = [i for i in dict.fromkeys(op.inputs) if i not in known] if op.name in sums & known else []
        nth = sum(i.startswith(f"{op.name}_identity") for i in op.inputs)
        names = {i: f"{op.name}_identity{n if n > 1 else ''}" for n, i in enumerate(bare, start=nth + 1)}
        try:
            ops += [identity(name, i, graph.shapes[i], loihi=False) for i, name in names.items()]
        except RmpDeployError as e:
            raise _CannotFoldError(str(e)) from e
        ops.append(replace(op, inputs=tuple(names.get(i, i) for i in op.inputs)) if names else op)
    return replace(graph, ops=tuple(ops))


def _sums(graph: SpikingGraph, value: str) -> set[str]:
    """The Adds that make `value`: itself, and those that it sums."""
    op = graph.by_name.get(value)
    return {value}.union(*(_sums(graph, i) for i in op.inputs)) if isinstance(op, Add) else set()


def _into_synapses_after(graph: SpikingGraph, norm: BatchNorm) -> SpikingGraph:
    return _without(graph, norm, _readers_with(graph, norm.name, *_affine(norm)))


def _readers_with(graph: SpikingGraph, value: str, gain: F64, shift: F64) -> dict[str, Op]:
    """The synapses that read `value`, with `gain` and `shift` of its channels in them."""
    changed: dict[str, Op] = {}
    readers = graph.consumers(value)
    if not readers or graph.readout.value == value:
        raise _CannotFoldError(f"'{value}' is read out")
    for reader in readers:
        if isinstance(reader, Linear | Conv1d | Conv2d):
            changed[reader.name] = _behind(reader, gain, shift)
        elif isinstance(reader, Flatten):
            each = graph.shapes[reader.name][0] // len(gain)
            changed |= _readers_with(graph, reader.name, np.repeat(gain, each), np.repeat(shift, each))
        elif isinstance(reader, AvgPool2d) and not any(reader.padding):
            changed |= _readers_with(graph, reader.name, gain, shift)
        else:
            raise _CannotFoldError(f"reader = {reader.kind} '{reader.name}'")
    return changed


def _behind(synapse: Synapse, gain: F64, shift: F64) -> Op:
    """``synapse(gain * x + shift)`` as one synapse."""
    groups = 1 if isinstance(synapse, Linear) else synapse.groups
    if not isinstance(synapse, Linear) and any(synapse.padding) and shift.any():
        raise _CannotFoldError(f"{synapse.kind} '{synapse.name}' pads zeros and the shift is not 0")
    n, kernel = len(synapse.weight), synapse.weight.shape[2:]
    weight = synapse.weight.reshape(groups, n // groups, -1, *kernel)
    gain, shift = (p.reshape(groups, 1, -1, *(1,) * len(kernel)) for p in (gain, shift))
    shifted = (weight * shift).reshape(n, -1).sum(axis=1)
    bias = shifted if synapse.bias is None else synapse.bias + shifted
    return _with(synapse, (weight * gain).reshape(synapse.weight.shape), bias)


def _affine(norm: BatchNorm) -> tuple[F64, F64]:
    """Gain and shift per channel."""
    gain = norm.gamma.astype(np.float64) / np.sqrt(norm.var.astype(np.float64) + norm.eps)
    return gain, norm.beta - gain * norm.mean


def _with(synapse: Synapse, weight: F64, bias: F64 | None) -> Op:
    return replace(synapse, weight=weight.astype(np.float32), bias=None if bias is None else bias.astype(np.float32))


def _without(graph: SpikingGraph, norm: BatchNorm, changed: dict[str, Op]) -> SpikingGraph:
    """The graph with `changed` ops and no `norm`: who read it reads its input; other ops are not copied."""
    (source,) = norm.inputs
    ops: list[Op] = []
    for old in graph.ops:
        op = changed.get(old.name, old)
        if norm.name in op.inputs:
            op = replace(op, inputs=tuple(source if i == norm.name else i for i in op.inputs))
        if old is not norm:
            ops.append(op)
    value = source if graph.readout.value == norm.name else graph.readout.value
    return replace(graph, ops=tuple(ops), readout=replace(graph.readout, value=value))
