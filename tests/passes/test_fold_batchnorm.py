"""Folding BatchNorm changes where the arithmetic happens and not what the neurons see; what cannot fold stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, AvgPool2d, BatchNorm, Concat, Conv1d, Conv2d, Flatten, Linear
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm, refusals


def agree(a, b, x, v_error=1e-5):
    left, right = (reference.run(g, x, ("spikes", "v")) for g in (a, b))
    for name, spikes in left.spikes.items():
        assert 0.02 < spikes.mean() < 0.98
        np.testing.assert_array_equal(spikes, right.spikes[name])
        np.testing.assert_allclose(left.v[name], right.v[name], atol=v_error)
    np.testing.assert_allclose(left.output, right.output, atol=v_error)


class Builder:
    """Ops with random parameters; a BatchNorm that changes every channel differently."""

    def __init__(self, seed, shape):
        self.rng, self.shape, self.ops = np.random.default_rng(seed), shape, []

    def add(self, op):
        self.ops.append(op)
        return op.name

    def weight(self, *shape):
        return self.rng.normal(size=shape) * 1.5 / np.sqrt(np.prod(shape[1:]))

    def norm(self, name, source, channels, shift=True):
        gamma, var = self.rng.uniform(0.5, 1.5, (2, channels))
        beta, mean = self.rng.normal(0.1, 0.3, (2, channels)) * shift
        p = {"gamma": gamma, "beta": beta, "mean": mean, "var": var, "eps": 1e-2}
        return self.add(BatchNorm(name=name, inputs=(source,), **p))

    def conv(self, name, source, c_in, c_out, padding=1, **options):
        weight, bias = self.weight(c_out, c_in, 3, 3), self.weight(c_out, 1)[:, 0] / 3
        return self.add(
            Conv2d(name=name, inputs=(source,), weight=weight, bias=bias, padding=(padding,) * 2, **options)
        )

    def lif(self, name, source):
        return self.add(LIF(name=name, inputs=(source,), decay=0.5, v_threshold=0.4))

    def linear(self, name, source, n_in, n_out):
        return self.add(Linear(name=name, inputs=(source,), weight=self.weight(n_out, n_in), bias=np.ones(n_out) / 9))

    def graph(self, value):
        return SpikingGraph("g", Input("x", self.shape, "direct"), tuple(self.ops), Readout(value, "mean"), 3)

    def samples(self, n=6):
        return self.rng.normal(0.3, 1, (n, *self.shape)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_into_the_synapse_before_it(convnet, images, seed):
    graph = convnet(seed, norms=True)
    folded = fold_batchnorm(graph)
    assert not folded.of_type(BatchNorm)
    assert [op.name for op in folded.ops] == [op.name for op in graph.ops if not isinstance(op, BatchNorm)]
    agree(graph, folded, images())


@pytest.mark.parametrize("seed", range(3))
def test_two_in_a_row_and_at_the_readout(seed):
    b = Builder(seed, (3, 9))
    weight = b.weight(4, 3, 3)
    b.norm("n2", b.norm("n1", b.add(Conv1d(name="c", inputs=("x",), weight=weight)), 4), 4)
    b.linear("fc", b.add(Flatten(name="f", inputs=(b.lif("l", "n2"),))), 28, 5)
    graph = b.graph(b.norm("n3", "fc", 5))
    folded = fold_batchnorm(graph)
    assert [op.name for op in folded.ops] == ["c", "l", "f", "fc"]
    assert folded.readout.value == "fc"
    agree(graph, folded, b.samples(), 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_through_a_sum_into_the_synapse_of_every_branch(seed):
    b = Builder(seed, (2, 6, 6))
    b.lif("l1", b.conv("c1", "x", 2, 4))
    weight = b.weight(4, 4, 1, 1)
    branches = (b.conv("c2", "l1", 4, 4), b.add(Conv2d(name="c3", inputs=("l1",), weight=weight)))
    inner = b.add(Add(name="inner", inputs=branches))
    b.add(Add(name="sum", inputs=(inner, b.conv("c4", "l1", 4, 4))))
    b.lif("l2", b.norm("n", "sum", 4))
    graph = b.graph("l2")
    folded = fold_batchnorm(graph)
    assert not folded.of_type(BatchNorm)
    assert folded.by_name["c3"].bias is None  # the sum is shifted once
    agree(graph, folded, b.samples())


@pytest.mark.parametrize("seed", range(3))
def test_behind_a_neuron_into_every_synapse_that_reads_it(seed):
    """Through pooling and Flatten to a Linear, into a grouped convolution, and behind a concatenation."""
    b = Builder(seed, (2, 8, 8))
    b.lif("l1", b.conv("c1", "x", 2, 4))
    b.add(Concat(name="cat", inputs=("l1", "l1")))
    b.norm("n", "cat", 8)
    b.lif("l2", b.conv("c2", "n", 2, 4, padding=0, groups=4))
    b.add(AvgPool2d(name="pool", inputs=("n",), kernel=(2, 2), stride=(2, 2)))
    b.lif("l3", b.linear("fc1", b.add(Flatten(name="f1", inputs=("pool",))), 128, 7))
    b.linear("fc2", b.add(Flatten(name="f2", inputs=("l2",))), 144, 7)
    graph = b.graph(b.add(Add(name="out", inputs=("fc2", "l3"))))
    folded = fold_batchnorm(graph)
    assert not folded.of_type(BatchNorm)
    assert folded.is_spikes(folded.by_name["c2"].inputs[0])
    agree(graph, folded, b.samples())


def test_on_the_input_into_the_first_synapse():
    b = Builder(0, (4,))
    b.lif("l", b.linear("fc", b.norm("n", "x", 4), 4, 6))
    graph = b.graph("l")
    assert not fold_batchnorm(graph).of_type(BatchNorm)
    agree(graph, fold_batchnorm(graph), b.samples(20))


def test_two_in_a_row_before_a_synapse_fold_one_after_the_other():
    b = Builder(0, (4,))
    b.lif("l", b.linear("fc", b.norm("n2", b.norm("n1", "x", 4), 4), 4, 6))
    graph = b.graph("l")
    folded = fold_batchnorm(graph)
    assert not folded.of_type(BatchNorm)
    assert list(refusals(graph)) == []
    assert fold_batchnorm(folded) is folded
    agree(graph, folded, b.samples(20))


def test_two_in_a_row_without_a_synapse_stay():
    b = Builder(0, (4,))
    b.lif("l", b.norm("n2", b.norm("n1", "x", 4), 4))
    graph = b.graph("l")
    assert fold_batchnorm(graph) is graph
    assert [op.name for op, _ in refusals(graph)] == ["n1", "n2"]


def test_not_through_a_padded_pool():
    """Its border averages zeros, where the BatchNorm would give its shift."""
    b = Builder(3, (2, 6, 6))
    b.lif("l1", b.conv("c1", "x", 2, 4))
    pool = AvgPool2d(name="pool", inputs=(b.norm("n", "l1", 4),), kernel=(2, 2), stride=(2, 2), padding=(1, 1))
    b.lif("l2", b.linear("fc", b.add(Flatten(name="f", inputs=(b.add(pool),))), 64, 7))
    graph = b.graph("l2")
    folded = fold_batchnorm(graph)
    assert [op.name for op in folded.of_type(BatchNorm)] == ["n"]
    ((_, error),) = refusals(graph)
    assert "reader = AvgPool2d 'pool'" in str(error)
    agree(graph, folded, b.samples())


@pytest.mark.parametrize("flat", [False, True])
def test_an_identity_shortcut_takes_the_gain_as_a_synapse(flat):
    """Of a sum with a current; the second Add sums spikes that others read too."""
    b = Builder(4, (6,) if flat else (2, 6, 6))
    spikes = [b.lif(f"l{i}", (b.linear(f"c{i}", "x", 6, 4) if flat else b.conv(f"c{i}", "x", 2, 4))) for i in (1, 2)]
    current = b.linear("c3", "l1", 4, 4) if flat else b.conv("c3", "l1", 4, 4)
    inner = b.add(Add(name="inner", inputs=(current, *spikes)))
    b.lif("l4", b.norm("n", b.add(Add(name="sum", inputs=("l1", inner))), 4))
    graph = b.graph("l4")
    folded = fold_batchnorm(graph)
    made = [op.name for op in folded.ops if op.name not in graph.by_name]
    assert made == ["inner_identity", "inner_identity2", "sum_identity"]
    assert not folded.of_type(BatchNorm)
    assert not list(refusals(graph))
    assert all(folded.by_name[name].bias is None for name in made if name != "sum_identity")
    agree(graph, folded, b.samples())


def test_a_padded_convolution_takes_the_gain_but_no_shift():
    """At the border it sees zeros, where the BatchNorm would give its shift."""
    for shift in (False, True):
        b = Builder(1, (2, 6, 6))
        b.lif("l1", b.conv("c1", "x", 2, 4))
        b.lif("l2", b.conv("c2", b.norm("n", "l1", 4, shift), 4, 4))
        graph = b.graph("l2")
        assert bool(fold_batchnorm(graph).of_type(BatchNorm)) == shift
        agree(graph, fold_batchnorm(graph), b.samples())
    ((op, error),) = refusals(graph)
    assert op.name == "n"
    assert "input = LIF 'l1'; Conv2d 'c2' pads zeros and the shift is not 0, allowed a synapse" in str(error)


def unfoldable(case):
    b = Builder(2, (2, 6, 6))
    b.conv("c1", "x", 2, 4)
    b.norm(
        "n",
        {"input": "x", "twice": b.add(Add(name="sum", inputs=("c1", "c1")))}.get(case, "c1"),
        2 + 2 * (case != "input"),
    )
    b.lif("l", "n")
    if case == "shared":
        b.lif("other", "c1")
    return b.graph({"readout": "c1", "last": "n"}.get(case, "l")), b.samples()


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("input", "input = the input of the network, 'x'; reader = LIF 'l'"),
        ("shared", r"readers of 'c1' = ['sum', 'n', 'other']; reader = LIF 'l'"),
        ("readout", r"readers of 'c1' = ['sum', 'n', 'the readout']"),
        ("twice", "Add 'sum' reads a value twice"),
    ],
)
def test_what_cannot_fold_exactly_stays_and_says_why(case, said):
    graph, x = unfoldable(case)
    folded = fold_batchnorm(graph)
    assert folded == graph
    ((op, error),) = refusals(graph)
    assert (op.name, str(error).splitlines()) == ("n", [str(error)])
    assert str(error).startswith("BatchNorm 'n': ")
    assert said in str(error)
    agree(graph, folded, x)


def test_ops_that_do_not_change_are_not_copied(convnet):
    graph = convnet(norms=True)
    folded = fold_batchnorm(graph)
    for name in ("fc", "flatten", "pool1"):
        assert folded.by_name[name] is graph.by_name[name]
    with pytest.raises(ValueError, match="read-only"):
        folded.by_name["conv1"].weight[0] = 0
    assert replace(graph) == graph
