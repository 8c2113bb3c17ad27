"""Place a network on the cores of a chip: how many cores each layer takes, and what each of them then holds.

The rule, which docs/map.md explains with its limits: a layer is a map or a row of neurons with all synapses that end in
them. Layers share no core. A layer is cut into equal blocks, one for each core, as large as the tightest limit of a
core allows. Every synapse is stored on its own, and every neuron that sends to a core takes one input axon there and
one output axon for each core that it sends to. Nothing is counted by enumerating synapses: on each axis of a map, which
positions a block reads is known, and counts are products over the axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Shape
from rmp_deploy.passes.as_synapses import as_synapses
from rmp_deploy.passes.balance_latency import balance_latency
from rmp_deploy.passes.chip_layers import (
    DEFAULT_WEIGHT_BITS,
    LOIHIS,
    MOVING,
    ChipLayer,
    Connection,
    Ints,
    Kind,
    chip_layers,
    host_ops,
)
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.passes.fold_pool import fold_pool
from rmp_deploy.passes.paths import SYNAPSES

NEURON_LIMIT, INPUT_LIMIT, OUTPUT_LIMIT = "neurons_per_core", "input_axons_per_core", "output_axons_per_core"
MEMORY_LIMIT, SYNAPSE_LIMIT = "synapse_memory_per_core", "synapses_per_core"
PER_CORE = (NEURON_LIMIT, INPUT_LIMIT, OUTPUT_LIMIT, MEMORY_LIMIT, SYNAPSE_LIMIT)


@dataclass(frozen=True)
class Layer:
    """Neurons on the chip and the synapses that end in them.

    Attributes:
        name, op: the neurons and their type, or the synapse's where nothing but the readout reads its currents.
        kind: "relay" where `balance_latency` added it; "readout" where the neurons only gather the currents.
        synapses: the synaptic ops that end here.
        shape: of the layer; tile: of a block of it, the last ones along an axis may be smaller.
        used: what each core holds, by the name of the limit that it falls under; [cores], in units of that limit.
        kernel_bytes: synapse memory of all its cores if a convolution's kernel were stored once on each.
        connections: where its synapses come from.
    """

    name: str
    op: str
    kind: Kind
    synapses: tuple[str, ...]
    shape: Shape
    tile: Shape
    used: Mapping[str, Ints]
    kernel_bytes: int
    connections: tuple[Connection, ...]

    @property
    def neurons(self) -> int:
        return math.prod(self.shape)

    @property
    def cores(self) -> int:
        return math.prod(-(-n // t) for n, t in zip(self.shape, self.tile, strict=True))


@dataclass(frozen=True)
class Excess:
    """One neuron of `layer` (`op` is its type) alone needs more than a core has: it cannot be cut small enough."""

    layer: str
    op: str
    limit: str
    value: int
    allowed: int


@dataclass(frozen=True)
class Placement:
    """Layers in order, the ops that stay on the host, and what does not fit; `assumed_bits` of real-valued weights."""

    layers: tuple[Layer, ...]
    host: tuple[str, ...]
    excesses: tuple[Excess, ...]
    assumed_bits: int | None


def place(graph: SpikingGraph, limits: Mapping[str, int | None]) -> Placement:
    """Cut every layer of the deployed `graph` into blocks that fit the cores of a chip with these `limits`.

    Deployed means `fold_batchnorm`, `fold_pool` and `balance_latency`, whose relays are layers like others. On the host
    stay the real-valued ops of an integer graph, or of a real-valued one what it computes before the first spikes; its
    other weights count as `DEFAULT_WEIGHT_BITS` bits each. A limit that is None or missing is not checked.

    Raises:
        RmpDeployError: as the three passes and `chip_layers`; nothing is left for the chip.
    """
    unbalanced = as_synapses(fold_pool(fold_batchnorm(graph)))
    deployed = balance_latency(unbalanced)
    relays = {op.name for op in deployed.ops} - {op.name for op in unbalanced.ops}
    layers = tuple(chip_layers(deployed, relays))
    if not layers:
        todo = "A network whose every layer reads real values stays on the host"
        raise op_error("SpikingGraph", graph.name, "layers that spikes reach = 0", "at least 1 [map]", todo)
    leaving = _leaving(layers)
    tiles, excesses = _tile(layers, leaving, {name: limits.get(name) for name in PER_CORE})
    host = host_ops(deployed, relays)
    return Placement(
        layers=tuple(_placed(layer, tiles, leaving[layer.name]) for layer in layers),
        host=tuple(op.name for op in deployed.ops if op.name in host and not isinstance(op, MOVING)),
        excesses=excesses,
        assumed_bits=None if deployed.of_type(*LOIHIS) else DEFAULT_WEIGHT_BITS,
    )


Leaving = Sequence[tuple[str, Connection]]  # what leaves a layer: who reads it, through which synapses


def _leaving(layers: Sequence[ChipLayer]) -> dict[str, list[tuple[str, Connection]]]:
    found: dict[str, list[tuple[str, Connection]]] = {layer.name: [] for layer in layers}
    for reader in layers:
        for connection in reader.connections:
            if connection.source in found:  # else it is the host's
                found[connection.source].append((reader.name, connection))
    return found


def _tile(
    layers: Sequence[ChipLayer], leaving: Mapping[str, Leaving], limits: Mapping[str, int | None]
) -> tuple[dict[str, Shape], tuple[Excess, ...]]:
    """Blocks of every layer, from the last layer to the first: output axons depend on the blocks of the readers.

    Where a loop leads back, a layer is cut again, never larger than before, until nothing changes.
    """
    tiles: dict[str, Shape] = {}
    excesses: dict[tuple[str, str], Excess] = {}
    changed = True
    while changed:
        changed = False
        for layer in reversed(layers):
            tile, beyond = _fit(layer, tiles, leaving[layer.name], limits)
            excesses |= {(e.layer, e.limit): e for e in beyond}
            changed |= tile != tiles.get(layer.name)
            tiles[layer.name] = tile
    order = {layer.name: i for i, layer in enumerate(layers)}
    return tiles, tuple(sorted(excesses.values(), key=lambda e: (order[e.layer], e.limit)))


def _fit(
    layer: ChipLayer, tiles: Mapping[str, Shape], leaving: Leaving, limits: Mapping[str, int | None]
) -> tuple[Shape, list[Excess]]:
    """The block that costs the fewest cores, and what even one neuron exceeds.

    Its cost is its cores, and as many again as the axons that lead here fill, with input axons here and with output
    axons in the layers before, which have to be cut for them; of blocks of one cost, the one with the fewest axons.
    """
    largest = tiles.get(layer.name, layer.shape)
    sizes = [_sizes(n, most) for n, most in zip(layer.shape, largest, strict=True)]
    cores = _product([-(-n // size) for n, size in zip(layer.shape, sizes, strict=True)])
    needed, axons = _largest_use(layer, sizes, tiles, leaving)
    fits = np.ones(cores.shape, np.bool_)
    beyond = []
    for name, use in needed.items():
        allowed = limits[name]
        if allowed is None:
            continue
        one = int(use[(0,) * use.ndim])
        if one > allowed:
            beyond.append(Excess(layer.name, layer.head.kind, name, one, allowed))
        else:
            fits &= use <= allowed
    cost = cores + axons / (limits[INPUT_LIMIT] or np.inf) + axons / (limits[OUTPUT_LIMIT] or np.inf)
    order = np.lexsort((axons[fits], cost[fits]))
    chosen = np.argwhere(fits)[order[0]]
    return tuple(int(size[i]) for size, i in zip(sizes, chosen, strict=True)), beyond


def _largest_use(
    layer: ChipLayer, sizes: Sequence[Ints], tiles: Mapping[str, Shape], leaving: Leaving
) -> tuple[dict[str, Ints], Ints]:
    """For every choice of sizes: what the fullest block needs of each limit, and the input axons of all blocks.

    Of a layer with several sources, what is needed is the sum of the worst of each.
    """
    shape = tuple(len(size) for size in sizes)
    use = {name: np.zeros(shape, np.int64) for name in PER_CORE}
    use[NEURON_LIMIT] = _product(sizes)
    bits, axons = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for connection in layer.connections:
        axes = list(zip(connection.axes, sizes, strict=True))
        sources = [[axis.sources(int(t)) for t in size] for axis, size in axes]
        use[INPUT_LIMIT] += _product([np.array([s.max() for s in axis]) for axis in sources])
        axons += _product([np.array([s.sum() for s in axis]) for axis in sources])
        synapses = _product([np.array([axis.synapses(int(t)).max() for t in size]) for axis, size in axes])
        use[SYNAPSE_LIMIT] += synapses
        bits += synapses * connection.bits
    use[MEMORY_LIMIT] = -(-bits // 8)
    for readers in _readers(layer, tiles, leaving):
        sums = [np.array([_by_tile(r, int(t)).max() for t in size]) for r, size in zip(readers, sizes, strict=True)]
        use[OUTPUT_LIMIT] += _product(sums)
    return use, axons


def _readers(layer: ChipLayer, tiles: Mapping[str, Shape], leaving: Leaving) -> Iterator[list[Ints]]:
    """For every connection that leaves `layer`: along each of its axes, blocks that read each position."""
    for reader, connection in leaving:
        if reader not in tiles:
            continue  # a loop, whose later layers are not cut yet
        found = [axis.readers(t) for axis, t in zip(connection.axes, tiles[reader], strict=True)]
        if tuple(len(f) for f in found) != layer.shape:  # behind a Flatten: each position alike
            blocks = math.prod(int(f.max()) for f in found)
            found = [np.ones(n, np.int64) for n in layer.shape]
            found[0] *= blocks
        yield found


def _placed(layer: ChipLayer, tiles: Mapping[str, Shape], leaving: Leaving) -> Layer:
    """The layer with what each of its cores holds, exactly."""
    tile = tiles[layer.name]
    use = {NEURON_LIMIT: _product([_by_tile(np.ones(n, np.int64), t) for n, t in zip(layer.shape, tile, strict=True)])}
    for name in (INPUT_LIMIT, OUTPUT_LIMIT, SYNAPSE_LIMIT):
        use[name] = np.zeros_like(use[NEURON_LIMIT])
    bits = np.zeros_like(use[NEURON_LIMIT])
    kernel_bits = 0
    for connection in layer.connections:
        axes = list(zip(connection.axes, tile, strict=True))
        synapses = _product([axis.synapses(t) for axis, t in axes])
        use[INPUT_LIMIT] += _product([axis.sources(t) for axis, t in axes])
        use[SYNAPSE_LIMIT] += synapses
        bits += synapses * connection.bits
    for op, width in {c.op.name: (c.op, c.bits) for c in layer.connections}.values():
        copies = math.prod(-(-n // t) for n, t in zip(layer.shape[1:], tile[1:], strict=True))
        assert isinstance(op, SYNAPSES)
        kernel_bits += op.weight.size * width * copies
    for readers in _readers(layer, tiles, leaving):
        use[OUTPUT_LIMIT] += _product([_by_tile(r, t) for r, t in zip(readers, tile, strict=True)])
    use[MEMORY_LIMIT] = -(-bits // 8)
    ops = tuple(dict.fromkeys(c.op.name for c in layer.connections))
    used = {name: use[name].ravel() for name in PER_CORE}
    return Layer(
        name=layer.name,
        op=layer.head.kind,
        kind=layer.kind,
        synapses=ops,
        shape=layer.shape,
        tile=tile,
        used=used,
        kernel_bytes=-(-kernel_bits // 8),
        connections=layer.connections,
    )


def _sizes(n: int, most: int) -> Ints:
    """Sizes of equal blocks of n positions, at most `most`: ``ceil(n / k)``, of which there are about ``2 sqrt(n)``."""
    root = np.arange(1, math.isqrt(n) + 2)
    sizes: Ints = np.unique([root, -(-n // root)])
    return sizes[sizes <= most]


def _by_tile(values: Ints, tile: int) -> Ints:
    """Sums over runs of `tile` positions."""
    sums: Ints = np.add.reduceat(values, np.arange(0, len(values), tile))
    return sums


def _product(factors: Sequence[Ints]) -> Ints:
    product: Ints = reduce(np.multiply.outer, [np.asarray(f, np.int64) for f in factors])
    return product
