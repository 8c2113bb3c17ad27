"""A picture of membrane potentials over training: a column per layer, a shaded histogram per epoch, then the last ones.

One self-contained SVG for light and dark pages, like the pictures of graphs (`svg`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from rmp_deploy.report.draw.diagram import printable, shortened, text_width

CELL = 4  # width of a bin [px]
TALL = 150  # of a panel, epochs of whole pixels permitting [px]
PAD, HEAD, LINE, GAP = 16.0, 34.0, 15.0, 34.0  # around the picture, its title, a line of words, between panels [px]
SHADES = 16
HUES = (("#0069a8", "#5bb3ec"), ("#b84a00", "#f0954a"), ("#3d7d2a", "#86c96f"), ("#8a2be2", "#c79bff"))
CSS = """
text { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; }
text { font-size: 11px; fill: #16191d; } .title { font-size: 16px; font-weight: 600; } .words { fill: #3d444d; }
.page { fill: #ffffff; } .frame { fill: none; stroke: #8c959f; stroke-width: 0.8; } .mark { text-anchor: middle; }
.value { stroke: #16191d; stroke-width: 1; }
.cells { shape-rendering: crispEdges; } .outline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
"""
CSS_DARK = """
text { fill: #e8ebee; } .words { fill: #c3cad1; } .page { fill: #121517; } .frame { stroke: #7c8690; }
.value { stroke: #e8ebee; }
"""


@dataclass(frozen=True)
class Training:
    """One layer over one training: potentials by epoch and bin, [epochs, bins], and what to write above them."""

    counts: npt.NDArray[np.int64]
    words: str


def to_svg(title: str, edges: Sequence[float], runs: Mapping[str, Mapping[str, Training]]) -> str:
    """A row per run with time downwards and a column per layer; below, the last epochs of all runs over each other.

    Shade is the square root of a bin's share, one scale per layer. The outermost bins hold what lies beyond the edges.
    Marked: 0 and 1, the two values that a spike can take.

    Args:
        title: the picture's first line.
        edges: of the bins, the first and the last infinite, the others equally wide.
        runs: by name of the run, then of the layer; every run has the same layers and at least one epoch.
    """
    layers = list(next(iter(runs.values())))
    panel = CELL * (len(edges) - 1)
    words = [f"{name}: {t.words}" for name, run in runs.items() for t in run.values()]
    column = max(panel, *(text_width(shortened(printable(line), 60), 11) for line in [*words, *layers])) + GAP
    heights = [_row_height(run) * max(len(t.counts) for t in run.values()) for run in runs.values()]
    width = max(column * len(layers) - GAP, text_width(title, 16)) + 2 * PAD
    height = PAD + HEAD + LINE + sum(h + LINE + GAP for h in heights) + LINE + TALL + 2 * LINE + PAD
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:.0f} {height:.0f}"})
    root.attrib |= {"width": f"{width:.0f}", "height": f"{height:.0f}", "role": "img", "aria-labelledby": "t d"}
    ET.SubElement(root, "title", {"id": "t"}).text = printable(title)
    ET.SubElement(root, "desc", {"id": "d"}).text = "\n".join(printable(line) for line in words)
    ET.SubElement(root, "style").text = _css()
    _add(root, "rect", "page", width="100%", height="100%")
    _text(root, title, PAD, PAD + 16, "title")
    for i, layer in enumerate(layers):
        x, y = PAD + i * column, PAD + HEAD + LINE
        _text(root, layer, x, y - 4, "name")
        shares = [_shares(run[layer].counts) for run in runs.values()]
        peak = math.sqrt(max(float(s.max()) for s in shares)) or 1.0
        for hue, ((name, run), share, high) in enumerate(zip(runs.items(), shares, heights, strict=True)):
            _text(root, f"{name}: {run[layer].words}", x, y + LINE - 4, "words")
            _cells(root, share, x, y + LINE, _row_height(run), peak, hue)
            _frame(root, edges, x, y + LINE, high)
            y += high + LINE + GAP
        _text(root, "last epoch", x, y + LINE - 4, "words")
        _outlines(root, [s[-1] for s in shares], x, y + LINE)
        _frame(root, edges, x, y + LINE, TALL)
        _text(root, "membrane potential u", x + panel / 2, y + LINE + TALL + 2 * LINE - 2, "mark")
    return ET.tostring(root, encoding="unicode") + "\n"


def _row_height(run: Mapping[str, Training]) -> int:
    """Whole pixels per epoch, so that rows touch without a seam."""
    return min(max(TALL // max(len(t.counts) for t in run.values()), 1), 30)


def _shares(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of every epoch, the share of potentials in each bin, [epochs, bins]."""
    shares: npt.NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _cells(
    parent: ET.Element, shares: npt.NDArray[np.float64], x: float, y: float, row: int, peak: float, hue: int
) -> None:
    """One path per shade: equal neighbours in a row are one rectangle of it."""
    shades = np.ceil(np.sqrt(shares) / peak * SHADES).astype(int)
    marks: dict[int, list[str]] = {}
    for epoch, line in enumerate(shades):
        starts = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
        for first, end in itertools.pairwise(starts):
            wide = CELL * (end - first)
            rectangle = f"M{x + CELL * first:g},{y + row * epoch:g}h{wide}v{row}h-{wide}z"
            marks.setdefault(int(line[first]), []).append(rectangle)
    for shade, rectangles in sorted(marks.items()):
        if shade:
            opacity = f"{shade / SHADES:.3g}"
            _add(parent, "path", f"cells hue{hue % len(HUES)}", d="".join(rectangles), fill_opacity=opacity)


def _outlines(parent: ET.Element, lasts: Sequence[npt.NDArray[np.float64]], x: float, y: float) -> None:
    """The last epochs' shares as steps over one base line, one scale."""
    peak = max(float(last.max()) for last in lasts) or 1.0
    for hue, last in enumerate(lasts):
        tops = "".join(f"V{y + TALL - (TALL - 6) * share / peak:.1f}h{CELL}" for share in last)
        _add(parent, "path", f"outline line{hue % len(HUES)}", d=f"M{x:g},{y + TALL:g}{tops}V{y + TALL:g}")


def _frame(parent: ET.Element, edges: Sequence[float], x: float, y: float, high: float) -> None:
    """The border of a panel, and below it the edges and the two values of a spike."""
    low, end = edges[1], edges[-2]
    bottom = y + high

    def at(u: float) -> float:
        return x + CELL + (u - low) / (end - low) * CELL * (len(edges) - 3)

    _add(parent, "rect", "frame", x=f"{x:g}", y=f"{y:g}", width=f"{CELL * (len(edges) - 1)}", height=f"{high:g}")
    for value in (0.0, 1.0):
        _add(parent, "path", "value", d=f"M{at(value):.1f},{bottom:g}v5")
        _text(parent, f"{value:g}", at(value), bottom + LINE, "mark")
    _text(parent, f"< {low:g}", x, bottom + LINE, "words")
    _text(parent, f"≥ {end:g}", x + CELL * (len(edges) - 1) - text_width(f"≥ {end:g}", 11), bottom + LINE, "words")


def _css() -> str:
    rules = [
        " ".join(f".hue{i} {{ fill: {h[k]}; }} .line{i} {{ stroke: {h[k]}; }}" for i, h in enumerate(HUES))
        for k in (0, 1)
    ]
    return f"{CSS}{rules[0]}\n@media (prefers-color-scheme: dark) {{\n{CSS_DARK}{rules[1]}\n}}\n"


def _add(parent: ET.Element, tag: str, css: str, **attributes: Any) -> None:
    ET.SubElement(parent, tag, {"class": css, **{key.replace("_", "-"): value for key, value in attributes.items()}})


def _text(parent: ET.Element, text: str, x: float, y: float, css: str) -> None:
    place = {"class": css, "x": f"{x:.1f}", "y": f"{y:.1f}"}
    ET.SubElement(parent, "text", place).text = shortened(printable(text), 60)
