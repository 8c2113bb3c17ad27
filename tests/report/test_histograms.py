"""The picture of potentials over training shows the counts that it is given."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rmp_deploy.report.draw.histograms import CELL, SHADES, TALL, Training, to_svg
from rmp_deploy.training.diagnostics import LayerDiagnostics, save_history
from rmp_deploy.training.metrics import DIAGNOSTICS

ROOT = Path(__file__).parent.parent.parent
SVG = "{http://www.w3.org/2000/svg}"
EDGES = (-math.inf, -1.0, 0.0, 1.0, 2.0, math.inf)
FIRST = np.array([[1, 2, 3, 4, 0], [0, 0, 10, 0, 0]])
SECOND = np.array([[2, 2, 2, 2, 2], [0, 5, 0, 5, 0]])


def drawn(**runs) -> ET.Element:
    return ET.fromstring(to_svg("a < b & c", EDGES, {name: {"lif": Training(c, "")} for name, c in runs.items()}))


def shades(root: ET.Element, css: str) -> np.ndarray:
    """The picture of one run read back: the opacity of every cell, [epochs, bins]."""
    found: dict[tuple[float, float], float] = {}
    for path in root.iter(f"{SVG}path"):
        if path.get("class") == f"cells {css}":
            for x, y, wide, _ in re.findall(r"M([\d.]+),([\d.]+)h(\d+)v(\d+)h-\d+z", path.get("d")):
                for i in range(int(wide) // CELL):
                    assert (float(y), float(x) + i * CELL) not in found
                    found[float(y), float(x) + i * CELL] = float(path.get("fill-opacity"))
    ys = sorted({y for y, _ in found})
    left = 16.0
    rows = np.zeros((len(ys), len(EDGES) - 1))
    for (y, x), opacity in found.items():
        rows[ys.index(y), round((x - left) / CELL)] = opacity
    return rows


def test_every_cell_has_the_shade_of_its_share():
    root = drawn(off=FIRST, on=SECOND)
    for css, counts in (("hue0", FIRST), ("hue1", SECOND)):
        exact = np.sqrt(counts / counts.sum(1, keepdims=True))  # the largest share of all is 1
        np.testing.assert_allclose(shades(root, css), np.ceil(exact * SHADES) / SHADES, atol=1e-3)


def test_the_last_epochs_stand_over_one_base_line_on_one_scale():
    root = drawn(off=FIRST, on=SECOND)
    tops = {}
    for path in root.iter(f"{SVG}path"):
        if path.get("class").startswith("outline"):
            base = float(re.match(r"M[\d.]+,([\d.]+)", path.get("d"))[1])
            tops[path.get("class")] = [base - float(v) for v in re.findall(r"V([\d.]+)h", path.get("d"))]
    high = TALL - 6
    assert tops["outline line0"] == pytest.approx([0, 0, high, 0, 0], abs=0.06)
    assert tops["outline line1"] == pytest.approx([0, high / 2, 0, high / 2, 0], abs=0.06)


def test_names_are_escaped_and_a_run_of_many_epochs_stays_small():
    root = drawn(**{"a<b>": np.tile(FIRST, (200, 1))})
    assert root.find(f"{SVG}title").text == "a < b & c"
    assert "a<b>: " in root.find(f"{SVG}desc").text
    assert float(root.get("height")) < 800
    assert shades(root, "hue0").shape == (400, 5)


def test_the_example_draws_two_runs(tmp_path):
    for run, error in (("off", 0.4), ("on", 0.1)):
        counts = np.arange(66)
        history = [{"lif1": LayerDiagnostics(counts, 5, e, e), "lif2": LayerDiagnostics(counts, 5, e, e)}
                   for e in (0.5, error)]  # fmt: skip
        save_history(tmp_path / run / DIAGNOSTICS, history)
    example = ROOT / "examples" / "histograms.py"
    drawn = [sys.executable, example, "off", "on", "-o", "potentials.svg"]
    subprocess.run([*drawn, "--layers", "lif2"], check=True, cwd=tmp_path)
    words = {text.text for text in ET.parse(tmp_path / "potentials.svg").iter(f"{SVG}text")}
    assert {"lif2", "off: error 0.500 → 0.400", "on: error 0.500 → 0.100", "last epoch"} <= words
    assert "lif1" not in words
    for wrong, said in (
        ([*drawn, "--layers", "lif3"], "layers ['lif3'] not found, allowed lif1, lif2"),
        ([sys.executable, example, "no", "-o", "no.svg"], "cannot be read"),
    ):
        done = subprocess.run(wrong, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("error: ")
        assert said in done.stderr
