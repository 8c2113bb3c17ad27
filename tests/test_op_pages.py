"""docs/ops is what tools/make_op_pages.py makes of the code, so that no page can go stale."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rmp_deploy.ir import ops

ROOT = Path(__file__).parent.parent


def make_op_pages():
    spec = importlib.util.spec_from_file_location("make_op_pages", ROOT / "tools" / "make_op_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_those_of_the_code():
    pages = make_op_pages().pages()
    folder = ROOT / "docs" / "ops"
    assert {path.name for path in folder.iterdir()} == set(pages)
    stale = [name for name, text in pages.items() if (folder / name).read_text("utf-8") != text]
    assert stale == [], "run: python tools/make_op_pages.py"


def test_every_op_has_a_page_with_its_equation_parameters_and_node():
    pages = make_op_pages().pages()
    kinds = [getattr(ops, name) for name in ops.__all__]
    concrete = {k.__name__ for k in kinds if isinstance(k, type) and issubclass(k, ops.Op)} - {"Op", "SpikingNeuron"}
    assert set(pages) == {"README.md", *(f"{name}.md" for name in concrete)}
    for name in concrete:
        page = pages[f"{name}.md"]
        assert "``" in page.split("## Parameters")[0] or name in ("Concat", "LoihiConv2d"), name  # an equation
        assert f"[{name.lower()}] {name.lower()}" in page  # the node that makes its value
    assert "LIFSoftReset <decay,v_threshold,v_subtract>(x, v_prev) => (spikes, v, u)" in pages["LIF.md"]
    assert "`v_subtract` | float32 array \\| None | `None` |" in pages["LIF.md"]
    assert "Since version 2." in pages["LIF.md"]
