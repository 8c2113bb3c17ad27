"""Integer graphs on Lava's fixed-point models: every spike and every potential equal to the reference, bit for bit."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from rmp_deploy.analysis.parity import climb
from rmp_deploy.backends import lava, onnxruntime
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Flatten, Linear, LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.ir.ops.loihi import WEIGHT_SPAN, stored_weight

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")


def random_weight(rng, *shape, mode="mixed", bits=8):
    low, high = WEIGHT_SPAN[mode]
    return stored_weight(rng.integers(low // 4, high // 4 + 1, shape), bits, mode)


def neuron(rng, name, source, shape, **changes):
    """Parameters per neuron, bias included; `du` from no memory to a long one."""
    given = {
        "du": rng.choice(np.array([4095, 2000, 100, -1]), shape),
        "dv": rng.integers(0, 4097, shape),
        "vth": rng.integers(5, 200, shape),
        "bias_mant": rng.integers(-40, 90, shape),
        "bias_exp": rng.integers(0, 8, shape),
    }
    return LoihiLIF(name=name, inputs=(source,), **{**given, **changes})


def network(ops, shape, T=5, encoding="time_series", bits=0, readout=None, rule="sum"):
    return SpikingGraph("net", Input("x", shape, encoding, bits), tuple(ops), Readout(readout or ops[-1].name, rule), T)


def compare(graph, x):
    ours = reference.run(graph, x, ("spikes", "v"))
    theirs = lava.run(graph, x, ("spikes", "v"))
    for name in ours.spikes:
        np.testing.assert_array_equal(ours.spikes[name], theirs.spikes[name], err_msg=name)
        np.testing.assert_array_equal(ours.v[name], theirs.v[name], err_msg=name)
    np.testing.assert_array_equal(ours.output, theirs.output)
    rates = [spikes.mean() for spikes in ours.spikes.values()]
    assert all(0.01 < rate < 0.99 for rate in rates), "a silent or saturated layer proves nothing"
    (rung,) = climb(graph, x, [onnxruntime.run(graph, x, ("spikes", "v")), theirs])
    assert rung.holds
    assert rung.mismatches == 0
    return theirs


@pytest.mark.parametrize("du", [4095, None])
@pytest.mark.parametrize("seed", range(2))
def test_mlp(seed, du):
    rng = np.random.default_rng(seed)
    memory = {} if du is None else {"du": du}
    options = {"num_weight_bits": 6, "sign_mode": "excitatory"}
    ops = [
        LoihiLinear(name="fc1", inputs=("x",), weight=random_weight(rng, 12, 9), weight_exp=1),
        neuron(rng, "lif1", "fc1", (12,), **memory),
        LoihiLinear(name="fc2", inputs=("lif1",), weight=random_weight(rng, 8, 12, mode="excitatory", bits=6),
                    weight_exp=-2, **options),
        neuron(rng, "lif2", "fc2", (8,), **memory),
        LoihiLinear(name="out", inputs=("lif2",), weight=random_weight(rng, 3, 8), weight_exp=-1),
    ]  # fmt: skip
    trace = compare(network(ops, (9,)), rng.integers(0, 2, (6, 5, 9)))
    assert trace.v["lif1"].dtype == np.int64


@pytest.mark.parametrize("bits", [0, 4])
def test_conv_net_on_spikes_and_on_graded_input(bits):
    rng = np.random.default_rng(bits)
    ops = [
        LoihiConv2d(name="conv1", inputs=("x",), weight=random_weight(rng, 4, 2, 3, 2), weight_exp=-1, padding=(2, 1),
                    stride=(2, 1)),
        neuron(rng, "lif1", "conv1", (4, 5, 8)),
        LoihiConv2d(name="conv2", inputs=("lif1",), weight=random_weight(rng, 6, 2, 2, 3), weight_exp=2, groups=2,
                    dilation=(1, 2)),
        neuron(rng, "lif2", "conv2", (6, 1, 1), du=4095),
        Flatten(name="flat", inputs=("lif2",)),
        LoihiLinear(name="fc", inputs=("flat",), weight=random_weight(rng, 5, 96)),
        neuron(rng, "lif3", "fc", (5,), vth=100),
    ]  # fmt: skip
    encoding = "direct" if bits else "time_series"
    graph = network(ops, (2, 8, 7), encoding=encoding, bits=bits, rule="mean")
    shape = (4, 2, 8, 7) if bits else (4, 5, 2, 8, 7)
    compare(graph, rng.integers(0, 2**bits + (bits == 0), shape))


def test_neurons_that_read_the_input_itself_and_the_extremes():
    """What a netx input layer is; the current wraps, the potential saturates."""
    rng = np.random.default_rng(3)
    ops = [
        LoihiLIF(name="wraps", inputs=("x",), du=0, dv=4096, vth=131_071),
        LoihiLIF(name="fires", inputs=("x",), du=4095, dv=1024, vth=25),
        LoihiLinear(name="fc", inputs=("fires",), weight=random_weight(rng, 4, 30), weight_exp=7),
        neuron(rng, "lif", "fc", (4,), dv=0, vth=100_000),
    ]
    x = rng.integers(1 - 2**22, 2**22, (5, 30))
    x[:, ::2] = rng.integers(0, 64, (5, 15))
    graph = network(ops, (30,), T=8, encoding="direct", bits=22)
    trace = compare(graph, x)
    as_float = lava.run(graph, x.astype(np.float32), ("v",))
    assert all((trace.v[name] == v).all() for name, v in as_float.v.items())


def test_a_real_valued_layer_on_the_host_and_a_real_valued_readout():
    rng = np.random.default_rng(4)
    ops = [
        Linear(name="enc", inputs=("x",), weight=rng.normal(size=(10, 4)), bias=rng.normal(size=10)),
        LIF(name="host", inputs=("enc",), decay=0.5, v_threshold=0.5),
        LoihiLinear(name="fc", inputs=("host",), weight=random_weight(rng, 8, 10)),
        neuron(rng, "lif", "fc", (8,), du=4095),
        Linear(name="out", inputs=("lif",), weight=rng.normal(size=(3, 8)), bias=rng.normal(size=3)),
    ]
    graph = network(ops, (4,), encoding="direct", bits=None, rule="mean")
    x = rng.random((5, 4))
    ours, theirs = reference.run(graph, x, ("spikes", "v")), lava.run(graph, x, ("spikes", "v"))
    (rung,) = climb(graph, x, [ours, theirs])
    assert rung.holds
    assert rung.mismatches == 0
    np.testing.assert_array_equal(ours.v["lif"], theirs.v["lif"])
    assert 0.05 < ours.spikes["lif"].mean() < 0.95


REFUSED = {
    "a shift of the sum that Lava's Conv has not": (
        [LoihiConv2d(name="c", inputs=("x",), weight=[[[[2, 4]]]], weight_exp=-2),
         LoihiLIF(name="n", inputs=("c",), du=4095, dv=0, vth=1)],
        "LoihiConv2d 'c': weight = 2 with weight_exp = -2, allowed multiples of 4 [lava]. ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case):
    ops, message = REFUSED[case]
    with pytest.raises(RmpDeployError) as error:
        lava.run(network(ops, (1, 2, 2)), np.ones((1, 5, 1, 2, 2)))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
