"""`rmp-deploy quantize --fine-tune`: trained on one split, judged on the other, said in the file and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rmp_deploy
from rmp_deploy import backends
from rmp_deploy.cli import main
from rmp_deploy.ir.digest import QUANTIZED_FROM, digest
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Flatten, Linear
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import data

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NET, DIGITS = str(EXAMPLES / "digits.onnx"), str(EXAMPLES / "digits.npz")
GRADED = ("--profile", "loihi2", "--input", "graded", "--weight-bits", "2")


@pytest.fixture
def untrained(tmp_path):
    """A small network of random weights, for which a few epochs are much."""
    rng = np.random.default_rng(0)
    ops = (
        Flatten(name="flat", inputs=("x",)),
        Linear(name="fc1", inputs=("flat",), weight=rng.normal(0, 0.25, (32, 64)), bias=rng.normal(0, 0.1, 32)),
        LIF(name="lif", inputs=("fc1",), decay=0.5, v_threshold=0.5),
        Linear(name="fc2", inputs=("lif",), weight=rng.normal(0, 0.3, (10, 32)), bias=rng.normal(0, 0.1, 10)),
    )
    graph = SpikingGraph("untrained", Input("x", (1, 8, 8), "direct"), ops, Readout("fc2", "mean"), T=4)
    return str(rmp_deploy.save(graph, tmp_path / "untrained.onnx"))


def test_the_file_holds_the_tuned_network_and_the_report_both(untrained, tmp_path, capsys):
    out, some = str(tmp_path / "net.int.onnx"), str(tmp_path / "some.npz")
    samples = data.load("digits", "train").first(500)
    np.savez(some, x=samples.x, y=samples.y)
    arguments = ["--data", some, "--fine-tune", "30", "-o", out]
    assert main(["quantize", untrained, *GRADED, *arguments, "--json"]) == 0
    section = json.loads(capsys.readouterr().out)
    train, held_out = data.load_splits(some)
    before, after = quantize(rmp_deploy.load(untrained), train.x[:64], 2, "graded").graph, rmp_deploy.load(out)
    assert [op.name for op in after.ops] == [op.name for op in before.ops]
    np.testing.assert_array_equal(after.by_name["lif"].vth, before.by_name["lif"].vth)
    right = {
        name: float((backends.run(graph, held_out.x, "onnxruntime").predictions() == held_out.y).mean())
        for name, graph in (("float", rmp_deploy.load(untrained)), ("integer", before), ("fine_tuned", after))
    }
    assert section["accuracy"] == {"samples": 100, **right}
    assert right["fine_tuned"] > right["integer"]
    tuning = section["fine_tuning"]
    assert (tuning["trained"], tuning["held_out"]) == (360, 40)  # of the 400 that do not judge it
    losses = [epoch["held_out_loss"] for epoch in tuning["epochs"]]
    assert tuning["kept"] == int(np.argmin(losses)) > 0
    assert min(losses) < 0.95 * losses[0]
    assert after.provenance["fine-tuned"] == f"{tuning['kept']} epochs in integers on 360 samples of some"
    assert after.provenance[QUANTIZED_FROM] == digest(rmp_deploy.load(untrained))
    assert main(["verify", untrained, "--quantized", out, "--data", some, "--backend", "onnxruntime"]) == 0
    assert main(["verify", out, "--self"]) == 0


def test_the_report_says_what_it_was_trained_on(tmp_path, capsys):
    out = str(tmp_path / "net.int.onnx")
    assert main(["quantize", NET, *GRADED, "--data", DIGITS, "--fine-tune", "1", "--samples", "6", "-o", out]) == 0
    text = capsys.readouterr().out
    assert " fine-tuned (6 samples), " in text.splitlines()[0]
    assert "fine-tuned on 43, 5 samples held out: loss " in text
    assert "the tables show the layers before it" in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--fine-tune", "0"), "--fine-tune = 0, allowed 1..1000 epochs"),
        (("--fine-tune", "1", "--samples", "13"), "samples = 13, allowed 1..12"),  # of the split that is not trained on
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(given, said, tmp_path, capsys):
    out = tmp_path / "net.int.onnx"
    assert main(["quantize", NET, *GRADED, "--data", DIGITS, *given, "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_data_without_labels_cannot_be_trained_on(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=np.load(DIGITS)["x"])
    out = tmp_path / "net.int.onnx"
    arguments = ["--data", str(tmp_path / "x.npz"), "--fine-tune", "1", "-o", str(out)]
    assert main(["quantize", NET, *GRADED, *arguments]) == 2
    assert "labels = none, allowed one per sample. Add y to fine-tune." in capsys.readouterr().err
    assert not out.exists()
