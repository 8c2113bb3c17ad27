"""Loihi's integer ops by hand, against lava-nc's own models, and against a trace that Lava recorded elsewhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph, to_text
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    Concat,
    Delay,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    SumPool2d,
)
from rmp_deploy.ir.ops.loihi import stored_weight
from rmp_deploy.ir.reference_loihi import loihi_conv2d, loihi_lif, loihi_linear

ROOT = Path(__file__).parent.parent.parent


def neuron(name="lif", source="fc", **changes):
    return LoihiLIF(**{"name": name, "inputs": (source,), "du": 4095, "dv": 2048, "vth": 10, **changes})


def linear(name="fc", source="x", n_in=3, n_out=2, **changes):
    return LoihiLinear(**{"name": name, "inputs": (source,), "weight": np.full((n_out, n_in), 2), **changes})


def graph(*ops, shape=(3,), readout="lif", T=2, encoding="time_series", message_bits=0, rule="sum"):
    return SpikingGraph("g", Input("x", shape, encoding, message_bits), tuple(ops), Readout(readout, rule), T)


def step(op, x, v=0, i=0):
    """(spikes, v, i, u) of one neuron."""
    return tuple(int(a.item()) for a in loihi_lif(op, *(np.array([n]) for n in (x, v, i))))


def test_a_decay_truncates_toward_zero_and_the_current_decays_by_one_more():
    op = neuron(du=0, dv=1, vth=100)
    assert step(op, x=0, v=4095, i=0) == (0, 4094, 0, 4094)  # 4095 * 4095 / 4096 = 4094.0002
    assert step(op, x=0, v=-4095, i=0)[1] == -4094  # a floor would give -4095
    assert step(op, x=0, v=0, i=5)[2] == 4  # du = 0 loses 1/4096
    assert step(neuron(du=-1, vth=100), x=0, v=0, i=5)[2] == 5


def test_a_spike_needs_more_than_the_threshold_and_leaves_the_current():
    op = neuron(du=2047, dv=0, vth=10)
    assert step(op, x=10) == (0, 640, 640, 640)
    assert step(op, x=10, v=1) == (1, 0, 640, 641)
    assert step(neuron(vth=10, bias_mant=5, bias_exp=7), x=1) == (1, 0, 64, 704)


def test_the_current_wraps_and_the_potential_saturates():
    op = neuron(vth=131_071)
    top = 2**23
    assert step(op, x=2**17)[2] == top  # 2^23 itself is kept
    assert step(op, x=2**17 + 1)[2] == 64 - top
    assert step(op, x=-(2**17))[2] == top  # -2^23 is not
    assert step(neuron(dv=0), x=-10, v=1 - top)[3] == 1 - top
    assert step(neuron(dv=0), x=10, v=top - 1) == (1, 0, 640, top - 1)


def test_a_shift_to_the_right_floors_the_sum():
    x = np.array([[1, 1, 0]])
    ops = [linear(weight=[[2, -4, 6]], weight_exp=exp) for exp in (-2, -1, 0, 3)]
    assert [loihi_linear(op, x).item() for op in ops] == [-1, -1, -2, -16]
    conv = LoihiConv2d(name="c", inputs=("x",), weight=[[[[2, -4]]]], weight_exp=-2)
    assert loihi_conv2d(conv, np.ones((1, 1, 1, 3), int)).tolist() == [[[[-1, -1]]]]


def test_stored_weights():
    w = np.array([-300, -256, -3, -1, 0, 3, 127, 255, 300])
    assert stored_weight(w, 8, "mixed").tolist() == [-256, -256, -4, -2, 0, 2, 126, 254, 254]
    assert stored_weight(w, 8, "excitatory").tolist() == [0, 0, 0, 0, 0, 3, 127, 255, 255]
    assert stored_weight(w, 6, "inhibitory").tolist() == [-252, -252, 0, 0, 0, 0, 0, 0, 0]


REFUSED_OPS = [
    (lambda: neuron(du=4096), "LoihiLIF 'lif': du = 4096..4096, allowed -1..4095"),
    (lambda: neuron(dv=[0, -1]), "dv = -1..0, allowed 0..4096"),
    (lambda: neuron(vth=131_072), "vth = 131072..131072, allowed 0..131071"),
    (lambda: neuron(bias_mant=4096), "bias_mant = 4096..4096, allowed -4096..4095"),
    (lambda: neuron(bias_exp=8), "bias_exp = 8..8, allowed 0..7"),
    (lambda: neuron(vth=99.5), "vth.dtype = float64, allowed integers"),
    (lambda: neuron(vth=2**40), "allowed -2147483648..2147483647"),
    (lambda: linear(weight=np.zeros(3, int)), "weight.ndim = 1"),
    (lambda: linear(weight=[[3, -2]]), "weight = 3, allowed multiples of 2 in -256..255 (mixed, 8 bits)"),
    (lambda: linear(weight=[[256, -2]]), "weight = 256, allowed"),
    (lambda: linear(weight=[[6]], num_weight_bits=7), "weight = 6, allowed multiples of 4"),
    (lambda: linear(weight=[[-2]], sign_mode="excitatory"), "weight = -2, allowed multiples of 1 in 0..255"),
    (lambda: linear(sign_mode="both"), "sign_mode = 'both', allowed mixed or excitatory or inhibitory"),
    (lambda: linear(num_weight_bits=9), "num_weight_bits = 9, allowed 1..8"),
    (lambda: linear(weight_exp=8), "weight_exp = 8, allowed -8..7"),
    (lambda: linear(weight_exp=1.5), "weight_exp = 1.5, allowed an int"),
    (lambda: linear(num_weight_bits=7.5), "num_weight_bits = 7.5, allowed an int"),
    (lambda: LoihiConv2d(name="c", inputs=("x",), weight=[[[[2]]]], weight_exp="1"), "weight_exp = '1', allowed an"),
    (lambda: LoihiConv2d(name="c", inputs=("x",), weight=[[[[1]]]]), "LoihiConv2d 'c': weight = 1, allowed"),
    (lambda: LoihiConv2d(name="c", inputs=("x",), weight=[[[[2]]]], stride=(0, 1)), "stride = (0, 1)"),
]
REFUSED_GRAPHS = [
    (lambda: graph(linear(), neuron(), message_bits=None),
     "LoihiLinear 'fc': input = 'x', real-valued, allowed integers"),
    (lambda: graph(linear(), neuron(), message_bits=24), "message_bits = 24, allowed 0..23"),
    (
        lambda: graph(linear(), LIF(name="lif", inputs=("fc",), decay=0.5, v_threshold=1.0)),
        "LIF 'lif': input = 'fc', a current of Loihi's synapses, allowed real values or spikes",
    ),
    (lambda: graph(linear(), neuron(), LI(name="v", inputs=("fc",), decay=0.5)), "LI 'v': input = 'fc', a current"),
    (
        lambda: graph(Linear(name="fc", inputs=("x",), weight=np.ones((2, 3))), neuron(), message_bits=0),
        "LoihiLIF 'lif': input = 'fc', real-valued",
    ),
    (
        lambda: graph(
            linear(), Linear(name="b", inputs=("x",), weight=np.ones((2, 3))), Add(name="a", inputs=("fc", "b")),
            neuron(source="a"),
        ),
        "Add 'a': input = 'fc', a current of Loihi's synapses",
    ),
    (lambda: graph(linear(n_in=6, weight_exp=7), neuron(), shape=(6,), message_bits=13),
     "largest possible |fc| = 12581376, allowed 8388607 (24 bits and sign)"),
    (
        lambda: graph(
            neuron(source="x"), linear(source="lif", n_in=240, n_out=1, weight_exp=7, weight=np.full((1, 240), 254)),
            Add(name="a", inputs=("fc", "fc")), shape=(240,), readout="a",
        ),
        "Add 'a': largest possible |a| = 15605760, allowed 8388607",  # in float32 an odd sum of four would be even
    ),
    (
        lambda: graph(
            neuron(source="x"), SumPool2d(name="p", inputs=("lif",), kernel=(4096, 4096), stride=(1, 1)),
            shape=(1, 4096, 4096), readout="p",
        ),
        "SumPool2d 'p': largest possible |p| = 16777216, allowed 8388607",
    ),
    (
        lambda: graph(
            linear(), Delay(name="d", inputs=("a",), steps=1, shape=(2,)), Add(name="a", inputs=("fc", "d")),
            neuron(source="a"),
        ),
        "Delay 'd': input = 'a', a current of Loihi's synapses, allowed real values or spikes (and no loop",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("build", "said"), REFUSED_OPS + REFUSED_GRAPHS)
def test_a_wrong_integer_network_is_refused_in_one_line(build, said):
    with pytest.raises(RmpDeployError) as e:
        build()
    assert said in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("bits", "x", "said"),
    [(0, 2, "value = 2, allowed integers 0..1"), (0, 0.5, "value = 0.5"), (4, -16, "allowed integers -15..15")],
)
def test_samples_that_the_input_does_not_state_are_refused(bits, x, said):
    with pytest.raises(RmpDeployError, match=said):
        reference.run(graph(linear(), neuron(), message_bits=bits), np.full((1, 2, 3), x))


def test_largest_values_follow_the_ops():
    ops = [
        LoihiConv2d(name="c", inputs=("x",), weight=np.full((4, 1, 2, 2), -10), weight_exp=2),
        neuron(name="n", source="c"),
        Delay(name="d", inputs=("n",), steps=1, shape=(4, 3, 3)),
        Add(name="two", inputs=("n", "d")),
        SumPool2d(name="p", inputs=("two",), kernel=(3, 3), stride=(3, 3)),
        Flatten(name="f", inputs=("p",)),
        linear(source="f", n_in=4, weight_exp=-1),
        Concat(name="both", inputs=("fc", "fc")),
        neuron(source="both"),
        Linear(name="host", inputs=("lif",), weight=np.ones((2, 4))),
    ]
    g = graph(*ops, shape=(1, 4, 4), message_bits=3, readout="host")
    found = {
        "x": 7,
        "c": 40 * 7 * 4,
        "n": 1,
        "d": 1,
        "two": 2,
        "p": 18,
        "f": 18,
        "fc": 8 * 18,
        "both": 8 * 18,
        "lif": 1,
    }
    assert g.integers == found
    assert "x (1, 4, 4): time_series, integers of 3 bits" in to_text(g)
    assert "mixed 8-bit weights, exponent 2, weight (4, 1, 2, 2)" in to_text(g)
    assert "LoihiLIF(c): du 4095, dv 2048, vth 10" in to_text(g)


def test_a_real_valued_layer_on_the_host_feeds_loihi_with_spikes():
    """The direct-coded first layer in float, then integers; every state of Loihi's neurons is int64."""
    rng = np.random.default_rng(0)
    ops = [
        Linear(name="enc", inputs=("x",), weight=rng.normal(size=(8, 3)), bias=rng.normal(size=8)),
        LIF(name="host", inputs=("enc",), decay=0.5, v_threshold=0.5),
        linear(source="host", weight=2 * rng.integers(-9, 9, (4, 8))),
        neuron(vth=5),
    ]
    g = graph(*ops, T=6, encoding="direct", message_bits=None)
    x = rng.random((5, 3))
    trace = reference.run(g, x, ("spikes", "v", "u"))
    assert trace.v["lif"].dtype == trace.u["lif"].dtype == np.int64
    v = np.zeros((5, 4), int)
    for t in range(6):
        u = np.sign(v) * (abs(v) // 2) + 64 * (trace.spikes["host"][:, t].astype(int) @ ops[2].weight.T)
        np.testing.assert_array_equal(trace.u["lif"][:, t], u)
        v = np.where(u > 5 * 64, 0, u)
        np.testing.assert_array_equal(trace.v["lif"][:, t], v)
    assert 0.05 < trace.spikes["lif"].mean() < 0.95


def impulse(op, steps=8):
    """(v, i) after each step, for a current of 128 in the first."""
    v = i = np.zeros(1, np.int64)
    seen = []
    for t in range(steps):
        _, v, i, _ = loihi_lif(op, np.array([128 * (t == 0)]), v, i)
        seen.append((int(v.item()), int(i.item())))
    return zip(*seen, strict=True)


def test_the_values_that_lavas_own_tests_expect():
    """tests/lava/proc/lif/test_models.py:261-415 and dense/test_models.py:310-530 of lava-nc 0.10.0."""
    _, i = impulse(neuron(du=2047, dv=0, vth=256))
    assert i == (8192, 4096, 2048, 1024, 512, 256, 128, 64)
    v, _ = impulse(neuron(du=0, dv=2048, vth=256))
    assert v == (8192, 12286, 14331, 15351, 15859, 16111, 16235, 16295)
    assert step(neuron(du=0, dv=0, vth=131_071, bias_mant=4095, bias_exp=5), x=0)[1] == 4095 * 2**5
    driven = graph(linear(weight=[[2]]), neuron(du=0, dv=0, vth=8, bias_mant=2, bias_exp=6), shape=(1,), T=10)
    spikes = reference.run(driven, np.zeros((1, 10, 1)), ("spikes",)).spikes["lif"]
    assert np.flatnonzero(spikes).tolist() == [4, 9]
    raw = np.array([[300], [-300], [39]])
    for bits, exp, expected in ((8, 0, [254, -256, 38]), (8, 1, [508, -512, 76]), (7, 0, [252, -256, 36])):
        op = linear(weight=stored_weight(raw, bits, "mixed"), num_weight_bits=bits, weight_exp=exp)
        assert loihi_linear(op, np.ones((1, 1), int)).ravel().tolist() == expected
    assert stored_weight(raw, 8, "excitatory").ravel().tolist() == [255, 0, 39]


def test_the_trace_of_lava_in_the_nir_paper():
    """One neuron, 1000 steps, recorded by the paper's authors; tests/data/nir_paper_lif names the source."""
    recorded = np.loadtxt(ROOT / "tests/data/nir_paper_lif/lif_lava_cpu_fixed.csv", delimiter=",")
    x, v, spikes = recorded.T
    dt_by_tau = 1e-4 / 2.5e-3
    op = neuron(dv=int(dt_by_tau * 4095), vth=int(0.1 * 131_071) >> 9)
    weight = linear(weight=[[int(dt_by_tau * 256)]])
    arriving = np.concatenate([[0], x[:-1]])  # the connection of that recording takes one step
    g = graph(weight, op, shape=(1,), T=len(x))
    trace = reference.run(g, arriving[None, :, None], ("spikes", "v"))
    assert spikes.sum() == 4
    np.testing.assert_array_equal(trace.spikes["lif"].ravel(), spikes)
    np.testing.assert_array_equal(trace.v["lif"].ravel(), v)


@pytest.fixture(scope="module")
def parity():
    """benchmarks/integer_parity.py: the same cases as there, fewer."""
    pytest.importorskip("lava", reason="Lava is an optional extra")
    spec = importlib.util.spec_from_file_location("integer_parity", ROOT / "benchmarks/integer_parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.import_lava()
    return module


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_equal_to_lavas_models_bit_for_bit(parity, seed):
    """2,000 cases."""
    rng = np.random.default_rng(seed)
    assert parity.lif(rng, 60) == 0
    assert not any(parity.dense(rng) for _ in range(35))
    assert not any(parity.conv(rng) for _ in range(5))


def test_the_cases_reach_the_extremes(parity, monkeypatch):
    """A reference without the wrap, the saturation, the truncation or the floor is found out by the same cases."""
    module = parity.reference_loihi
    broken = {
        "_wrap": lambda x: x,
        "STATE_LIMIT": 1 << 22,
        "_decayed": lambda state, decay: state * (4096 - decay) >> 12,
        "_int32": lambda x: np.clip(x, -(2**23) + 1, 2**23 - 1),
    }
    for name, wrong in broken.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, wrong)
            assert parity.lif(np.random.default_rng(0), 200) > 5, name
    monkeypatch.setattr(module, "shifted", lambda total, exp: np.trunc(total * 2.0**exp).astype(np.int64))
    assert sum(parity.dense(np.random.default_rng(seed)) for seed in range(200)) > 5
