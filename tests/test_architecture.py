"""The import directions of the layout, read from the source: a module may import what stands to its right."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rmp_deploy"
LEAVES = {"errors", "files"}
# folder -> what else of ours it may import
ALLOWED: dict[str, set[str]] = {
    "ir": set(),
    "hw_profiles": set(),
    "passes": {"ir"},
    "training": set(),
    "analysis": {"ir", "hw_profiles", "passes"},
    "converters": {"ir", "passes", "hw_profiles", "training"},
    "backends": {"ir", "passes", "hw_profiles", "converters"},
    "report": {"ir", "analysis", "hw_profiles"},
    "cli": {"ir", "passes", "analysis", "hw_profiles", "training", "converters", "backends", "report"},
}
# third-party module -> folders that may import it
ONLY_IN: dict[str, set[str]] = {
    "onnx": {"ir/onnx_io"},
    "onnxruntime": {"backends"},
    "lava": {"converters/lava", "backends"},
    "torch": {"training", "converters"},
    "jinja2": {"report"},
    "rich": {"report", "cli"},
    "nir": {"converters/nir"},
    "h5py": {"converters/netx", "converters/nir"},
}


def modules() -> list[Path]:
    """Every source file once, under the path that it is imported by."""
    files = list(PACKAGE.rglob("*.py"))
    for linked in ("converters", "hw_profiles"):
        files += (PACKAGE / linked).rglob("*.py") if not any(linked in f.parts for f in files) else []
    assert len(files) > 30
    return files


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def folder(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_to_the_right(path):
    here = folder(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "rmp_deploy" and len(parts) > 1 and (PACKAGE / parts[1]).exists():
            assert parts[1] != "cli" or here in ("cli", "__init__"), f"{path} imports the command line"
            if here != "__init__":
                assert parts[1] in ALLOWED[here] | LEAVES | {here}, f"{path} imports {name}"
        if parts[0] in ONLY_IN:
            where = str(path.relative_to(PACKAGE))
            assert where.startswith(tuple(ONLY_IN[parts[0]])), f"{path} imports {parts[0]}"


def test_importing_the_package_and_its_command_line_loads_neither_torch_nor_lava():
    heavy = "('torch', 'lava', 'sklearn')"
    code = f"import rmp_deploy, rmp_deploy.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_nothing_is_imported_at_the_top_that_an_extra_brings():
    """Core modules work without torch and Lava: those imports stand inside functions, or in modules that need them."""
    for path in modules():
        if folder(path) in ("training", "converters"):
            continue
        for node in ast.parse(path.read_text()).body:
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
            assert not any(n.split(".")[0] in ("torch", "lava", "safetensors", "sklearn") for n in names), path
