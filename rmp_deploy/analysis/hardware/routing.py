"""Messages between the cores of a placed network, and how far over the mesh they go: counted from the spikes.

The rules, which docs/energy.md explains: cores are numbered as they were placed and lie on the mesh tile by tile, row
by row. A spike is one message for each output axon of its neuron, as `passes.place` counts axons: one per core and
synaptic op. A message is sent alone (unicast), first east or west, then north or south. No pair of a neuron and a core
is enumerated: which blocks read a position is known on each axis of a map, and messages are products over the axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from rmp_deploy.analysis.counts import Counts
from rmp_deploy.analysis.hardware.estimate import ZERO, Estimate, of, total
from rmp_deploy.errors import op_error
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.ir.ops import Shape
from rmp_deploy.passes.chip_layers import Axis, Connection, Ints
from rmp_deploy.passes.place import Layer, Placement

DISTANCES = ("within_tile", "hop_east_west", "hop_north_south")  # what is known of a message only on the mesh

MOST_PAIRS = 2**18  # pairs of cores that are looked at together


@dataclass(frozen=True)
class Traffic:
    """Messages of one layer's neurons, over all samples, and where they go.

    A message stays within its tile, takes hops between the tiles of a chip, or leaves for another chip; all four are
    None where the mesh is not known.
    """

    layer: str
    messages: int
    within_tile: int | None
    hop_east_west: int | None
    hop_north_south: int | None
    between_chips: int | None


@dataclass(frozen=True)
class Routing:
    """What the spikes of a placed network sent, and its energy.

    Attributes:
        cores, tiles, chips: that the network lies on; None where the profile does not know their sizes.
        layers: messages of each layer that others read, over all samples.
        counts: their sums, by the names of `ROUTES`; None where the mesh is not known.
        between_chips: messages that leave their chip: without hops here, and no profile has their energy.
        host_messages: messages of neurons on the host; None where the input itself is sent, since no count says how
            often each of its elements was not 0. They enter the mesh at a place that is not published: no hops.
        terms: energy of each kind of message and hop [J per sample].
        energy: the sum of those that have a figure [J per sample]; unknown where a hop or a tile has none.
        left_out: what `energy` does not hold, and why.
    """

    cores: int
    tiles: int | None
    chips: int | None
    layers: tuple[Traffic, ...]
    counts: Mapping[str, int | None]
    between_chips: int | None
    host_messages: int | None
    terms: Mapping[str, Estimate]
    energy: Estimate
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Mesh:
    """Chips of `cores` cores in tiles of some cores, tiles in rows of `columns`; filled core by core, row by row."""

    columns: int
    cores_per_tile: int
    cores: int

    def position(self, core: Ints) -> tuple[Ints, Ints, Ints]:
        """Chip, row and column of the tile that each core is in."""
        chip, within = np.divmod(core, self.cores)
        row, column = np.divmod(within // self.cores_per_tile, self.columns)
        return chip, row, column

    def tiles(self, cores: int) -> int:
        """Tiles that the first `cores` cores lie on."""
        chips, rest = divmod(cores, self.cores)
        return chips * -(-self.cores // self.cores_per_tile) + -(-rest // self.cores_per_tile)


Pairs = tuple[Ints, Ints, Ints]  # cores that send, cores that receive, and the messages between them


def route(placement: Placement, counts: Counts, profile: HardwareProfile) -> Routing:
    """Messages and hops of the spikes in `counts` over `placement`, priced with the figures of `profile`.

    Raises:
        RmpDeployError: `counts` do not hold the spikes of each neuron of a placed layer.
    """
    spikes = {row.neurons: row.neuron_spikes for row in counts.layers if row.neurons and row.neuron_spikes is not None}
    mesh, why = _mesh(profile)
    cores = sum(layer.cores for layer in placement.layers)
    layers = tuple(_traffic(name, pairs, mesh) for name, pairs in _sent(placement, spikes))
    messages = sum(row.messages for row in layers)
    found: dict[str, int | None] = {"message_out": messages, "message_in": messages}
    for name in DISTANCES:
        found[name] = None if mesh is None else sum(getattr(row, name) for row in layers)
    between = None if mesh is None else sum(row.between_chips or 0 for row in layers)
    terms, left_out = {}, {}
    for name, n in found.items():
        figure = of(profile.routing[name])
        terms[name] = Estimate("J", why=why) if n is None else figure.times(n / counts.samples) if n else ZERO
        if not terms[name].known and profile.routing[name].status != "included":
            left_out[name] = terms[name].why
    if between:
        left_out["between_chips"] = f"{between} messages leave their chip, and what that costs is not known"
    missing = next((left_out[name] for name in (*DISTANCES, "between_chips") if name in left_out), None)
    per_chip = profile.limits["cores"].value if mesh is None else mesh.cores
    return Routing(
        cores=cores,
        tiles=None if mesh is None else mesh.tiles(cores),
        chips=None if per_chip is None else -(-cores // per_chip),
        layers=layers,
        counts=found,
        between_chips=between,
        host_messages=_from_host(placement, spikes),
        terms=terms,
        energy=Estimate("J", why=missing) if missing else total("J", [e for e in terms.values() if e.known]),
        left_out=left_out,
    )


def _mesh(profile: HardwareProfile) -> tuple[Mesh | None, str]:
    """The mesh of a chip; None, and why, where the profile does not know it."""
    rows, columns, per_tile = (profile.mesh[name] for name in ("mesh_rows", "mesh_columns", "cores_per_tile"))
    if rows.value is None or columns.value is None or per_tile.value is None:
        why = next(size.why for size in (rows, columns, per_tile) if size.value is None)
        return None, f"the mesh of a chip is not known: {why}"
    cores = rows.value * columns.value * per_tile.value
    return Mesh(columns.value, per_tile.value, min(cores, profile.limits["cores"].value or cores)), ""


def _sent(placement: Placement, spikes: Mapping[str, Ints]) -> Iterator[tuple[str, Iterator[Pairs]]]:
    """Every layer that another one reads, and the messages of its spikes between pairs of cores."""
    layers = {layer.name: layer for layer in placement.layers}
    first = dict(zip(layers, accumulate((layer.cores for layer in placement.layers), initial=0), strict=False))
    readers: dict[str, list[tuple[Connection, Layer]]] = {}
    for reader in placement.layers:
        for connection in reader.connections:
            readers.setdefault(connection.source, []).append((connection, reader))

    def pairs(layer: Layer, sent: Ints) -> Iterator[Pairs]:
        for connection, reader in readers[layer.name]:
            for out, into, n in _messages(sent, connection, layer.tile, reader):
                yield first[layer.name] + out, first[reader.name] + into, n

    for name, layer in layers.items():
        if name in readers:
            yield name, pairs(layer, _spikes(layer, spikes))


def _from_host(placement: Placement, spikes: Mapping[str, Ints]) -> int | None:
    """Messages that the host sends; None where it sends more than the spikes of neurons."""
    layers = {layer.name for layer in placement.layers}
    found = 0
    for reader in placement.layers:
        for connection in reader.connections:
            if connection.source in layers:
                continue
            if connection.source not in spikes:
                return None
            axes = connection.axes
            shape = tuple(axis.groups * axis.each for axis in axes)
            sent = spikes[connection.source].reshape(shape)
            found += sum(int(n.sum()) for _, _, n in _messages(sent, connection, shape, reader))
    return found


def _spikes(layer: Layer, spikes: Mapping[str, Ints]) -> Ints:
    """Spikes of each neuron of `layer`, in its shape."""
    found = spikes.get(layer.name)
    if found is None or found.size != layer.neurons:
        size = "none" if found is None else found.size
        todo = "Count the network that is placed: passes.balance_latency of it"
        raise op_error(layer.op, layer.name, f"neurons with counted spikes = {size}", f"{layer.neurons}", todo)
    return found.reshape(layer.shape)


def _messages(spikes: Ints, connection: Connection, tile: Shape, reader: Layer) -> Iterator[Pairs]:
    """Messages of `spikes`, neurons in blocks of `tile`, through `connection`: from block to block, by their numbers.

    Axis by axis, spikes are added up over the positions of one block of the source that the same block of the reader
    reads; what is left is one number for each pair of blocks. Large layers have many: they come some at a time.
    """
    shape = tuple(axis.groups * axis.each for axis in connection.axes)
    blocks = [np.arange(n) // t for n, t in zip(spikes.shape, tile, strict=True)]
    sizes = [-(-n // t) for n, t in zip(spikes.shape, tile, strict=True)]
    if shape != spikes.shape:  # behind a Flatten: one axis, along which blocks are where they lie
        blocks = [np.ravel_multi_index(np.ix_(*blocks), sizes).ravel()]
        spikes, sizes = spikes.reshape(shape), [math.prod(sizes)]
    into_sizes = [-(-n // t) for n, t in zip(reader.shape, reader.tile, strict=True)]
    cells, pairs = spikes, []
    for i, (axis, positions) in enumerate(zip(connection.axes, blocks, strict=True)):
        (block, group), cells = _added(cells, i, positions, np.arange(len(positions)) // axis.each)
        cell, target = _readers(axis, group, reader.tile[i])
        source = block[cell]
        if i:
            (source, target), cells = _added(np.take(cells, cell, i), i, source, target)
        pairs.append((cell, source, target))
    (cell, source, target), *others = pairs
    step = max(1, MOST_PAIRS // max(1, math.prod(len(block) for _, block, _ in others)))
    for start in range(0, len(cell), step):
        part = slice(start, start + step)
        out, into = source[part], target[part]
        for i, (_, block, reading) in enumerate(others, 1):
            out = np.add.outer(out * sizes[i], block)
            into = np.add.outer(into * into_sizes[i], reading)
        yield out.ravel(), into.ravel(), cells[cell[part]].ravel()


def _readers(axis: Axis, group: Ints, tile: int) -> tuple[Ints, Ints]:
    """Along an axis, for each block of the reader that reads a cell of that `group`: which cell, and the block."""
    read, reading = axis.meetings(tile)
    low, high = np.searchsorted(read, group), np.searchsorted(read, group, "right")
    n = high - low
    cell = np.repeat(np.arange(len(group)), n)
    return cell, reading[np.arange(len(cell)) - np.repeat(np.cumsum(n) - n - low, n)]


def _added(values: Ints, i: int, *keys: Ints) -> tuple[list[Ints], Ints]:
    """Sums along axis i over equal keys, in order of the keys, and these."""
    order = np.lexsort(keys[::-1])
    ordered = [key[order] for key in keys]
    new = np.ones(len(order), np.bool_)
    new[1:] = np.any([key[1:] != key[:-1] for key in ordered], axis=0)
    starts = np.flatnonzero(new)
    if not len(starts):  # a window that lies in the padding alone
        return ordered, values
    sums: Ints = np.add.reduceat(np.take(values, order, i), starts, axis=i)
    return [key[starts] for key in ordered], sums


def _traffic(layer: str, pairs: Iterator[Pairs], mesh: Mesh | None) -> Traffic:
    messages = within = east_west = north_south = between = 0
    for out, into, n in pairs:
        messages += int(n.sum())
        if mesh is None:
            continue
        chip, row, column = mesh.position(out)
        to_chip, to_row, to_column = mesh.position(into)
        same = chip == to_chip
        rows, columns = np.abs(row - to_row) * same, np.abs(column - to_column) * same
        within += int(n[same & (rows + columns == 0)].sum())
        east_west += int((n * columns).sum())
        north_south += int((n * rows).sum())
        between += int(n[~same].sum())
    if mesh is None:
        return Traffic(layer, messages, None, None, None, None)
    return Traffic(layer, messages, within, east_west, north_south, between)
