"""Counts against published micro-cases, hand-computed networks and a brute-force walk over every connection."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmp_deploy.analysis.counts import Counts, Spread, count, fan_out, twin
from rmp_deploy.analysis.ledger import measure
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear

RNG = np.random.default_rng(0)


def lif(name, source, decay=0.25, threshold=0.5):
    return LIF(
        name=name,
        inputs=(source,),
        decay=np.float32(decay),
        v_threshold=np.float32(threshold),
        v_reset=np.float32(0),
    )


def graph_of(*ops, shape, T=1, encoding="time_series"):
    return SpikingGraph("net", Input("x", shape, encoding), ops, Readout(ops[-1].name, "sum"), T)


def run(graph, x):
    return count(graph, reference.run(graph, x, record=["spikes"]), x)


def conv(c_in=1, c_out=1, k=(3, 3), bias=False, source="x", **kwargs):
    weight = RNG.normal(size=(c_out, c_in // kwargs.get("groups", 1), *k))
    return Conv2d(name="conv", inputs=(source,), weight=weight, bias=np.ones(c_out) if bias else None, **kwargs)


# --- published micro-cases (research notes G8, G12) -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixel", "stride", "ac"), [((0, 0), 1, 4), ((0, 1), 1, 6), ((1, 1), 1, 9), ((0, 0), 2, 1), ((1, 1), 2, 4)]
)
def test_one_spike_before_a_conv_costs_its_true_fan_out(pixel, stride, ac):
    graph = graph_of(conv(bias=True, padding=(1, 1), stride=(stride, stride)), lif("lif", "conv"), shape=(1, 4, 4))
    x = np.zeros((1, 1, 1, 4, 4))
    x[(0, 0, 0, *pixel)] = 1
    counts = run(graph, x)
    assert counts.totals["ac"] == ac
    assert counts.totals["mac"] == 0
    assert counts.totals["bias_add"] == (16 if stride == 1 else 4)
    assert counts.totals["neuron_active"] >= ac  # each of these synapses ends at another neuron
    assert counts.layers[0].input == "spikes"


@pytest.mark.parametrize(("stride", "with_padding", "without"), [(1, 144, 100), (2, 36, 25)])
def test_dense_macs_with_and_without_padding(stride, with_padding, without):
    op = conv(padding=(1, 1), stride=(stride, stride))
    graph = graph_of(op, lif("lif", "conv"), shape=(1, 4, 4), encoding="direct")
    dense = twin(graph)
    assert (dense.macs_with_padding, dense.macs) == (with_padding, without)
    assert run(graph, np.zeros((1, 1, 4, 4))).totals["mac"] == without  # zeros included: real values are not skipped


def linear_graph(encoding, T=1):
    fc = Linear(name="fc", inputs=("x",), weight=np.ones((3, 4)))
    return graph_of(fc, lif("lif", "fc"), shape=(4,), encoding=encoding, T=T)


def test_linear_spikes_are_accumulates():
    totals = run(linear_graph("time_series"), np.array([[[1, 0, 1, 0]]])).totals
    assert (totals["ac"], totals["mac"], totals["weight_read"], totals["bias_add"]) == (6, 0, 6, 0)


def test_linear_real_values_are_multiply_accumulates():
    counts = run(linear_graph("direct"), np.full((2, 4), 0.5))
    assert (counts.totals["ac"], counts.totals["mac"], counts.totals["weight_read"]) == (0, 24, 24)
    assert counts.layers[0].input == "real-valued"


def test_a_direct_input_is_recomputed_at_every_step():
    row = run(linear_graph("direct", T=5), np.full((2, 4), 0.5)).layers[0]
    assert (row.counts["mac"], row.mac_if_cached) == (120, 24)


def test_a_direct_input_of_zeros_and_ones_is_still_real_valued():
    assert run(linear_graph("direct"), np.ones((1, 4))).totals["mac"] == 12


def test_a_time_series_is_judged_sample_by_sample():
    graph = linear_graph("time_series", T=2)
    x = np.zeros((3, 2, 4))
    x[1, 0, 0] = 1
    x[2, 0, 0] = 0.5
    row = run(graph, x).layers[0]
    assert row.input == "mixed"
    assert (row.counts["ac"], row.counts["mac"], row.mac_if_cached) == (3, 24, 24)
    assert row.counts["neuron_active"] == 3 + 2 * 3  # sample 1 in one step, sample 2 in both


# --- a network counted by hand --------------------------------------------------------------------------------------


def test_a_small_network_by_hand():
    """Two inputs -> fc1 (bias) -> 2 IF -> fc2 -> 1 LIF, T = 3; every number below was worked out on paper."""
    fc1 = Linear(name="fc1", inputs=("x",), weight=np.eye(2), bias=np.zeros(2))
    fc2 = Linear(name="fc2", inputs=("lif1",), weight=np.ones((1, 2)))
    lif1, lif2 = lif("lif1", "fc1", decay=1.0), lif("lif2", "fc2", decay=0.25, threshold=1.5)
    graph = graph_of(fc1, lif1, fc2, lif2, shape=(2,), T=3)
    #                 step 0   step 1   step 2
    x = np.array([[[1, 0], [0, 0], [1, 1]]])  # lif1 copies it; lif2 sees 1, 0, 2 and fires in step 2
    counts = run(graph, x)
    first, second = counts.layers
    assert (first.layer, first.neurons, second.layer, second.neurons) == ("fc1", "lif1", "fc2", "lif2")
    nothing = dict.fromkeys(TERMS, 0)
    assert first.counts == nothing | {
        "mac": 0, "ac": 6, "bias_add": 6, "pool_add": 0, "neuron_active": 4, "neuron_inactive": 2,
        "neuron_multiply": 0, "neuron_add": 6, "neuron_compare": 6, "reset": 3, "spike": 3, "weight_read": 6,
        "state_read": 6, "state_write": 6,
    }  # fmt: skip
    assert second.counts == nothing | {
        "mac": 0, "ac": 3, "bias_add": 0, "pool_add": 0, "neuron_active": 2, "neuron_inactive": 1,
        "neuron_multiply": 3, "neuron_add": 3, "neuron_compare": 3, "reset": 1, "spike": 1, "weight_read": 3,
        "state_read": 3, "state_write": 3,
    }  # fmt: skip
    assert (first.firing_rate, second.firing_rate) == (3 / 6, 1 / 3)
    assert counts.samples == 1
    assert counts.totals["ac"] == 9


def test_a_neuron_may_spike_without_input_and_is_active():
    fc = Linear(name="fc", inputs=("x",), weight=np.ones((2, 1)), bias=np.array([1.0, 0.0]))
    totals = run(graph_of(fc, lif("lif", "fc"), shape=(1,), T=4), np.zeros((1, 4, 1))).totals
    assert (totals["spike"], totals["neuron_active"], totals["neuron_inactive"]) == (4, 4, 4)


def test_decay_per_neuron_needs_a_multiply_only_between_0_and_1():
    fc = Linear(name="fc", inputs=("x",), weight=np.ones((3, 1)))
    neurons = lif("lif", "fc", decay=np.array([0.0, 0.5, 1.0]))
    totals = run(graph_of(fc, neurons, shape=(1,), T=2), np.ones((5, 2, 1))).totals
    assert (totals["neuron_multiply"], totals["neuron_add"], totals["neuron_compare"]) == (10, 20, 30)


# --- pools, flattening, unusual shapes of graphs --------------------------------------------------------------------


def test_an_unfolded_pool_makes_the_next_layer_multiply():
    pool = AvgPool2d(name="pool", inputs=("lif0",), kernel=(2, 2), stride=(2, 2))
    conv2 = conv(source="pool", c_out=3, padding=(1, 1))
    graph = graph_of(lif("lif0", "x"), pool, conv2, lif("lif", "conv"), shape=(1, 4, 4), T=2)
    x = np.zeros((1, 2, 1, 4, 4))
    x[0, 0, 0, 0, 0] = 1
    counts = run(graph, x)
    alone, row = counts.layers
    assert (alone.layer, alone.neurons, alone.input) == ("lif0", "lif0", "spikes")
    assert (alone.counts["neuron_active"], alone.counts["spike"], alone.counts["pool_add"]) == (1, 1, 0)
    assert (row.layer, row.neurons, row.input) == ("conv", "lif", "real-valued")
    assert row.counts["pool_add"] == 2 * 4 * 3
    assert row.counts["mac"] == row.mac_if_cached == 2 * 3 * 16  # not constant: nothing to cache
    assert row.counts["ac"] == 0
    assert row.counts["neuron_active"] == 2 * 12


def test_a_pool_between_a_conv_and_its_neurons_passes_events_on():
    pool = AvgPool2d(name="pool", inputs=("conv",), kernel=(2, 2), stride=(2, 2))
    graph = graph_of(conv(k=(1, 1)), pool, Flatten(name="flat", inputs=("pool",)), lif("lif", "flat"), shape=(1, 5, 4))
    x = np.zeros((1, 1, 1, 5, 4))
    x[0, 0, 0, 3, 1] = 1
    x[0, 0, 0, 4, 3] = 1  # in the dropped border: it reaches the conv, but no neuron
    (row,) = run(graph, x).layers
    assert (row.layer, row.neurons) == ("conv", "lif")
    assert (row.counts["ac"], row.counts["pool_add"], row.counts["neuron_active"]) == (2, 12, 1)


def test_spikes_stay_spikes_through_flatten():
    ops = (
        conv(c_out=2, padding=(1, 1)),
        lif("lif1", "conv"),
        Flatten(name="flat", inputs=("lif1",)),
        Linear(name="fc", inputs=("flat",), weight=RNG.normal(size=(5, 32))),
    )
    graph = graph_of(*ops, shape=(1, 4, 4), T=3, encoding="direct")
    x = RNG.normal(size=(2, 1, 4, 4))
    trace = reference.run(graph, x, record=["spikes"])
    first, readout = count(graph, trace, x).layers
    assert (first.input, readout.input) == ("real-valued", "spikes")
    assert readout.counts["ac"] == 5 * int(trace.spikes["lif1"].sum())
    assert (readout.neurons, readout.firing_rate) == (None, None)
    without = count(graph, trace)  # a direct input's samples are not needed, but to know which are 0
    assert set(without.layers[0].activity) == {"input_elements"}
    assert replace(without.layers[0], activity=first.activity) == first
    assert without.layers[1] == readout


def test_two_populations_behind_one_synapse_get_two_rows():
    graph = graph_of(conv(k=(1, 1)), lif("a", "conv"), lif("b", "conv"), shape=(1, 2, 2), T=2)
    counts = run(graph, np.ones((1, 2, 1, 2, 2)))
    assert [(row.layer, row.neurons) for row in counts.layers] == [("conv", "a"), ("b", "b")]
    assert counts.totals["neuron_active"] == 16
    assert counts.totals["ac"] == 8


def test_the_twin_of_a_pooled_network_pools_before_it_multiplies():
    pool = AvgPool2d(name="pool", inputs=("lif0",), kernel=(2, 2), stride=(2, 2))
    graph = graph_of(lif("lif0", "x"), pool, conv(source="pool"), lif("lif", "conv"), shape=(1, 8, 8))
    assert [(row.layer, row.macs, row.macs_with_padding) for row in twin(graph).layers] == [("conv", 36, 36)]


# --- brute force ----------------------------------------------------------------------------------------------------

KERNELS = [
    {"c_in": 2, "c_out": 4, "k": (3, 3), "padding": (1, 1), "groups": 2},
    {"c_in": 1, "c_out": 2, "k": (3, 2), "stride": (2, 3), "padding": (2, 0)},
    {"c_in": 3, "c_out": 3, "k": (2, 2), "dilation": (2, 3), "padding": (1, 2), "groups": 3},
    {"c_in": 4, "c_out": 2, "k": (1, 3), "stride": (3, 1), "dilation": (1, 2), "groups": 1},
    {"c_in": 2, "c_out": 2, "k": (1, 1), "stride": (2, 2), "padding": (3, 3)},  # outputs that see only padding
    {"c_in": 1, "c_out": 1, "k": (7, 6)},  # one output
]


def walk(op, shape, spikes):
    """Visit every connection one by one: dense with padding, dense without, accumulates, neurons reached."""
    c_out, h_out, w_out = op.output_shape(shape)
    c_group, kh, kw = op.weight.shape[1:]
    padded = dense = ac = 0
    reached = set()
    for o, h, w in itertools.product(range(c_out), range(h_out), range(w_out)):
        for c, i, j in itertools.product(range(c_group), range(kh), range(kw)):
            channel = (o // (c_out // op.groups)) * c_group + c
            y = h * op.stride[0] + i * op.dilation[0] - op.padding[0]
            x = w * op.stride[1] + j * op.dilation[1] - op.padding[1]
            padded += 1
            if 0 <= y < shape[1] and 0 <= x < shape[2]:
                dense += 1
                if spikes[channel, y, x]:
                    ac += 1
                    reached.add((o, h, w))
    return padded, dense, ac, len(reached)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6, 1.0])
def test_convolutions_against_a_walk_over_all_connections(kernel, rate):
    op = conv(**kernel)
    shape = (kernel["c_in"], 7, 6)
    graph = graph_of(op, lif("lif", "conv", threshold=1e9), shape=shape, T=2)  # silent: active = reached
    spikes = RNG.random((2, 2, *shape)) < rate
    counts = run(graph, spikes).totals
    walked = [walk(op, shape, step) for sample in spikes for step in sample]
    assert counts["ac"] == sum(w[2] for w in walked)
    assert counts["neuron_active"] == sum(w[3] for w in walked)
    assert counts["mac"] == 0
    dense = twin(graph)
    assert (dense.macs_with_padding, dense.macs) == walked[0][:2]
    assert fan_out(op, shape).sum() == dense.macs
    real = graph_of(op, lif("lif", "conv", threshold=1e9), shape=shape, T=2, encoding="direct")
    reachable = walk(op, shape, np.ones(shape))[3]
    totals = run(real, np.full((3, *shape), 0.5)).totals
    assert (totals["mac"], totals["neuron_active"]) == (3 * 2 * dense.macs, 3 * 2 * reachable)


# --- invariants -----------------------------------------------------------------------------------------------------


@st.composite
def cases(draw):
    """A random two-layer network, its samples and its spikes (any spikes: counting must not depend on dynamics)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    T, n, groups = draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.sampled_from([1, 2]))
    first = Conv2d(
        name="conv",
        inputs=("x",),
        weight=rng.normal(size=(2 * groups, 2 // groups, *draw(st.tuples(st.integers(1, 3), st.integers(1, 3))))),
        bias=rng.normal(size=2 * groups) if draw(st.booleans()) else None,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
    )
    shape = (2, 6, 5)
    width = int(np.prod(first.output_shape(shape)))
    ops = (
        first,
        lif("lif1", "conv"),
        Flatten(name="flat", inputs=("lif1",)),
        Linear(name="fc", inputs=("flat",), weight=rng.normal(size=(3, width))),
        lif("lif2", "fc"),
    )
    graph = graph_of(*ops, shape=shape, T=T)
    x = rng.random((n, T, *shape)) < 0.3
    trace = reference.run(graph, x, record=["spikes"])
    return graph, x, trace


def part(trace, indices):
    return replace(trace, output=trace.output[indices], spikes={k: s[indices] for k, s in trace.spikes.items()})


@settings(max_examples=25, deadline=None)
@given(cases(), st.data())
def test_counts_add_up_and_never_fall_with_another_spike(case, data):
    graph, x, trace = case
    whole = count(graph, trace, x)
    n = len(x)

    # additive over samples and over any split
    cut = data.draw(st.integers(1, n - 1))
    head, tail = np.arange(cut), np.arange(cut, n)
    assert count(graph, part(trace, head), x[head]) + count(graph, part(trace, tail), x[tail]) == whole
    order = np.arange(n)[::-1]
    assert count(graph, part(trace, order), x[order]) == whole

    # rows sum to the totals; the invariants of one row
    for term in TERMS:
        assert whole.totals[term] == sum(row.counts[term] for row in whole.layers)
    for row, neurons in zip(whole.layers, ("lif1", "lif2"), strict=True):
        c = row.counts
        assert set(c) == set(TERMS)
        assert all(type(value) is int and value >= 0 for value in c.values())
        assert c["neuron_active"] + c["neuron_inactive"] == trace.spikes[neurons].size == c["neuron_compare"]
        assert c["spike"] == c["reset"] == trace.spikes[neurons].sum() <= c["neuron_active"]
        assert c["weight_read"] == c["ac"] + c["mac"]
        assert row.firing_rate == pytest.approx(trace.spikes[neurons].mean())

    # one more spike anywhere
    name = data.draw(st.sampled_from(["lif1", "lif2"]))
    louder = trace.spikes[name].copy()
    louder.flat[data.draw(st.integers(0, louder.size - 1))] = True
    more = count(graph, replace(trace, spikes={**trace.spikes, name: louder}), x)
    for before, after in zip(whole.layers, more.layers, strict=True):
        for term in set(TERMS) - {"neuron_inactive"}:
            assert after.counts[term] >= before.counts[term], term
        assert after.counts["neuron_inactive"] <= before.counts["neuron_inactive"]


def test_silence_costs_updates_only():
    graph = linear_graph("time_series", T=3)
    totals = run(graph, np.zeros((2, 3, 4))).totals
    assert {term for term, n in totals.items() if n} == {
        "neuron_inactive", "neuron_multiply", "neuron_add", "neuron_compare", "state_read", "state_write",
    }  # fmt: skip


# --- errors ---------------------------------------------------------------------------------------------------------


def one_line(info):
    message = str(info.value)
    assert "\n" not in message
    return message


def test_a_trace_without_spikes_is_refused():
    graph = linear_graph("direct")
    with pytest.raises(RmpDeployError, match=r"LIF 'lif': spikes in the trace = none.*Run with record") as info:
        count(graph, reference.run(graph, np.ones((1, 4))))
    one_line(info)


def test_a_trace_of_another_length_is_refused():
    graph, longer = linear_graph("direct", T=2), linear_graph("direct", T=3)
    trace = reference.run(longer, np.ones((1, 4)), record=["spikes"])
    with pytest.raises(RmpDeployError, match=r"LIF 'lif': spikes in the trace = \(1, 3, 3\), allowed \(1, 2, 3\)"):
        count(graph, trace)


def test_a_time_series_needs_its_samples():
    graph = linear_graph("time_series")
    trace = reference.run(graph, np.ones((2, 1, 4)), record=["spikes"])
    with pytest.raises(RmpDeployError, match=r"samples = none, allowed \(2, 1, 4\)") as info:
        count(graph, trace)
    one_line(info)
    with pytest.raises(RmpDeployError, match=r"N = 3, allowed 2"):
        count(graph, trace, np.ones((3, 1, 4)))
    with pytest.raises(RmpDeployError, match=r"shape = \(2, 4\)"):
        count(graph, trace, np.ones((2, 4)))


def test_an_empty_trace_is_refused():
    graph = linear_graph("direct")
    trace = reference.run(graph, np.ones((1, 4)), record=["spikes"])
    with pytest.raises(RmpDeployError, match="samples = 0"):
        count(graph, part(trace, []))


def test_batch_norm_must_be_folded():
    ones = np.ones(1)
    norm = BatchNorm(name="bn", inputs=("conv",), gamma=ones, beta=ones, mean=ones, var=ones, eps=1e-5)
    graph = graph_of(conv(), norm, lif("lif", "bn"), shape=(1, 4, 4))
    x = np.zeros((1, 1, 1, 4, 4))
    with pytest.raises(RmpDeployError, match=r"BatchNorm 'bn': counting rule = none.*fold_batchnorm") as info:
        run(graph, x)
    one_line(info)
    assert twin(graph).macs == 36  # an ANN folds it as well


def test_what_is_not_counted_is_said_before_the_run():
    ones = np.ones(3)
    fc = Linear(name="fc", inputs=("x",), weight=np.ones((3, 4)))
    norm = BatchNorm(name="bn", inputs=("lif",), gamma=ones, beta=ones, mean=ones, var=ones, eps=1e-5)
    graph = graph_of(fc, lif("lif", "fc"), norm, shape=(4,))
    with pytest.raises(RmpDeployError, match=r"^BatchNorm 'bn': counting rule = none, allowed .*fold_batchnorm"):
        measure(graph, lambda _: pytest.fail("it was run"), [])


def test_fan_out_is_of_a_synaptic_op():
    with pytest.raises(RmpDeployError, match="LIF 'lif': fan-out = none"):
        fan_out(lif("lif", "x"), (3,))


def test_counts_of_different_networks_do_not_add():
    a, b = run(linear_graph("direct"), np.ones((1, 4))), run(linear_graph("direct", T=2), np.ones((1, 4)))
    with pytest.raises(RmpDeployError, match="Add counts of one network") as info:
        a + b
    one_line(info)
    assert isinstance(a + a, Counts)
    assert (a + a).samples == 2


@pytest.mark.parametrize("size", [1, 5])
def test_counts_of_other_sizes_do_not_add(size):
    """Spikes of one neuron would spread over the four of the first shard."""
    counts = run(linear_graph("direct"), np.ones((1, 4)))
    row = counts.layers[0]
    of_size = replace(counts, layers=(replace(row, neuron_spikes=np.zeros(size, np.int64)),))
    with pytest.raises(RmpDeployError, match=rf"neurons of layer 'fc' = {size}, allowed 3") as info:
        counts + of_size
    one_line(info)


def test_counts_of_no_samples_are_refused():
    with pytest.raises(RmpDeployError, match="counts: samples = 0, allowed >= 1") as info:
        Counts(0, 1, ())
    one_line(info)
    with pytest.raises(RmpDeployError, match="spread: samples = 0, allowed >= 1") as info:
        Spread(0, 0, 0).std(0, 0)
    one_line(info)
