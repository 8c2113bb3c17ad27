"""The ANN twin by hand, against torch, and against a walk over every connection."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rmp_deploy.analysis.counts import Twin, TwinLayer, twin
from rmp_deploy.analysis.counts.twin import activations, quantized_bits
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    Conv2d,
    Delay,
    Flatten,
    Linear,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
)


def lif(name: str, read: str, threshold: float = 1.0) -> LIF:
    return LIF(name=name, inputs=(read,), decay=0.5, v_threshold=threshold, v_reset=0.0)


def chain(*ops, shape=(2,), encoding="direct", T=4, bits=None) -> SpikingGraph:
    return SpikingGraph("net", Input("x", shape, encoding, bits), ops, Readout(ops[-1].name, "mean"), T)


def test_effective_macs_by_hand():
    """fc1 reads [1, 0] and gives [2, -1, 0.5]; behind ReLU one of three is 0; each of the others meets 2 synapses."""
    graph = chain(
        Linear(name="fc1", inputs=("x",), weight=np.array([[2.0, 9], [-1, 9], [0.5, 9]], np.float32)),
        lif("lif", "fc1"),
        Linear(name="fc2", inputs=("lif",), weight=np.array([[0.0, 1, 1], [1, 1, 1]], np.float32)),
    )
    found = twin(graph, np.array([[1.0, 0]]))
    assert found == Twin((TwinLayer("fc1", 6, 6, 3), TwinLayer("fc2", 6, 6, 4)), samples=1, bits=3)
    assert (found.macs, found.effective_macs) == (12, 7)  # a weight of 0 is a synapse, as in the dense MACs
    dense = twin(graph)
    assert (dense.samples, dense.effective_macs, dense.layers[0].effective_macs) == (0, None, None)
    assert twin(graph, np.zeros((1, 2))).effective_macs == 0  # 0 in, no bias: nothing


def test_a_border_reaches_fewer_synapses():
    """One pixel of 4x4 and a 3x3 kernel with padding: 4 in a corner, 9 in the middle; dense 100, with padding 144."""
    weight = np.ones((1, 1, 3, 3), np.float32)
    graph = chain(
        Conv2d(name="conv", inputs=("x",), weight=weight, padding=(1, 1)), lif("lif", "conv"), shape=(1, 4, 4)
    )
    x = np.zeros((2, 1, 4, 4))
    x[0, 0, 0, 0] = x[1, 0, 1, 1] = -0.5  # not 0: the sign of an input does not matter
    assert twin(graph, x).layers == (TwinLayer("conv", 100, 144, 4 + 9),)


def test_the_convnet_is_the_torch_network_with_relu(convnet, images):
    graph, x = convnet(), images(5)
    value, op = torch.from_numpy(x).double(), graph.by_name
    wanted = []
    for i in (1, 2):
        conv, neurons = op[f"conv{i}"], op[f"lif{i}"]
        weight, bias = (torch.tensor(p).double() for p in (conv.weight, conv.bias))
        ones = torch.ones_like(weight)
        wanted.append(int(functional.conv2d((value != 0).double(), ones, padding=1).sum()))
        value = functional.relu(functional.conv2d(value, weight, bias, padding=1))
        value = functional.avg_pool2d(value / torch.tensor(neurons.v_threshold), 2)
    wanted.append(int((value != 0).sum()) * 5)
    found = twin(graph, x)
    assert [row.effective_macs for row in found.layers] == wanted
    np.testing.assert_allclose(activations(graph, x)["pool2"], value.numpy(), rtol=1e-12)
    assert 0.3 < found.effective_macs / (5 * found.macs) < 0.99


def test_batches_add_up(convnet, images, monkeypatch):
    graph, x = convnet(), images(40)
    whole = twin(graph, x)
    assert reduce(add, (twin(graph, x[i : i + 7]) for i in range(0, 40, 7))) == whole
    monkeypatch.setitem(twin.__globals__, "SAMPLES", 3)  # the package's `twin` is the function, not its module
    assert twin(graph, x) == whole
    assert twin(graph) + whole == whole
    with pytest.raises(RmpDeployError, match="twins"):
        whole + replace(whole, layers=whole.layers[:1])


def test_a_layer_whose_thresholds_and_weights_are_scaled_together_has_the_same_twin(convnet, images):
    """The unit of a current is free in a spiking network, so it must be in its twin: its biases are in that unit."""
    graph, x = convnet(), images(5)
    scaled = [
        replace(op, weight=1024 * op.weight, bias=1024 * op.bias) if op.name == "conv1"
        else replace(op, v_threshold=1024 * op.v_threshold) if op.name == "lif1" else op
        for op in graph.ops
    ]  # fmt: skip
    assert twin(replace(graph, ops=tuple(scaled)), x) == twin(graph, x)


def test_a_quantized_network_has_nearly_the_twin_of_its_original(convnet, images, quantized):
    graph, x = convnet(pools=False), images(20)
    integer = quantized(graph)
    ours, theirs = twin(graph, x), twin(integer, x)
    assert [row.macs for row in ours.layers] == [row.macs for row in theirs.layers]
    assert theirs.effective_macs == pytest.approx(ours.effective_macs, rel=0.02)


def test_a_loihi_neuron_by_hand():
    """Bias 3 << 6 in units of 1/64 is 3: [2 * 1 - 4 + 3, 2 * 0 - 4 * 0 + 3] = [1, 3], over a threshold of 4."""
    graph = chain(
        LoihiLinear(name="fc", inputs=("x",), weight=np.array([[2, -4], [2, -4]]), weight_exp=1),
        LoihiLIF(name="lif", inputs=("fc",), du=4095, dv=0, vth=4, bias_mant=np.array([5, 3]), bias_exp=6),
        LoihiLinear(name="out", inputs=("lif",), weight=np.array([[2, 2]])),
        encoding="time_series", bits=0, T=2,
    )  # fmt: skip
    x = np.array([[[1, 1], [1, 1]], [[0, 0], [1, 0]]])
    np.testing.assert_allclose(activations(graph, x)["fc"], [[-4, -4], [2, 2]])
    np.testing.assert_allclose(activations(graph, x)["lif"], [[0.25, 0], [7 / 4, 5 / 4]])
    assert [row.effective_macs for row in twin(graph, x).layers] == [3 * 2, 3]


def test_a_time_series_is_read_as_its_mean():
    graph = chain(
        Linear(name="fc", inputs=("x",), weight=np.eye(2, dtype=np.float32)), lif("lif", "fc"), encoding="time_series"
    )
    spikes = np.array([[[1, 0], [0, 0], [1, 0], [0, 0]], [[1, 0], [0, 1], [0, 0], [0, 0]]], np.float32)
    assert twin(graph, spikes).layers[0].effective_macs == 1 * 2 + 2 * 2
    np.testing.assert_allclose(activations(graph, spikes)["x"], [[0.5, 0], [0.25, 0.25]])


def test_a_recurrent_edge_passes_once():
    """It reads what the neurons gave without it: [1, 0] at first, so that 1 of its 2 inputs is 0; then [1, 3]."""
    back = np.array([[0.0, 0], [3, 0]], np.float32)
    graph = chain(
        Delay(name="late", inputs=("lif",), steps=1, shape=(2,)),
        Linear(name="back", inputs=("late",), weight=back),
        Linear(name="fc", inputs=("x",), weight=np.array([[1.0, 0], [-1, 0]], np.float32), bias=np.zeros(2)),
        Add(name="sum", inputs=("fc", "back")),
        lif("lif", "sum"),
        Linear(name="out", inputs=("lif",), weight=np.ones((5, 2), np.float32)),
    )
    found = twin(graph, np.array([[1.0, 0]]))
    assert {row.layer: (row.macs, row.effective_macs) for row in found.layers} == {
        "back": (4, 2), "fc": (4, 2), "out": (10, 10),
    }  # fmt: skip
    np.testing.assert_allclose(activations(graph, np.array([[1.0, 0]]))["lif"], [[1, 2]])


def test_delays_integrators_or_pools_and_sums_hand_values_on():
    graph = chain(
        Conv2d(name="conv", inputs=("x",), weight=np.ones((1, 1, 1, 1), np.float32)),
        lif("lif", "conv", 0.5),
        MaxPool2d(name="or", inputs=("lif",), kernel=(2, 2), stride=(2, 2)),
        Flatten(name="flat", inputs=("or",)),
        Delay(name="late", inputs=("flat",), steps=2, shape=(1,)),
        Add(name="sum", inputs=("flat", "late")),
        Linear(name="fc", inputs=("sum",), weight=np.ones((3, 1), np.float32)),
        LI(name="li", inputs=("fc",), decay=0.5),
        shape=(1, 2, 2),
    )
    x = np.array([[[[1.0, -2], [3, 0]]], [[[-1.0, 0], [-1, -1]]]])
    np.testing.assert_allclose(activations(graph, x)["li"], [[12] * 3, [0] * 3])
    assert [row.effective_macs for row in twin(graph, x).layers] == [3 + 3, 3]


def test_neurons_without_a_relu_are_refused_by_name():
    graph = chain(Linear(name="fc", inputs=("x",), weight=np.eye(2, dtype=np.float32)), lif("lif", "fc", -0.5))
    with pytest.raises(RmpDeployError, match=r"LIF 'lif': threshold = -0\.5, allowed > 0"):
        twin(graph, np.ones((1, 2)))
    assert twin(graph).macs == 4  # the dense MACs need none
    with pytest.raises(RmpDeployError, match="samples"):
        twin(graph, np.ones((1, 3)))


@pytest.mark.parametrize(("T", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (15, 4), (65535, 16)])
def test_bits_of_the_quantized_twin(T, bits):
    assert quantized_bits(T) == bits == int(np.ceil(np.log2(T + 1)))
    graph = chain(Linear(name="fc", inputs=("x",), weight=np.eye(2, dtype=np.float32)), lif("lif", "fc"), T=T)
    assert twin(graph).bits == bits


@pytest.mark.parametrize(("T", "ratio"), [(3, 1.5), (7, 7 / 3), (15, 3.75)])
def test_the_scaling_law_of_dense_networks(T, ratio):
    """T accumulates for one MAC of ceil(log2(T + 1)) bits, at equal cost per bit (Yan 2024: 1.5, 2.338, 3.793)."""
    assert T / quantized_bits(T) == pytest.approx(ratio)
    published = {3: 1.5, 7: 2.338, 15: 3.793}[T]
    assert T / quantized_bits(T) == pytest.approx(published, rel=0.012)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_effective_macs_are_a_walk_over_every_connection(seed):
    rng = np.random.default_rng(seed)
    groups, stride, padding, dilation = (int(n) for n in rng.integers(1, 3, 4))
    weight = rng.normal(size=(2 * groups, 2 if groups == 1 else 1, 2, 2)).astype(np.float32)
    x = rng.integers(-1, 2, (2, 2, 5, 4)).astype(np.float32)
    conv = Conv2d(
        name="conv", inputs=("x",), weight=weight, stride=(stride, 1), padding=(padding, 0), dilation=(1, dilation),
        groups=groups,
    )  # fmt: skip
    graph = chain(conv, lif("lif", "conv"), shape=(2, 5, 4))
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (0, 0)))
    c_out, h, w = graph.shapes["conv"]
    met = 0
    for o, i, j in np.ndindex(c_out, h, w):
        for c, m, n in np.ndindex(*weight.shape[1:]):
            channel = o // (c_out // groups) * weight.shape[1] + c
            met += int(np.count_nonzero(padded[:, channel, i * stride + m, j + n * dilation]))
    assert twin(graph, x).effective_macs == met <= 2 * twin(graph).macs
