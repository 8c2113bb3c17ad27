"""Checks without a run: the bounds hold for every run, and each finding names what a run would show."""

from __future__ import annotations

import itertools
import tracemalloc
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy.analysis.bounds import BOUNDS, largest_u
from rmp_deploy.analysis.checks import CHECKS, dead_ends, lava_depth, silent_neurons, synaptic_depths, unequal_depths
from rmp_deploy.converters.lava import compat
from rmp_deploy.ir import reference
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
    Flatten,
    Linear,
    MaxPool2d,
    SumPool2d,
)
from rmp_deploy.passes.balance_latency import relays


def lif(name, source, decay=0.5, v_threshold=1.0, **changes):
    return LIF(name=name, inputs=(source,), decay=decay, v_threshold=v_threshold, **changes)


def linear(name, source, weight, bias=None):
    return Linear(name=name, inputs=(source,), weight=np.array(weight, np.float32), bias=bias)


def graph(*ops, shape=(2,), readout=None, T=3):
    return SpikingGraph("g", Input("x", shape, "time_series"), ops, Readout(readout or ops[-1].name, "sum"), T)


def second_layer(weight, bias=None, T=3, kind=LIF, **neuron):
    """Two neurons that copy a 0/1 input, then neurons under test."""
    copy = linear("copy", "x", np.eye(2)), lif("in", "copy", decay=0.0, v_threshold=0.5)
    given = {"decay": 0.5, "v_threshold": 1e9, **neuron}
    return graph(*copy, linear("fc", "in", weight, bias), kind(name="out", inputs=("fc",), **given), T=T)


@pytest.mark.parametrize(
    ("weight", "bias", "decay", "T", "largest"),
    [
        ([[0.25, 0.5]], None, 0.0, 3, 0.75),
        ([[0.25, 0.5]], None, 0.5, 3, 0.75 * 1.75),  # 1 + 1/2 + 1/4
        ([[0.25, 0.5]], None, 1.0, 3, 0.75 * 3),  # IF: every step adds
        ([[0.25, -0.5]], [0.125], 0.5, 2, 0.375 * 1.5),  # the negative synapse stays quiet
        ([[-0.25, -0.5]], [-0.125], 0.5, 3, -0.125),  # the least bad is the first step of silence
    ],
)
def test_the_largest_potential_by_hand_and_by_trying_every_input(weight, bias, decay, T, largest):
    g = second_layer(weight, bias, T=T, decay=decay)
    assert largest_u(g)["out"] == pytest.approx(largest, rel=1e-11)
    every = np.array(list(itertools.product([0.0, 1.0], repeat=2 * T))).reshape(-1, T, 2)
    assert reference.run(g, every, ("u",)).u["out"].max() == pytest.approx(largest, rel=1e-11)


def test_a_synaptic_current_adds_its_own_gain():
    g = second_layer([[0.25, 0.5]], kind=CubaLIF, current_decay=0.5)
    every = np.array(list(itertools.product([0.0, 1.0], repeat=6))).reshape(-1, 3, 2)
    reached = reference.run(g, every, ("u",)).u["out"].max()
    assert reached <= largest_u(g)["out"][0] <= 1.4 * reached  # an upper bound: the gains are taken one by one


def test_every_op_keeps_the_bounds():
    """Real-valued first layer, then every op between spikes and the next neurons; large inputs fire everything."""
    rng = np.random.default_rng(3)

    def weight(*shape):
        return rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))

    norm = {"gamma": [1.5, -0.5, 1, 2], "beta": [0.1, 0, -0.2, 0.3], "mean": [0.1, 0.2, 0, -0.1], "var": [1, 2, 0.5, 1]}
    g = graph(
        Conv2d(name="c1", inputs=("x",), weight=weight(4, 1, 3, 3), padding=(1, 1)),
        lif("s1", "c1", v_threshold=0.3),
        Conv2d(name="c2", inputs=("s1",), weight=weight(4, 2, 3, 3), bias=weight(4, 1)[:, 0], padding=(1, 1), groups=2),
        BatchNorm(name="bn", inputs=("c2",), eps=1e-5, **norm),
        lif("s2", "bn", v_threshold=0.4),
        MaxPool2d(name="or", inputs=("s2",), kernel=(2, 2), stride=(2, 2)),
        AvgPool2d(name="mean", inputs=("s2",), kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
        SumPool2d(name="count", inputs=("s1",), kernel=(2, 2), stride=(2, 2)),
        Add(name="add", inputs=("mean", "count")),
        Concat(name="cat", inputs=("or", "add")),
        Flatten(name="flat", inputs=("cat",)),
        Delay(name="before", inputs=("s3",), steps=1, shape=(5,)),
        linear("own", "before", weight(5, 5)),
        linear("fc", "flat", weight(5, 72) / 3),
        Add(name="both", inputs=("fc", "own")),
        CubaLIF(name="s3", inputs=("both",), decay=rng.uniform(0, 1, 5), current_decay=0.3, v_threshold=1.5),
        Delay(name="late", inputs=("fc",), steps=2, shape=(5,)),
        LI(name="li", inputs=("late",), decay=0.9),
        linear("mix", "li", weight(5, 5)),  # of values of both signs
        lif("s4", "mix", decay=1.0, v_threshold=4.0, reset="soft"),
        shape=(1, 6, 6),
        T=5,
    )  # fmt: skip
    bounds = largest_u(g)
    assert list(bounds) == ["s2", "s3", "s4"]  # s1 reads real values: no bounds
    x = np.concatenate([rng.normal(0, scale, (60, 5, 1, 6, 6)) for scale in (0.3, 3, 30)])
    trace = reference.run(g, x, ("u", "spikes"))
    for name, bound in bounds.items():
        fired = np.cumsum(trace.spikes[name], axis=1) - trace.spikes[name]
        u = np.where(fired == 0, trace.u[name], -np.inf).max(axis=(0, 1))  # up to each neuron's first spike
        assert (u <= bound).all()
        assert (u > 0.05 * bound).mean() > 0.4, name  # and the bounds say something


def test_a_map_of_one_axis_has_bounds_too():
    conv = Conv1d(name="c", inputs=("in",), weight=np.array([[[0.5, -1.0, 0.25]]]), padding=(1,))
    g = graph(lif("in", "x", decay=0.0, v_threshold=0.5), conv, lif("out", "c", decay=0.0), shape=(1, 4))
    np.testing.assert_array_equal(largest_u(g)["out"], [[0.25, 0.75, 0.75, 0.5]])  # the borders see two taps


@pytest.mark.parametrize("lowest", [0.0, -1.5])
@pytest.mark.parametrize("seed", range(6))
def test_the_bounds_of_a_convolution_are_what_its_definition_gives_at_the_worst_input(lowest, seed):
    """Each output's largest value, from the reference fed with the ends that the signs of its own weights ask for."""
    rng = np.random.default_rng(seed)
    groups, stride, padding, dilation = (int(rng.integers(low, 3)) for low in (1, 1, 0, 1))
    size, geometry = (7, 6), {k: (v, v) for k, v in (("stride", stride), ("padding", padding), ("dilation", dilation))}
    weight, bias = rng.normal(size=(4, 2, 3, 2)), rng.normal(size=4)
    conv = Conv2d(name="c", inputs=("x",), weight=weight, bias=bias, groups=groups, **geometry)
    low, high = np.full((2 * groups, *size), lowest), rng.integers(0, 2, (2 * groups, *size)).astype(np.float64)
    found = BOUNDS[Conv2d](conv, 1, np.stack([low, high]))
    positive, negative = (replace(conv, weight=clip(weight, 0), bias=None) for clip in (np.maximum, np.minimum))
    at_low, at_high = ([reference.conv2d(part, x[None])[0] for part in (positive, negative)] for x in (low, high))
    offset = conv.bias.astype(np.float64)[:, None, None]
    np.testing.assert_allclose(found[0], at_low[0] + at_high[1] + offset, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[1], at_high[0] + at_low[1] + offset, rtol=1e-12, atol=1e-12)


def test_bounds_hold_only_the_values_that_are_read_later():
    """Sixty layers in a row need the memory of a few, beside the bounds that are asked for."""
    n, layers = 20_000, 60
    sources = ("s", *(f"p{i}" for i in range(layers - 1)))
    pools = (AvgPool2d(name=f"p{i}", inputs=(s,), kernel=(1, 1), stride=(1, 1)) for i, s in enumerate(sources))
    g = graph(lif("s", "x", decay=0.0), *pools, lif("out", f"p{layers - 1}"), shape=(1, 100, n // 100))
    tracemalloc.start()
    bounds = largest_u(g)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(bounds["out"], 1.75, rtol=1e-11)  # 1 + 1/2 + 1/4
    assert peak < 12 * bounds["out"].nbytes  # an interval is twice that; all of them 120 times


def test_silent_neurons_are_named_and_stay_silent_downstream():
    g = second_layer([[0.5, 0.5], [2.0, 0.0], [-1.0, -1.0]], decay=0.0, v_threshold=1.0)
    after = (linear("fc2", "out", [[3.0, 0.0, 3.0], [0.0, 3.0, 0.0]]), lif("next", "fc2"))
    g = replace(g, ops=(*g.ops, *after), readout=Readout("next", "sum"))
    first, second = silent_neurons(g)
    assert first.message == (
        "LIF 'out': 2 of 3 neurons never fire; largest possible u of neuron (0,) = 1, allowed > v_threshold = 1. "
        "Look at its weights and its threshold, or remove them."
    )  # 0.5 + 0.5 is not strictly above 1
    assert (first.check, first.severity, first.op) == ("silent", "warning", "out")
    assert "1 of 2 neurons never fire; largest possible u of neuron (0,) = 0," in second.message
    every = np.array(list(itertools.product([0.0, 1.0], repeat=6))).reshape(-1, 3, 2)
    spikes = reference.run(g, every, ("spikes",)).spikes
    assert spikes["out"].any(axis=(0, 1)).tolist() == [False, True, False]
    assert spikes["next"].any(axis=(0, 1)).tolist() == [False, True]
    lower = second_layer([[0.5, 0.5]], decay=0.0, v_threshold=np.nextafter(np.float32(1), np.float32(0)))
    assert list(silent_neurons(lower)) == []


def test_what_does_not_lead_to_the_readout_is_a_dead_end():
    g = second_layer([[1.0, 1.0]])
    g = replace(g, ops=(*g.ops, linear("aside", "in", [[1.0, 1.0]]), lif("quiet", "aside")))
    found = {f.op: f.message for f in dead_ends(g)}
    assert found == {
        "aside": "Linear 'aside': readers = ['quiet'], allowed what leads to the readout 'out'. Remove it.",
        "quiet": "LIF 'quiet': readers = [], allowed what leads to the readout 'out'. Remove it.",
    }


def test_depths_count_synapses_and_unequal_ones_are_named():
    ops = (
        linear("fc1", "x", np.eye(2)),
        lif("s1", "fc1"),
        Delay(name="before", inputs=("s2",), steps=1, shape=(2,)),
        linear("own", "before", np.eye(2)),
        linear("fc2", "s1", np.eye(2)),
        Add(name="recurrent", inputs=("fc2", "own")),
        lif("s2", "recurrent"),
        Add(name="residual", inputs=("s2", "s1")),
        linear("fc3", "residual", np.eye(2)),
    )
    g = graph(*ops)
    depth = synaptic_depths(g)
    assert depth == {"x": 0, "fc1": 1, "s1": 1, "fc2": 2, "recurrent": 2, "s2": 2, "residual": 2, "fc3": 3}
    (found,) = unequal_depths(g)
    assert found.message == (
        "LIF 's1': steps that its spikes wait = 1, allowed 0 where each synapse takes a step [lava]. "
        "There, relays hold them (passes.balance_latency)."
    )
    assert lava_depth(g) == 3


def maps(*ops):
    """Spikes 'l1' of a 2 x 4 x 4 map, then `ops` up to 'a', then a convolution and neurons."""
    first, last = conv("c1", "x"), conv("c3", "a")
    return graph(first, lif("l1", "c1"), *ops, last, lif("l3", "c3"), shape=(2, 4, 4))


def conv(name, source):
    weight = np.random.default_rng(len(name)).normal(size=(2, 2, 3, 3))
    return Conv2d(name=name, inputs=(source,), weight=weight, padding=(1, 1))


OR = MaxPool2d(name="p", inputs=("l1",), kernel=(3, 3), stride=(1, 1), padding=(1, 1))
JOINS = {  # what joins, who waits how long, how deep all of it is
    "an OR pool is neurons": (
        (OR, conv("c2", "l1"), lif("l2", "c2"), Add(name="a", inputs=("p", "l2"))),
        {},
        3,
    ),
    "an OR pool and what it pools": ((OR, Add(name="a", inputs=("p", "l1"))), {"l1": 1}, 3),
    "a shortcut to a current": (
        (conv("c2", "l1"), Add(name="s", inputs=("c2", "l1")), lif("a", "s")),
        {},
        3,
    ),
    "the host waits for free": (
        (conv("c2", "x"), conv("cc", "l1"), Add(name="s", inputs=("c2", "cc")), lif("a", "s")),
        {},
        3,
    ),
}


@pytest.mark.parametrize("case", JOINS)
def test_who_waits_and_how_deep_a_network_is_are_what_lava_runs(case):
    ops, waits, depth = JOINS[case]
    g = maps(*ops)
    assert {f.op: int(f.message.split(" = ")[1].split(",")[0]) for f in unequal_depths(g)} == waits == relays(g)
    assert lava_depth(g) == depth
    pytest.importorskip("lava")
    compat.import_lava()
    from rmp_deploy.converters.lava.network import build

    with ExitStack() as files:
        assert build(g, np.zeros((2, 3, 2, 4, 4)), (), files).n_steps == 2 * g.T + depth


def test_what_lava_cannot_have_is_as_deep_as_its_synapses():
    g = graph(linear("fc", "x", np.eye(2)), Delay(name="late", inputs=("fc",), steps=1, shape=(2,)), lif("out", "late"))
    assert (lava_depth(g), list(unequal_depths(g))) == (None, [])
    assert max(synaptic_depths(g).values()) == 1


def test_in_a_network_that_works_only_a_border_neuron_is_found(convnet, images):
    """Bias and few taps: zero padding leaves the neuron at the border too little to ever fire."""
    g = convnet()
    (found,) = (f for check in CHECKS for f in check(g))
    assert "LIF 'lif2': 1 of 96 neurons never fire; largest possible u of neuron (2, 3, 0)" in found.message
    spikes = reference.run(g, images(200), ("spikes",)).spikes["lif2"]
    assert not spikes[..., 2, 3, 0].any()
    assert spikes.any(axis=(0, 1)).sum() > 50
