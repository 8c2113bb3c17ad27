"""What a picture of a graph shows: boxes, arrows and their words, with sizes in pixels but without places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rmp_deploy.ir.graph import SpikingGraph, describe, to_text
from rmp_deploy.ir.ops import Op

Kind = Literal["input", "synapse", "neuron", "structure", "output"]
OUTPUT = "output"  # no op may be called so
SIZES = (13.0, 11.0)  # font sizes of a box's first line and of all other words [px]
LEADING = 15.0  # from line to line [px]
MARGIN = 9.0  # around a box's words [px]
GLYPH = 0.61  # width of a monospaced glyph in font sizes; 0.55 - 0.602 in the fonts that svg.py names
LONGEST_NAME, LONGEST_LINE = 44, 34  # [characters]


@dataclass(frozen=True)
class Box:
    """An op, the input or the output: its name, and lines of words of which the first is set larger."""

    name: str
    kind: Kind
    lines: tuple[str, ...]

    @property
    def width(self) -> float:
        sizes = (SIZES[0], *(SIZES[1],) * (len(self.lines) - 1))
        return max(text_width(line, size) for line, size in zip(self.lines, sizes, strict=True)) + 2 * MARGIN

    @property
    def height(self) -> float:
        return LEADING * len(self.lines) + MARGIN + 3


@dataclass(frozen=True)
class Arrow:
    """A value from the box that makes it to one that reads it; `recurrent` reads it in a later step."""

    source: str
    target: str
    label: str
    recurrent: bool


@dataclass(frozen=True)
class Diagram:
    """A picture's words; `description` is the graph's text form."""

    title: str
    description: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def diagram(graph: SpikingGraph) -> Diagram:
    """The boxes and arrows of `graph`: its input, its ops in order, its readout."""
    steps = f"T = {graph.T}" + ("" if graph.dt is None else f", dt = {graph.dt:g} s")
    fed = "the same at every step" if graph.input.encoding == "direct" else "one value a step"
    source = (graph.input.name, f"input {graph.input.shape}", f"{graph.input.encoding}: {fed}")
    result = (OUTPUT, f"{graph.readout.rule} over {graph.T} steps")
    return Diagram(
        title=f"{shortened(printable(graph.name), 80)}: {steps}",
        description="\n".join(printable(line) for line in to_text(graph).splitlines()),
        boxes=(
            Box(graph.input.name, "input", source),
            *(Box(op.name, _kind(op), tuple(_lines(graph, op))) for op in graph.ops),
            Box(OUTPUT, "output", result),
        ),
        arrows=tuple(_arrows(graph)),
    )


def text_width(text: str, size: float) -> float:
    """Width of `text` in a monospaced font of `size` [px]."""
    return len(text) * size * GLYPH


def printable(text: str) -> str:
    """Without control characters, which XML and DOT cannot hold."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shortened(text: str, most: int) -> str:
    """At most `most` characters: the middle gives way, since names differ at their ends."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half + 1 :]}"


def _kind(op: Op) -> Kind:
    """Neurons have parameters per neuron, synapses have weights; what is left moves or joins values."""
    if hasattr(op, "per_neuron"):
        return "neuron"
    return "synapse" if hasattr(op, "weight") else "structure"


def _lines(graph: SpikingGraph, op: Op) -> Iterator[str]:
    """Name, kind with the output's shape, then the parameters, broken at their commas."""
    yield shortened(op.name, LONGEST_NAME)
    yield f"{op.kind} → {graph.shapes[op.name]}"
    line = ""
    for word in describe(op).split(", "):  # the shape inside "weight (8, 4, 3, 3)" is broken only where it must be
        longer = f"{line}, {word}" if line else word
        if line and len(longer) > LONGEST_LINE:
            yield f"{line},"
            longer = word
        line = longer
    if line:
        yield line


def _arrows(graph: SpikingGraph) -> Iterator[Arrow]:
    made = {graph.input.name}
    for op in graph.ops:
        for value in op.inputs:
            yield Arrow(value, op.name, str(graph.shapes[value]), recurrent=value not in made)
        made.add(op.name)
    yield Arrow(graph.readout.value, OUTPUT, str(graph.shapes[graph.readout.value]), recurrent=False)
