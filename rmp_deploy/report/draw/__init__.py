"""A picture of a graph as SVG or as DOT text: `diagram` says what it shows, a layout where, `svg` writes it.

Graphviz lays it out where it is installed and the diagram is small enough for it, else `layered`; both pictures hold
the same boxes and words.
"""

from __future__ import annotations

from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.report.draw import graphviz, layered
from rmp_deploy.report.draw.diagram import diagram
from rmp_deploy.report.draw.svg import write

__all__ = ["to_dot", "to_svg"]


def to_svg(graph: SpikingGraph) -> tuple[str, str]:
    """The picture of `graph`, and who laid it out: ``dot`` or ``rmp-deploy``.

    One self-contained SVG, for light and dark pages; the same graph and layout give the same bytes.

    Raises:
        RmpDeployError: its arrows have more bends than a picture can show.
    """
    drawn = diagram(graph)
    bends = layered.bends(drawn)
    if bends > layered.MOST_BENDS:
        what, allowed = f"bends of its arrows = {bends}", f"at most {layered.MOST_BENDS} in a picture"
        raise op_error("Diagram", drawn.title, what, allowed, "Write it as .dot")
    layout = graphviz.lay_out_by_dot(drawn) if bends <= graphviz.MOST_BENDS else None
    if layout is not None:
        return write(drawn, layout), "dot"
    return write(drawn, layered.lay_out(drawn)), "rmp-deploy"


def to_dot(graph: SpikingGraph) -> str:
    """The picture of `graph` as DOT text, for Graphviz and its relatives."""
    return graphviz.dot_text(diagram(graph))
