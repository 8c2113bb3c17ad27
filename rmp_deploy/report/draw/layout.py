"""Where the parts of a diagram stand: what `graphviz` and `layered` give and `svg` draws. Pixels, y downwards."""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float]
Curve = tuple[Point, ...]  # cubic Béziers end to end, 3 n + 1 points; an arrow's head stands at the last


@dataclass(frozen=True)
class Layout:
    """Centres of the boxes by name; for each arrow in order, its curve and the centre of its label."""

    boxes: dict[str, Point]
    curves: tuple[Curve, ...]
    labels: tuple[Point, ...]
