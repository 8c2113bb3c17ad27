"""Post-training quantization: what is exact stays as it is, what is not loses little, what Loihi lacks is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rmp_deploy
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LIF,
    Linear,
)
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import data

DIGITS = str(Path(__file__).parent.parent.parent / "examples" / "digits.onnx")


def spikes_of(graph, x, backend="reference"):
    return rmp_deploy.run(graph, x, backend, record=("spikes",)).spikes


def mismatches(a, b, x):
    """Spikes that differ between two graphs, by layer."""
    of_a, of_b = spikes_of(a, x), spikes_of(b, x)
    return {name: int((of_a[name] != of_b[name]).sum()) for name in of_a}


def lattice_net(unit, seed=0):
    """Two layers of weights and biases that are multiples of `unit` and have 8 bits, fed with spikes.

    Thresholds lie between what u can be (quarters), so that no rounding of the float network decides a spike.
    """
    rng = np.random.default_rng(seed)

    def weight(largest, *shape):
        return unit * rng.integers(-largest, largest + 1, shape)

    ops = (
        Linear(name="fc1", inputs=("x",), weight=weight(50, 40, 30), bias=weight(9, 40)),
        LIF(name="lif1", inputs=("fc1",), decay=0.5, v_threshold=unit * 60.4),
        Linear(name="fc2", inputs=("lif1",), weight=weight(127, 20, 40)),
        LIF(name="lif2", inputs=("fc2",), decay=0.5, v_threshold=unit * 90.4),
        Linear(name="fc3", inputs=("lif2",), weight=weight(127, 5, 20), bias=weight(9, 5)),
    )
    return SpikingGraph("lattice", Input("x", (30,), "time_series", 0), ops, Readout("fc3", "mean"), T=3)


def events(n=40, T=3, size=30, seed=1):
    return (np.random.default_rng(seed).random((n, T, size)) < 0.3).astype(np.float32)


@pytest.mark.parametrize("unit", [1.0, 2.0**-7, 0.0123, 1.7e-5])
def test_what_is_a_multiple_already_keeps_every_spike(unit):
    net, x = lattice_net(unit), events()
    found = quantize(net, x[:8])
    assert sum(s.sum() for s in spikes_of(net, x).values()) > 500
    assert mismatches(net, found.graph, x) == {"lif1": 0, "lif2": 0}
    assert all(s.clipped == 0 and s.max_error < 1e-4 * unit for layer in found.layers for s in layer.synapses)
    wanted, got = (rmp_deploy.run(g, x, "reference").output for g in (net, found.graph))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * unit)


def test_digits_lose_less_than_half_a_point_and_almost_no_spike():
    net, train, test = rmp_deploy.load(DIGITS), data.load("digits", "train"), data.load("digits")
    before = (rmp_deploy.run(net, test.x, "onnxruntime").predictions() == test.y).mean()
    for coding in ("host", "graded"):
        found = quantize(net, train.x[:32], input_coding=coding)
        after = rmp_deploy.run(found.graph, test.x, "onnxruntime")
        assert (after.predictions() == test.y).mean() >= before - 0.005
        assert all(layer.neuron.forced_agreement > 0.99 for layer in found.layers if layer.neuron)
