"""docs/from_frameworks.md: its code runs, and what it makes goes through the file and back."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "from_frameworks.md"


@pytest.mark.parametrize(
    ("heading", "library"), [("SpikingJelly", "spikingjelly"), ("snnTorch", "snntorch"), ("Norse", "norse")]
)
def test_the_code_of_the_page(heading, library, tmp_path):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed on this Python")
    code = re.search(rf"## {heading}\n.*?```python\n(.*?)```", PAGE.read_text(), re.S)[1]
    check = """
import rmp_deploy
rmp_deploy.save(graph, "graph.onnx")
assert rmp_deploy.load("graph.onnx") == graph
print(graph.name, graph.T)
"""
    command = [sys.executable, "-c", code + check]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("network ")
