"""A graph that exists is valid: every way to build a wrong one is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph, describe, to_text
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
    Flatten,
    Linear,
    MaxPool2d,
    SumPool2d,
)


def lif(name="lif", source="fc", **changes):
    return LIF(**{"name": name, "inputs": (source,), "decay": 0.5, "v_threshold": 1.0, "v_reset": 0.0, **changes})


def linear(name="fc", source="x", n_in=3, n_out=2, **changes):
    return Linear(**{"name": name, "inputs": (source,), "weight": np.ones((n_out, n_in)), **changes})


def graph(*ops, shape=(3,), readout="lif", T=2, **changes):
    given = {"name": "g", "input": Input("x", shape, "direct"), "ops": ops, "readout": Readout(readout, "mean"), "T": T}
    return SpikingGraph(**{**given, **changes})


WRONG_OPS = [
    (lambda: linear(weight=np.full((2, 3), np.nan)), "Linear 'fc': weight holds 6 NaN or infinite values"),
    (lambda: linear(bias=np.array([np.inf, 0])), "bias holds 1 NaN or infinite value,"),
    (lambda: linear(weight=np.ones(3)), "weight.ndim = 1"),
    (lambda: linear(bias=np.zeros(3)), "bias.shape = (3,), allowed (2,)"),
    (lambda: lif(decay=1.5), "decay = 1.5..1.5, allowed 0..1"),
    (lambda: lif(decay=-0.1), "decay = -0.1"),
    (lambda: lif(reset="none"), "reset = 'none', allowed 'hard' or 'soft'"),
    (lambda: Conv2d(name="c", inputs=("x",), weight=np.ones((2, 1, 3))), "weight.ndim = 3"),
    (lambda: Conv2d(name="c", inputs=("x",), weight=np.ones((2, 1, 3, 3)), stride=(0, 1)), "stride = (0, 1)"),
    (lambda: Conv2d(name="c", inputs=("x",), weight=np.ones((2, 1, 3, 3)), padding=(-1, 0)), "padding = (-1, 0)"),
    (lambda: Conv2d(name="c", inputs=("x",), weight=np.ones((3, 1, 3, 3)), groups=2), "groups = 2"),
    (lambda: AvgPool2d(name="p", inputs=("x",), kernel=(0, 2), stride=(2, 2)), "kernel = (0, 2)"),
    (lambda: BatchNorm(name="b", inputs=("x",), gamma=[1], beta=[1], mean=[1], var=[-1], eps=1e-5), "var + eps"),
    (lambda: BatchNorm(name="b", inputs=("x",), gamma=[1], beta=[1, 2], mean=[1], var=[1], eps=1e-5), "shapes"),
    (lambda: linear(name=""), "name = ''"),
    (lambda: Linear(name="fc", inputs=("x", "y"), weight=np.ones((2, 3))), "inputs = 2, allowed 1"),
]
WRONG_GRAPHS = [
    (lambda: graph(linear(), lif(), T=0), "T = 0, allowed 1..65535"),
    (lambda: graph(linear(), lif(), dt=-1e-3), "dt = -0.001, allowed > 0 [s]"),
    (lambda: graph(linear(), lif(), readout="nobody"), "readout value = 'nobody'"),
    (lambda: graph(linear(), readout="fc"), "LIF ops = 0"),
    (lambda: graph(linear(), lif(), lif()), "LIF 'lif': name is used twice"),
    (lambda: graph(lif(), linear()), "LIF 'lif': input = 'fc', allowed a value made before it"),
    (lambda: graph(linear(n_in=4), lif()), "Linear 'fc': input shape = (3,), allowed (4,)"),
    (lambda: graph(linear(), lif(v_threshold=np.ones(3))), "v_threshold.shape = (3,), allowed what broadcasts to (2,)"),
    (lambda: graph(linear(), lif(v_threshold=np.ones((2, 1)))), "v_threshold.shape = (2, 1)"),
    (lambda: graph(linear(name="a/b"), lif(source="a/b")), "name = 'a/b'"),
    (lambda: graph(linear(name="output"), lif(source="output")), "name = 'output'"),
    (lambda: graph(linear(), lif(), shape=()), "input shape = ()"),
    (lambda: graph(linear(), lif(), input=Input("x", (3,), "rate")), "encoding = 'rate'"),
    (lambda: graph(linear(), lif(), readout="lif").__class__(
        "g", Input("x", (3,), "direct"), (linear(), lif()), Readout("lif", "max"), 2), "readout = 'max'"),
    (lambda: graph(Conv2d(name="c", inputs=("x",), weight=np.ones((1, 1, 5, 5))), lif(source="c"), shape=(1, 3, 3)),
     "input map = (3, 3), allowed at least (5, 5)"),
    (lambda: graph(Conv2d(name="c", inputs=("x",), weight=np.ones((1, 2, 1, 1))), lif(source="c"), shape=(1, 3, 3)),
     "input shape = (1, 3, 3), allowed (2, H, W)"),
    (lambda: graph(AvgPool2d(name="p", inputs=("x",), kernel=(4, 4), stride=(4, 4)), lif(source="p"), shape=(1, 3, 3)),
     "input map = (3, 3), allowed at least kernel = (4, 4)"),
    (lambda: graph(linear(), lif(), Add(name="a", inputs=("lif",))), "Add 'a': inputs = 1, allowed 2 or more"),
    (lambda: graph(linear(), lif(), Add(name="a", inputs=("lif", "x"))), "input shapes = [(2,), (3,)], allowed equal"),
    (lambda: graph(Delay(name="d", inputs=("lif",), steps=0, shape=(2,)), linear(), lif()), "steps = 0"),
    (lambda: graph(Delay(name="d", inputs=("lif",), steps=1, shape=(3,)), linear(), lif()),
     "Delay 'd': input shape = (2,), allowed shape = (3,)"),
    (lambda: graph(Delay(name="d", inputs=("nobody",), steps=1, shape=(3,)), linear(), lif()), "input = 'nobody'"),
    (lambda: graph(MaxPool2d(name="m", inputs=("x",), kernel=(2, 2), stride=(2, 2)), lif(source="m"), shape=(1, 4, 4)),
     "MaxPool2d 'm': input = 'x', allowed spikes"),
    (lambda: graph(Conv1d(name="c", inputs=("x",), weight=np.ones((1, 1, 3))), lif(source="c"), shape=(1, 2)),
     "input map = (2,), allowed at least (3,)"),
    (lambda: graph(SumPool2d(name="p", inputs=("x",), kernel=(2, 2), stride=(2, 2), padding=(2, 0)), lif(source="p")),
     "padding = (2, 0), allowed at most half of kernel"),
    (lambda: graph(CubaLIF(name="l", inputs=("x",), current_decay=2.0, decay=0.5, v_threshold=1.0, v_reset=0.0)),
     "CubaLIF 'l': current_decay = 2..2, allowed 0..1"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "said"), WRONG_OPS + WRONG_GRAPHS)
def test_a_wrong_network_is_refused_in_one_line(build, said):
    with pytest.raises(RmpDeployError) as e:
        build()
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_ops_compare_by_value_and_cannot_change():
    weight = np.ones((2, 3), np.float32)
    a, b = linear(weight=weight), linear(weight=weight.copy())
    assert a == b
    assert a != linear(weight=weight + 1)
    assert a != linear(bias=np.zeros(2))
    weight[0, 0] = 7  # the op has its own copy
    assert a == b
    with pytest.raises(ValueError, match="read-only"):
        a.weight[0, 0] = 7


def test_graph_answers_who_feeds_whom(convnet):
    g = convnet()
    assert g.shapes["conv1"] == (4, 8, 8)
    assert g.shapes["pool2"] == (6, 2, 2)
    assert [op.name for op in g.consumers("lif1")] == ["pool1"]
    assert [op.name for op in g.sources("fc")] == ["fc", "flatten", "pool2", "lif2"]
    assert g.is_spikes("lif1")
    assert not g.is_spikes("pool1")
    assert not g.is_spikes("x")
    flat = replace(g, ops=(*g.ops[:2], Flatten(name="f", inputs=("lif1",))), readout=Readout("f", "sum"))
    assert flat.is_spikes("f")


def test_describe_names_the_parameters(convnet):
    said = {op.name: describe(op) for op in convnet().ops}
    assert said["fc"] == "24 -> 5 + bias"
    assert said["pool1"] == "kernel 2x2, stride 2x2"
    assert said["lif1"].startswith("decay 0.25, v_threshold 0.")


def recurrent():
    """A recurrent layer: spikes come back one step later through their own synapse."""
    return graph(
        linear("w", n_out=4),
        Delay(name="before", inputs=("lif",), steps=1, shape=(4,)),
        linear("back", "before", n_in=4, n_out=4, bias=np.zeros(4)),
        Add(name="current", inputs=("w", "back")),
        lif(source="current"),
        Delay(name="late", inputs=("lif",), steps=3, shape=(4,)),
        Concat(name="both", inputs=("lif", "late")),
        linear("out", "both", n_in=8),
        LI(name="v", inputs=("out",), decay=0.9),
        readout="v",
        T=8,
        dt=1e-3,
    )


def test_a_recurrent_graph_knows_its_spikes():
    g = recurrent()
    assert [name for name in g.shapes if g.is_spikes(name)] == ["before", "lif", "late", "both"]
    assert [op.name for op in g.sources("current")] == ["current", "w", "back", "before", "lif"]


def test_the_text_form():
    assert (
        to_text(recurrent())
        == """\
graph g: T = 8, dt = 0.001 s
input x (3,): direct
w (4,) = Linear(x): 3 -> 4
before (4,) = Delay(lif): 1 step
back (4,) = Linear(before): 4 -> 4 + bias
current (4,) = Add(w, back)
lif (4,) = LIF(current): decay 0.5, v_threshold 1, reset to 0
late (4,) = Delay(lif): 3 steps
both (8,) = Concat(lif, late)
out (2,) = Linear(both): 8 -> 2
v (2,) = LI(out): decay 0.9
output = mean of v over T steps
"""
    )
