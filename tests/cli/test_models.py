"""The large networks' small sisters from a TOML file to a verified one, on images that are resized for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rmp_deploy
from rmp_deploy.cli import main

CONFIG = """
data = "images.npz"
image_size = {size}
epochs = 1
batch = 16
weight_decay_on = "weights"
[model]
name = "{name}"
channels = {channels}
T = 2
reset = "soft"
surrogate = "arctan"
learn_decay = true
mpbn = {mpbn}
"""


def call(capsys, *arguments: str) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "channels", "size", "mpbn"),
    [
        ("vgg16", [2, 3, 4, 5, 6], 32, "false"),
        ("resnet20", [2, 3, 4, 5], 16, "false"),
        ("resnet18", [2, 3, 4, 5], 32, "false"),
        ("resnet19", [2, 3, 4], 8, "true"),
    ],
)
def test_train_export_and_verify(name, channels, size, mpbn, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("images.npz", x=rng.random((40, 3, 8, 8), dtype=np.float32), y=np.arange(40) % 4)
    Path("run.toml").write_text(CONFIG.format(name=name, channels=channels, size=size, mpbn=mpbn))
    call(capsys, "train", "run.toml", "--out", "run")
    call(capsys, "export", "run", "-o", "net.onnx")
    graph = rmp_deploy.load("net.onnx")
    assert (graph.name, graph.input.shape, graph.T) == (f"images-{name}", (3, size, size), 2)
    assert {float(op.decay) for op in graph.spiking} != {0.25}
    command = ["verify", "net.onnx", "--data", "images.npz", "--image-size", str(size), "--samples", "4"]
    report = call(capsys, *command, "--run", "run", "--backend", "onnxruntime")
    assert [(rung["from"], rung["mismatches"]) for rung in report["parity"]["rungs"]] == [
        ("torch", 0),
        ("reference", 0),
    ]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[model]\nname = 'vgg16'", "vgg16: map = 8x8, allowed 32x32 or more"),
        ("[model]\nname = 'resnet20'", "resnet20: map = 8x8, allowed multiples of 16"),
        ("[model]\nencoding = 'time_series'", "allowed (T, ...) with T = model.T = 4"),
        ("[model]\nT = 0", "model.T = 0, allowed 1..65535"),
        ("[model]\nnam = 'vgg16'", "key 'model.nam' is unknown. Did you mean 'name'?"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(config, said, tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text(config)
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "run" / "model.safetensors").exists()
