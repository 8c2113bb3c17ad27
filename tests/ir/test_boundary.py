"""Where real values become Loihi's integers and back: by hand, refused by name, and on ONNX Runtime bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rmp_deploy import backends
from rmp_deploy.analysis.parity import climb
from rmp_deploy.analysis.replay import EPS, replay
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io, reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph, to_text
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    Quantize,
)

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def quantize(source="x", **changes):
    return Quantize(**{"name": "q", "inputs": (source,), "scale": 10.0, "message_bits": 4, **changes})


def dequantize(source="fc", **changes):
    return Dequantize(**{"name": "y", "inputs": (source,), "scale": 0.5, "bias": -1.0, **changes})


def linear(name="fc", source="lif", n_in=3, n_out=3):
    return LoihiLinear(name=name, inputs=(source,), weight=np.diag(np.full(n_in, 8))[:n_out])


def lif(source="q"):
    return LoihiLIF(name="lif", inputs=(source,), du=4095, dv=0, vth=5)


def graph(*ops, shape=(3,), readout="lif", rule="sum", message_bits=None, T=2):
    return SpikingGraph("g", Input("x", shape, "direct", message_bits), tuple(ops), Readout(readout, rule), T)


def image_network():
    """An image as graded spikes, a layer on Loihi, and its currents as real numbers."""
    rng = np.random.default_rng(3)
    return graph(
        quantize(scale=rng.uniform(3, 9, (2, 1, 1)), message_bits=3),
        LoihiConv2d(name="conv", inputs=("q",), weight=2 * rng.integers(-30, 40, (4, 2, 3, 3)), padding=(1, 1)),
        LoihiLIF(name="lif", inputs=("conv",), du=4095, dv=1024, vth=300, bias_mant=rng.integers(-60, 60, (4, 1, 1))),
        Flatten(name="flat", inputs=("lif",)),
        LoihiLinear(name="fc", inputs=("flat",), weight=2 * rng.integers(-30, 40, (5, 100))),
        dequantize(scale=rng.uniform(0.001, 0.1, 5), bias=rng.normal(size=5)),
        shape=(2, 5, 5), readout="y", rule="mean", T=7,
    )  # fmt: skip


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_a_half_goes_to_its_even_neighbour_and_both_ends_are_clipped():
    x = np.array([[0.25, 0.75, 1.25, -0.25, -0.75, 0.26, 7.4, 7.5, 9, -99, 3e38, -0.0]])
    found = reference.quantize(quantize(scale=2.0, message_bits=4), x)
    assert found.tolist() == [[0, 2, 2, 0, -2, 1, 15, 15, 15, -15, 15, 0]]
    assert found.dtype == np.int64


def test_samples_are_what_the_file_takes_of_them():
    """float32: the next smaller float64 of 0.25 is the same sample, and rounds alike."""
    below = np.nextafter(0.25, 0)
    op = quantize(scale=6.0)
    assert reference.quantize(op, np.array([[below, 0.25, 1e300, -1e300]])).tolist() == [[2, 2, 15, -15]]


def test_a_scale_for_each_channel():
    op = quantize(scale=np.array([1.0, 10.0]).reshape(2, 1, 1))
    assert op.output_shape((2, 1, 2)) == (2, 1, 2)
    assert reference.quantize(op, np.full((1, 2, 1, 2), 0.7)).tolist() == [[[[1, 1]], [[7, 7]]]]


def test_currents_become_real_values():
    y = reference.dequantize(dequantize(scale=[0.5, 0.25], bias=[1.0, -1.0]), np.array([[3, -2]]))
    assert y.tolist() == [[2.5, -1.5]]
    assert reference.dequantize(Dequantize(name="y", inputs=("fc",), scale=2.0), np.array([[3]])).tolist() == [[6]]


def test_a_network_by_hand():
    """x * 10 = 6: current 48 > 5 fires at every step; its answer is 8 * 0.5 - 1 a step."""
    g = graph(quantize(), linear("in", "q"), lif("in"), linear(), dequantize(), readout="y")
    trace = reference.run(g, np.array([[0.6, 0.06, -0.6]]), ("spikes", "u"))
    assert trace.u["lif"][0, 0].tolist() == [48 * 64, 8 * 64, -48 * 64]
    assert trace.output.tolist() == [[6.0, 6.0, -2.0]]


def test_the_graph_says_how_large_and_which():
    g = image_network()
    assert g.integers["q"] == 7
    assert "y" not in g.integers
    assert "y" not in g.currents
    assert not g.is_spikes("q")
    text = to_text(g)
    assert f"Quantize(x): scale {g.ops[0].scale.min():g}..{g.ops[0].scale.max():g}, integers of 3 bits" in text
    assert f"Dequantize(fc): scale {g.ops[-1].scale.min():g}..{g.ops[-1].scale.max():g}, bias " in text


# -- refused by name -------------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: quantize(scale=0.0), "Quantize 'q': scale = 0, allowed > 0"),
    (lambda: quantize(scale=[1.0, -2.0]), "scale = -2, allowed > 0"),
    (lambda: quantize(scale=np.inf), "scale holds 1 NaN or infinite value"),
    (lambda: quantize(message_bits=0), "message_bits = 0, allowed 1..23"),
    (lambda: quantize(message_bits=24), "message_bits = 24, allowed 1..23"),
    (lambda: quantize(message_bits=4.0), "message_bits = 4.0, allowed an int"),
    (lambda: dequantize(scale=-1.0), "Dequantize 'y': scale = -1, allowed > 0"),
    (lambda: dequantize(bias=np.nan), "bias holds 1 NaN"),
    (lambda: graph(quantize(scale=[1.0, 2.0]), lif()), "scale.shape = (2,), allowed what broadcasts to (3,)"),
    (
        lambda: graph(quantize(scale=np.ones((2, 3))), lif()),
        "scale.shape = (2, 3), allowed what broadcasts to (3,)",
    ),
    (
        lambda: graph(quantize(), lif(), linear(), dequantize(bias=[1.0, 2.0]), readout="y"),
        "bias.shape = (2,), allowed what broadcasts to (3,)",
    ),
    (lambda: graph(quantize(), lif(), message_bits=4), "Quantize 'q': input = 'x', integers, allowed real values"),
    (
        lambda: graph(LIF(name="s", inputs=("x",), decay=0.5, v_threshold=1.0), quantize("s"), lif()),
        "Quantize 'q': input = 's', integers",
    ),
    (
        lambda: graph(Linear(name="fc", inputs=("x",), weight=np.eye(3)), quantize("fc"), lif()),
        "Quantize 'q': input = 'fc', a computed value, allowed the graph's input, as it is or flattened",
    ),
    (
        lambda: graph(AvgPool2d(name="p", inputs=("x",), kernel=(2, 2), stride=(2, 2)), quantize("p"), lif(),
                      shape=(1, 4, 4)),
        "Quantize 'q': input = 'p', a computed value",
    ),
    (lambda: graph(quantize(), lif(), dequantize("q"), readout="y"), "Dequantize 'y': input = 'q', allowed a current"),
    (lambda: graph(quantize(), lif(), dequantize("lif"), readout="y"), "Dequantize 'y': input = 'lif', allowed a curr"),
    (lambda: graph(quantize(), lif(), dequantize("x"), readout="y"), "Dequantize 'y': input = 'x', allowed a current"),
    (
        lambda: graph(quantize(), lif(), linear(), LI(name="li", inputs=("fc",), decay=0.5), readout="li"),
        "a current of Loihi's synapses, allowed real values or spikes (and no loop without neurons). "
        "Put a LoihiLIF or a Dequantize between",
    ),
    (
        lambda: graph(quantize(), lif(), linear(), dequantize(), linear("again", "y"), readout="again"),
        "LoihiLinear 'again': input = 'y', real-valued, allowed integers",
    ),
    (
        lambda: graph(quantize(message_bits=23), linear("in", "q"), lif("in")),
        "LoihiLinear 'in': largest possible |in| = 67108856, allowed 8388607",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("build", "said"), REFUSED)
def test_a_wrong_boundary_is_refused_in_one_line(build, said):
    with pytest.raises(RmpDeployError) as e:
        build()
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_real_valued_ops_may_follow():
    """A leaky readout of Loihi's answer, and a sum of two answers."""
    two = (linear("a"), dequantize("a", name="ya"), linear("b"), dequantize("b", name="yb", bias=0.0))
    g = graph(quantize(), lif(), *two, Add(name="sum", inputs=("ya", "yb")), LI(name="li", inputs=("sum",), decay=0.5),
              readout="li", rule="last")  # fmt: skip
    trace = reference.run(g, np.array([[0.6, 0.06, -0.6]]))  # the current of the first is 6 > 5
    assert trace.output.tolist() == [[10.5, -1.5, -1.5]]


# -- in the file -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    x=arrays.arrays(np.float32, (2, 8), elements=FLOATS),
    scale=st.floats(2**-20, 2**20, width=32),
    bits=st.integers(1, 23),
    halves=arrays.arrays(np.int64, (2, 8), elements=st.integers(-(2**12), 2**12)),
)
def test_onnx_runtime_rounds_and_clips_as_the_reference(x, scale, bits, halves):
    """Any float32, and what lies half way between two integers."""
    power = 2.0 ** np.rint(np.log2(scale))
    for scaled, at in ((scale, x), (power, ((halves + 0.5) / power).astype(np.float32))):
        g = graph(quantize(scale=scaled, message_bits=bits), lif(), shape=(8,), readout="q", rule="last")
        ours, theirs = (backends.run(g, at, name, ("u",)) for name in ("reference", "onnxruntime"))
        np.testing.assert_array_equal(ours.output, theirs.output)
        np.testing.assert_array_equal(ours.u["lif"], theirs.u["lif"])


def test_the_file_keeps_both_and_stock_onnx_runtime_runs_it(tmp_path):
    g = image_network()
    x = np.random.default_rng(4).normal(0.3, 0.7, (9, 2, 5, 5)).astype(np.float32)
    path = onnx_io.save(g, tmp_path / "net.onnx", golden=x[:3])
    onnx.checker.check_model(path, full_check=True)
    assert onnx_io.load(path) == g
    ours, theirs = (backends.run(g, x, name, ("spikes", "v", "u")) for name in ("reference", "onnxruntime"))
    (rung,) = climb(g, x, [ours, theirs])
    assert rung.holds
    assert rung.mismatches == 0
    assert 0.05 < ours.spikes["lif"].mean() < 0.95
    for what in ("spikes", "v", "u"):
        np.testing.assert_array_equal(getattr(ours, what)["lif"], getattr(theirs, what)["lif"])
    by_hand = np.array([reference.run(replace(g, readout=Readout("fc", "mean")), x).output])[0]
    np.testing.assert_allclose(ours.output, g.ops[-1].scale * by_hand + g.ops[-1].bias, rtol=1e-6, atol=1e-6)


def test_the_readout_is_judged_by_one_product_and_one_sum():
    """What float32 rounds of it is explained, ten times that is not; a sum over 7 steps rounds on."""
    g = image_network()
    x = np.random.default_rng(5).normal(0.3, 0.7, (6, 2, 5, 5)).astype(np.float32)
    theirs = backends.run(g, x, "onnxruntime", ("spikes", "v", "u"))
    judged = replay(g, x, theirs)
    error = np.abs(judged.output - theirs.output)
    assert (error <= judged.output_tolerance).all()
    assert error.max() > 0
    y = np.abs(judged.output).max()
    assert judged.output_tolerance.max() < 20 * EPS * max(y, 5)
    ours = backends.run(g, x, "reference", ("spikes", "v", "u"))
    (rung,) = climb(g, x, [ours, replace(theirs, output=theirs.output * (1 + 30 * EPS) + 30 * EPS)])
    assert not rung.output_holds


@pytest.mark.parametrize("flat", [False, True])
def test_graded_samples_may_be_flattened_before_or_after(flat):
    flatten = Flatten(name="flat", inputs=("x" if flat else "q",))
    ops = (flatten, quantize("flat")) if flat else (quantize(), flatten)
    g = graph(*ops, lif(ops[-1].name), shape=(1, 2, 2))
    x = np.array([0.44, 0.46, -3.0, 1.55], np.float32).reshape(1, 1, 2, 2)
    for backend in ("reference", "onnxruntime"):
        u = backends.run(g, x, backend, ("u",)).u["lif"]
        assert u[0, 0].tolist() == [4 * 64, 5 * 64, -15 * 64, 15 * 64]
