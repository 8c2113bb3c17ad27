"""Small inline SVG charts: values in, markup out. Colours are CSS classes, so one chart serves light and dark pages.

Charts are built as element trees, which escape every name; each is an image with a title and a description.
Coordinates are pixels of a drawing about as wide as a phone, so that text keeps its size on every screen.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

from rmp_deploy.report.text import count, fixed, number

Part = tuple[str, float, str]  # CSS class, value, title


def _image(key: str, title: str, description: str, width: float, height: float) -> ET.Element:
    """An SVG root that a screen reader announces as one picture; `key` makes its ids unique in the page."""
    root = ET.Element(
        "svg", {"viewBox": f"0 0 {width:g} {height:g}", "class": "chart", "xmlns": "http://www.w3.org/2000/svg"}
    )
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-t", "aria-describedby": f"{key}-d"}
    ET.SubElement(root, "title", {"id": f"{key}-t"}).text = title
    ET.SubElement(root, "desc", {"id": f"{key}-d"}).text = description
    return root


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: float | str) -> ET.Element:
    """Append a child; `css` is its class, numbers are rounded to what a pixel can show."""
    named = {{"css": "class"}.get(k, k.replace("_", "-")): v for k, v in attributes.items()}
    values = {k: v if isinstance(v, str) else f"{v:.2f}".rstrip("0").rstrip(".") for k, v in named.items()}
    child = ET.SubElement(parent, tag, values)
    child.text = text
    return child


def _line(parent: ET.Element, css: str, x1: float, y1: float, x2: float, y2: float) -> None:
    _add(parent, "line", css=css, x1=x1, y1=y1, x2=x2, y2=y2)


def _markup(root: ET.Element) -> str:
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def stack(parts: Sequence[Part], largest: float, label: str = "") -> str:
    """One horizontal bar of stacked parts on a scale that ends at `largest`; fluid, as its coordinates are percentages.

    Without a label it only repeats the number beside it and is hidden from screen readers.
    """
    root = ET.Element("svg", {"class": "stack", "width": "100%", "height": "14", "xmlns": "http://www.w3.org/2000/svg"})
    if label:
        root.attrib |= {"role": "img", "aria-label": label}
        ET.SubElement(root, "title").text = label
    else:
        root.attrib |= {"aria-hidden": "true", "focusable": "false"}
    left = 0.0
    for css, value, title in parts:
        share = 100 * value / largest if largest > 0 else 0.0
        if share > 0:
            rect = ET.SubElement(
                root, "rect", {"class": css, "x": f"{left:.3f}%", "width": f"{share:.3f}%", "height": "14"}
            )
            if title:
                ET.SubElement(rect, "title").text = title
        left += share
    return _markup(root)


def _steps(heights: Sequence[float], x: Sequence[float], base: float) -> str:
    """Path of a histogram's outline, closed on its base line."""
    tops = "".join(f"V{y:.1f}H{right:.1f}" for y, right in zip(heights, x[1:], strict=True))
    return f"M{x[0]:.1f},{base:.1f}{tops}V{base:.1f}"


def histogram(key: str, layer: dict[str, Any]) -> str:
    """Membrane potentials of one layer, the first arm filled and the others as outlines, one density scale.

    Marked: the threshold (dashed) and the two values that a spike can take, 0 and 1.
    """
    width, height, left, right, top, base = 340.0, 201.0, 8.0, 332.0, 22.0, 158.0
    edges, arms, threshold = layer["edges"], layer["arms"], layer["v_threshold"]
    peak = max((max(arm["density"], default=0.0) for arm in arms), default=0.0) or 1.0
    low, high = float(edges[0]), float(edges[-1])
    span = (high - low) or 1.0

    def at(u: float) -> float:
        return left + (right - left) * (u - low) / span

    errors = ", ".join(f"{arm['name']} {fixed(arm['quantization_error'])}" for arm in arms)
    span_told = f"Density of u from {number(low, 6)} to {number(high, 6)}; threshold {number(threshold, 6)}"
    told = f"{span_told}; quantization error: {errors}."
    root = _image(key, f"Membrane potentials of {layer['layer']}", told, width, height)
    x = [at(edge) for edge in edges]
    for i, arm in enumerate(arms):
        heights = [base - (base - top) * d / peak for d in arm["density"]]
        _add(root, "path", css=f"arm arm{min(i, 1)}", d=_steps(heights, x, base))
    _line(root, "axis", left, base, right, base)
    if low < threshold < high:
        _line(root, "threshold", at(threshold), top - 6, at(threshold), base)
        _add(root, "text", f"threshold {number(threshold, 6)}", css="note", x=at(threshold) + 5, y=top)
    apart = at(1.0) - at(0.0) > 12  # an integer network's potentials are so large that the two values coincide
    for value in (0.0, 1.0):
        if apart and low <= value <= high:
            _add(root, "path", css="spike-value", d=f"M{at(value):.1f},{base + 1}l5,8h-10z")
            _add(root, "text", f"{value:g}", css="mark", x=at(value), y=base + 22, text_anchor="middle")
    for value, sign, anchor in ((low, "≤", "start"), (high, "≥", "end")):  # the outermost bins hold all beyond them
        _add(root, "text", f"{sign} {number(value, 6)}", css="tick", x=at(value), y=base + 22, text_anchor=anchor)
    _add(
        root,
        "text",
        "membrane potential u" + ("   (▲ the two spike values)" if apart else ""),
        css="tick",
        x=170.0,
        y=base + 36,
        text_anchor="middle",
    )
    return _markup(root)


def raster(key: str, layer: dict[str, Any], steps: int) -> str:
    """Spikes of one layer: time to the right, neurons downwards, one tick a spike, their number over each step.

    Ticks snap to half pixels and repeat no position, so a layer of a million neurons draws as fast as a small one.
    """
    width, height, left, right, top, base = 190.0, 316.0, 1.0, 189.0, 22.0, 282.0
    neurons, spikes = layer["neurons"], layer["spikes"]
    per_step = [0] * steps
    for step, _ in spikes:
        per_step[step] += 1
    told = f"{count(neurons)} neurons, {steps} steps, {len(spikes):,} spikes."
    root = _image(key, f"Spikes of {layer['layer']}", told, width, height)
    column = (right - left) / steps
    pitch = (base - top) / max(neurons, 1)
    tick = min(max(pitch * 0.8, 0.5), 6.0)  # thinner than a pixel: dense layers shade, they do not saturate
    _add(root, "rect", css="frame", x=left, y=top, width=right - left, height=base - top)
    for step in range(1, steps if steps <= 40 else 0):
        _line(root, "grid", left + step * column, top, left + step * column, base)
    places = {(round(2 * step * column), round(2 * (index + 0.5) * pitch)) for step, index in spikes}
    length = max(column * 0.76, 1.0)
    marks = "".join(f"M{left + x / 2 + column * 0.12:.4g},{top + y / 2:.4g}h{length:.3g}" for x, y in sorted(places))
    if marks:
        _add(root, "path", css="spikes", d=marks, stroke_width=tick)
    for step in range(steps):
        centre = left + (step + 0.5) * column
        if steps <= 8:
            _add(root, "text", f"{per_step[step]:,}", css="mark", x=centre, y=top - 7, text_anchor="middle")
        if steps <= 8 or step in (0, steps - 1):
            anchor = "middle" if steps <= 8 else "end" if step else "start"
            x = centre if steps <= 8 else right if step else left
            _add(root, "text", f"{step}", css="tick", x=x, y=base + 15, text_anchor=anchor)
    _add(root, "text", "time step", css="tick", x=(left + right) / 2, y=base + 30, text_anchor="middle")
    return _markup(root)


def outputs(key: str, values: Sequence[float], prediction: int, label: int | None) -> str:
    """The readout, one bar a class from zero; the prediction is filled, the label is written beside its class.

    Of more classes than fit, the ten largest and the label.
    """
    width, left, right, top, pitch = 190.0, 14.0 + 8 * len(str(len(values) - 1)), 104.0, 22.0, 21.0
    classes = list(range(len(values)))
    if len(values) > 16:
        largest = sorted(classes, key=lambda i: -values[i])[:10]
        classes = sorted({*largest, prediction, *([] if label is None else [label])})
    low, high = min(0.0, *values), max(0.0, *values)
    span = (high - low) or 1.0
    spoken = f"Largest: class {prediction}" + ("." if label is None else f"; the label is {label}.")
    root = _image(key, "Readout for every class", spoken, width, top + pitch * len(classes) + 22)
    zero = left + (right - left) * -low / span
    for line, i in enumerate(classes):
        value, y = values[i], top + line * pitch
        length = (right - left) * abs(value) / span
        chosen = " chosen" if i == prediction else ""
        _add(root, "text", f"{i}", css=f"tick{chosen}", x=left - 7, y=y + 13, text_anchor="end")
        start = zero if value >= 0 else zero - length
        _add(root, "rect", css=f"output{chosen}", x=start, y=y + 2, width=max(length, 0.5), height=pitch - 6)
        words = number(value) + (" = label" if i == label else "")
        _add(root, "text", words, css=f"tick{chosen}", x=max(start + length, zero) + 5, y=y + 13)
    bottom = top + pitch * len(classes)
    _line(root, "axis", zero, top, zero, bottom)
    _add(root, "text", "readout by class", css="tick", x=(left + right) / 2, y=bottom + 16, text_anchor="middle")
    return _markup(root)


def curve(key: str, title: str, points: Sequence[tuple[int, float, float, float]], unit: str) -> str:
    """Accuracy [1] against energy, one point a step: (t, low, high, accuracy), energies in `unit`; ranges as whiskers.

    The energy starts at zero, the accuracy where it shows how the points differ.
    """
    width, height, left, right, top, base = 420.0, 250.0, 52.0, 404.0, 18.0, 204.0
    lowest = max(0.0, math.floor(10 * min(p[3] for p in points) - 0.5) / 10)
    largest = max(p[2] for p in points) or 1.0
    told = "; ".join(f"t = {t}: {number(low)} to {number(high)}, {a:.1%}" for t, low, high, a in points)
    root = _image(key, title, f"Energy in {unit} and accuracy: {told}.", width, height)

    def place(energy: float, accuracy: float) -> tuple[float, float]:
        x = left + (right - left) * energy / (1.06 * largest)
        return x, base - (base - top) * (accuracy - lowest) / ((1.0 - lowest) or 1.0)

    for i in range(5):
        share = lowest + (1.0 - lowest) * i / 4
        y = place(0.0, share)[1]
        _line(root, "grid", left, y, right, y)
        _add(root, "text", f"{100 * share:.4g} %", css="tick", x=left - 7, y=y + 4, text_anchor="end")
    _line(root, "axis", left, base, right, base)
    for tick in _ticks(1.06 * largest):
        _add(root, "text", number(tick), css="tick", x=place(tick, lowest)[0], y=base + 17, text_anchor="middle")
    places = [(t, place(low, a), place(high, a)) for t, low, high, a in points]
    middles = [((x1 + x2) / 2, y) for _, (x1, y), (x2, _) in places]
    _add(root, "path", css="curve", d="M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in middles))
    for (t, (x1, y), (x2, _)), (x, _) in zip(places, middles, strict=True):
        if x2 > x1:
            _line(root, "whisker", x1, y, x2, y)
        _add(root, "circle", css="point", cx=x, cy=y, r=4)
        if len(points) <= 8 or t in (1, len(points)):
            _add(root, "text", f"t = {t}", css="mark", x=x, y=y - 9 if y > top + 16 else y + 20, text_anchor="middle")
    words = f"energy of the first t steps [{unit}]"
    _add(root, "text", words, css="tick", x=(left + right) / 2, y=base + 36, text_anchor="middle")
    return _markup(root)


def _ticks(largest: float) -> list[float]:
    """Three to six round values from 0 to at most `largest`."""
    power = 10.0 ** math.floor(math.log10(largest))
    step = next(power * f for f in (0.2, 0.25, 0.5, 1.0, 2.0) if largest / (power * f) < 6)
    return [step * i for i in range(int(largest / step + 1e-9) + 1)]


def dot(shares: Sequence[float], low: float, high: float, ours: bool, label: str) -> str:
    """A mark from `low` to `high` on a fluid scale with lines at `shares`; all are fractions of its width."""
    root = _scale(shares, 16)
    root.attrib |= {"role": "img", "aria-label": label}
    _add(root, "title", label)
    css = "ours" if ours else "theirs"
    if high > low:
        _add(root, "line", css="extent", x1=f"{100 * low:.3f}%", x2=f"{100 * high:.3f}%", y1="8", y2="8")
    for share in sorted({low, high}):
        _add(root, "circle", css=css, cx=f"{100 * share:.3f}%", cy="8", r="5")
    return _markup(root)


def axis(labels: Sequence[tuple[float, str]]) -> str:
    """The labels over a column of `dot`."""
    root = _scale([], 16)
    root.attrib |= {"aria-hidden": "true", "focusable": "false"}
    for share, words in labels:
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        _add(root, "text", words, x=f"{100 * share:.3f}%", y="12", text_anchor=anchor)
    return _markup(root)


def _scale(shares: Sequence[float], height: int) -> ET.Element:
    root = ET.Element("svg", {"class": "scale", "width": "100%", "height": str(height)})
    root.set("xmlns", "http://www.w3.org/2000/svg")
    for share in shares:
        at = f"{100 * share:.3f}%"
        _add(root, "line", x1=at, x2=at, y1="0", y2=str(height))
    return root


def picture(rows: Sequence[Sequence[float]]) -> str:
    """A grey image of values 0..1 as a PNG data URI: one small element however many pixels."""
    pixels = b"".join(b"\0" + bytes(round(255 * min(max(v, 0.0), 1.0)) for v in row) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()
