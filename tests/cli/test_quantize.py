"""`rmp-deploy quantize`: the file, the report, the limits of a profile, and bad input in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rmp_deploy
from rmp_deploy import backends
from rmp_deploy.cli import main
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.ops import LIF, Quantize
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import data

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NET, DIGITS = str(EXAMPLES / "digits.onnx"), str(EXAMPLES / "digits.npz")
LOIHI2 = ("--profile", "loihi2", "--data", DIGITS)


def profile(folder, **limits):
    """A profile with these limits alone."""
    kinds = {"weight_bits": ("bit", "synapse"), "graded_spike_bits": ("bit", "spike")}
    lines = ['name = "small"', 'title = "t"', 'precision = "unstated"', "[terms.ac]", 'value = "unknown"', 'why = "w"']
    for name, value in limits.items():
        unit, scope = kinds.get(name, ("bit", "neuron"))
        lines += [f"[limits.{name}]", f"value = {value}", f'unit = "{unit}"', f'scope = "{scope}"']
        lines += ['evidence = "published"', 'source = "s"']
    (folder / "small.toml").write_text("\n".join(lines) + "\n")
    return str(folder / "small.toml")


def test_the_file_is_what_the_pass_gives_and_checks_itself(tmp_path, capsys):
    out = str(tmp_path / "net.int.onnx")
    assert main(["quantize", NET, *LOIHI2, "--weight-bits", "6", "-o", out, "--json"]) == 0
    section = json.loads(capsys.readouterr().out)
    samples = data.load(DIGITS)
    found = quantize(rmp_deploy.load(NET), samples.x, 6)
    assert onnx_io.load(out) == found.graph
    assert section["bytes"] == Path(out).stat().st_size
    assert (section["profile"], section["input_coding"], section["calibration_samples"]) == ("loihi2", "host", 60)
    assert [layer["name"] for layer in section["layers"]] == ["lif2", "lif3", "fc2"]
    assert section["layers"][0]["synapses"][0]["weight_bits"] == 6
    assert section["layers"][0]["neuron"]["agreement"] == found.layers[0].neuron.agreement
    right = {
        name: float((backends.run(graph, samples.x, "onnxruntime").predictions() == samples.y).mean())
        for name, graph in (("float", rmp_deploy.load(NET)), ("integer", found.graph))
    }
    assert section["accuracy"] == {"samples": 60, **right}
    assert main(["verify", out, "--self"]) == 0


def test_the_report_says_how_the_input_is_coded_and_what_each_layer_lost(tmp_path, capsys):
    out = str(tmp_path / "net.int.onnx")
    arguments = ["--input", "graded", "--weight-bits", "conv1=5", "fc1=4", "--samples", "20", "-o", out]
    assert main(["quantize", NET, *LOIHI2, *arguments]) == 0
    text = capsys.readouterr().out
    assert "input: graded spikes: the host rounds the samples to integers" in text
    assert "20 calibration samples" in text
    rows = {}
    for line in text.splitlines():
        if line.strip():
            rows.setdefault(line.split()[0], line.split())
    assert [rows[name][1] for name in ("conv1", "conv2", "fc1", "fc2")] == ["5", "8", "4", "8"]
    assert rows["lif1"][-4:-2] == rows["lif1"][-2:]  # the first layer gets the same input in both networks
    assert rows["accuracy"][-3:] == ["of", "spikes", "agree"]


def test_data_without_labels_has_no_accuracy(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=data.load(DIGITS).x[:4])
    out = str(tmp_path / "net.int.onnx")
    arguments = ["--profile", "loihi2", "--data", str(tmp_path / "x.npz"), "-o", out]
    assert main(["quantize", NET, *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("% of spikes agree")
    assert "accuracy" not in capsys.readouterr().out


REFUSED = [
    (
        ["--input", "graded"],
        {"graded_spike_bits": 0},
        "--input = graded, allowed host: graded_spike_bits = 0 [small]. Let the host encode",
    ),
    ([], {"weight_bits": 6}, "--weight-bits = 8, allowed 6 [small]. Ask for fewer weight bits."),
    (["--weight-bits", "conv2=4", "fc1=7"], {"weight_bits": 6}, "--weight-bits = 7, allowed 6 [small]"),
    (["--weight-bits", "conv2=6"], {"weight_bits": 6}, "LoihiLinear 'fc1': bits of a weight = 8, allowed 6 [small]"),
    ([], {"threshold_bits": 8}, "LoihiLIF 'lif2': bits of vth = "),
    (
        [],
        {"decay_bits": 1},
        "LoihiLIF 'lif2': bits of a decay = 2, allowed 1 [small]. Train with a decay of fewer bits",
    ),
    ([], {"bias_bits": 10}, "LoihiLIF 'lif2': bits of bias_mant and its sign = 13, allowed 10 [small]"),
    ([], {"state_bits": 16}, "LoihiLIF 'lif2': bits of a state = 24, allowed 16 [small]"),
]


@pytest.mark.parametrize("bits", [2, 4])
def test_a_graded_input_takes_no_more_bits_than_the_profile_has(tmp_path, capsys, bits):
    small, out = profile(tmp_path, graded_spike_bits=bits), str(tmp_path / "net.int.onnx")
    arguments = ["--data", DIGITS, "--samples", "8", "--input", "graded", "-o", out]
    assert main(["quantize", NET, "--profile", small, *arguments]) == 0
    (op,) = rmp_deploy.load(out).of_type(Quantize)
    assert op.message_bits <= bits
    assert f"({op.message_bits} bits)" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "limits", "said"), REFUSED, ids=[said[:40] for _, _, said in REFUSED])
def test_a_limit_of_the_profile_is_one_line_and_no_file(tmp_path, capsys, options, limits, said):
    small, out = profile(tmp_path, **limits), tmp_path / "net.int.onnx"
    assert main(["quantize", NET, "--profile", small, "--data", DIGITS, *options, "-o", str(out)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not out.exists()


def test_loihi1_has_no_graded_spikes_and_unknown_limits_are_named(tmp_path, capsys):
    out = tmp_path / "net.int.onnx"
    arguments = ["--profile", "loihi1", "--data", DIGITS, "-o", str(out)]
    assert main(["quantize", NET, *arguments, "--input", "graded"]) == 2
    assert "graded_spike_bits = 0 [loihi1]. Let the host encode the input." in capsys.readouterr().err
    assert main(["quantize", NET, *arguments]) == 0
    assert "unknown" not in capsys.readouterr().out
    arguments[1] = profile(tmp_path, weight_bits=8)
    assert main(["quantize", NET, *arguments]) == 0
    assert "unknown to profile small, not checked: graded_spike_bits, threshold_bits" in capsys.readouterr().out


BAD = [
    (["--weight-bits", "many"], "--weight-bits = 'many', allowed BITS or synapse=BITS"),
    (["--weight-bits", "8", "conv2=6"], "--weight-bits = '8 conv2=6', allowed one BITS"),
    (["--weight-bits", "conv2=6", "conv2=5"], "synapse=BITS once per synapse"),
    (["--weight-bits", "conv2=99"], "--weight-bits = 99, allowed 8 [loihi2]"),
    (["--weight-bits", "conv2=0"], "weight_bits of 'conv2' = 0, allowed 1..8"),
    (["--weight-bits", "conv1=6"], "weight_bits of 'conv1', allowed synapses of Loihi: conv2, fc1, fc2"),
    (["--input", "rate"], "argument --input: invalid choice: 'rate'"),
    (["--samples", "61"], "samples = 61, allowed 1..60"),
    (["-o", "{}/net.txt"], "suffix = '.txt', allowed .onnx"),
    (["-o", "{}/small.toml/net.onnx"], "cannot be written (Not a directory)"),
    (["--profile", "loihi3"], "profile 'loihi3': unknown name"),
    (["--data", "{}/none.npz"], "no such file"),
    (["--data", "{}/shape.npz"], "shape = (2, 3, 8, 8), allowed (N, 1, 8, 8)"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[said[:40] for _, said in BAD])
def test_bad_input_is_one_line(tmp_path, capsys, options, said):
    profile(tmp_path, weight_bits=8)
    np.savez(tmp_path / "shape.npz", x=np.zeros((2, 3, 8, 8)))
    out = tmp_path / "net.int.onnx"
    arguments = ["quantize", NET, *LOIHI2, "-o", str(out), *(o.format(tmp_path) for o in options)]
    try:
        code = main(arguments)
    except SystemExit as e:  # argparse
        code = e.code
    assert code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out.exists()


def test_a_network_that_loihi_cannot_run_or_that_is_integer_is_named(tmp_path, capsys):
    graph = rmp_deploy.load(NET)
    soft = replace(graph, ops=tuple(replace(op, reset="soft") if isinstance(op, LIF) else op for op in graph.ops))
    onnx_io.save(soft, tmp_path / "soft.onnx")
    out = str(tmp_path / "net.int.onnx")
    assert main(["quantize", str(tmp_path / "soft.onnx"), *LOIHI2, "-o", out]) == 2
    assert "LIF 'lif2': reset = 'soft', allowed 'hard'" in capsys.readouterr().err
    assert main(["quantize", NET, *LOIHI2, "-o", out]) == 0
    capsys.readouterr()
    assert main(["quantize", out, *LOIHI2, "-o", str(tmp_path / "again.onnx")]) == 2
    assert "LoihiConv2d 'conv2': op = LoihiConv2d, allowed real-valued ops" in capsys.readouterr().err
    assert not (tmp_path / "again.onnx").exists()


@pytest.mark.parametrize("name", ["net.onnx", "./net.onnx", "link.onnx"])
def test_the_float_file_is_not_written_over(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    before = Path(NET).read_bytes()
    Path("net.onnx").write_bytes(before)
    Path("link.onnx").symlink_to("net.onnx")
    assert main(["quantize", "net.onnx", *LOIHI2, "-o", name]) == 2
    error = f"error: quantize: --out = '{name}', allowed another file than the float one. Give it a name of its own.\n"
    assert capsys.readouterr().err == error
    assert Path("net.onnx").read_bytes() == before


def test_integers_that_are_fed_in_are_refused_where_the_chip_has_no_graded_spikes(tmp_path, capsys):
    graph = rmp_deploy.load(NET)
    integers = replace(graph, input=replace(graph.input, message_bits=8))
    net, out = onnx_io.save(integers, tmp_path / "net.onnx"), tmp_path / "net.int.onnx"
    np.savez(tmp_path / "x.npz", x=np.rint(16 * data.load(DIGITS).x[:4]))
    arguments = ["--data", str(tmp_path / "x.npz"), "-o", str(out)]
    assert main(["quantize", str(net), "--profile", "loihi1", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: Input 'x': message_bits = 8, allowed 0 [loihi1].")
    assert not out.exists()
    assert main(["quantize", str(net), "--profile", "loihi2", *arguments]) == 0
