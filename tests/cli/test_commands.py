"""Every command with good input: what it prints is what the public functions give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy import backends
from rmp_deploy.cli import main
from rmp_deploy.ir import onnx_io
from rmp_deploy.training import data

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NET, DIGITS = str(EXAMPLES / "digits.onnx"), str(EXAMPLES / "digits.npz")


@pytest.fixture
def call(capsys):
    """Run a command; its exit code and what it printed (a dict with --json)."""

    def run(*args: str):
        code = main(args)
        out, _ = capsys.readouterr()
        return code, json.loads(out) if "--json" in args else out

    return run


def test_train_export_verify(call, tmp_path):
    run, file = str(tmp_path / "run"), str(tmp_path / "net.onnx")
    (tmp_path / "small.toml").write_text("epochs = 2\nbatch = 128\n[model]\nchannels = [4, 8]\nhidden = 16\nT = 2\n")
    code, trained = call("train", str(tmp_path / "small.toml"), "--out", run, "--json")
    assert code == 0
    assert trained["epoch"] == 2
    code, exported = call("export", run, "-o", file, "--json")
    assert code == 0
    assert exported["ops"] == ["conv1", "lif1", "pool1", "conv2", "lif2", "pool2", "flatten", "fc1", "lif3", "fc2"]
    assert exported["bytes"] == Path(file).stat().st_size
    code, verified = call("verify", file, "--data", "digits", "--samples", "20", "--run", run, "--json")
    assert code == 0
    assert verified["parity"]["holds"]
    pairs = [(r["from"], r["to"], r["mismatches"]) for r in verified["parity"]["rungs"]]
    assert pairs == [("torch", "reference", 0), ("reference", "onnxruntime", 0), ("onnxruntime", "lava", 0)]
    assert verified["parity"]["self_check"]["holds"]


def test_verify_fails_with_exit_code_1_where_torch_is_another_network(call, tmp_path):
    """The committed network against another run's weights: the rung says where they part, and the code is 1."""
    run = str(tmp_path / "run")
    (tmp_path / "other.toml").write_text("epochs = 1\nseed = 99\n")
    assert call("train", str(tmp_path / "other.toml"), "--out", run, "--json")[0] == 0
    code, found = call("verify", NET, "--data", DIGITS, "--samples", "4", "--run", run, "--json")
    assert code == 1
    rung = found["parity"]["rungs"][0]
    assert not rung["holds"]
    assert rung["layers"][0]["first"]["step"] == 0
    code, text = call("verify", NET, "--data", DIGITS, "--samples", "4", "--run", run)
    assert code == 1
    assert "DOES NOT HOLD" in text
    assert "first at lif1: sample" in text


@pytest.mark.parametrize("backend", ["reference", "onnxruntime", "lava"])
def test_simulate_records_the_same_traces_on_every_backend(call, tmp_path, backend):
    out = tmp_path / "trace.npz"
    args = (
        "--data",
        DIGITS,
        "--samples",
        "5",
        "--backend",
        backend,
        "--record",
        "spikes,v",
        "--out",
        str(out),
        "--json",
    )
    code, result = call("simulate", NET, *args)
    assert code == 0
    x = data.load(DIGITS).x[:5]
    wanted = backends.run(onnx_io.load(NET), x, "reference", ("spikes", "v"))
    arrays = np.load(out)
    assert sorted(arrays.files) == sorted(["output", *(f"{w}/lif{i}" for w in ("spikes", "v") for i in (1, 2, 3))])
    for name, spikes in wanted.spikes.items():
        np.testing.assert_array_equal(arrays[f"spikes/{name}"], spikes)
        np.testing.assert_allclose(arrays[f"v/{name}"], wanted.v[name], atol=1e-5)
        assert result["spikes"][name] == spikes.sum()
    labels = data.load(DIGITS).y[:5]
    assert result["correct"] == (wanted.predictions() == labels).sum()


def test_simulate_without_labels_says_so(call, tmp_path):
    np.savez(tmp_path / "x.npz", x=data.load(DIGITS).x[:3])
    code, text = call("simulate", NET, "--data", str(tmp_path / "x.npz"))
    assert code == 0
    assert "no labels" in text


def test_energy_counts_all_samples_and_writes_the_page(call, tmp_path):
    page = tmp_path / "report.html"
    args = ("--data", DIGITS, "--profile", "cmos45", "--profile", "loihi1", "--report", str(page), "--json")
    code, found = call("energy", NET, *args)
    assert code == 0
    energy = found["energy"]
    assert energy["samples"] == 60
    # conv1: 16 maps of 8x8, 3x3 taps less the padding = 22 * 22 connections a map, T = 4, 60 samples
    assert energy["totals"]["mac"] == 16 * 22 * 22 * 4 * 60
    assert energy["twin"]["macs"] == 16 * 22 * 22 + 32 * 16 * 10 * 10 + 128 * 64 + 64 * 10
    cmos, loihi = energy["profiles"]
    per_sample = (energy["totals"]["mac"] * 4.6e-12 + energy["totals"]["ac"] * 0.9e-12) / 60
    assert cmos["synaptic_joule_per_sample"] == pytest.approx(per_sample)
    assert [u["term"] for u in loihi["unpriced"]] == ["mac"]
    html = page.read_text()
    assert html.startswith("<!doctype html>")
    assert "conv2" in html


def test_energy_is_the_same_however_the_samples_are_batched(call, monkeypatch):
    from rmp_deploy.cli import common

    args = ("energy", NET, "--data", DIGITS, "--profile", "cmos45", "--json")
    whole = call(*args)[1]["energy"]
    monkeypatch.setattr(common, "BATCH", 7)
    assert call(*args)[1]["energy"] == whole


def test_profiles_and_doctor(call):
    code, listed = call("profiles", "--json")
    assert code == 0
    names = [p["name"] for p in listed["profiles"]]
    assert {"cmos45", "loihi1"} <= set(names)
    code, text = call("profiles", "loihi1")
    assert code == 0
    assert "23.6 pJ" in text
    assert "Davies 2018" in " ".join(text.split())
    code, found = call("doctor", "--json")
    assert code == 0
    assert all(f["works"] or "pip install" in f["todo"] for f in found["findings"])


def test_demo_tells_the_whole_story(call, tmp_path, monkeypatch):
    """With few epochs; `make demo` trains in full."""
    from dataclasses import replace

    from rmp_deploy.cli import demo
    from rmp_deploy.training.config import PRESETS

    monkeypatch.setitem(PRESETS, "digits-convnet", replace(PRESETS["digits-convnet"], epochs=4))
    assert demo.preset is not None
    code, text = call("demo", "--out", str(tmp_path / "demo"), "--samples", "10")
    assert code == 0
    for rung in ("torch -> reference", "reference -> onnxruntime", "onnxruntime -> lava"):
        assert f"{rung}: 0 mismatching spikes" in text
    words = " ".join(text.split())
    assert "cmos45" in words
    assert "unpriced" in words
    assert "net.onnx" in text
    html = (tmp_path / "demo" / "report.html").read_text()
    assert "without RMP-Loss" in html
    assert onnx_io.load(tmp_path / "demo" / "net.onnx").T == 4
