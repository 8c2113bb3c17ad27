"""A diagram and its layout -> one SVG file: no script, no font, no link; colours for light and for dark pages.

Colours stand in plain classes (no CSS variables), so that programs which know no style sheets but the first rules,
such as converters to PDF, show the light ones.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from rmp_deploy.report.draw.diagram import LEADING, SIZES, Box, Diagram, Kind, text_width
from rmp_deploy.report.draw.layout import Curve, Layout, Point

PAD = 16.0  # around the picture [px]
HEAD = 52.0  # title and legend [px]
TITLE_SIZE = 16.0
CORNER: dict[Kind, float] = {"input": 14.0, "synapse": 0.0, "neuron": 14.0, "structure": 3.0, "output": 14.0}
LEGEND = ("synapse", "neuron", "structure", "recurrent")
CSS = """
text { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; }
text { font-size: 11px; fill: #16191d; } .name, .title { font-weight: 600; } .name { font-size: 13px; }
.title { font-size: 16px; } .words { fill: #3d444d; } .page { fill: #ffffff; }
.box { stroke-width: 1.2; } .neuron { fill: #fdebd9; stroke: #b84a00; stroke-width: 2.4; }
.synapse { fill: #e3eef8; stroke: #0069a8; } .structure { fill: #ffffff; stroke: #8c959f; }
.input, .output { fill: #eef1f4; stroke: #16191d; }
.arrow { fill: none; stroke: #57606a; stroke-width: 1.3; } .recurrent { stroke: #8a2be2; stroke-dasharray: 6 3; }
.head { fill: #57606a; } .back { fill: #8a2be2; }
.label { fill: #57606a; }
@media (prefers-color-scheme: dark) {
text { fill: #e8ebee; } .words { fill: #c3cad1; } .page { fill: #121517; }
.neuron { fill: #3d2410; stroke: #f0954a; } .synapse { fill: #10293c; stroke: #5bb3ec; }
.structure { fill: #121517; stroke: #7c8690; } .input, .output { fill: #1b2024; stroke: #e8ebee; }
.arrow { stroke: #9ba5af; } .recurrent { stroke: #c79bff; } .head { fill: #9ba5af; } .back { fill: #c79bff; }
.label { fill: #9ba5af; }
}
"""


def write(diagram: Diagram, layout: Layout) -> str:
    """The picture as SVG text; a screen reader finds the graph's text form in its description."""
    left, top, right, bottom = _bounds(diagram, layout)
    width = max(right - left, text_width(diagram.title, TITLE_SIZE), _LEGEND_WIDTH) + 2 * PAD
    height = bottom - top + HEAD + 2 * PAD
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:.0f} {height:.0f}"})
    root.attrib |= {"width": f"{width:.0f}", "height": f"{height:.0f}", "role": "img", "aria-labelledby": "t d"}
    ET.SubElement(root, "title", {"id": "t"}).text = diagram.title
    ET.SubElement(root, "desc", {"id": "d"}).text = diagram.description
    ET.SubElement(root, "style").text = CSS
    defs = ET.SubElement(root, "defs")
    for name in ("head", "back"):
        marker = ET.SubElement(defs, "marker", {"id": name, "viewBox": "0 0 8 8", "refX": "7.5", "refY": "4"})
        marker.attrib |= {"markerWidth": "8", "markerHeight": "8", "markerUnits": "userSpaceOnUse", "orient": "auto"}
        ET.SubElement(marker, "path", {"class": name, "d": "M0,0.5L8,4L0,7.5z"})
    ET.SubElement(root, "rect", {"class": "page", "width": "100%", "height": "100%"})
    _text(root, diagram.title, (width / 2, PAD + 14), "title")
    _legend(root, (width - _LEGEND_WIDTH) / 2, PAD + 34)
    middle = (width - (right - left)) / 2
    moved = ET.SubElement(root, "g", {"transform": f"translate({middle - left:.1f} {HEAD + PAD - top:.1f})"})
    for arrow, curve in zip(diagram.arrows, layout.curves, strict=True):
        back = arrow.recurrent
        path = {"class": f"arrow{' recurrent' * back}", "d": _path(curve), "marker-end": f"url(#{_HEADS[back]})"}
        ET.SubElement(ET.SubElement(moved, "path", path), "title").text = f"{arrow.source} → {arrow.target}"
    for box in diagram.boxes:
        _box(moved, box, layout.boxes[box.name])
    for arrow, (x, y) in zip(diagram.arrows, layout.labels, strict=True):
        width = text_width(arrow.label, SIZES[1])
        ground = {"x": f"{x - width / 2 + 1:.1f}", "y": f"{y - 7:.1f}", "width": f"{width - 2:.1f}", "height": "14"}
        ET.SubElement(moved, "rect", {"class": "page", **ground})
        _text(moved, arrow.label, (x, y + 4), "label")
    return ET.tostring(root, encoding="unicode") + "\n"


_HEADS = {False: "head", True: "back"}
_LEGEND_WIDTH = sum(text_width(word, SIZES[1]) + 48 for word in LEGEND) - 18


def _bounds(diagram: Diagram, layout: Layout) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of everything drawn; a Bézier curve stays inside its control points."""
    points: list[Point] = [point for curve in layout.curves for point in curve]
    sizes = [(layout.boxes[box.name], box.width, box.height) for box in diagram.boxes]
    sizes += [
        (place, text_width(arrow.label, SIZES[1]), SIZES[1])
        for arrow, place in zip(diagram.arrows, layout.labels, strict=True)
    ]
    for (x, y), width, height in sizes:
        points += [(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)]
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _path(curve: Curve) -> str:
    first, *rest = (f"{x:.1f},{y:.1f}" for x, y in curve)
    return f"M{first}C{' '.join(rest)}"


def _box(parent: ET.Element, box: Box, center: Point) -> None:
    x, y = center
    left, top = x - box.width / 2, y - box.height / 2
    size = {"width": f"{box.width:.1f}", "height": f"{box.height:.1f}", "rx": f"{CORNER[box.kind]:g}"}
    group = ET.SubElement(parent, "g")
    ET.SubElement(group, "title").text = box.name
    ET.SubElement(group, "rect", {"class": f"box {box.kind}", "x": f"{left:.1f}", "y": f"{top:.1f}", **size})
    for i, line in enumerate(box.lines):
        _text(group, line, (x, top + LEADING * (i + 1) + 1), "words" if i else "name")


def _legend(parent: ET.Element, x: float, y: float) -> None:
    """What the colours and outlines mean."""
    for word in LEGEND:
        if word == "recurrent":
            ET.SubElement(parent, "path", {"class": "arrow recurrent", "d": f"M{x:.1f},{y - 4:.1f}h22"})
        else:
            size = {"x": f"{x:.1f}", "y": f"{y - 10:.1f}", "width": "22", "height": "12"}
            rx = f"{min(CORNER[word], 6):g}"  # type: ignore[index]
            ET.SubElement(parent, "rect", {"class": f"box {word}", "rx": rx, **size})
        _text(parent, word, (x + 28, y), "words", anchor="start")
        x += text_width(word, SIZES[1]) + 48


def _text(parent: ET.Element, text: str, at: Point, css: str, anchor: str = "middle") -> None:
    place = {"class": css, "x": f"{at[0]:.1f}", "y": f"{at[1]:.1f}", "text-anchor": anchor}
    ET.SubElement(parent, "text", place).text = text
