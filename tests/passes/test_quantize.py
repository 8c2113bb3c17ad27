"""Post-training quantization: what is exact stays as it is, what is not loses little, what Loihi lacks is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rmp_deploy
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
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
from rmp_deploy.passes.identity_synapses import identity_synapses
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import data

ROOT = Path(__file__).parent.parent.parent
DIGITS = str(ROOT / "examples" / "digits.onnx")


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


def test_digits_in_integers_are_the_same_on_onnx_runtime_and_in_a_file(tmp_path):
    net, x = rmp_deploy.load(DIGITS), data.load("digits").x[:24]
    for coding in ("host", "graded"):
        graph = quantize(net, data.load("digits", "train").x[:16], input_coding=coding).graph
        traces = [rmp_deploy.run(graph, x, backend, record=("spikes", "v")) for backend in ("reference", "onnxruntime")]
        integers = [op.name for op in graph.of_type(LoihiLIF)]
        assert integers == (["lif1", "lif2", "lif3"] if coding == "graded" else ["lif2", "lif3"])
        for name in integers:
            assert np.array_equal(traces[0].spikes[name], traces[1].spikes[name])
            assert np.array_equal(traces[0].v[name], traces[1].v[name])
        path = onnx_io.save(graph, tmp_path / "net.onnx", golden=x[:2])
        assert onnx_io.load(path) == graph
        np.testing.assert_allclose(traces[1].output, traces[0].output, rtol=1e-5, atol=1e-5)


def test_the_same_samples_give_the_same_file():
    net, x = rmp_deploy.load(DIGITS), data.load("digits").x[:8]
    assert quantize(net, x).graph == quantize(net, x).graph


def test_messages_have_no_more_bits_than_asked_for():
    net, x = rmp_deploy.load(DIGITS), data.load("digits").x[:4]
    op = quantize(net, x, input_coding="graded", message_bits=5).graph.of_type(Quantize)[0]
    assert op.message_bits <= 5
    with pytest.raises(RmpDeployError, match=r"quantize: message_bits = 9, allowed 1..8"):
        quantize(net, x, message_bits=9)


def test_the_ops_keep_their_names_and_the_input_coding_is_in_the_graph():
    net, x = rmp_deploy.load(DIGITS), data.load("digits").x[:8]
    host, graded = (quantize(net, x, input_coding=coding) for coding in ("host", "graded"))
    kinds = {op.name: type(op) for op in host.graph.ops}
    assert kinds == {
        "conv1": Conv2d,
        "lif1": LIF,
        "conv2": LoihiConv2d,
        "lif2": LoihiLIF,
        "flatten": Flatten,
        "fc1": LoihiLinear,
        "lif3": LoihiLIF,
        "fc2": LoihiLinear,
        "fc2_dequantize": Dequantize,
    }
    assert host.graph.by_name["conv1"] == host.float_graph.by_name["conv1"]
    kinds |= {"input_quantize": Quantize, "conv1": LoihiConv2d, "lif1": LoihiLIF}
    name = f"{net.input.name}_quantize"
    assert {op.name: type(op) for op in graded.graph.ops} == {
        (name if key == "input_quantize" else key): kind for key, kind in kinds.items()
    }
    op = graded.graph.by_name[name]
    assert isinstance(op, Quantize)
    assert 4 <= op.message_bits <= 8
    assert float(op.scale) == float(np.float32((2**op.message_bits - 1) / x.max()))
    assert (host.input_coding, graded.input_coding) == ("host", "graded")
    assert quantize(lattice_net(1.0), events()).input_coding == "spikes"


def test_a_name_that_the_pass_would_give_may_be_taken():
    renamed = {"lif1": "x_quantize", "lif2": "fc3_dequantize"}
    net = replace(lattice_net(1.0), input=Input("x", (30,), "direct"))
    ops = [replace(op, inputs=tuple(renamed.get(i, i) for i in op.inputs)) for op in net.ops]
    net = replace(net, ops=tuple(replace(op, name=renamed.get(op.name, op.name)) for op in ops))
    graph = quantize(net, events()[:, 0], input_coding="graded").graph
    assert [op.name for op in graph.of_type(Quantize, Dequantize)] == ["x_quantize2", "fc3_dequantize2"]
    assert [op.name for op in graph.of_type(LoihiLIF)] == ["x_quantize", "fc3_dequantize"]


def residual_net(seed=0, T=4, shortcut="identity", unit=0.0):
    """A stem, one residual block on maps, a flat residual block, a readout; spikes as input."""
    rng = np.random.default_rng(seed)

    def weight(*shape):
        drawn = rng.normal(size=shape) * 1.2 / np.sqrt(np.prod(shape[1:]))
        return np.rint(drawn / unit) * unit if unit else drawn

    fire = {"decay": 0.5, "v_threshold": 0.3}
    ops = [
        Conv2d(name="stem", inputs=("x",), weight=2 * weight(4, 2, 3, 3), padding=(1, 1)),
        LIF(name="lif0", inputs=("stem",), **fire),
        Conv2d(name="conv", inputs=("lif0",), weight=weight(4, 4, 3, 3), bias=weight(4, 9)[:, 0], padding=(1, 1)),
    ]
    other = "lif0"
    if shortcut == "conv":
        ops.append(Conv2d(name="short", inputs=("lif0",), weight=weight(4, 4, 1, 1), bias=weight(4, 9)[:, 0]))
        other = "short"
    ops += [
        Add(name="add", inputs=("conv", other)),
        LIF(name="lif1", inputs=("add",), **fire),
        Flatten(name="flat", inputs=("lif1",)),
        Linear(name="fc1", inputs=("flat",), weight=weight(64, 64)),
        Add(name="add2", inputs=("flat", "fc1")),
        LIF(name="lif2", inputs=("add2",), **fire),
        Linear(name="fc2", inputs=("lif2",), weight=weight(5, 64), bias=weight(5, 9)[:, 0]),
    ]
    return SpikingGraph("residual", Input("x", (2, 4, 4), "time_series", 0), tuple(ops), Readout("fc2", "mean"), T)


def maps(n=30, T=4, seed=1):
    return (np.random.default_rng(seed).random((n, T, 2, 4, 4)) < 0.3).astype(np.float32)


def test_an_identity_shortcut_becomes_a_synapse_and_means_the_same_in_floats():
    net, x = residual_net(), maps()
    whole = identity_synapses(net)
    assert [op.name for op in whole.ops if op.name.endswith("identity")] == ["add_identity", "add2_identity"]
    assert whole.by_name["add"].inputs == ("conv", "add_identity")
    assert whole.by_name["add2"].inputs == ("add2_identity", "fc1")
    traces = [rmp_deploy.run(g, x, "reference", record=("spikes", "u")) for g in (net, whole)]
    assert all(np.array_equal(traces[0].u[name], traces[1].u[name]) for name in traces[0].u)
    twice = replace(net.by_name["add"], inputs=("lif0", "conv", "lif0", "stemmed"))
    stemmed = replace(net.by_name["conv"], name="stemmed")
    ops = [twice if op.name == "add" else op for op in net.ops]
    more = identity_synapses(replace(net, ops=(*ops[:3], stemmed, *ops[3:])))
    assert more.by_name["add"].inputs == ("add_identity", "conv", "add_identity", "stemmed")


@pytest.mark.parametrize("shortcut", ["identity", "conv"])
def test_what_joins_at_an_add_has_one_scale(shortcut):
    net, x = residual_net(shortcut=shortcut), maps()
    found = quantize(net, x[:16])
    layer = next(layer for layer in found.layers if layer.name == "lif1")
    names = {"identity": ["conv", "add_identity"], "conv": ["conv", "short"]}[shortcut]
    assert [s.name for s in layer.synapses] == names
    for name in names:
        op, given = found.graph.by_name[name], found.float_graph.by_name[name]
        assert isinstance(op, LoihiConv2d)
        in_floats = op.weight * 2.0**op.weight_exp / layer.scale
        step = 2 if op.sign_mode == "mixed" else 1
        assert np.abs(in_floats - given.weight).max() <= 0.51 * step * 2.0**op.weight_exp / layer.scale
    neuron = found.graph.by_name["lif1"]
    assert isinstance(neuron, LoihiLIF)
    assert abs(int(neuron.vth) - layer.scale * 0.3) <= 1
    assert neuron.dv == 2048
    assert neuron.du == 4095
    assert layer.neuron.forced_agreement > 0.99
    wrong, spikes = mismatches(net, found.graph, x), spikes_of(net, x)
    assert all(wrong[name] <= 0.02 * spikes[name].size for name in wrong)


def test_a_residual_net_of_multiples_keeps_every_spike():
    net, x = residual_net(unit=2.0**-6), maps()
    assert sum(mismatches(net, quantize(net, x[:16]).graph, x).values()) == 0


def test_thresholds_per_channel_fold_into_weights_and_bias():
    """Channels whose weights, bias and threshold are multiples of each other become equal integers."""
    rng, gain = np.random.default_rng(0), np.array([1.0, 2.0, 4.0, 0.5])
    kernel = rng.integers(-60, 61, (1, 2, 3, 3)) / 64
    weight, bias = kernel * gain[:, None, None, None], 0.25 * gain
    ops = (
        Conv2d(name="conv", inputs=("x",), weight=weight, bias=bias, padding=(1, 1)),
        LIF(name="lif", inputs=("conv",), decay=0.5, v_threshold=(0.7 * gain).reshape(4, 1, 1)),
        Flatten(name="flat", inputs=("lif",)),
        Linear(name="fc", inputs=("flat",), weight=rng.normal(size=(3, 64))),
    )
    net = SpikingGraph("net", Input("x", (2, 4, 4), "time_series", 0), ops, Readout("fc", "sum"), T=4)
    found, x = quantize(net, maps()[:8]), maps()
    neuron, conv = found.graph.by_name["lif"], found.graph.by_name["conv"]
    assert isinstance(neuron, LoihiLIF)
    assert isinstance(conv, LoihiConv2d)
    assert neuron.vth.shape == ()
    assert all(np.array_equal(conv.weight[c], conv.weight[0]) for c in range(4))
    assert len(set((neuron.bias_mant << neuron.bias_exp).flat)) == 1
    assert mismatches(net, found.graph, x) == {"lif": 0}
    assert found.layers[0].synapses[0].max_error < 1e-6


@pytest.mark.parametrize("current_decay", [None, 0.5])
def test_channels_with_a_threshold_and_weights_of_other_units_are_the_same_integers(current_decay):
    """Weights and threshold times k spike as before, whatever k of each channel: the integers must not know k."""
    rng, k = np.random.default_rng(0), 2.0 ** np.array([0, 4, 8, 14])
    weight = rng.normal(size=(4, 2, 3, 3)) / 3
    fc = Linear(name="fc", inputs=("flat",), weight=rng.normal(size=(3, 64)))
    fire = {"name": "lif", "inputs": ("conv",), "decay": 0.5}
    made = []
    for gain in (np.ones(4), k, k[::-1]):
        th = (0.4 * gain).reshape(4, 1, 1)
        lif = (
            LIF(**fire, v_threshold=th)
            if current_decay is None
            else CubaLIF(**fire, v_threshold=th, current_decay=current_decay)
        )
        conv = Conv2d(name="conv", inputs=("x",), weight=weight * gain.reshape(4, 1, 1, 1), padding=(1, 1))
        ops = (conv, lif, Flatten(name="flat", inputs=("lif",)), fc)
        net = SpikingGraph("net", Input("x", (2, 4, 4), "time_series", 0), ops, Readout("fc", "sum"), T=4)
        made.append(quantize(net, maps()[:8]))
    assert all(found.graph.ops == made[0].graph.ops for found in made)
    assert all(found.layers[0].neuron == made[0].layers[0].neuron for found in made)
    assert made[0].layers[0].neuron.vth >= 1024


def test_bits_are_per_layer_and_one_sign_saves_one():
    net, x = residual_net(), maps()
    ops = [replace(op, weight=np.abs(op.weight)) if op.name == "conv" else op for op in net.ops]
    ops = [replace(op, weight=-np.abs(op.weight)) if op.name == "stem" else op for op in ops]
    found = quantize(replace(net, ops=tuple(ops)), x[:8], {"conv": 4, "stem": 3, "fc1": 5})
    held = {s.name: (s.weight_bits, s.sign_mode) for layer in found.layers for s in layer.synapses}
    assert held == {
        "stem": (3, "inhibitory"),
        "conv": (4, "excitatory"),
        "add_identity": (8, "excitatory"),
        "fc1": (5, "mixed"),
        "add2_identity": (8, "excitatory"),
        "fc2": (8, "mixed"),
    }
    weight = {op.name: op.weight for op in found.graph.of_type(LoihiConv2d, LoihiLinear)}
    assert (weight["stem"] % 32 == 0).all()
    assert (weight["conv"] % 16 == 0).all()
    assert (weight["fc1"] % 16 == 0).all()
    assert 120 < weight["conv"].max() <= 240
    errors = [
        {s.name: s.relative_error for layer in quantize(net, x[:8], bits).layers for s in layer.synapses}["fc1"]
        for bits in (8, 6, 4, 2)
    ]
    assert errors == sorted(errors)


def test_currents_decays_and_biases_become_the_nearest_integers():
    ops = (
        Linear(name="fc", inputs=("x",), weight=np.eye(30) / 4),
        CubaLIF(name="cuba", inputs=("fc",), current_decay=0.3, decay=0.9, v_threshold=0.6),
        Linear(name="fc2", inputs=("cuba",), weight=np.eye(30), bias=np.linspace(-0.02, 0.02, 30)),
        LIF(name="lif", inputs=("fc2",), decay=0.9, v_threshold=1.5),
        Linear(name="out", inputs=("lif",), weight=np.eye(30)),
    )
    net = SpikingGraph("net", Input("x", (30,), "time_series", 0), ops, Readout("out", "sum"), T=20)
    x = events(T=20)
    found = quantize(net, x[:8])
    neuron, layer = found.graph.by_name["cuba"], found.layers[0]
    assert isinstance(neuron, LoihiLIF)
    assert (neuron.du, neuron.dv) == (round(4096 * 0.7) - 1, round(4096 * 0.1))
    assert neuron.bias_mant == 0
    assert layer.neuron.decay_error == pytest.approx(abs(410 / 4096 - 0.1), rel=1e-3)
    neuron, layer = found.graph.by_name["lif"], found.layers[1]
    assert isinstance(neuron, LoihiLIF)
    assert (neuron.du, neuron.dv) == (4095, 410)
    wanted = 64 * layer.scale * np.linspace(-0.02, 0.02, 30)
    shift = 64 * layer.scale * 1.5 * layer.neuron.bias_shift
    assert np.abs((neuron.bias_mant << neuron.bias_exp) - wanted).max() <= shift + 2.0**neuron.bias_exp
    assert all(wrong <= 0.005 * x.size for wrong in mismatches(net, found.graph, x).values())


def test_a_bias_takes_back_what_rounding_moved():
    """Weights of 0.9 of a level, all rounded up: without a correction every neuron gets too much."""
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((20, 30)) < 0.5, 0.9, -0.2) / 7
    weight[0, 0] = 1.0
    ops = (
        Linear(name="fc", inputs=("x",), weight=weight),
        LIF(name="lif", inputs=("fc",), decay=0.5, v_threshold=0.4),
        Linear(name="out", inputs=("lif",), weight=np.eye(20)),
    )
    net = SpikingGraph("net", Input("x", (30,), "time_series", 0), ops, Readout("out", "sum"), T=8)
    x = events(200, T=8)
    found = quantize(net, x[:64], {"fc": 4})
    assert found.layers[0].neuron.bias_shift > 0
    lif = found.graph.by_name["lif"]
    plain = replace(found.graph, ops=tuple(replace(op, bias_mant=0) if op is lif else op for op in found.graph.ops))
    assert mismatches(net, found.graph, x)["lif"] < 0.85 * mismatches(net, plain, x)["lif"]


def test_one_sample_corrects_no_bias_and_none_is_expected_to_be():
    """Scales are judged as the network will be: judged with corrected biases, 549 spikes mismatch."""
    wrong = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        ops = (
            Linear(name="fc", inputs=("x",), weight=rng.normal(size=(200, 30)) / 5),
            LIF(name="lif", inputs=("fc",), decay=0.5, v_threshold=0.4),
        )
        net = SpikingGraph("net", Input("x", (30,), "time_series", 0), ops, Readout("lif", "sum"), T=8)
        found = quantize(net, events(1, T=8, seed=seed), 4)
        assert found.layers[0].neuron.bias_shift == 0
        wrong.append(found.layers[0].neuron.mismatches)
    assert sum(wrong) < 540


def test_the_report_of_a_recurrent_net_is_of_both_networks_on_their_own():
    """Few bits, so that the recurrent edge sends other spikes than the float network's."""
    rng = np.random.default_rng(0)
    ops = (
        Linear(name="fc", inputs=("x",), weight=rng.normal(size=(12, 30)) / 3),
        Delay(name="before", inputs=("lif",), steps=1, shape=(12,)),
        Linear(name="own", inputs=("before",), weight=rng.normal(size=(12, 12))),
        Add(name="sum", inputs=("fc", "own")),
        LIF(name="lif", inputs=("sum",), decay=0.5, v_threshold=0.4),
        Linear(name="out", inputs=("lif",), weight=rng.normal(size=(3, 12)), bias=np.array([1.0, -2.0, 3.0])),
    )
    net = SpikingGraph("net", Input("x", (30,), "time_series", 0), ops, Readout("out", "last"), T=8)
    x = events(20, T=8)
    found = quantize(net, x, 3)
    assert found.layers[0].neuron.mismatches == mismatches(net, found.graph, x)["lif"] > 0
    wanted, got = (
        np.stack([rmp_deploy.run(replace(g, T=t), x[:, :t], "reference").output for t in range(1, 9)])
        for g in (net, found.graph)
    )
    error = np.sqrt(np.square(got - wanted).mean() / np.square(wanted - net.by_name["out"].bias).mean())
    assert found.layers[1].output_error == pytest.approx(error, rel=1e-5)


def test_recurrent_delayed_and_pooled_spikes_pass_through():
    rng = np.random.default_rng(0)
    fire = {"decay": 0.5, "v_threshold": 0.4}
    ops = (
        Conv2d(name="conv", inputs=("x",), weight=rng.normal(size=(4, 2, 3, 3)) / 3, padding=(1, 1)),
        LIF(name="lif1", inputs=("conv",), **fire),
        MaxPool2d(name="or", inputs=("lif1",), kernel=(2, 2), stride=(2, 2)),
        Delay(name="late", inputs=("or",), steps=1, shape=(4, 2, 2)),
        Concat(name="both", inputs=("or", "late")),
        Flatten(name="flat", inputs=("both",)),
        Linear(name="fc", inputs=("flat",), weight=rng.normal(size=(12, 32)) / 4),
        Delay(name="before", inputs=("lif2",), steps=1, shape=(12,)),
        Linear(name="own", inputs=("before",), weight=rng.normal(size=(12, 12)) / 4),
        Add(name="sum", inputs=("fc", "own")),
        LIF(name="lif2", inputs=("sum",), **fire),
        Linear(name="out", inputs=("lif2",), weight=rng.normal(size=(3, 12))),
    )
    net = SpikingGraph("net", Input("x", (2, 4, 4), "time_series", 0), ops, Readout("out", "last"), T=6)
    x = maps(60, T=6)
    found = quantize(net, x[:16])
    assert [layer.name for layer in found.layers] == ["lif1", "lif2", "out"]
    on_its_own = mismatches(net, found.graph, x[:16])
    assert [layer.neuron.mismatches for layer in found.layers[:2]] == [on_its_own["lif1"], on_its_own["lif2"]]
    wrong, spikes = mismatches(net, found.graph, x), spikes_of(net, x)
    assert all(wrong[name] <= 0.02 * spikes[name].size for name in wrong)


@pytest.mark.parametrize("coding", ["host", "graded"])
def test_the_report_is_what_running_both_networks_gives(coding):
    """Mismatches and rates of the pass, which runs layer by layer in float32, against the NumPy reference."""
    net, x = rmp_deploy.load(DIGITS), data.load("digits").x[:12]
    found = quantize(net, x, input_coding=coding)
    wrong, spikes = mismatches(found.float_graph, found.graph, x), spikes_of(found.graph, x)
    in_floats = spikes_of(net, x)
    for layer in found.layers:
        if layer.neuron is not None:
            assert layer.neuron.compared == spikes[layer.name].size
            assert layer.neuron.mismatches == wrong[layer.name]
            assert layer.neuron.rate == pytest.approx(spikes[layer.name].mean())
            assert layer.neuron.rate_float == pytest.approx(in_floats[layer.name].mean())
    readouts = [rmp_deploy.run(graph, x, "reference").output for graph in (net, found.graph)]
    assert np.abs(readouts[0] - readouts[1]).mean() < 0.3 * np.abs(readouts[0]).mean()


def test_wraps_and_saturations_are_counted():
    """A neuron that only ever gets less is driven to the end of its 24 bits; where there is room, nothing is lost."""
    ops = (
        Linear(name="fc", inputs=("x",), weight=np.array([[0.5, -0.25]])),
        LIF(name="lif", inputs=("fc",), decay=1.0, v_threshold=1e-3),
        Linear(name="out", inputs=("lif",), weight=np.ones((1, 1))),
    )
    net = SpikingGraph("net", Input("x", (2,), "time_series", 0), ops, Readout("out", "sum"), T=3000)
    x = np.zeros((2, 3000, 2), np.float32)
    x[:, :, 1] = 1
    x[1, :5, 0] = 1
    found = quantize(net, x)
    assert found.layers[0].neuron.saturations == found.layers[0].neuron.wraps == 0
    assert sum(mismatches(net, found.graph, x).values()) == 0


@pytest.mark.parametrize(("coding", "bits"), [("host", 8), ("graded", 8), ("graded", 5)])
def test_every_integer_stays_within_what_the_graph_allows(coding, bits):
    """A wide layer on a graded input: sums of 8-bit weights and 8-bit messages could pass 2^23; scales see to it."""
    rng = np.random.default_rng(0)
    ops = (
        Linear(name="fc1", inputs=("x",), weight=rng.normal(size=(20, 3000)), bias=rng.normal(size=20)),
        LIF(name="lif", inputs=("fc1",), decay=0.5, v_threshold=20.0),
        Linear(name="fc2", inputs=("lif",), weight=rng.normal(size=(4, 20))),
    )
    net = SpikingGraph("wide", Input("x", (3000,), "direct"), ops, Readout("fc2", "mean"), T=4)
    x = rng.normal(size=(20, 3000)).astype(np.float32)
    found = quantize(net, x, bits, coding)
    assert max(found.graph.integers.values()) < 2**23
    wrong = mismatches(net, found.graph, x)["lif"] / (20 * 4 * 20)
    assert wrong <= (0.02 if bits == 8 else 0.2)


@pytest.mark.parametrize("seed", [11, 13])
def test_weights_that_round_up_together_leave_room_in_24_bits(seed):
    """All of an output are one magnitude, just above half a level: what is stored sums up to twice the weights."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([6144, 8192, 12288]))
    weight = np.sign(rng.normal(size=(6, n))) * rng.uniform(0.5, 1.5, (6, 1))
    ops = (
        Linear(name="f1", inputs=("x",), weight=weight),
        LIF(name="lif", inputs=("f1",), decay=0.5, v_threshold=0.3 * np.sqrt(n)),
    )
    net = SpikingGraph("wide", Input("x", (n,), "direct"), ops, Readout("lif", "mean"), T=2)
    found = quantize(net, rng.random((4, n)), int(rng.choice([8, 4, 2])), "graded")
    assert max(found.graph.integers.values()) < 2**23
    assert found.layers[0].synapses[0].relative_error < 0.7


def test_weights_that_would_all_round_to_0_are_refused_by_name():
    """70,000 weights of +-1 in 2 bits, whose steps are 128: even on messages of one bit their sum leaves 24 bits."""
    rng, n = np.random.default_rng(0), 70_000
    weight = np.sign(rng.normal(size=(1, n)))
    ops = (
        Linear(name="f1", inputs=("x",), weight=weight),
        LIF(name="lif", inputs=("f1",), decay=0.5, v_threshold=9.0),
    )
    net = SpikingGraph("wide", Input("x", (n,), "direct"), ops, Readout("lif", "mean"), T=1)
    said = "Linear 'f1': 70000 weights of 2 bits on integers up to 1 in one sum, allowed 8388607 in all"
    with pytest.raises(RmpDeployError, match=said):
        quantize(net, rng.random((2, n)), 2, "graded")


@pytest.mark.parametrize("coding", ["host", "graded"])
@pytest.mark.parametrize(
    ("largest", "said"),
    [
        (1e300, "samples for graph 'net': largest |x| = 1e+300, allowed 1e-30..1e+30"),
        (1e-38, "samples for graph 'net': largest |x| = 1e-38, allowed 1e-30..1e+30"),
        (1e29, "'conv': largest |conv| = inf"),
    ],
)
def test_numbers_beyond_float32_are_refused_by_name(coding, largest, said):
    conv = replace(CONV, weight=1e10 * CONV.weight)
    flat = (Flatten(name="flat", inputs=("lif",)), Linear(name="out", inputs=("flat",), weight=np.ones((2, 16))))
    net = replace(one(conv, after=flat), input=Input("x", (2, 4, 4), "time_series"))
    with pytest.raises(RmpDeployError) as error:
        quantize(net, np.full((2, 2, 2, 4, 4), largest), input_coding=coding)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def one(op, *before, shape=(2, 4, 4), after=(), **fire):
    """A net around one op: ``x -> before -> op -> LIF -> after``."""
    last = (*before, op)[-1].name
    neuron = LIF(**({"name": "lif", "inputs": (last,), "decay": 0.5, "v_threshold": 0.5} | fire))
    readout = (*after, neuron)[0].name if not after else after[-1].name
    graph_input = Input("x", shape, "time_series", 0)
    return SpikingGraph("net", graph_input, (*before, op, neuron, *after), Readout(readout, "mean"), T=2)


CONV = Conv2d(name="conv", inputs=("x",), weight=np.ones((4, 2, 3, 3)))
LATER = LIF(name="later", inputs=("conv",), decay=0.5, v_threshold=0.5)
FC = Linear(name="fc", inputs=("x",), weight=np.ones((4, 30)))
NORM = {"gamma": np.ones(4), "beta": np.ones(4), "mean": np.ones(4), "var": np.ones(4), "eps": 0.1}
MIXED = replace(CONV, weight=np.linspace(-1, 1, 72).reshape(4, 2, 3, 3))
REFUSED = [
    (one(CONV, reset="soft"), {}, "LIF 'lif': reset = 'soft', allowed 'hard' (Loihi resets to 0). Train with a hard"),
    (one(CONV, v_reset=-0.5), {}, "LIF 'lif': v_reset = -0.5, allowed 0"),
    (one(CONV, v_threshold=0.0), {}, "LIF 'lif': v_threshold = 0, allowed > 0"),
    (one(CONV, v_threshold=np.linspace(0.1, 0.5, 16).reshape(4, 2, 2)), {}, "v_threshold.shape = (4, 2, 2), allowed"),
    # by broadcasting one per column, though as many as there are channels
    (one(CONV, shape=(2, 6, 6), v_threshold=np.linspace(0.1, 0.5, 4)), {}, "v_threshold.shape = (4,), allowed"),
    (one(CONV, after=(LI(name="li", inputs=("lif",), decay=0.5),)), {}, "LI 'li': op = LI"),
    (one(Conv1d(name="c1", inputs=("x",), weight=np.ones((4, 2, 3))), shape=(2, 9)), {}, "Conv1d 'c1': op = Conv1d"),
    (
        one(SumPool2d(name="sum", inputs=("conv",), kernel=(2, 2), stride=(2, 2)), CONV),
        {},
        "SumPool2d 'sum': input = 'conv', a current, allowed spikes",
    ),
    (
        one(Conv2d(name="conv2", inputs=("conv",), weight=np.ones((1, 4, 1, 1))), CONV),
        {},
        "Conv2d 'conv2': input = 'conv', a current, allowed spikes. Put neurons between.",
    ),
    (
        one(AvgPool2d(name="pool", inputs=("later",), kernel=(2, 2), stride=(1, 1)), CONV, LATER),
        {},
        "AvgPool2d 'pool': stride = (1, 1)",
    ),
    (
        one(BatchNorm(name="bn", inputs=("later",), **NORM), CONV, LATER),
        {},
        "BatchNorm 'bn': left in the graph",
    ),
    (one(LATER, CONV, inputs=("conv",)), {}, "Conv2d 'conv': read by 'later' and by 'lif'"),
    (
        one(Concat(name="cat", inputs=("conv", "later")), CONV, LATER),
        {},
        "Concat 'cat': inputs = conv, later, allowed all currents or all spikes",
    ),
    (
        one(
            Delay(name="late", inputs=("fc",), steps=1, shape=(4,)),
            replace(FC, bias=np.ones(4)),
            shape=(30,),
        ),
        {},
        "Delay 'late': input = 'fc', a current with a bias, allowed no bias",
    ),
    (
        one(
            CubaLIF(name="cuba", inputs=("conv",), current_decay=0.5, decay=0.5, v_threshold=1.0),
            replace(CONV, bias=np.ones(4)),
        ),
        {},
        "CubaLIF 'cuba': current_decay = 0.5 and a bias of 'conv'",
    ),
    (one(CONV, replace(CONV, name="unread")), {}, "Conv2d 'unread': read by nobody"),
    (one(CONV), {"weight_bits": 9}, "weight_bits of 'conv' = 9, allowed 1..8"),
    (one(CONV), {"weight_bits": {"conv9": 8}}, "weight_bits of 'conv9', allowed synapses of Loihi: conv"),
    (one(MIXED), {"weight_bits": 1}, "weight_bits = 1, allowed 2..8"),
    (one(CONV), {"input_coding": "rate"}, "input_coding = 'rate', allowed host or graded"),
]  # fmt: skip


@pytest.mark.parametrize(("net", "options", "said"), REFUSED, ids=[said[:40] for _, _, said in REFUSED])
def test_what_loihi_cannot_do_is_refused_by_name(net, options, said):
    x = np.zeros((2, 2, *net.input.shape), np.float32)
    with pytest.raises(RmpDeployError) as error:
        quantize(net, x, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_graph_that_is_quantized_or_that_stays_on_the_host_is_refused():
    net, x = lattice_net(1.0), events()
    with pytest.raises(RmpDeployError, match="The graph is quantized already"):
        quantize(quantize(net, x).graph, x)
    real = replace(net, input=Input("x", (30,), "direct"), ops=net.ops[:2], readout=Readout("lif1", "sum"))
    with pytest.raises(RmpDeployError, match="at least one layer for Loihi"):
        quantize(real, x[:, 0])
    joined = Add(name="lif1_again", inputs=("fc2", "skip"))
    ops = (*net.ops[:3], Linear(name="skip", inputs=("x",), weight=np.ones((20, 30))), joined)
    neuron = LIF(name="lif2", inputs=("lif1_again",), decay=0.5, v_threshold=1.0)
    real = replace(net, input=Input("x", (30,), "direct"), ops=(*ops, neuron), readout=Readout("lif2", "sum"))
    with pytest.raises(RmpDeployError, match="input = 'fc2', a current of Loihi beside the host's values"):
        quantize(real, x[:, 0])
    assert quantize(real, x[:, 0], input_coding="graded").graph.of_type(Quantize)


class Drawn:
    """A random small float graph of what the pass takes, and a little of what it refuses."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.shape = [(3, 6, 6), (20,)][self.rng.integers(2)]
        self.value, self.ops = "x", []

    def add(self, kind, *inputs, **parameters):
        name = f"{kind.__name__.lower()}{len(self.ops)}"
        op = kind(name=name, inputs=inputs or (self.value,), **parameters)
        shapes = [self.shape] * len(op.inputs)
        self.ops.append(op)
        self.shape, self.value = op.output_shape(*shapes), name
        return name

    def synapse(self, c_out):
        rng, n = self.rng, self.shape[0]
        gain = 10.0 ** rng.uniform(-3, 2)
        bias = gain * rng.normal(0, 0.3, c_out) if rng.integers(2) else None
        if len(self.shape) == 1:
            return self.add(Linear, weight=gain * rng.normal(0, 1 / np.sqrt(n), (c_out, n)), bias=bias), gain
        weight = gain * rng.normal(0, 1 / np.sqrt(9 * n), (c_out, n, 3, 3))
        return self.add(Conv2d, weight=weight, bias=bias, padding=(1, 1), stride=(1, 1)), gain

    def layer(self):
        rng, before, shape = self.rng, self.value, self.shape
        residual = bool(self.ops) and rng.integers(3) == 0
        _, gain = self.synapse(shape[0] if residual else int(rng.integers(1, 6)))
        if residual:
            self.add(Add, self.value, before)
            gain = 1.0
        each = [(), (self.shape[0], *(1,) * (len(self.shape) - 1))][rng.integers(2)]
        fire = {"decay": rng.uniform(0, 1), "v_threshold": gain * rng.uniform(0.05, 1, each)}
        if rng.integers(12) == 0:
            fire["reset"] = "soft"
        if rng.integers(3):
            self.add(LIF, **fire)
        else:
            self.add(CubaLIF, current_decay=rng.choice([0, rng.uniform(0, 0.9)]), **fire)
        if len(self.shape) == 3 and min(self.shape[1:]) > 3 and rng.integers(2):
            kind = [AvgPool2d, MaxPool2d, SumPool2d][rng.integers(3)]
            self.add(kind, kernel=(2, 2), stride=(2, 2))
        elif len(self.shape) == 3 and rng.integers(3) == 0:
            self.add(Flatten)

    def graph(self):
        rng, shape = self.rng, self.shape
        for _ in range(rng.integers(1, 4)):
            self.layer()
        if rng.integers(4):
            if len(self.shape) == 3:
                self.add(Flatten)
            self.synapse(4)
        encoding, bits = [("direct", None), ("time_series", None), ("time_series", 0), ("direct", 4)][rng.integers(4)]
        return SpikingGraph(
            "drawn",
            Input("x", shape, encoding, bits),
            tuple(self.ops),
            Readout(self.value, "mean"),
            int(rng.integers(1, 5)),
        )

    def samples(self, graph, n=5):
        shape = (n, *graph.input.shape) if graph.input.encoding == "direct" else (n, graph.T, *graph.input.shape)
        bits = graph.input.message_bits
        if bits is None:
            return self.rng.normal(size=shape).astype(np.float32)
        return self.rng.integers(0 if bits == 0 else -(2**bits) + 1, 2 ** max(bits, 1), shape).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["host", "graded"]), st.sampled_from([8, 8, 5, 2]))
def test_random_graphs_become_valid_integer_graphs_or_are_refused_by_name(seed, coding, bits):
    drawn = Drawn(seed)
    graph = drawn.graph()
    x = drawn.samples(graph)
    try:
        found = quantize(graph, x, bits, coding)
    except RmpDeployError as error:
        assert "\n" not in str(error)
        assert any(f"'{op.name}'" in str(error) for op in graph.ops) or "for Loihi" in str(error)
        return
    traces = [
        rmp_deploy.run(found.graph, x, backend, record=("spikes", "v")) for backend in ("reference", "onnxruntime")
    ]
    integers = [op.name for op in found.graph.of_type(LoihiLIF)]
    host_agrees = all(
        np.array_equal(traces[0].spikes[op.name], traces[1].spikes[op.name]) for op in found.graph.of_type(LIF)
    )
    for name in integers if host_agrees else ():
        assert np.array_equal(traces[0].v[name], traces[1].v[name])
    for layer in found.layers:
        if layer.neuron is not None:
            assert layer.neuron.wraps == layer.neuron.saturations == 0
            if bits == 8:
                assert layer.neuron.forced_agreement > 0.8
