"""What of a network stands on a chip: layers of neurons, and which neurons each of their synapses comes from.

Nothing is enumerated: a convolution is a product of its axes, and along one axis it is a table of what each position
reads. So a layer of millions of synapses costs no more than its sizes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import (
    LIF,
    Add,
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    Op,
    Shape,
)
from rmp_deploy.passes.paths import NEURONS, SYNAPSES, Part, parts

Ints = npt.NDArray[np.int64]
Kind = Literal["neurons", "relay", "readout"]
LOIHIS = (LoihiLIF, LoihiLinear, LoihiConv2d)
MOVING = (Add, Concat, Delay, Flatten)  # they compute nothing of their own on a chip
DEFAULT_WEIGHT_BITS = 8  # of real-valued weights: what passes.quantize makes of them unless told otherwise


@dataclass(frozen=True)
class Axis:
    """Along one axis, what each of n positions of the reader reads: `reads` [n, taps], groups of source positions.

    A group has `each` positions; -1 is a tap that meets no source (padding). A position reads a group at most once.
    """

    reads: Ints
    groups: int
    each: int = 1

    def sources(self, tile: int) -> Ints:
        """Source positions that each tile reads: of those that several of its positions read, the first counts."""
        position, before, count = self._repeats
        tiles = position // tile
        first = tiles != before // tile
        found = np.bincount(tiles[first], weights=count[first], minlength=-(-len(self.reads) // tile))
        sources: Ints = found.astype(np.int64) * self.each
        return sources

    def synapses(self, tile: int) -> Ints:
        """Synapses of each tile."""
        found: Ints = np.add.reduceat(self._taps, np.arange(0, len(self.reads), tile)) * self.each
        return found

    def readers(self, tile: int) -> Ints:
        """Tiles that read each source position."""
        group, _ = self.meetings(tile)
        readers: Ints = np.repeat(np.bincount(group, minlength=self.groups), self.each)
        return readers

    def meetings(self, tile: int) -> tuple[Ints, Ints]:
        """Every pair of a group and a tile that reads it, once, in order."""
        group, position, before = self._pairs
        first = position // tile != before // tile
        return group[first], position[first] // tile

    @cached_property
    def _taps(self) -> Ints:
        """Groups that each position reads."""
        taps: Ints = (self.reads >= 0).sum(axis=1, dtype=np.int64)
        return taps

    @cached_property
    def _pairs(self) -> tuple[Ints, Ints, Ints]:
        """Of every read: its group, its position, and the position before that reads the group too, or -1."""
        position, tap = np.nonzero(self.reads >= 0)
        group = self.reads[position, tap]
        order = np.lexsort((position, group))
        group, position = group[order], position[order]
        before = np.full(len(group), -1, np.int64)
        before[1:] = np.where(group[1:] == group[:-1], position[:-1], -1)
        return group, position, before

    @cached_property
    def _repeats(self) -> tuple[Ints, Ints, Ints]:
        """Position and position before of `_pairs`, and how many have both: of a window almost all are a stride apart,
        so that a tile of any size costs as much as its positions, and not as their taps.
        """
        _, position, before = self._pairs
        wide = len(self.reads) + 1
        both, count = np.unique(position * wide + before + 1, return_counts=True)
        return both // wide, both % wide - 1, count


@dataclass(frozen=True)
class Connection:
    """The synapses of `op` from the neurons `source`, `bits` each: one axis per axis of the layer where they end."""

    op: Op
    source: str
    axes: tuple[Axis, ...]
    bits: int


@dataclass(frozen=True)
class ChipLayer:
    """Neurons on the chip, before they are cut into blocks, and all synapses that end in them.

    `head` are the neurons, or the synapse whose currents nothing but the readout reads.
    """

    head: Op
    kind: Kind
    shape: Shape
    connections: tuple[Connection, ...]

    @property
    def name(self) -> str:
        return self.head.name


def _connections(graph: SpikingGraph, op: Op, read: Sequence[Part]) -> Iterator[Connection]:
    bits = op.num_weight_bits if isinstance(op, LoihiLinear | LoihiConv2d) else DEFAULT_WEIGHT_BITS
    shape = graph.shapes[op.inputs[0]]
    for part in read:
        size = math.prod(graph.shapes[part.source])
        axes = (
            _dense_axes(op, part.start, size)
            if isinstance(op, Linear | LoihiLinear)
            else _conv_axes(op, shape, part.start // math.prod(shape[1:]), size // math.prod(shape[1:]))
        )
        yield Connection(op, part.source, axes, bits)


def _dense_axes(op: Linear | LoihiLinear, start: int, size: int) -> tuple[Axis, ...]:
    """Every neuron reads all of the source; of an identity matrix, its own."""
    n_out, n_in = op.weight.shape
    if n_out == n_in and np.count_nonzero(op.weight) == np.count_nonzero(op.weight.diagonal()) == n_in:
        own = np.arange(n_out) - start
        return (Axis(np.where((own >= 0) & (own < size), own, -1)[:, None], size),)
    return (Axis(np.zeros((n_out, 1), np.int64), 1, size),)


def _conv_axes(op: Op, shape: Shape, first: int, channels: int) -> tuple[Axis, ...]:
    """Channels by groups, then windows; the source is `channels` channels of its input, from `first` on."""
    assert isinstance(op, Conv1d | Conv2d | LoihiConv2d)
    out, per_group = op.weight.shape[:2]
    group = np.arange(out) * op.groups // out
    if op.groups == 1:
        of_channels = Axis(np.zeros((out, 1), np.int64), 1, channels)
    else:
        read = group[:, None] * per_group + np.arange(per_group) - first
        of_channels = Axis(np.where((read >= 0) & (read < channels), read, -1), channels)
    axes = [of_channels]
    for n, kernel, s, p, d in zip(shape[1:], op.weight.shape[2:], op.stride, op.padding, op.dilation, strict=True):
        outputs = (n + 2 * p - d * (kernel - 1) - 1) // s + 1
        read = np.arange(outputs)[:, None] * s + np.arange(kernel) * d - p
        axes.append(Axis(np.where((read >= 0) & (read < n), read, -1), n))
    return tuple(axes)


def host_ops(graph: SpikingGraph, relays: Collection[str] = ()) -> set[str]:
    """Names of the ops that the host computes: the real-valued ones of an integer graph; of a real-valued graph, what
    is computed before the first spikes, and those of its `relays` in which these wait.
    """
    if graph.of_type(*LOIHIS):
        return {op.name for op in graph.ops if not isinstance(op, (*LOIHIS, *MOVING))}
    host: set[str] = set()
    real = {graph.input.name} - ({graph.input.name} if graph.input.message_bits is not None else set())
    for op in graph.ops:
        if (op.name in relays and host.issuperset(op.inputs)) or not real.isdisjoint(op.inputs):
            host.add(op.name)
            if not graph.is_spikes(op.name):
                real.add(op.name)
    return host


def chip_layers(graph: SpikingGraph, relays: Collection[str] = ()) -> Iterator[ChipLayer]:
    """Neurons with all synapses whose currents reach them, and synapses that no neurons read, in the order of the ops.

    `relays` are the ops that `balance_latency` added.

    Raises:
        RmpDeployError: a neuron with soft reset, an op without a place on a chip, currents that Concat joins or that
            are added to the host's values, neurons without a synapse.
    """
    host = host_ops(graph, relays)
    for op in graph.ops:
        _check(op, op.name in host)
    read: set[str] = set()
    heads: dict[str, list[Op]] = {}
    for op in graph.ops:
        if isinstance(op, NEURONS) and op.name not in host:
            heads[op.name] = _feeding(graph, op)
            read |= {synapse.name for synapse in heads[op.name]}
    sources = parts(graph)
    for op in graph.ops:
        if op.name in heads:
            kind: Kind = "relay" if op.name in relays else "neurons"
            yield _layer(graph, op, kind, heads[op.name], sources)
        elif isinstance(op, SYNAPSES) and op.name not in host | read:
            for reader in graph.consumers(op.name):
                if reader.name in host and not isinstance(reader, Dequantize):
                    what, todo = f"input = '{op.name}', a current of the chip", "Put neurons between"
                    raise op_error(reader.kind, reader.name, what, "values of the host [map]", todo)
            yield _layer(graph, op, "readout", [op], sources)


def _feeding(graph: SpikingGraph, neurons: Op) -> list[Op]:
    """The synapses whose currents `neurons` read, added or flattened."""
    found: list[Op] = []
    waiting, seen = list(neurons.inputs), set(neurons.inputs)
    while waiting:
        op = graph.by_name.get(waiting.pop(0))
        if isinstance(op, SYNAPSES):
            found.append(op)
        elif op is not None and not isinstance(op, NEURONS):
            waiting += [i for i in op.inputs if i not in seen]
            seen |= set(op.inputs)
    return found


def _layer(
    graph: SpikingGraph, head: Op, kind: Kind, synapses: Sequence[Op], sources: Mapping[str, Sequence[Part]]
) -> ChipLayer:
    shapes = sorted({graph.shapes[op.name] for op in synapses})
    if len(shapes) != 1 or math.prod(shapes[0]) != math.prod(graph.shapes[head.name]):
        what, allowed = f"synapses of shapes {shapes} end in it", f"those of its own, {graph.shapes[head.name]} [map]"
        raise op_error(
            head.kind, head.name, what, allowed, "Give it synapses, and join spikes, not currents, by Concat"
        )
    connections = (c for op in synapses for c in _connections(graph, op, sources[op.inputs[0]]))
    return ChipLayer(head, kind, shapes[0], tuple(connections))


def _check(op: Op, on_host: bool) -> None:
    if not on_host and not isinstance(op, (*SYNAPSES, *NEURONS, *MOVING)):
        todo = "A pool of spikes before a synapse can be an AvgPool2d, which folds; a BatchNorm must stand at a synapse"
        raise op_error(op.kind, op.name, f"op = {op.kind}", "synapses and neurons [map]", todo)
    if isinstance(op, LIF) and not on_host and op.reset == "soft":
        todo = "The chip's neuron resets to 0: train with the hard reset"
        raise op_error(op.kind, op.name, "reset = 'soft'", "'hard' [map]", todo)
