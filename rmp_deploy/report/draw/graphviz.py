"""DOT text, and the layout that Graphviz's `dot` gives it: only places are taken from it, `svg` does the drawing."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from rmp_deploy.report.draw.diagram import SIZES, Diagram, Kind
from rmp_deploy.report.draw.layout import Curve, Layout, Point

MOST_BENDS = 1_000  # about a second of dot's; ops that all read the input too: 33 s at 3662 bends, over 60 s at 10,102
TIMEOUT = 10  # [s]
INCH = 72.0  # dot's sizes are inches, its places points: one of our pixels is one point
STYLE: dict[Kind, str] = {
    "input": 'style="rounded,filled", fillcolor="#eef1f4"',
    "synapse": 'style=filled, fillcolor="#e3eef8", color="#0069a8"',
    "neuron": 'style="rounded,filled", fillcolor="#fdebd9", color="#b84a00", penwidth=2',
    "structure": 'style=filled, fillcolor="#ffffff", color="#8c959f"',
    "output": 'style="rounded,filled", fillcolor="#eef1f4"',
}


def dot_text(diagram: Diagram) -> str:
    """The diagram in the DOT language, boxes of its own sizes."""
    font = f'fontname="monospace", fontsize={SIZES[1]:g}'
    lines = [
        f"digraph {_quoted(diagram.title)} {{",
        f'  graph [label={_quoted(diagram.title)}, labelloc=t, nodesep=0.3, ranksep=0.25, {font}, fontsize="16"]',
        f"  node [shape=box, fixedsize=true, {font}]",
        f"  edge [arrowsize=0.7, {font}]",
    ]
    for box in diagram.boxes:
        label = _quoted("\n".join(box.lines))
        size = f"width={box.width / INCH:.3f}, height={box.height / INCH:.3f}"
        lines.append(f"  {_quoted(box.name)} [label={label}, {size}, {STYLE[box.kind]}]")
    for arrow in diagram.arrows:
        recurrent = ", style=dashed, constraint=false" if arrow.recurrent else ""
        lines.append(f"  {_quoted(arrow.source)} -> {_quoted(arrow.target)} [label={_quoted(arrow.label)}{recurrent}]")
    return "\n".join([*lines, "}"]) + "\n"


def lay_out_by_dot(diagram: Diagram) -> Layout | None:
    """What `dot` makes of the diagram; None where no `dot` works in time (some lack their own plug-ins)."""
    dot = shutil.which("dot")
    if dot is None:
        return None
    try:
        command = [dot, "-Tjson0"]
        done = subprocess.run(
            command, input=dot_text(diagram).encode(), capture_output=True, timeout=TIMEOUT, check=True
        )
        return _layout(diagram, json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError):
        return None


def _layout(diagram: Diagram, found: dict[str, Any]) -> Layout:
    names = {node["_gvid"]: node["name"] for node in found["objects"]}
    edges: dict[tuple[str, str], list[dict[str, Any]]] = {}  # an op may read one value twice
    for edge in found["edges"]:
        edges.setdefault((names[edge["tail"]], names[edge["head"]]), []).append(edge)
    in_order = [edges[arrow.source, arrow.target].pop(0) for arrow in diagram.arrows]
    return Layout(
        boxes={node["name"]: _point(node["pos"]) for node in found["objects"]},
        curves=tuple(_curve(edge["pos"]) for edge in in_order),
        labels=tuple(_point(edge["lp"]) for edge in in_order),
    )


def _curve(pos: str) -> Curve:
    """``e,x,y x0,y0 x1,y1 ...``: the arrow's tip, then a spline that ends where its head begins."""
    tip, *points = pos.split()
    spline = [_point(p) for p in points]
    end = _point(tip.removeprefix("e,"))
    return (*spline, spline[-1], end, end)


def _point(text: str) -> Point:
    x, y = map(float, text.split(","))
    return x, -y  # dot counts y upwards


def _quoted(text: str) -> str:
    r"""A DOT string: quotes and backslashes escaped, lines ended by \n."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
