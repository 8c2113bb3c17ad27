"""A picture of a graph as SVG or as DOT text: `diagram` says what it shows, a layout where, `svg` writes it.

Graphviz lays it out where it is installed, `layered` where it is not; both pictures hold the same boxes and words.
"""

from __future__ import annotations

from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.report.draw import graphviz, layered, svg
from rmp_deploy.report.draw.diagram import diagram

__all__ = ["to_dot", "to_svg"]


def to_svg(graph: SpikingGraph) -> tuple[str, str]:
    """The picture of `graph`, and who laid it out: ``dot`` or ``rmp-deploy``.

    One self-contained SVG, for light and dark pages; the same graph and layout give the same bytes.
    """
    drawn = diagram(graph)
    layout = graphviz.lay_out(drawn)
    if layout is not None:
        return svg.write(drawn, layout), "dot"
    return svg.write(drawn, layered.lay_out(drawn)), "rmp-deploy"


def to_dot(graph: SpikingGraph) -> str:
    """The picture of `graph` as DOT text, for Graphviz and its relatives."""
    return graphviz.to_dot(diagram(graph))
