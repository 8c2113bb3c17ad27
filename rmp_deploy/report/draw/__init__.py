"""A picture of a graph as SVG or as DOT text: `diagram` says what it shows, a layout where, `svg` writes it.

Graphviz lays it out where it is installed, `layered` where it is not; both pictures hold the same boxes and words.
"""

from __future__ import annotations

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.report.draw.diagram import diagram
from rmp_deploy.report.draw.graphviz import dot_text, lay_out_by_dot
from rmp_deploy.report.draw.layered import lay_out
from rmp_deploy.report.draw.svg import write

__all__ = ["to_dot", "to_svg"]


def to_svg(graph: SpikingGraph) -> tuple[str, str]:
    """The picture of `graph`, and who laid it out: ``dot`` or ``rmp-deploy``.

    One self-contained SVG, for light and dark pages; the same graph and layout give the same bytes.
    """
    drawn = diagram(graph)
    layout = lay_out_by_dot(drawn)
    if layout is not None:
        return write(drawn, layout), "dot"
    return write(drawn, lay_out(drawn)), "rmp-deploy"


def to_dot(graph: SpikingGraph) -> str:
    """The picture of `graph` as DOT text, for Graphviz and its relatives."""
    return dot_text(diagram(graph))
