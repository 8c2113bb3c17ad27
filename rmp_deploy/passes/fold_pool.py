"""Fold average pooling into the synapse after it, so that every synapse receives binary spikes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Add, Array, AvgPool2d, Conv2d, Flatten, Linear, Op, Shape
from rmp_deploy.passes.as_synapses import identity
from rmp_deploy.passes.paths import currents

READ_BY_SYNAPSE = "Pool before a synapse"


def fold_pool(graph: SpikingGraph) -> SpikingGraph:
    """Return the graph without AvgPool2d; the next Conv2d or (Flatten and) Linear reads the unpooled spikes.

    A pool that is added to a current, a shortcut, gets a synapse to fold into: ``<add>_identity``, a depthwise 1x1
    convolution of ones, as `as_synapses` gives to spikes.

    A k-pool (kernel = stride = k) before a convolution with kernel K, stride s, padding p is the convolution with
    kernel kK, stride ks, padding kp whose weight repeats each tap k times per axis, divided by k*k. The same spikes
    cause the same synaptic operations, but every operand is 0 or 1. Before a Linear each column repeats likewise.

    Raises:
        RmpDeployError: windows overlap or leave gaps, k does not divide the map (the dropped border would reach
            the larger kernel), the convolution is dilated, or something else than a synapse reads the pooled map.
    """
    for pool in reversed(graph.of_type(AvgPool2d)):  # from the back: a pool of a pool folds twice
        graph = _fold_one(graph, pool)
    return graph


def refusals(graph: SpikingGraph) -> Iterator[tuple[Op, RmpDeployError]]:
    """The average pools that cannot be folded, each with what `fold_pool` raises for it."""
    for pool in reversed(graph.of_type(AvgPool2d)):
        try:
            graph = _fold_one(graph, pool)
        except RmpDeployError as e:
            yield pool, e


def _fold_one(graph: SpikingGraph, pool: AvgPool2d) -> SpikingGraph:
    shape = graph.shapes[pool.inputs[0]]
    if pool.kernel != pool.stride:
        raise _refused(pool, f"stride = {pool.stride}", f"kernel = {pool.kernel}", "Use windows that tile the map")
    if any(pool.padding):
        raise _refused(pool, f"padding = {pool.padding}", "(0, 0)", "Pool without padding")
    if shape[1] % pool.kernel[0] or shape[2] % pool.kernel[1]:
        raise _refused(pool, f"map = {shape[1:]}", f"multiples of kernel = {pool.kernel}", "Crop or pad the map first")
    graph = _with_identities(graph, pool)
    folded: dict[str, Op] = {}
    for reader in graph.consumers(pool.name):
        if isinstance(reader, Conv2d):
            folded[reader.name] = _pooled_conv(reader, pool)
        elif isinstance(reader, Flatten):
            folded[reader.name] = replace(reader, inputs=pool.inputs)
            for synapse in graph.consumers(reader.name):
                if not isinstance(synapse, Linear):
                    raise _refused(pool, f"reader = {synapse.kind} '{synapse.name}'", "a synapse", READ_BY_SYNAPSE)
                folded[synapse.name] = _pooled_linear(synapse, pool, graph.shapes[pool.name])
        else:
            raise _refused(pool, f"reader = {reader.kind} '{reader.name}'", "a synapse", READ_BY_SYNAPSE)
    if graph.readout.value in (pool.name, *(n for n, op in folded.items() if isinstance(op, Flatten))):
        raise _refused(pool, f"readout = '{graph.readout.value}'", "a synapse or a neuron", READ_BY_SYNAPSE)
    return replace(graph, ops=tuple(folded.get(op.name, op) for op in graph.ops if op.name != pool.name))


def _with_identities(graph: SpikingGraph, pool: AvgPool2d) -> SpikingGraph:
    """The graph in which an Add of currents reads the pool through a synapse of its own."""
    current = currents(graph)
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, Add) and pool.name in op.inputs and op.name in current:
            nth = 1 + sum(i.startswith(f"{op.name}_identity") for i in op.inputs)
            name = f"{op.name}_identity{nth if nth > 1 else ''}"
            ops.append(identity(name, pool.name, graph.shapes[pool.name], loihi=False))
            ops.append(replace(op, inputs=tuple(name if i == pool.name else i for i in op.inputs)))
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops)) if len(ops) > len(graph.ops) else graph


def _pooled_conv(conv: Conv2d, pool: AvgPool2d) -> Conv2d:
    if conv.dilation != (1, 1):
        what = f"reader '{conv.name}' has dilation = {conv.dilation}"
        raise _refused(pool, what, "(1, 1)", "Pool before an undilated convolution")
    (kh, kw), (sh, sw), (ph, pw) = pool.kernel, conv.stride, conv.padding
    return replace(
        conv,
        inputs=pool.inputs,
        weight=_spread(conv.weight, pool),
        stride=(sh * kh, sw * kw),
        padding=(ph * kh, pw * kw),
    )


def _pooled_linear(linear: Linear, pool: AvgPool2d, pooled: Shape) -> Linear:
    weight = _spread(linear.weight.reshape(-1, *pooled), pool)
    return replace(linear, weight=weight.reshape(len(weight), -1))


def _spread(weight: Array, pool: AvgPool2d) -> Array:
    """Repeat each tap of (C_out, C, H, W) over the window that it averaged, divided by the window's size."""
    kh, kw = pool.kernel
    spread = np.repeat(np.repeat(weight.astype(np.float64), kh, axis=2), kw, axis=3) / (kh * kw)
    return spread.astype(np.float32)


def _refused(pool: AvgPool2d, what: str, allowed: str, todo: str) -> RmpDeployError:
    return op_error("AvgPool2d", pool.name, what, allowed, todo)
