"""Folding pools changes where the arithmetic happens and not what the neurons see."""

from __future__ import annotations

import numpy as np
import pytest

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, AvgPool2d, Conv2d, Flatten, Linear
from rmp_deploy.passes.fold_pool import fold_pool


def agree(a, b, x, v_error):
    left, right = (reference.run(g, x, ("spikes", "v")) for g in (a, b))
    for name, spikes in left.spikes.items():
        assert 0.02 < spikes.mean() < 0.98
        np.testing.assert_array_equal(spikes, right.spikes[name])
        np.testing.assert_allclose(left.v[name], right.v[name], atol=v_error)
    np.testing.assert_allclose(left.output, right.output, atol=v_error)


@pytest.mark.parametrize("seed", range(5))
def test_folded_pools_give_the_same_spikes_and_binary_inputs(convnet, images, seed):
    graph = convnet(seed)
    folded = fold_pool(graph)
    assert not folded.of_type(AvgPool2d)
    assert all(folded.is_spikes(op.inputs[0]) for op in folded.of_type(Conv2d, Linear) if op.inputs[0] != "x")
    agree(graph, folded, images(), 1e-6)


def test_a_pool_on_a_shortcut_folds_into_the_identity_that_it_is():
    rng = np.random.default_rng(4)
    graph = SpikingGraph(
        "g",
        Input("x", (2, 8, 6), "direct"),
        (
            Conv2d(name="c1", inputs=("x",), weight=rng.normal(size=(4, 2, 3, 3)) / 3, padding=(1, 1)),
            LIF(name="l1", inputs=("c1",), decay=0.25, v_threshold=0.4),
            AvgPool2d(name="p1", inputs=("l1",), kernel=(2, 2), stride=(2, 2)),
            Conv2d(name="c2", inputs=("p1",), weight=rng.normal(size=(4, 4, 3, 3)) / 5, padding=(1, 1)),
            Add(name="add", inputs=("c2", "p1")),
            LIF(name="l2", inputs=("add",), decay=0.25, v_threshold=0.4),
        ),
        Readout("l2", "mean"),
        T=3,
    )
    folded = fold_pool(graph)
    identity = folded.by_name["add_identity"]
    assert folded.by_name["add"].inputs == ("c2", "add_identity")
    assert (identity.groups, identity.stride, identity.inputs) == (4, (2, 2), ("l1",))
    np.testing.assert_array_equal(identity.weight, np.full((4, 1, 2, 2), 0.25))
    agree(graph, folded, rng.random((4, 2, 8, 6)), 1e-6)


def test_pools_of_pools_and_strided_padded_convolutions_fold():
    rng = np.random.default_rng(3)
    graph = SpikingGraph(
        "g",
        Input("x", (2, 12, 24), "direct"),
        (
            Conv2d(name="c1", inputs=("x",), weight=rng.normal(size=(4, 2, 3, 3)) / 3, padding=(1, 1)),
            LIF(name="l1", inputs=("c1",), decay=0.25, v_threshold=0.4, v_reset=0.0),
            AvgPool2d(name="p1", inputs=("l1",), kernel=(3, 2), stride=(3, 2)),
            AvgPool2d(name="p2", inputs=("p1",), kernel=(1, 2), stride=(1, 2)),
            Conv2d(
                name="c2", inputs=("p2",), weight=rng.normal(size=(4, 2, 3, 2)), stride=(2, 1), padding=(1, 1), groups=2
            ),
            LIF(name="l2", inputs=("c2",), decay=0.25, v_threshold=0.1, v_reset=0.0),
            Flatten(name="f", inputs=("l2",)),
            Linear(name="fc", inputs=("f",), weight=rng.normal(size=(3, 56))),
        ),
        Readout("fc", "mean"),
        3,
    )  # fmt: skip
    folded = fold_pool(graph)
    conv = folded.by_name["c2"]
    assert conv.weight.shape[2:] == (9, 8)
    assert (conv.stride, conv.padding) == ((6, 4), (3, 4))
    agree(graph, folded, rng.random((4, 2, 12, 24)), 1e-6)


def pooled(shape=(1, 4, 4), kernel=(2, 2), stride=(2, 2), after=None, readout="fc"):
    n = (shape[1] // stride[0]) * (shape[2] // stride[1])
    tail = after or (
        Flatten(name="f", inputs=("pool",)),
        Linear(name="fc", inputs=("f",), weight=np.ones((2, n))),
    )
    neuron = LIF(name="lif", inputs=("x",), decay=0.5, v_threshold=0.5, v_reset=0.0)
    pool = AvgPool2d(name="pool", inputs=("lif",), kernel=kernel, stride=stride)
    return SpikingGraph("g", Input("x", shape, "direct"), (neuron, pool, *tail), Readout(readout, "mean"), 2)


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (lambda: pooled(kernel=(2, 2), stride=(1, 1), after=(Flatten(name="f", inputs=("pool",)),), readout="f"),
         "stride = (1, 1), allowed kernel = (2, 2)"),
        (lambda: pooled(shape=(1, 5, 4)), "map = (5, 4), allowed multiples of kernel = (2, 2)"),
        (lambda: pooled(
            after=(LIF(name="l2", inputs=("pool",), decay=0.5, v_threshold=0.5, v_reset=0.0),), readout="l2"
        ), "reader = LIF 'l2'"),
        (lambda: pooled(after=(Flatten(name="f", inputs=("pool",)),), readout="f"), "readout = 'f'"),
        (lambda: pooled(after=(
            Conv2d(name="c", inputs=("pool",), weight=np.ones((1, 1, 2, 2)), dilation=(1, 1), padding=(1, 1)),
            Conv2d(name="d", inputs=("pool",), weight=np.ones((1, 1, 2, 2)), dilation=(2, 2), padding=(1, 1)),
        ), readout="c"), "reader 'd' has dilation = (2, 2)"),
    ],
)  # fmt: skip
def test_a_pool_that_cannot_fold_exactly_is_refused_by_name(graph, said):
    with pytest.raises(RmpDeployError) as e:
        fold_pool(graph())
    assert str(e.value).startswith("AvgPool2d 'pool': ")
    assert said in str(e.value)
