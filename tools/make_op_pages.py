"""Write docs/ops/: a page for each op of the IR, from its dataclass, its NumPy reference and its ONNX node.

python tools/make_op_pages.py
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, helper, printer

from rmp_deploy.ir import onnx_io, ops, reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.onnx_io.model import step_of
from rmp_deploy.ir.ops import LIF, Op, Shape

FOLDER = Path(__file__).parent.parent / "docs" / "ops"
HEAD = "<!-- made by tools/make_op_pages.py: change the op's docstring and run it again -->\n"
ATTRIBUTES = re.compile(r"\n\s*Attributes:\n(.*?)(?=\n\s*\n|\Z)", re.S)
SINCE = {
    "LoihiLIF": 2,
    "LoihiLinear": 2,
    "LoihiConv2d": 2,
    "Quantize": 3,
    "Dequantize": 3,
}  # of the domain; the others are as old as the file

# One op of each type at work: the shape that it reads, its parameters, how many values it reads. Spikes where it asks
# for them; `resets` are the variants that a file keeps apart.
MAP, LINE = (4, 6, 6), (3,)
WINDOW = {"kernel": (2, 2), "stride": (2, 2)}
EXAMPLES: dict[str, tuple[Shape, dict[str, Any], int]] = {
    "Linear": (LINE, {"weight": np.ones((2, 3)), "bias": np.ones(2)}, 1),
    "Conv1d": ((2, 9), {"weight": np.ones((4, 2, 3)), "bias": np.ones(4), "padding": (1,)}, 1),
    "Conv2d": (MAP, {"weight": np.ones((8, 4, 3, 3)), "bias": np.ones(8), "padding": (1, 1)}, 1),
    "LIF": (LINE, {"decay": 0.5, "v_threshold": 1.0}, 1),
    "CubaLIF": (LINE, {"current_decay": 0.25, "decay": 0.5, "v_threshold": 1.0}, 1),
    "LI": (LINE, {"decay": 0.5}, 1),
    "AvgPool2d": (MAP, WINDOW, 1),
    "SumPool2d": (MAP, WINDOW, 1),
    "MaxPool2d": (MAP, WINDOW, 1),
    "BatchNorm": (MAP, {**{k: np.ones(4) for k in ("gamma", "beta", "mean", "var")}, "eps": 1e-5}, 1),
    "Flatten": (MAP, {}, 1),
    "Add": (LINE, {}, 2),
    "Concat": (LINE, {}, 2),
    "Delay": (LINE, {"steps": 1, "shape": LINE}, 1),
    "LoihiLIF": (LINE, {"du": 4095, "dv": 1024, "vth": 64}, 1),
    "LoihiLinear": (LINE, {"weight": np.full((2, 3), 8)}, 1),
    "LoihiConv2d": (MAP, {"weight": np.full((8, 4, 3, 3), 8), "padding": (1, 1)}, 1),
    "Quantize": (LINE, {"scale": 63.5, "message_bits": 7}, 1),
    "Dequantize": (LINE, {"scale": 0.01, "bias": np.ones(3)}, 1),
}


def pages() -> dict[str, str]:
    """Every page by its file name, the index included."""
    kinds = [kind for name in ops.__all__ if _is_op(kind := getattr(ops, name))]
    kinds.sort(key=lambda kind: list(EXAMPLES).index(kind.__name__))
    index = [HEAD, "# The ops of the spiking IR\n", "| op | what it is | reads | makes |", "|---|---|---|---|"]
    for kind in kinds:
        graph = _example(kind)
        reads, makes = graph.input.shape, graph.shapes[kind.__name__.lower()]
        summary = _prose(kind).split("\n")[0]
        index.append(f"| [{kind.__name__}]({kind.__name__}.md) | {summary} | `{reads}` | `{makes}` |")
    index.append(
        "\nShapes are those of the example on each page; all leave out time and batch. What an op computes is defined\n"
        "by its NumPy reference, every other path is tested against it. The file around them:\n"
        "[file_format.md](../file_format.md)."
    )
    return {"README.md": "\n".join(index) + "\n", **{f"{kind.__name__}.md": _page(kind) for kind in kinds}}


def _is_op(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Op) and not inspect.isabstract(kind)


def _page(kind: type[Op]) -> str:
    graph = _example(kind)
    op = graph.by_name[kind.__name__.lower()]
    low, high = kind.arity
    reads = f"{low} value{'s' * (low > 1)}" if low == high else f"{low} or more values"
    parts = [
        HEAD + f"# {kind.__name__}\n",
        _prose(kind),
        f"\nSince version {SINCE.get(kind.__name__, 1)} of the domain `rmp_deploy`. Reads {reads}, makes one; in the\n"
        f"example below `{graph.input.shape}` -> `{graph.shapes[op.name]}`, without time and batch.\n",
        "## Parameters\n",
        "| name | type | default | what |",
        "|---|---|---|---|",
        *(_row(kind, field) for field in fields(kind)),
        "\n## Definition\n",
        "```python",
        _definition(kind),
        "```\n",
        "## In the file\n",
    ]
    for variant in _variants(graph, op):
        model = onnx_io.to_model(variant)
        parts += ["```", _nodes(model, op.name), *_functions(model, op), "```\n"]
    return "\n".join(parts).rstrip() + "\n"


def _example(kind: type[Op]) -> SpikingGraph:
    """A graph around one op of this type; neurons before it where it must read spikes, after it where there is none."""
    shape, parameters, n = EXAMPLES[kind.__name__]
    name = kind.__name__.lower()
    bits = 0 if name.startswith("loihi") else None
    around: list[Op] = []
    source = "x"
    if kind not in (ops.LoihiLIF, ops.Quantize):
        around, source = [LIF(name="spikes", inputs=("x",), decay=0.0, v_threshold=0.5)], "spikes"
    if kind in (ops.LoihiLIF, ops.Dequantize):
        around += [ops.LoihiLinear(name="current", inputs=(source,), weight=np.diag(np.full(3, 8)))]
        source = "current"
    around += [kind(name=name, inputs=(source,) * n, **parameters)]
    if kind is ops.Quantize:
        around += [ops.LoihiLIF(name="spikes", inputs=(name,), du=4095, dv=0, vth=64)]
    return SpikingGraph("example", Input("x", shape, "direct", bits), tuple(around), Readout(name, "sum"), T=2)


def _variants(graph: SpikingGraph, op: Op) -> list[SpikingGraph]:
    """The graph once for every node type that the op is written as: one for each reset."""
    if not isinstance(op, LIF):
        return [graph]
    soft = replace(op, reset="soft")
    return [graph, replace(graph, ops=tuple(soft if o.name == op.name else o for o in graph.ops))]


def _prose(kind: type[Op]) -> str:
    return ATTRIBUTES.sub("", inspect.cleandoc(kind.__doc__ or "")).strip()


def _told(kind: type[Op], name: str) -> str:
    """What the docstring of the class, or of one that it inherits from, says about a field."""
    for base in kind.__mro__:
        found = ATTRIBUTES.search("\n" + inspect.cleandoc(base.__dict__.get("__doc__") or ""))
        told = re.search(rf"^\s*{name}: (.*?)(?=^\s*\w+: |\Z)", found[1], re.M | re.S) if found else None
        if told:
            return " ".join(told[1].split())
    raise LookupError(f"{kind.__name__}.{name} has no line under Attributes")


def _row(kind: type[Op], field: Field[Any]) -> str:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    shown = "" if default is MISSING else f"`{default.tolist() if isinstance(default, np.ndarray) else default!r}`"
    since = f" Since version {field.metadata['since']}." if "since" in field.metadata else ""
    kinds = {
        "Array": "float32 array",
        "IntArray": "int32 array",
        "Shape": "tuple[int, ...]",
        "Pair": "tuple[int, int]",
        "Reset": "str",
        "SignMode": "str",
    }
    typed = " \\| ".join(kinds.get(t, t) for t in str(field.type).split(" | "))
    return f"| `{field.name}` | {typed} | {shown} | {_told(kind, field.name)}{since} |"


def _definition(kind: type[Op]) -> str:
    """The source of the reference function; of a Delay, which the loop over time keeps, its equation."""
    if kind is ops.Delay:
        return "y[t] = x[t - steps] if t >= steps else 0"
    function = reference.NEURONS[kind][0] if kind in reference.NEURONS else reference.STATELESS[kind]
    return inspect.getsource(function).strip()


def _nodes(model: ModelProto, name: str) -> str:
    """The nodes of the step graph that read or make what belongs to the op, as ONNX prints them."""
    body = step_of(model.graph.node)
    own = [n for n in body.node if n.name == name or any(i.startswith(f"{name}/") for i in n.input)]
    graph = helper.make_graph([n for n in own if n.op_type != "SpikeCount"], "step", [], [])
    return "\n".join(line.strip() for line in printer.to_text(graph).splitlines()[1:] if line.strip(" {}"))


def _functions(model: ModelProto, op: Op) -> list[str]:
    body = step_of(model.graph.node)
    used = {n.op_type for n in body.node if n.name == op.name or any(i.startswith(f"{op.name}/") for i in n.input)}
    return ["\n" + printer.to_text(f) for f in model.functions if f.name in used - {"SpikeCount"}]


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
    print(f"{FOLDER}: {len(pages())} pages")


if __name__ == "__main__":
    main()
