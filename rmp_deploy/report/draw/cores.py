"""A picture of a placed network: every core a square, coloured by its layer and filled as far as its tightest limit.

One self-contained SVG for light and dark pages, like the pictures of graphs (`svg`).
"""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

from rmp_deploy.analysis.utilization import LayerUse, Utilization
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.report.draw.diagram import printable, shortened, text_width

MOST_CORES = 1 << 15  # more squares than that nobody can tell apart
COLUMNS = 16  # of a chip's cores
PITCH, SIDE = 17.0, 14.0  # from core to core, and of a core [px]
GAP = 26.0  # between chips, with room for their numbers [px]
PAD, HEAD, LINE = 16.0, 40.0, 19.0  # around the picture, its title, a line of the legend [px]
WIDEST = 1200.0  # of the chips' row [px]
HUES = ("#0069a8", "#b84a00", "#3d7d2a", "#8a2be2", "#a8005c", "#6b5b00", "#00736f", "#9a2a2a")
DARK = ("#5bb3ec", "#f0954a", "#86c96f", "#c79bff", "#f078b6", "#d6c04a", "#4cc9c3", "#ef8a8a")
CSS = """
text { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; }
text { font-size: 11px; fill: #16191d; } .title { font-size: 16px; font-weight: 600; } .words { fill: #3d444d; }
.number { font-size: 9px; font-weight: 600; text-anchor: middle; }
.number { paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }
.page { fill: #ffffff; } .core { fill: #eef1f4; stroke: #57606a; stroke-width: 0.8; }
.unused { fill: none; stroke: #d5dae0; } .over { stroke: #c4001a; stroke-width: 2; }
"""
CSS_DARK = """
text { fill: #e8ebee; } .words { fill: #c3cad1; } .page { fill: #121517; } .number { stroke: #121517; }
.core { fill: #1b2024; stroke: #9ba5af; } .unused { fill: none; stroke: #333a41; } .over { stroke: #ff6b7a; }
"""


def to_svg(found: Utilization, name: str, headline: str) -> str:
    """The cores of all layers in order, chip by chip, over a legend that names every layer with its numbers.

    Of a chip of more cores than anybody could tell apart, only the rows in use.

    Raises:
        RmpDeployError: more cores than a picture can show.
    """
    if found.cores > MOST_CORES:
        what = f"picture of '{name}': cores = {found.cores}, allowed at most {MOST_CORES}"
        raise RmpDeployError(f"{what}. Leave --picture out: the table holds every layer.")
    rows_in_use = COLUMNS * math.ceil(found.cores / COLUMNS)
    too_many = found.cores_per_chip is not None and found.cores_per_chip > MOST_CORES  # then they are all on one chip
    per_chip = rows_in_use if found.cores_per_chip is None or too_many else found.cores_per_chip
    chips = math.ceil(found.cores / per_chip)
    chip_width = PITCH * min(COLUMNS, per_chip)
    chip_height = PITCH * math.ceil(per_chip / COLUMNS)
    across = min(chips, max(1, int(WIDEST // (chip_width + GAP))))
    words = [_words(i + 1, row) for i, row in enumerate(found.layers)]
    title = shortened(printable(headline), 120)
    longest = max([text_width(title, 16), *(text_width(line, 11) + 28 for line in words)])
    width = max(across * (chip_width + GAP) - GAP, longest) + 2 * PAD
    legend = PAD + HEAD + math.ceil(chips / across) * (chip_height + GAP)
    height = legend + LINE * (len(words) + 1) + PAD
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:.0f} {height:.0f}"})
    root.attrib |= {"width": f"{width:.0f}", "height": f"{height:.0f}", "role": "img", "aria-labelledby": "t d"}
    ET.SubElement(root, "title", {"id": "t"}).text = title
    ET.SubElement(root, "desc", {"id": "d"}).text = "\n".join(words)
    ET.SubElement(root, "style").text = _css()
    ET.SubElement(root, "rect", {"class": "page", "width": "100%", "height": "100%"})
    _text(root, title, PAD, PAD + 16, "title")
    starts: list[tuple[str, float, float]] = []
    cores = [(i, row, fill) for i, row in enumerate(found.layers) for fill in row.fill]
    for chip in range(chips):
        left = PAD + chip % across * (chip_width + GAP)
        top = PAD + HEAD + chip // across * (chip_height + GAP)
        if found.cores_per_chip:
            note = f", of {found.cores_per_chip:,} cores: the rows in use" if too_many else ""
            _text(root, f"chip {chip + 1}{note}", left, top - 5, "words")
        for place in range(per_chip):
            x, y = left + place % COLUMNS * PITCH, top + place // COLUMNS * PITCH
            at = chip * per_chip + place
            if at < len(cores):
                _core(root, x, y, at, *cores[at])
                if place == 0 or cores[at][0] != cores[at - 1][0]:
                    starts.append((str(cores[at][0] + 1), x + SIDE / 2, y + SIDE - 3.5))
            elif found.cores_per_chip:
                _rect(root, "core unused", x, y, SIDE, SIDE)
    for number, x, y in starts:  # over the squares, which they may be wider than
        _text(root, number, x, y, "number")
    _text(root, "a core is filled as far as its tightest known limit; red: beyond it", PAD, legend + 11, "words")
    for i, line in enumerate(words):
        y = legend + LINE * (i + 1)
        _rect(root, f"hue{i % len(HUES)}", PAD, y + 1, SIDE, SIDE)
        _text(root, line, PAD + 24, y + 12, "words")
    return ET.tostring(root, encoding="unicode") + "\n"


def _core(root: ET.Element, x: float, y: float, number: int, layer: int, row: LayerUse, fill: float) -> None:
    group = ET.SubElement(root, "g")
    ET.SubElement(group, "title").text = f"core {number}: {row.layer}, {100 * fill:.0f} %"
    _rect(group, "core", x, y, SIDE, SIDE)
    high = max(1.0, SIDE * min(fill, 1.0))
    _rect(group, f"hue{layer % len(HUES)}", x, y + SIDE - high, SIDE, high)
    if fill > 1:
        _rect(group, "over", x, y, SIDE, SIDE, fill="none")


def _words(number: int, row: LayerUse) -> str:
    shape, block = ("x".join(map(str, size)) for size in (row.shape, row.block))
    cores = f"{row.cores:,} core{'s' * (row.cores != 1)}"
    kind = "" if row.kind == "neurons" else f" ({row.kind})"
    name, fullest = f"{number} {shortened(printable(row.layer), 44)}{kind}", 100 * max(row.fill)
    return f"{name}: {shape} in blocks of {block}, {cores}, fullest {fullest:.0f} %"


def _css() -> str:
    light = " ".join(f".hue{i} {{ fill: {colour}; }}" for i, colour in enumerate(HUES))
    dark = " ".join(f".hue{i} {{ fill: {colour}; }}" for i, colour in enumerate(DARK))
    return f"{CSS}{light}\n@media (prefers-color-scheme: dark) {{\n{CSS_DARK}{dark}\n}}\n"


def _rect(parent: ET.Element, css: str, x: float, y: float, width: float, height: float, **more: str) -> None:
    size = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
    ET.SubElement(parent, "rect", {"class": css, **size, **more})


def _text(parent: ET.Element, text: str, x: float, y: float, css: str) -> None:
    ET.SubElement(parent, "text", {"class": css, "x": f"{x:.1f}", "y": f"{y:.1f}"}).text = text
