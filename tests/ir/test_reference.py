"""The reference is the definition: checked by hand and against torch, which we did not write."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmp_deploy.errors import RmpDeployError
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


def one_neuron(T: int, reset: str = "hard", v_reset: float = 0.0, weight: float = 1.0) -> SpikingGraph:
    synapse = Linear(name="fc", inputs=("x",), weight=[[weight]])
    neuron = LIF(name="lif", inputs=("fc",), decay=0.5, v_threshold=1.0, v_reset=v_reset, reset=reset)
    return SpikingGraph("one", Input("x", (1,), "time_series"), (synapse, neuron), Readout("lif", "sum"), T)


def test_hard_reset_by_hand():
    # u: 0.75, .375+.75=1.125 (spike, v=0), 0.75, 1.125 (spike)
    trace = reference.run(one_neuron(4), np.full((1, 4, 1), 0.75), record=("spikes", "u", "v"))
    assert trace.u["lif"].ravel().tolist() == [0.75, 1.125, 0.75, 1.125]
    assert trace.spikes["lif"].ravel().tolist() == [False, True, False, True]
    assert trace.v["lif"].ravel().tolist() == [0.75, 0.0, 0.75, 0.0]
    assert trace.output.tolist() == [[2.0]]


def test_soft_reset_by_hand():
    # u: 0.75, 1.125 (spike, v=.125), .0625+.75=.8125, .40625+.75=1.15625 (spike)
    trace = reference.run(one_neuron(4, "soft"), np.full((1, 4, 1), 0.75), record=("u", "v"))
    assert trace.u["lif"].ravel().tolist() == [0.75, 1.125, 0.8125, 1.15625]
    assert trace.v["lif"].ravel().tolist() == [0.75, 0.125, 0.8125, 0.15625]


def test_hard_reset_to_another_value():
    trace = reference.run(one_neuron(3, v_reset=-0.5), np.full((1, 3, 1), 1.5), record=("u", "v"))
    assert trace.u["lif"].ravel().tolist() == [1.5, 1.25, 1.25]
    assert trace.v["lif"].ravel().tolist() == [-0.5, -0.5, -0.5]


def test_the_threshold_is_strict():
    """u equal to the threshold does not fire; the next float above it does."""
    exact = reference.run(one_neuron(1), np.array([[[1.0]]]), record=("spikes",))
    above = reference.run(one_neuron(1), np.array([[[np.nextafter(1.0, 2.0)]]]), record=("spikes",))
    assert not exact.spikes["lif"].any()
    assert above.spikes["lif"].all()


def test_current_based_lif_by_hand():
    """i: 1, .5, .25, .125; u: 1, .5+.5=1, .25... the current goes on while a spike resets v alone."""
    synapse = Linear(name="fc", inputs=("x",), weight=[[1.0]])
    neuron = CubaLIF(name="n", inputs=("fc",), current_decay=0.5, decay=0.5, v_threshold=0.9, v_reset=0.0)
    graph = SpikingGraph("g", Input("x", (1,), "time_series"), (synapse, neuron), Readout("n", "sum"), 4)
    trace = reference.run(graph, np.array([[[1.0], [0.0], [0.0], [0.5]]]), record=("spikes", "u", "v"))
    # i = 1, .5, .25, .625; v = 0 after the spike of step 0
    assert trace.u["n"].ravel().tolist() == [1.0, 0.5, 0.5, 0.875]
    assert trace.spikes["n"].ravel().tolist() == [True, False, False, False]
    assert trace.v["n"].ravel().tolist() == [0.0, 0.5, 0.5, 0.875]


def test_leaky_integrator_and_delay_by_hand():
    ops = (
        LIF(name="lif", inputs=("x",), decay=0.0, v_threshold=0.5, v_reset=0.0),
        Delay(name="late", inputs=("lif",), steps=2, shape=(1,)),
        LI(name="v", inputs=("late",), decay=0.5),
    )
    graph = SpikingGraph("g", Input("x", (1,), "time_series"), ops, Readout("v", "last"), 5)
    x = np.array([1.0, 1.0, 0.0, 1.0, 0.0]).reshape(1, 5, 1)
    # spikes 1 1 0 1 0 arrive as 0 0 1 1 0; v = 0, 0, 1, 1.5, .75
    assert reference.run(graph, x).output.tolist() == [[0.75]]


def test_a_recurrent_edge_by_hand():
    """A neuron that inhibits itself: u = x - 2 s[t-1]; it fires at every other step."""
    ops = (
        Delay(name="before", inputs=("lif",), steps=1, shape=(1,)),
        Linear(name="back", inputs=("before",), weight=[[-2.0]]),
        Add(name="sum", inputs=("x", "back")),
        LIF(name="lif", inputs=("sum",), decay=0.0, v_threshold=0.5, v_reset=0.0),
    )
    graph = SpikingGraph("g", Input("x", (1,), "direct"), ops, Readout("lif", "sum"), 5)
    trace = reference.run(graph, np.array([[1.0]]), record=("spikes", "u"))
    assert trace.u["lif"].ravel().tolist() == [1.0, -1.0, 1.0, -1.0, 1.0]
    assert trace.output.tolist() == [[3.0]]


def test_direct_encoding_repeats_the_sample(convnet, images):
    """A static image fed directly equals the same image given at every step."""
    graph, x = convnet(pools=False), images()
    series = SpikingGraph("s", Input("x", (2, 8, 8), "time_series"), graph.ops, graph.readout, graph.T)
    repeated = np.repeat(x[:, None], graph.T, axis=1)
    a, b = (reference.run(g, data, ("spikes",)) for g, data in ((graph, x), (series, repeated)))
    assert a.spikes["lif2"].any()
    assert not a.spikes["lif2"].all()
    for name in a.spikes:
        np.testing.assert_array_equal(a.spikes[name], b.spikes[name])
    np.testing.assert_array_equal(a.output, b.output)


@pytest.mark.parametrize(("rule", "expected"), [("mean", 2.0), ("sum", 6.0), ("last", 3.0)])
def test_readout_rules(rule, expected):
    values = np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    assert reference.read_out(Readout("x", rule), values).tolist() == [[expected]]


@settings(max_examples=60, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    seed=st.integers(0, 2**32 - 1),
)
def test_convolution_is_torchs(groups, kernel, stride, padding, dilation, seed):
    rng = np.random.default_rng(seed)
    op = Conv2d(
        name="c", inputs=("x",), weight=rng.normal(size=(8, 4 // groups, *kernel)), bias=rng.normal(size=8),
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    x = rng.normal(size=(2, 4, 7, 9))
    wanted = torch.nn.functional.conv2d(
        torch.from_numpy(x), torch.from_numpy(op.weight.astype(float)), torch.from_numpy(op.bias.astype(float)),
        stride, padding, dilation, groups,
    )  # fmt: skip
    found = reference.conv2d(op, x)
    assert op.output_shape((4, 7, 9)) == found.shape[1:] == tuple(wanted.shape[1:])
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12, atol=1e-12)


def test_one_dimensional_convolution_is_torchs():
    rng = np.random.default_rng(0)
    options = {"stride": (2,), "padding": (3,), "dilation": (2,), "groups": 2}
    op = Conv1d(name="c", inputs=("x",), weight=rng.normal(size=(6, 2, 3)), bias=rng.normal(size=6), **options)
    x = rng.normal(size=(2, 4, 11))
    parameters = [torch.from_numpy(p.astype(float)) for p in (op.weight, op.bias)]
    wanted = torch.nn.functional.conv1d(torch.from_numpy(x), *parameters, **options).numpy()
    assert op.output_shape((4, 11)) == wanted.shape[1:]
    np.testing.assert_allclose(reference.conv1d(op, x), wanted, rtol=1e-12, atol=1e-12)


def test_padded_pools_are_torchs():
    spikes = (np.random.default_rng(0).random((3, 4, 7, 6)) < 0.3).astype(float)
    options = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1)}
    arguments = (torch.from_numpy(spikes), *options.values())
    average = torch.nn.functional.avg_pool2d(*arguments).numpy()
    largest = torch.nn.functional.max_pool2d(*arguments).numpy()
    ops = {kind: kind(name="p", inputs=("x",), **options) for kind in (AvgPool2d, SumPool2d, MaxPool2d)}
    assert {op.output_shape((4, 7, 6)) for op in ops.values()} == {average.shape[1:]}
    np.testing.assert_allclose(reference.avg_pool2d(ops[AvgPool2d], spikes), average, rtol=1e-12)
    np.testing.assert_allclose(reference.sum_pool2d(ops[SumPool2d], spikes), average * 6, rtol=1e-12)
    np.testing.assert_array_equal(reference.max_pool2d(ops[MaxPool2d], spikes), largest)


def test_add_and_concat():
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(2, n, 4, 4)) for n in (3, 3, 5))
    np.testing.assert_array_equal(reference.add(Add(name="s", inputs=("a", "b", "a")), a, b, a), a + b + a)
    joined = reference.concat(Concat(name="c", inputs=("a", "c")), a, c)
    np.testing.assert_array_equal(joined, torch.cat([torch.from_numpy(a), torch.from_numpy(c)], 1).numpy())


def test_pool_norm_and_linear_are_torchs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 7, 6))
    pool = AvgPool2d(name="p", inputs=("x",), kernel=(2, 3), stride=(2, 1))
    wanted = torch.nn.functional.avg_pool2d(torch.from_numpy(x), (2, 3), (2, 1)).numpy()
    np.testing.assert_allclose(reference.avg_pool2d(pool, x), wanted, rtol=1e-12)
    assert pool.output_shape((4, 7, 6)) == wanted.shape[1:]

    gamma, beta, mean = (rng.normal(size=4) for _ in range(3))
    norm = BatchNorm(name="b", inputs=("x",), gamma=gamma, beta=beta, mean=mean, var=rng.uniform(0.1, 2, 4), eps=1e-3)
    parameters = [torch.from_numpy(p.astype(float)) for p in (norm.mean, norm.var, norm.gamma, norm.beta)]
    wanted = torch.nn.functional.batch_norm(torch.from_numpy(x), *parameters, eps=norm.eps).numpy()
    np.testing.assert_allclose(reference.batch_norm(norm, x), wanted, rtol=1e-12, atol=1e-12)

    flat = reference.flatten(Flatten(name="f", inputs=("x",)), x)
    np.testing.assert_array_equal(flat, torch.from_numpy(x).flatten(1).numpy())
    linear = Linear(name="l", inputs=("x",), weight=rng.normal(size=(5, 168)), bias=rng.normal(size=5))
    wanted = flat @ linear.weight.astype(float).T + linear.bias
    np.testing.assert_allclose(reference.linear(linear, flat), wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((3, 8, 8)), "shape = (3, 8, 8), allowed (N, 2, 8, 8)"),
        (np.zeros((0, 2, 8, 8)), "shape = (0, 2, 8, 8)"),
        (np.full((1, 2, 8, 8), np.nan), "NaN"),
        (np.array([["a"]]), "dtype"),
    ],
)
def test_samples_that_do_not_fit_are_refused(convnet, x, said):
    with pytest.raises(RmpDeployError, match="samples") as e:
        reference.run(convnet(), x)
    assert said in str(e.value)


def test_samples_without_time_steps_are_to_be_encoded_and_not_reshaped(convnet):
    graph = convnet()
    graph = replace(graph, input=replace(graph.input, encoding="time_series"))
    with pytest.raises(RmpDeployError, match=r"It takes time steps: encode the samples \(encode_samples"):
        graph.check_samples(np.zeros((3, 2, 8, 8)))
    with pytest.raises(RmpDeployError, match=r"Reshape the data to the network's input \(time_series encoding\)"):
        graph.check_samples(np.zeros((3, 2, 8, 9)))
