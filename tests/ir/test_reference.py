"""The reference is the definition: checked by hand and against torch, which we did not write."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear


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
