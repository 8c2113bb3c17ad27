"""Trained networks as Loihi's integers on real samples: reference = ONNX Runtime = Lava, every spike and potential."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy import backends
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.ops import LoihiLIF
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import data

ROOT = Path(__file__).parents[2]
NETWORKS = {
    "digits": ROOT / "examples" / "digits.onnx",
    "fashion": ROOT / "examples" / "fashion.onnx",
    "residual": ROOT / "benchmarks" / "networks" / "digits_residual.onnx",
}
FASHION = str(ROOT / "tests" / "data" / "fashion_mnist")
RECORD = ("spikes", "v")


def samples(name, n):
    """Images and labels to run, and other images for the quantizer."""
    if name == "fashion":
        images = data.load(FASHION)
        return images.x[:n], images.y[:n], images.x[-100:]
    images = data.load("digits")
    return images.x[:n], images.y[:n], data.load("digits", "train").x[:100]


def readout_integers(graph, trace):
    """The sum over the steps of Loihi's currents, which the host made real values of in its own precision."""
    dequantize = graph.by_name[graph.readout.value]
    steps = graph.T if graph.readout.rule == "mean" else 1
    sums = (trace.output - dequantize.bias.astype(np.float64)) / dequantize.scale * steps
    assert np.abs(sums - np.rint(sums)).max() < 0.1
    return np.rint(sums)


@pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")
@pytest.mark.parametrize(
    ("name", "input_coding", "backend", "n", "right"),
    [
        ("digits", "host", "lava", 100, 97),
        ("digits", "graded", "lava", 100, 97),
        ("fashion", "host", "lava", 100, 85),
        ("fashion", "graded", "lava_fast", 100, 85),  # equal to lava in test_lava_fast.py, which takes minutes here
        ("residual", "host", "lava", 100, 93),
    ],
)
def test_reference_onnxruntime_and_lava_are_equal_bit_for_bit(name, input_coding, backend, n, right, tmp_path):
    x, y, calibration = samples(name, n)
    quantized = quantize(onnx_io.load(NETWORKS[name]), calibration, input_coding=input_coding).graph
    graph = onnx_io.load(onnx_io.save(quantized, tmp_path / "net.int.onnx"))
    ours = backends.run(graph, x, "reference", RECORD)
    assert len(ours.spikes) == len(graph.spiking)
    for spikes in ours.spikes.values():
        assert spikes.shape[:2] == (n, graph.T)
        assert 0.01 < spikes.mean() < 0.99, "a silent or saturated layer proves nothing"
    for other in ("onnxruntime", backend):
        theirs = backends.run(graph, x, other, RECORD)
        for layer in graph.spiking:
            same = np.array_equal(ours.spikes[layer.name], theirs.spikes[layer.name])
            assert same, f"{other}: spikes of {layer.name}"
            if isinstance(layer, LoihiLIF):  # the host's are real numbers
                assert np.array_equal(ours.v[layer.name], theirs.v[layer.name]), f"{other}: v of {layer.name}"
        np.testing.assert_array_equal(readout_integers(graph, ours), readout_integers(graph, theirs))
        np.testing.assert_array_equal(ours.predictions(), theirs.predictions())
    assert (ours.predictions() == y).sum() >= right
