"""README, docs and examples do what they say: every block of code runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_readme_python():
    (code,) = blocks("python")
    out = run([sys.executable, "-c", code], ROOT)
    assert "reference -> onnxruntime 0 mismatching spikes" in out
    assert "onnxruntime -> lava 0 mismatching spikes" in out


def test_readme_commands(tmp_path):
    """Line by line in an empty folder, with a short training in place of the preset's."""
    (code,) = blocks("bash")
    (tmp_path / "short.toml").write_text("epochs = 3\n")
    script = code.replace("--preset digits-convnet", "short.toml")
    assert script != code
    script = script.replace("rmp-deploy", f"{sys.executable} -m rmp_deploy.cli")
    run(["bash", "-euo", "pipefail", "-c", script], tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "trace.npz").exists()


def test_golden_samples_by_hand():
    """The snippet of docs/file_format.md: a stranger checks a file with onnxruntime alone."""
    text = (ROOT / "docs" / "file_format.md").read_text()
    lines = [line[4:] for line in text[text.index("The same by hand") :].splitlines() if line.startswith("    ")]
    code = "\n".join(lines)
    assert "assert all" in code
    assert "rmp_deploy" not in code.replace('"rmp_deploy.golden"', "").replace('"rmp_deploy.sha256"', "")
    run([sys.executable, "-c", code], ROOT)


def test_example_of_an_own_model(tmp_path):
    out = run([sys.executable, "examples/own_model.py", "--epochs", "3", "--out", str(tmp_path)], ROOT)
    assert re.findall(r"(\w+ -> \w+): 0 mismatching spikes", out) == [
        "torch -> reference",
        "reference -> onnxruntime",
        "onnxruntime -> lava",
    ]
    assert float(re.search(r"lif: quantization error ([\d.]+)", out)[1]) > 0
    assert float(re.search(r"accuracy on 50 test images: ([\d.]+)", out)[1]) >= 0.7


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{page}: {target}"
