"""Every command with good input: what it prints is what the public functions give."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
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
    code, verified = call("verify", file, "--data", "digits", "--run", run, "--json")
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
    from rmp_deploy import backends

    args = ("energy", NET, "--data", DIGITS, "--profile", "cmos45", "--json")
    whole = call(*args)[1]["energy"]
    monkeypatch.setattr(backends, "BATCH", 7)
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
    works = {f["feature"]: f["works"] for f in found["findings"]}
    assert works == {"core: simulate, verify and price files": True, "train and export": True, "simulate on Lava": True}


def test_demo_tells_the_whole_story(call, tmp_path, monkeypatch):
    """With few epochs; `make demo` trains in full."""
    from dataclasses import replace

    from rmp_deploy.training.config import PRESETS

    monkeypatch.setitem(PRESETS, "digits-convnet", replace(PRESETS["digits-convnet"], epochs=4))
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


def test_a_wrong_readout_fails_the_verification(call, tmp_path):
    """Same spikes, other answers: the last synapse of the file is not torch's."""
    from dataclasses import replace

    from rmp_deploy.converters.torch_to_ir import run_to_graph
    from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
    from rmp_deploy.training.config import TrainConfig
    from rmp_deploy.training.loop import save_run, train

    run, file = tmp_path / "run", tmp_path / "net.onnx"
    save_run(train(TrainConfig(epochs=2)), run)
    graph = fold_batchnorm(run_to_graph(run)[0])
    ops = tuple(replace(op, weight=-op.weight) if op.name == "fc2" else op for op in graph.ops)
    onnx_io.save(replace(graph, ops=ops), file, golden=data.load("digits").x[:2])
    args = ("verify", str(file), "--data", "digits", "--samples", "5", "--run", str(run), "--backend", "onnxruntime")
    code, found = call(*args, "--json")
    assert code == 1
    assert call("simulate", str(file), "--data", "digits", "--json")[1]["spikes"]["lif3"] > 1000
    torch, onnxruntime = found["parity"]["rungs"]
    assert torch["mismatches"] == 0
    assert not torch["output_holds"]
    assert onnxruntime["holds"]
    code, text = call(*args)
    assert "readout differs" in text


def test_networks_that_lava_refuses_are_verified_and_priced_without_it(call, tmp_path):
    """Soft reset, and a pool that leaves a border: the other rungs are there for the asking, energy counts the pool."""
    from dataclasses import replace

    from rmp_deploy.ir.ops import LIF

    graph = onnx_io.load(NET)
    soft = tuple(replace(op, reset="soft") if isinstance(op, LIF) else op for op in graph.ops)
    onnx_io.save(replace(graph, ops=soft), tmp_path / "soft.onnx")
    args = ("verify", str(tmp_path / "soft.onnx"), "--data", DIGITS, "--samples", "5")
    assert call(*args, "--backend", "onnxruntime", "--json")[0] == 0
    assert main([*args]) == 2  # Lava's refusal, by name

    by_name = graph.by_name
    conv = replace(by_name["conv2"], padding=(0, 0))  # 4x4 -> 2x2 -> one window of 2x2
    small = replace(by_name["fc1"], weight=by_name["fc1"].weight[:, :32])
    wide = replace(by_name["pool1"], kernel=(2, 2), stride=(2, 2), padding=(0, 0))
    ops = tuple({"conv2": conv, "fc1": small, "pool1": wide}.get(op.name, op) for op in graph.ops)
    onnx_io.save(replace(graph, ops=ops), tmp_path / "small.onnx")
    folded = call("energy", str(tmp_path / "small.onnx"), "--data", DIGITS, "--profile", "cmos45", "--json")[1][
        "energy"
    ]
    assert folded["pools"] == "folded"
    assert folded["totals"]["pool_add"] == 0
    overlapping = replace(by_name["pool2"], kernel=(2, 2), stride=(1, 1))  # 4x4 -> 3x3
    wider = replace(by_name["fc1"], weight=np.tile(by_name["fc1"].weight[:, :32], 9))
    ops = tuple({"pool2": overlapping, "fc1": wider}.get(op.name, op) for op in graph.ops)
    onnx_io.save(replace(graph, ops=ops), tmp_path / "border.onnx")
    found = call("energy", str(tmp_path / "border.onnx"), "--data", DIGITS, "--profile", "cmos45", "--json")[1][
        "energy"
    ]
    assert found["pools"].startswith("not folded: AvgPool2d 'pool2': stride = (1, 1)")
    assert found["totals"]["pool_add"] == 60 * 4 * 3 * (16 * 16 + 32 * 9)


def test_golden_counts_that_lie_fail_the_verification(call, tmp_path):
    """A file that claims one spike more than its network sends: every rung holds, the self-check does not."""
    model = onnx.load(NET)
    properties = {p.key: p for p in model.metadata_props}
    golden = json.loads(properties["rmp_deploy.golden"].value)
    golden["spike_count"]["lif2"][1] += 1
    properties["rmp_deploy.golden"].value = json.dumps(golden)
    properties["rmp_deploy.sha256"].value = "0" * 64  # and a checksum of the lie, as docs/file_format.md says
    properties["rmp_deploy.sha256"].value = hashlib.sha256(model.SerializeToString()).hexdigest()
    onnx.save(model, tmp_path / "lie.onnx")
    args = ("verify", str(tmp_path / "lie.onnx"), "--data", DIGITS, "--samples", "3", "--backend", "onnxruntime")
    code, text = call(*args)
    assert code == 1
    assert "other spike counts in lif2" in text
    code, text = call("verify", str(tmp_path / "lie.onnx"), "--self")
    assert code == 1
    assert "other spike counts in lif2" in text


def test_a_file_checks_itself_without_data(call, tmp_path):
    code, text = call("verify", NET, "--self")
    assert code == 0
    assert "4 golden samples: the spike counts are the expected ones" in " ".join(text.split())
    code, found = call("verify", NET, "--self", "--json")
    assert code == 0
    assert "parity" not in found
    counts = onnx_io.load_golden(NET).spike_count
    assert {name: layer["found"] for name, layer in found["self_check"]["layers"].items()} == counts
    assert found["self_check"]["samples"] == 4


def test_energy_says_what_a_residual_network_costs_more_on_loihi(call, tmp_path):
    """A shortcut around one layer: its spikes wait in relays there, as many as the layer has neurons."""
    from rmp_deploy.analysis.counts import count
    from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
    from rmp_deploy.ir.ops import LIF, Add, Linear
    from rmp_deploy.passes.balance_latency import balance_latency

    rng = np.random.default_rng(0)
    ops = [Linear(name="w1", inputs=("x",), weight=rng.normal(size=(8, 5)))]
    ops += [LIF(name="s1", inputs=("w1",), decay=0.5, v_threshold=0.5)]
    ops += [Linear(name="w2", inputs=("s1",), weight=rng.normal(size=(8, 8)))]
    ops += [LIF(name="s2", inputs=("w2",), decay=0.5, v_threshold=0.5)]
    ops += [Linear(name="w3", inputs=("s2",), weight=rng.normal(size=(8, 8))), Add(name="sum", inputs=("w3", "s1"))]
    ops += [LIF(name="s3", inputs=("sum",), decay=0.5, v_threshold=0.5)]
    graph = SpikingGraph("residual", Input("x", (5,), "direct"), tuple(ops), Readout("s3", "mean"), 3)
    onnx_io.save(graph, tmp_path / "net.onnx")
    x = rng.random((6, 5), dtype=np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    args = ("energy", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "x.npz"), "--profile", "loihi1")
    code, found = call(*args, "--json")
    energy = found["energy"]
    assert code == 0
    trace = backends.run(graph, x, "onnxruntime", ("spikes",))
    assert energy["totals"] == count(graph, trace, x).totals
    more = count(balance_latency(graph), trace, x).totals
    assert energy["relays"]["neurons"] == 8
    assert energy["relays"]["terms"] == {
        t: n - energy["totals"][t] for t, n in more.items() if n != energy["totals"][t]
    }
    spikes = int(trace.spikes["s1"].sum())
    assert energy["relays"]["terms"]["ac"] == energy["relays"]["terms"]["spike"] == spikes
    text = " ".join(call(*args)[1].split())
    assert f"on Loihi 8 neurons more (relays, OR pools), not in these counts: ac +{spikes}, " in text
    assert call("energy", NET, "--data", DIGITS, "--profile", "loihi1", "--json")[1]["energy"]["relays"] is None


def test_energy_of_an_integer_network_without_float_neurons(call, tmp_path):
    from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
    from rmp_deploy.ir.ops import Dequantize, LoihiLIF, LoihiLinear, Quantize

    ops = (
        Quantize(name="q", inputs=("x",), scale=15.0, message_bits=4),
        LoihiLinear(name="fc", inputs=("q",), weight=np.full((4, 3), 8)),
        LoihiLIF(name="lif", inputs=("fc",), du=4095, dv=2048, vth=100),
        LoihiLinear(name="out", inputs=("lif",), weight=np.full((2, 4), 2)),
        Dequantize(name="real", inputs=("out",), scale=0.1),
    )
    onnx_io.save(SpikingGraph("int", Input("x", (3,), "direct"), ops, Readout("real", "mean"), 2), tmp_path / "i.onnx")
    np.savez(tmp_path / "x.npz", x=np.array([[0.0, 0.5, 1.0]], np.float32))
    page = tmp_path / "report.html"
    args = (
        "energy",
        str(tmp_path / "i.onnx"),
        "--data",
        str(tmp_path / "x.npz"),
        "--profile",
        "loihi1",
        "--profile",
        "cmos45",
    )
    code, found = call(*args, "--report", str(page), "--json")
    assert code == 0
    assert [row["input"] for row in found["energy"]["layers"]] == ["graded", "spikes"]
    assert found["energy"]["totals"]["mac"] == 2 * 2 * 4  # two messages that are not 0, in two steps
    assert found["energy"]["totals"]["conversion"] == 2 * (3 + 2)
    assert all("conversion" in [u["term"] for u in p["unpriced"]] for p in found["energy"]["profiles"])
    assert "membranes" not in found
    assert "graded spikes: the host rounds" in page.read_text()
    assert found["network"]["input_coding"] == "graded"
