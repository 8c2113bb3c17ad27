"""Networks of encoded samples from training to verification: the file takes what the encoder gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import rmp_deploy
from rmp_deploy.cli import main

DOCS = Path(__file__).parent.parent.parent / "docs"
CONFIG = """
epochs = 2
[model]
name = "mlp"
channels = [16]
T = 4
encoding = "{encoding}"
"""


def call(capsys, *arguments: str) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("encoding", ["poisson", "ttfs"])
def test_train_export_and_verify_on_samples_encoded_as_the_docs_say(encoding, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(CONFIG.format(encoding=encoding))
    call(capsys, "train", "run.toml", "--out", "run")
    call(capsys, "export", "run", "-o", "net.onnx")
    graph = rmp_deploy.load("net.onnx")
    assert (graph.name, graph.input.encoding, graph.T, graph.input.shape) == ("digits-mlp", "time_series", 4, (1, 8, 8))
    call(capsys, "verify", "net.onnx", "--self")  # with the golden samples, encoded

    text = (DOCS / "train.md").read_text()
    (code,) = re.findall(r"((?:    .*\n|\n)*    np\.savez.*\n)", text)
    code = "\n".join(line[4:] for line in code.splitlines())
    exec(compile(code.replace("poisson", encoding), "docs/train.md", "exec"), {})
    x = np.load(f"digits_{encoding}.npz")["x"]
    assert x.shape == (50, 4, 1, 8, 8)
    assert set(np.unique(x)) == {0, 1}
    report = call(capsys, "verify", "net.onnx", "--data", f"digits_{encoding}.npz", "--run", "run")
    rungs = report["parity"]["rungs"]
    assert [rung["mismatches"] for rung in rungs] == [0] * len(rungs)
    assert rungs[0]["from"] == "torch"
    assert main(["verify", "net.onnx", "--data", "digits"]) == 2
    assert "allowed (N, 4, 1, 8, 8)" in capsys.readouterr().err


def test_a_run_on_time_series_is_exported_with_their_steps(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = (rng.random((60, 4, 1, 8, 8)) < 0.2 + 0.3 * y[:, None, None, None, None]).astype(np.float32)
    np.savez("events.npz", x=x, y=y)
    Path("run.toml").write_text('data = "events.npz"\n' + CONFIG.format(encoding="time_series"))
    call(capsys, "train", "run.toml", "--out", "run")
    call(capsys, "export", "run", "-o", "net.onnx")
    report = call(capsys, "verify", "net.onnx", "--data", "events.npz", "--run", "run")
    assert [rung["mismatches"] for rung in report["parity"]["rungs"]] == [0, 0, 0]
    Path("wrong.toml").write_text('data = "events.npz"\n' + CONFIG.format(encoding="time_series").replace("4", "5"))
    assert main(["train", "wrong.toml", "--out", "other"]) == 2
    assert "allowed (T, ...) with T = model.T = 5. Set model.T." in capsys.readouterr().err
