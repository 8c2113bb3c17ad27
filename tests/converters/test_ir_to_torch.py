"""An integer network as a torch module: the same integers bit for bit, gradients of the network in floating point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmp_deploy.converters.ir_to_torch import IntegerNet
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.integers import MAX_INTEGER
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Delay,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Quantize,
    SumPool2d,
)
from rmp_deploy.ir.ops.loihi import stored_weight
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import neurons
from rmp_deploy.training.surrogate import Rectangular

RECORD = ("spikes", "v", "u")


def graph(*ops, shape, readout, message_bits=None, encoding="direct", rule="mean", T=5):
    return SpikingGraph("g", Input("x", shape, encoding, message_bits), tuple(ops), Readout(readout, rule), T)


def weight(rng, *shape, bits=8, mode="mixed"):
    return stored_weight(rng.integers(-120, 140, shape), bits, mode)


def residual():
    """Samples as graded spikes; a shortcut with a synapse, one through an identity; a shift to the right; a readout."""
    rng = np.random.default_rng(0)
    neuron = {"du": 4095, "dv": 1024, "vth": 900}
    bias = {"bias_mant": rng.integers(-900, 900, (6, 1, 1)), "bias_exp": 5}
    ops = (
        Quantize(name="q", inputs=("x",), scale=7.0, message_bits=4),
        LoihiConv2d(name="stem", inputs=("q",), weight=weight(rng, 6, 2, 3, 3), padding=(1, 1)),
        LoihiLIF(name="lif0", inputs=("stem",), **neuron, **bias),
        LoihiConv2d(name="conv.1", inputs=("lif0",), weight=weight(rng, 6, 6, 3, 3, bits=5), num_weight_bits=5,
                    padding=(1, 1), weight_exp=-2),
        LoihiConv2d(name="sum_identity", inputs=("lif0",), weight=np.full((6, 1, 1, 1), 200), groups=6, weight_exp=1),
        Add(name="sum", inputs=("conv.1", "sum_identity")),
        LoihiLIF(name="lif1", inputs=("sum",), **{**neuron, "du": 2047, "vth": 300}),
        MaxPool2d(name="or", inputs=("lif1",), kernel=(2, 2), stride=(2, 2)),
        SumPool2d(name="total", inputs=("lif1",), kernel=(2, 2), stride=(2, 2)),
        Concat(name="both", inputs=("or", "total")),
        Flatten(name="flat", inputs=("both",)),
        LoihiLinear(name="fc", inputs=("flat",), weight=np.abs(weight(rng, 5, 108)), sign_mode="excitatory"),
        Dequantize(name="y", inputs=("fc",), scale=rng.uniform(1e-4, 1e-3, 5), bias=rng.normal(size=5)),
    )  # fmt: skip
    return graph(*ops, shape=(2, 6, 6), readout="y")


def on_host():
    """A real-valued first layer with its own neurons, hard and soft, an average pool, and integers behind it."""
    rng = np.random.default_rng(1)
    ops = (
        Conv2d(name="conv", inputs=("x",), weight=rng.normal(size=(4, 1, 3, 3)), bias=rng.normal(size=4)),
        LIF(name="hard", inputs=("conv",), decay=0.25, v_threshold=rng.uniform(0.4, 0.9, (4, 1, 1)), v_reset=-0.1),
        AvgPool2d(name="pool", inputs=("hard",), kernel=(2, 2), stride=(2, 2)),
        Flatten(name="flat", inputs=("pool",)),
        Linear(name="enc", inputs=("flat",), weight=rng.normal(size=(9, 16)), bias=rng.normal(size=9)),
        LIF(name="soft", inputs=("enc",), decay=0.5, v_threshold=0.5, reset="soft", v_subtract=0.4),
        LoihiLinear(name="fc", inputs=("soft",), weight=weight(rng, 6, 9)),
        LoihiLIF(name="lif", inputs=("fc",), du=4095, dv=3072, vth=150, bias_mant=rng.integers(-90, 90, 6), bias_exp=6),
    )
    return graph(*ops, shape=(1, 6, 6), readout="lif")


def recurrent():
    """Given step by step; spikes of the step before come back through a synapse of their own, others come late."""
    rng = np.random.default_rng(2)
    ops = (
        LoihiLinear(name="fc", inputs=("x",), weight=weight(rng, 7, 4), weight_exp=2),
        Delay(name="before", inputs=("lif",), steps=1, shape=(7,)),
        LoihiLinear(name="loop", inputs=("before",), weight=-np.abs(weight(rng, 7, 7)), sign_mode="inhibitory"),
        Add(name="sum", inputs=("fc", "loop")),
        LoihiLIF(name="lif", inputs=("sum",), du=100, dv=rng.integers(0, 4097, 7), vth=rng.integers(100, 900, 7)),
        Delay(name="late", inputs=("lif",), steps=3, shape=(7,)),
        LoihiLinear(name="out", inputs=("late",), weight=weight(rng, 3, 7)),
    )
    return graph(*ops, shape=(4,), readout="out", message_bits=3, encoding="time_series", rule="sum", T=9)


def samples(g, n=6, seed=9):
    rng = np.random.default_rng(seed)
    shape = (n, *(() if g.input.encoding == "direct" else (g.T,)), *g.input.shape)
    bits = g.input.message_bits
    return (rng.normal(0.4, 0.7, shape) if bits is None else rng.integers(1 - 2**bits, 2**bits, shape)).astype("<f4")


# -- the same integers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [residual, on_host, recurrent])
def test_every_spike_and_potential_is_the_references(make):
    g = make()
    x = samples(g)
    net = IntegerNet(g)
    wanted, found = reference.run(g, x, RECORD), net.trace(x)
    for what in RECORD:
        for name, values in getattr(wanted, what).items():
            ours = getattr(found, what)[name]
            if isinstance(g.by_name[name], LoihiLIF) or what == "spikes":
                np.testing.assert_array_equal(ours, values, err_msg=f"{what} of {name}")
            else:
                np.testing.assert_allclose(ours, values, rtol=1e-12, atol=1e-12)
            assert what != "spikes" or 0.02 < values.mean() < 0.98, name
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-12)
    assert net.to_graph() == g


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_neurons_at_their_extremes(seed):
    """Currents that wrap (also beyond 32 bits), potentials that saturate, every decay, exponent and sign mode."""
    rng = np.random.default_rng(seed)
    mode, bits = str(rng.choice(["mixed", "excitatory", "inhibitory"])), int(rng.integers(1, 9))
    sign = {"mixed": rng.choice([-1, 1], (5, 3)), "excitatory": 1, "inhibitory": -1}[mode]
    kernel = stored_weight(sign * rng.integers(0, 256, (5, 3)), bits, mode)
    ops = (
        LoihiLinear(name="fc", inputs=("x",), weight=kernel, weight_exp=int(rng.integers(-8, 6)), sign_mode=mode,
                    num_weight_bits=bits),
        LoihiLIF(name="lif", inputs=("fc",), du=rng.choice([-1, 0, 2047, 4095], 5), dv=rng.choice([0, 1, 409, 4096], 5),
                 vth=2 ** rng.integers(0, 18, 5) - 1, bias_mant=rng.integers(-4096, 4096, 5),
                 bias_exp=rng.integers(0, 8, 5)),
    )  # fmt: skip
    g = graph(*ops, shape=(3,), readout="fc", message_bits=8, encoding="time_series", T=12)
    x = samples(g, seed=seed)
    wanted, found = reference.run(g, x, RECORD), IntegerNet(g).trace(x)
    for what in RECORD:
        np.testing.assert_array_equal(getattr(found, what)["lif"], getattr(wanted, what)["lif"])
    np.testing.assert_array_equal(found.output, wanted.output)
    assert IntegerNet(g).to_graph() == g


# -- gradients -------------------------------------------------------------------------------------------------------


def float_twin(T=6):
    """Two layers in torch and their graph; thresholds and weights so that 8 bits hold them exactly."""
    rng = np.random.default_rng(5)
    w1, w2 = (rng.integers(-40, 60, shape) / 64 for shape in ((12, 8), (3, 12)))
    b1 = rng.integers(-10, 20, 12) / 64
    lif = neurons.LIF(decay=0.5, v_threshold=0.5)
    hidden, out = torch.nn.Linear(8, 12), torch.nn.Linear(12, 3, bias=False)
    with torch.no_grad():
        for parameter, value in ((hidden.weight, w1), (hidden.bias, b1), (out.weight, w2)):
            parameter.copy_(torch.from_numpy(value))
    scale = 128 * 32  # of the first layer, whose weights are held as 2 * 64 w; u is 64 times finer
    ops = (
        LoihiLinear(name="hidden", inputs=("x",), weight=(w1 * 128).astype(int), weight_exp=5),
        LoihiLIF(name="lif", inputs=("hidden",), du=4095, dv=2048, vth=scale // 2,
                 bias_mant=(b1 * scale).astype(int), bias_exp=6),
        LoihiLinear(name="out", inputs=("lif",), weight=(w2 * 128).astype(int)),
        Dequantize(name="y", inputs=("out",), scale=1 / 128),
    )  # fmt: skip
    g = graph(*ops, shape=(8,), readout="y", message_bits=0, encoding="time_series", T=T)
    x = (rng.random((20, T, 8)) < 0.5).astype(np.float32)
    return g, x, hidden, lif, out


def test_gradients_are_those_of_the_float_network():
    """In units of the threshold, dL/dw of the integers is 0.5 times that of the float weights (v_threshold = 0.5)."""
    g, x, hidden, lif, out = float_twin()
    net = IntegerNet(g, surrogate=Rectangular(2.0))
    y = torch.from_numpy(np.arange(20) % 3)
    given = torch.from_numpy(x)
    torch.nn.functional.cross_entropy(net(given), y).backward()
    logits = out(lif(hidden(given.transpose(0, 1)))).mean(0)
    torch.nn.functional.cross_entropy(logits, y).backward()
    found = net.trace(x)
    spikes = lif(hidden(given.transpose(0, 1))).transpose(0, 1)
    np.testing.assert_array_equal(found.spikes["lif"], spikes.detach().numpy() > 0)
    assert 0.1 < found.spikes["lif"].mean() < 0.9
    np.testing.assert_allclose(found.output, logits.detach(), atol=1e-6)
    pairs = (
        ("hidden", "weight", 0.5, hidden.weight),
        ("lif", "bias", 0.5, hidden.bias),
        ("out", "weight", 1, out.weight),
    )
    for name, what, unit, parameter in pairs:
        ours = getattr(net.layers[name], what).grad
        assert parameter.grad.abs().max() > 1e-3
        np.testing.assert_allclose(ours, unit * parameter.grad, rtol=1e-3, atol=1e-6, err_msg=name)


def test_learnt_weights_are_in_units_of_the_threshold():
    g, _, hidden, _, out = float_twin()
    net = IntegerNet(g)
    np.testing.assert_allclose(net.layers["hidden"].weight.detach(), hidden.weight.detach() / 0.5, rtol=1e-6)
    np.testing.assert_allclose(net.layers["lif"].bias.detach(), hidden.bias.detach() / 0.5, rtol=1e-6)
    np.testing.assert_allclose(net.layers["out"].weight.detach(), out.weight.detach(), rtol=1e-6)


# -- what is learnt --------------------------------------------------------------------------------------------------


def test_whatever_is_learnt_a_graph_comes_back():
    """Weights far beyond 8 bits are clipped, sums that could reach 2^23 are scaled down, and so the pass computes."""
    rng = np.random.default_rng(3)
    g = residual()
    wide = LoihiLinear(name="wide", inputs=("flat",), weight=np.full((5, 108), 10), weight_exp=7)
    g = replace(g, ops=tuple(replace(wide, name="fc") if op.name == "fc" else op for op in g.ops))
    net = IntegerNet(g)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(torch.from_numpy(rng.normal(0, 40, tuple(parameter.shape)).astype(np.float32)))
    tuned = net.to_graph()
    assert max(tuned.integers.values()) <= MAX_INTEGER
    assert tuned.integers["fc"] > 0.9 * MAX_INTEGER  # 254 * 108 * 2^7 * 4 would be 14 million
    assert np.abs(tuned.by_name["conv.1"].weight).max() == 256
    assert np.abs(tuned.by_name["lif0"].bias_mant).max() <= 4096
    x = samples(g)
    wanted, found = reference.run(tuned, x, RECORD), net.trace(x)
    for name in ("lif0", "lif1"):
        np.testing.assert_array_equal(found.u[name], wanted.u[name])
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-6)


def test_an_identity_shortcut_stays_one():
    net = IntegerNet(residual())
    assert not net.layers["sum_identity"].weight.requires_grad
    assert net.layers["conv/1"].weight.requires_grad
    assert sum(p.requires_grad for p in net.parameters()) == 5  # stem, its bias, conv.1, fc, the readout's bias


def test_weights_start_at_those_of_the_float_network_and_round_to_the_integers():
    rng = np.random.default_rng(7)
    th = rng.uniform(0.4, 1.5, (6, 1, 1))
    ops = (
        Conv2d(name="conv", inputs=("x",), weight=rng.normal(size=(6, 1, 3, 3)), bias=rng.normal(size=6)),
        LIF(name="lif", inputs=("conv",), decay=0.5, v_threshold=th),
        Flatten(name="flat", inputs=("lif",)),
        Linear(name="fc", inputs=("flat",), weight=rng.normal(size=(4, 96)), bias=rng.normal(size=4)),
    )
    g = graph(*ops, shape=(1, 6, 6), readout="fc")
    made = quantize(g, samples(g, 16), weight_bits=3, input_coding="graded")
    net = IntegerNet(made.graph, made.float_graph)
    assert net.to_graph() == made.graph
    conv, fc = (net.layers[name].weight.detach().numpy() for name in ("conv", "fc"))
    for ours, wanted in ((conv, ops[0].weight / th[..., None]), (fc, ops[3].weight)):
        assert np.isclose(ours, wanted, rtol=1e-5).mean() > 0.7  # the others were clipped by their 3 bits
    assert not np.isclose(IntegerNet(made.graph).layers["fc"].weight.detach(), ops[3].weight, rtol=1e-5).any()


def test_weights_that_are_all_zero_are_a_network_too():
    zero = (
        LoihiLinear(name="fc", inputs=("x",), weight=np.zeros((2, 3), int)),
        LoihiLIF(name="lif", inputs=("fc",), du=4095, dv=0, vth=1),
        LoihiLinear(name="out", inputs=("lif",), weight=np.zeros((2, 2), int)),
    )
    g = graph(*zero, shape=(3,), readout="out", message_bits=0)
    net = IntegerNet(g)
    assert net.to_graph() == g
    assert net(torch.ones(1, 3)).tolist() == [[0, 0]]


def test_what_cannot_be_trained_is_refused_by_name():
    spikes = (
        LoihiLinear(name="fc", inputs=("x",), weight=[[2, 4]]),
        LoihiLIF(name="lif", inputs=("fc",), du=4095, dv=0, vth=1),
    )
    g = graph(*spikes, LI(name="li", inputs=("lif",), decay=0.5), shape=(2,), readout="li", message_bits=0)
    with pytest.raises(RmpDeployError, match="LI 'li': training in integers = none, allowed LoihiLinear, "):
        IntegerNet(g)
    chain = LoihiLinear(name="again", inputs=("fc",), weight=[[2]])
    g = graph(*spikes, chain, shape=(2,), readout="again", message_bits=0)
    with pytest.raises(
        RmpDeployError, match="LoihiLinear 'again': input = 'fc', a current of Loihi's synapses, allowed"
    ):
        IntegerNet(g)
    g = graph(*spikes, shape=(2,), readout="lif", message_bits=0)
    with pytest.raises(RmpDeployError, match="LoihiLinear 'fc': weights in the float graph = none, allowed"):
        IntegerNet(g, g)
