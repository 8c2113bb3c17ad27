"""A layered layout of our own, for machines without Graphviz: every arrow points down, recurrent ones come back up.

Sugiyama, Tagawa, Toda 1981 (IEEE Trans. SMC 11(2)): layers by longest path, order within them by barycentres; then
places by Brandes and Köpf 2001 (Graph Drawing, LNCS 2265). Boxes stand in the even layers; each arrow is cut into
segments between neighbouring layers by bends, of which the first holds its label: nothing can cover anything else.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise

import numpy as np

from rmp_deploy.report.draw.diagram import SIZES, Arrow, Diagram, text_width
from rmp_deploy.report.draw.layout import Curve, Layout, Point

GAP_X, GAP_Y = 22.0, 14.0  # between neighbours in a layer, and between layers [px]
LABEL_HEIGHT, LABEL_MARGIN, LANE = 13.0, 4.0, 8.0  # of an arrow's label, and the width of a bend without one [px]
SWEEPS = 12  # down and up; orders settle after a few


@dataclass(eq=False)
class Node:
    """A box, or a bend of an arrow; `up` and `down` are its neighbours in the layers above and below."""

    layer: int
    width: float
    height: float
    is_bend: bool
    up: list[Node]
    down: list[Node]
    order: int = 0  # its place in its layer


MOST_BENDS = 10_000  # a few seconds of this layout; its picture of megabytes is none to look at
Layers = list[list[Node]]
Segment = tuple[Node, Node]  # upper, lower


def lay_out(diagram: Diagram) -> Layout:
    """Places of boxes, curves of arrows and places of their labels."""
    layer_of = _layers(diagram)
    boxes = {b.name: Node(2 * layer_of[b.name], b.width, b.height, False, [], []) for b in diagram.boxes}
    chains = [_bend(boxes[a.source], boxes[a.target], a) for a in diagram.arrows]
    nodes = dict.fromkeys([*boxes.values(), *(node for chain in chains for node in chain)])
    first = min(node.layer for node in nodes)
    layers: Layers = [[] for _ in range(max(node.layer for node in nodes) - first + 1)]
    for node in nodes:
        layers[node.layer - first].append(node)
    _number(layers)
    _reduce_crossings(layers)
    x, bands = _places(layers), _bands(layers, first)

    def center(node: Node) -> Point:
        return x[node], sum(bands[node.layer]) / 2

    return Layout(
        boxes={name: center(node) for name, node in boxes.items()},
        curves=tuple(_curve(chain, x, bands) for chain in chains),
        labels=tuple(center(chain[_labelled(chain)]) for chain in chains),
    )


def bends(diagram: Diagram) -> int:
    """How many bends the arrows have: what a layout's time grows with, be it this one's or that of `dot`."""
    layer = {name: 2 * n for name, n in _layers(diagram).items()}
    return sum(len(_between(layer[arrow.source], layer[arrow.target])) for arrow in diagram.arrows)


def _layers(diagram: Diagram) -> dict[str, int]:
    """Longest path from the tops; what does not follow from the input stands right above its first reader."""
    before: dict[str, list[str]] = {box.name: [] for box in diagram.boxes}
    after: dict[str, list[str]] = {box.name: [] for box in diagram.boxes}
    for arrow in diagram.arrows:
        if not arrow.recurrent:
            before[arrow.target].append(arrow.source)
            after[arrow.source].append(arrow.target)
    layer: dict[str, int] = {}
    fed = {diagram.boxes[0].name}
    for box in diagram.boxes:  # in topological order
        layer[box.name] = max((layer[b] + 1 for b in before[box.name]), default=0)
        if not fed.isdisjoint(before[box.name]):
            fed.add(box.name)
    for box in reversed(diagram.boxes):
        if box.name not in fed and after[box.name]:
            layer[box.name] = min(layer[a] for a in after[box.name]) - 1
    return layer


def _bend(source: Node, target: Node, arrow: Arrow) -> list[Node]:
    """The nodes that an arrow runs through; one that comes back leaves its source below and enters its target above."""
    between = _between(source.layer, target.layer)
    chain = [source, *(Node(layer, LANE, 0.0, True, [], []) for layer in between), target]
    labelled = chain[_labelled(chain)]
    labelled.width, labelled.height = text_width(arrow.label, SIZES[1]) + 2 * LABEL_MARGIN, LABEL_HEIGHT
    for a, b in pairwise(chain):
        upper, lower = (a, b) if a.layer < b.layer else (b, a)
        upper.down.append(lower)
        lower.up.append(upper)
    return chain


def _between(source: int, target: int) -> range:
    """The layers of an arrow's bends."""
    return range(source + 1, target) if target > source else range(source + 1, target - 2, -1)


def _labelled(chain: list[Node]) -> int:
    """Which bend holds the label: the first, or the one beside the source where the arrow comes back."""
    return 1 if chain[0].layer < chain[-1].layer else 2


def _number(layers: Layers) -> None:
    for layer in layers:
        for i, node in enumerate(layer):
            node.order = i


def _reduce_crossings(layers: Layers) -> None:
    """Sort each layer by the mean place of its neighbours in the one before, down and up; keep the best order seen."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(2 * SWEEPS):
        if fewest == 0:
            break
        downwards = sweep % 2 == 0
        for layer in layers if downwards else reversed(layers):
            mean = {}
            for node in layer:
                fixed = node.up if downwards else node.down
                mean[node] = sum(n.order for n in fixed) / len(fixed) if fixed else float(node.order)
            layer.sort(key=mean.__getitem__)
            _number([layer])
        found = _crossings(layers)
        if found < fewest:
            best, fewest = [list(layer) for layer in layers], found
    layers[:] = best
    _number(layers)


def _crossings(layers: Layers) -> int:
    total = 0
    for layer in layers:
        ends: list[int] = []  # of the segments so far, by their place below
        for node in layer:
            places = sorted(n.order for n in node.down)
            total += sum(len(ends) - bisect_left(ends, p + 1) for p in places)
            for p in places:
                insort(ends, p)
    return total


def _places(layers: Layers) -> dict[Node, float]:
    """x of every node: the mean of the middle two of four one-sided placements."""
    crossed = _crossed(layers)
    found: list[tuple[float, dict[Node, float]]] = []
    for from_above in (True, False):
        for from_left in (True, False):
            rows = layers if from_above else layers[::-1]
            rows = rows if from_left else [row[::-1] for row in rows]
            x = _compact(rows, _aligned(rows, from_above, crossed))
            x = x if from_left else {node: -value for node, value in x.items()}
            found.append((max(x.values()) - min(x.values()), x))
    narrow = min(found, key=lambda f: f[0])[1]
    low, high = min(narrow.values()), max(narrow.values())
    for i, (_, x) in enumerate(found):
        shift = low - min(x.values()) if i % 2 == 0 else high - max(x.values())
        found[i] = (0.0, {node: value + shift for node, value in x.items()})
    return {node: sum(sorted(x[node] for _, x in found)[1:3]) / 2 for node in narrow}


def _crossed(layers: Layers) -> set[Segment]:
    """Segments that a segment between two bends crosses: long arrows stay straight, these give way."""
    found: set[Segment] = set()
    for layer in layers:
        segments = [(upper, lower) for upper in layer for lower in upper.down]
        places = np.array([(upper.order, lower.order) for upper, lower in segments]).reshape(-1, 2)
        crossed = np.zeros(len(segments), dtype=np.bool_)
        for a, b in segments:
            if a.is_bend and b.is_bend:
                crossed |= np.prod(places - (a.order, b.order), axis=1) < 0
        found |= {segment for segment, is_crossed in zip(segments, crossed, strict=True) if is_crossed}
    return found


def _aligned(rows: Layers, from_above: bool, crossed: set[Segment]) -> dict[Node, Node]:
    """Each node's block, named by its first node: it joins the block of its middle neighbour in the row before."""
    block: dict[Node, Node] = {}
    for row_before, row in pairwise([[], *rows]):
        place = {node: i for i, node in enumerate(row_before)}
        last = -1
        for node in row:
            block[node] = node
            before = sorted(node.up if from_above else node.down, key=place.__getitem__)
            middle = before[(len(before) - 1) // 2 : len(before) // 2 + 1]
            for n in middle:
                segment = (n, node) if from_above else (node, n)
                if block[node] is node and place[n] > last and segment not in crossed:
                    block[node], last = block[n], place[n]
    return block


def _compact(rows: Layers, block: dict[Node, Node]) -> dict[Node, float]:
    """x of every node: its block as far left as the blocks beside it allow, then as far right as they leave room."""
    room: dict[Node, dict[Node, float]] = {b: {} for b in block.values()}  # block -> block to its left -> distance
    for row in rows:
        for a, b in pairwise(row):
            distance = (a.width + b.width) / 2 + GAP_X
            beside = room[block[b]]
            beside[block[a]] = max(beside.get(block[a], 0.0), distance)
    order = list(TopologicalSorter(room).static_order())
    x: dict[Node, float] = {}
    for b in order:
        x[b] = max((x[a] + distance for a, distance in room[b].items()), default=0.0)
    limit: dict[Node, float] = {}
    for b in reversed(order):
        x[b] = max(x[b], limit.get(b, x[b]))
        for a, distance in room[b].items():
            limit[a] = min(limit.get(a, x[b] - distance), x[b] - distance)
    return {node: x[b] for node, b in block.items()}


def _bands(layers: Layers, first: int) -> dict[int, tuple[float, float]]:
    """Top and bottom of each layer."""
    bands: dict[int, tuple[float, float]] = {}
    top = 0.0
    for i, layer in enumerate(layers, first):
        bottom = top + max((node.height for node in layer), default=0.0)
        bands[i] = (top, bottom)
        top = bottom + GAP_Y
    return bands


def _curve(chain: list[Node], x: dict[Node, float], bands: dict[int, tuple[float, float]]) -> Curve:
    """Straight through a layer, an S between two; one that comes back turns close below and above the boxes' layers."""
    source, target = chain[0], chain[-1]
    top, bottom = bands[source.layer]
    points = [(x[source], (top + bottom + source.height) / 2)]
    points += _line(points[0], (x[source], bottom))
    for before, node, after in zip(chain, chain[1:], [*chain[2:], target], strict=False):
        down = before.layer < node.layer
        near, far = bands[node.layer] if down else bands[node.layer][::-1]
        p = points[-1]
        if node is not target and (node.layer < after.layer) != down:  # a turn
            level = near - GAP_Y / 2 if down else near + GAP_Y / 2
            middle, corner = ((x[before] + x[after]) / 2, level), (x[after], level)
            points += [(p[0], level), (p[0], level), middle, corner, corner, (x[after], p[1])]
            continue
        q = (x[node], near)
        half = (p[1] + q[1]) / 2
        points += [(p[0], half), (q[0], half), q] if p != q else []
        middle_of_band = (near + far) / 2
        edge = far if node.is_bend else middle_of_band + (node.height / 2 if far < near else -node.height / 2)
        points += _line(q, (x[node], edge))
    return tuple(points)


def _line(p: Point, q: Point) -> list[Point]:
    return [] if p == q else [p, q, q]
