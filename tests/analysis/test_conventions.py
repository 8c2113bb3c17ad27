"""Conventions: one run, counted by each, and every difference to our exact counts named."""

from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmp_deploy.analysis.conventions import CONVENTIONS, REASONS, Rule, Switches, apply
from rmp_deploy.analysis.conventions.switches import EXTRAS
from rmp_deploy.analysis.counts import count
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import TERMS
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Quantize

RNG = np.random.default_rng(0)


def lif(source, decay=0.5, threshold=0.5):
    return LIF(name=f"lif_{source}", inputs=(source,), decay=decay, v_threshold=threshold)


def graph_of(*ops, shape, T=3, encoding="direct"):
    return SpikingGraph("net", Input("x", shape, encoding), ops, Readout(ops[-1].name, "sum"), T)


def run(graph, x):
    return count(graph, reference.run(graph, x, record=["spikes"]), x)


def convnet(rng=RNG, encoding="direct", T=3, shortcut=False):
    """conv, neurons, conv (and a shortcut), neurons, Linear; a fifth of the weights is 0."""

    def weight(*shape):
        return rng.normal(size=shape) * (rng.random(shape) > 0.2)

    second = Conv2d(name="conv2", inputs=("lif_conv1",), weight=weight(4, 4, 3, 3), padding=(1, 1))
    joined = (Add(name="sum", inputs=("conv2", "lif_conv1")),) if shortcut else ()
    ops = (
        Conv2d(name="conv1", inputs=("x",), weight=weight(4, 2, 3, 3), bias=rng.normal(size=4), padding=(1, 1)),
        lif("conv1"),
        second,
        *joined,
        LIF(name="lif_2", inputs=("sum" if shortcut else "conv2",), decay=0.5, v_threshold=0.5),
        Flatten(name="flat", inputs=("lif_2",)),
        Linear(name="fc", inputs=("flat",), weight=weight(5, 4 * 25), bias=rng.normal(size=5)),
    )
    graph = graph_of(*ops, shape=(2, 5, 5), T=T, encoding=encoding)
    frames = (2, T, 2, 5, 5)
    x = rng.random(frames) < 0.4 if encoding == "time_series" else rng.normal(size=(2, 2, 5, 5))
    return graph, x.astype(np.float32)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), encoding=st.sampled_from(["direct", "time_series"]), shortcut=st.booleans())
def test_our_counts_and_the_named_differences_are_the_convention(seed, encoding, shortcut):
    graph, x = convnet(np.random.default_rng(seed), encoding, shortcut=shortcut)
    counts = run(graph, x)
    for convention in CONVENTIONS.values():
        ledger = apply(convention, graph, counts, mean_input=float(np.abs(x).mean()))
        for name, term in ledger.terms.items():
            assert term.count is not None, (convention.name, name, term.why)
            assert term.ours + sum(d.count for d in term.differences) == term.count
            assert all(d.reason and d.count and d.term == name for d in term.differences)
            ours = {q for q in convention.terms[name].quantities if q in TERMS}
            if ours == set(convention.terms[name].quantities):
                assert term.ours == Fraction(sum(counts.totals[q] for q in ours), counts.samples)


def test_without_switches_a_convention_is_our_count():
    graph, x = convnet(shortcut=True)
    counts = run(graph, x)
    ours = replace(CONVENTIONS["syops"], switches=Switches(), terms={term: Rule((term,)) for term in TERMS})
    ledger = apply(ours, graph, counts)
    assert {name: term.count * counts.samples for name, term in ledger.terms.items()} == counts.totals
    assert ledger.differences == ()
    assert ledger.joule_per_sample is None  # no price


def test_every_switch_and_every_extra_has_its_reason():
    for convention in CONVENTIONS.values():
        for switch in fields(Switches):
            value = getattr(convention.switches, switch.name)
            assert value == switch.default or (switch.name, value) in REASONS
        for rule in convention.terms.values():
            for quantity in rule.quantities:
                name = quantity.split()[-1]
                assert name in TERMS or name in EXTRAS or name in ("ac_convolution", "ac_dense")
        assert convention.source
        assert convention.left_out


def test_one_layer_by_hand():
    """Two spikes before a 3x3 convolution on 4x4, padding 1, bias: each convention's answer, on paper."""
    op = Conv2d(name="conv", inputs=("x",), weight=np.ones((2, 1, 3, 3)), bias=np.ones(2), padding=(1, 1))
    graph = graph_of(op, lif("conv", threshold=100), shape=(1, 4, 4), T=1, encoding="time_series")
    x = np.zeros((1, 1, 1, 4, 4))
    x[0, 0, 0, 0, 0] = x[0, 0, 0, 1, 1] = 1
    counts = run(graph, x)
    terms = {name: apply(convention, graph, counts).terms for name, convention in CONVENTIONS.items()}
    assert terms["neurobench"]["ac"].count == 2 * (4 + 9)
    assert terms["spikformer"]["ac"].count == Fraction(2, 16) * 2 * 9 * 16  # rate * dense
    assert [(d.reason, d.count) for d in terms["spikformer"]["ac"].differences] == [
        (REASONS["spikes", "rate"], Fraction(2, 16) * 2 * 100 - 26),
        (REASONS["padding", "in"], Fraction(2, 16) * 2 * (144 - 100)),
    ]
    assert terms["syops"]["ac"].count == Fraction(2, 16) * (2 * 144 + 32) + 32  # bias at the rate, neurons
    lemaire = terms["lemaire"]
    assert lemaire["ac"].count == 2 * 9 * 2 + 32  # the kernel of both spikes, biases
    assert lemaire["mac"].count == 32  # decays
    assert (lemaire["address_ac"].count, lemaire["address_mac"].count) == (36, 4)
    assert lemaire["memory_in_out"].count == 2
    assert lemaire["memory_parameters"].count == 36 + 32
    assert lemaire["memory_potentials"].count == 2 * (36 + 32)
    # queue of 1000 words; 18 weights and 2 biases; 32 potentials: all below 8 KiB, where a word is 10 pJ
    expected = [2 * 4000, 68 * 4 * 20, 136 * 4 * 32]
    names = ("memory_in_out", "memory_parameters", "memory_potentials")
    assert [lemaire[name].joule for name in names] == pytest.approx([n * 10e-12 / 8192 for n in expected])
    assert terms["kerasspiking"]["synapse"].count == Fraction(2, 16) * 2 * 144
    assert terms["kerasspiking-cpu"]["synapse"].count == 2 * 144
    assert terms["sanafe"]["synapse_conv"].joule == pytest.approx(26 * 24e-12)
    assert terms["sanafe"]["soma_access"].count == 32
    assert terms["yan2024"]["compare"].count == 32


def test_graded_spikes_are_what_each_convention_says():
    """Integers: messages to us and NeuroBench, dense to syops and SpikingJelly, spikes to the Spikformer family."""
    ops = Quantize(name="q", inputs=("x",), scale=10, message_bits=8), Flatten(name="flat", inputs=("q",))
    fc = Linear(name="fc", inputs=("flat",), weight=np.ones((3, 4)))
    graph = graph_of(*ops, fc, lif("fc"), shape=(1, 2, 2), T=2)
    counts = run(graph, np.array([[[[0.5, 0.0], [0.0, -0.3]]]], np.float32))
    terms = {name: apply(CONVENTIONS[name], graph, counts).terms for name in CONVENTIONS if name != "kerasspiking"}
    assert counts.totals["mac"] == terms["neurobench"]["mac"].count == 2 * 3 * 2
    assert terms["spikingjelly"]["mac"].count == terms["syops"]["mac"].count == 4 * 3 * 2
    assert (terms["spikformer"]["mac"].count, terms["spikformer"]["ac"].count) == (0, 2 * 3 * 2)
    assert {d.reason for d in apply(CONVENTIONS["spikformer"], graph, counts).differences} == {
        REASONS["graded", "spikes"]
    }


def test_kerasspiking_takes_the_mean_input_for_a_rate_and_is_unknown_without_it():
    graph, x = convnet()
    counts = run(graph, np.abs(x))
    ledger = apply(CONVENTIONS["kerasspiking"], graph, counts)
    assert ledger.terms["synapse"].count is ledger.terms["synapse"].joule is ledger.joule_per_sample is None
    assert "conv1" in ledger.terms["synapse"].why
    assert ledger.terms["neuron"].joule is not None
    known = apply(CONVENTIONS["kerasspiking"], graph, counts, mean_input=0.5)
    silent = apply(CONVENTIONS["kerasspiking"], graph, counts, mean_input=0)
    first = known.terms["synapse"].count - silent.terms["synapse"].count
    assert first == Fraction(1, 2000) * (4 * 2 * 9 * 25) * 3
    assert ("REASON", REASONS["real", "mean"]) in [("REASON", d.reason) for d in known.differences]


def test_a_real_layer_without_a_price_leaves_no_energy():
    """SANA-FE has no multiply-accumulates: the sum without them would be a lie."""
    graph, x = convnet()
    ledger = apply(CONVENTIONS["sanafe"], graph, run(graph, x))
    assert ledger.terms["mac"].count > 0
    assert ledger.terms["mac"].joule is ledger.joule_per_sample is None
    graph, x = convnet(encoding="time_series")
    ledger = apply(CONVENTIONS["sanafe"], graph, run(graph, x))
    assert ledger.joule_per_sample == pytest.approx(sum(t.joule for t in ledger.terms.values() if t.joule))


def test_what_a_convention_has_no_term_for_is_listed():
    graph, x = convnet()
    left_out = apply(CONVENTIONS["spikformer"], graph, run(graph, x)).left_out
    for term in ("bias_add", "neuron_active", "state_read", "spike"):
        assert any(f"({term})" in line for line in left_out)
    assert not any("(ac)" in line or "(mac)" in line for line in left_out)
    assert "memory" in left_out


def test_batch_norm_is_counted_on_the_network_as_designed():
    ones = np.ones(4)
    conv = Conv2d(name="conv", inputs=("x",), weight=np.ones((4, 2, 3, 3)), padding=(1, 1))
    norm = BatchNorm(name="bn", inputs=("conv",), gamma=ones, beta=ones, mean=ones, var=ones, eps=1e-5)
    designed = graph_of(conv, norm, lif("bn"), shape=(2, 5, 5))
    folded = graph_of(conv, lif("conv"), shape=(2, 5, 5))
    counts = run(folded, np.ones((2, 2, 5, 5)))
    for name, per_element in (("syops", 2), ("spikingjelly", 1)):
        with_it = apply(CONVENTIONS[name], folded, counts, designed=designed).terms["mac"]
        without = apply(CONVENTIONS[name], folded, counts).terms["mac"]
        assert with_it.count - without.count == per_element * 4 * 25 * 3
        assert with_it.differences[-1].reason == EXTRAS["batch_norm_element"]


def test_a_layer_behind_a_mean_pool_reads_real_values():
    ops = (
        Conv2d(name="conv", inputs=("x",), weight=RNG.normal(size=(2, 2, 3, 3))),
        lif("conv"),
        AvgPool2d(name="pool", inputs=("lif_conv",), kernel=(2, 2), stride=(2, 2)),
        Conv2d(name="second", inputs=("pool",), weight=RNG.normal(size=(2, 2, 1, 1))),
        lif("second"),
    )
    graph = graph_of(*ops, shape=(2, 6, 6), encoding="time_series")
    counts = run(graph, (RNG.random((2, 3, 2, 6, 6)) < 0.5).astype(np.float32))
    spikes = Fraction(counts.layers[0].counts["spike"], 2)
    syops = apply(CONVENTIONS["syops"], graph, counts)
    assert (EXTRAS["pool_event"], spikes) in [(d.reason, d.count) for d in syops.terms["ac"].differences]
    assert syops.terms["mac"].count == 2 * 2 * 2 * 2 * 3
    keras = apply(CONVENTIONS["kerasspiking"], graph, counts, mean_input=0.5)
    assert "second" in keras.terms["synapse"].why  # the mean of a pool is not the mean of the input


def test_counts_of_another_network_are_refused():
    graph, x = convnet()
    counts = run(graph, x)
    other = graph_of(Linear(name="other", inputs=("x",), weight=np.ones((2, 3))), lif("other"), shape=(3,))
    with pytest.raises(RmpDeployError, match="Count this graph"):
        apply(CONVENTIONS["syops"], other, counts)


@pytest.mark.parametrize("through", ["input", "flat"])
def test_what_the_host_adds_to_a_current_is_no_accumulate(through):
    """It is a residual add, element by element: nothing of it may be taken from what the synapse did."""
    weight = np.ones((4, 4))
    encoded = Input("x", (2, 2) if through == "flat" else (4,), "time_series", 0)
    flat = (Flatten(name="flat", inputs=("x",)),) if through == "flat" else ()
    source = "flat" if through == "flat" else "x"
    fc, add = Linear(name="fc", inputs=(source,), weight=weight), Add(name="add", inputs=("fc", source))
    graph = SpikingGraph("net", encoded, (*flat, fc, add, lif("add")), Readout("lif_add", "sum"), 3)
    x = (np.random.default_rng(1).random((2, 3, *encoded.shape)) < 0.5).astype(np.float32)
    counts, spikes = run(graph, x), int(x.sum())
    assert (counts.totals["ac"], counts.totals["residual_add"]) == (4 * spikes, spikes)
    for name in ("neurobench", "sanafe"):
        terms = apply(CONVENTIONS[name], graph, counts).terms
        synapses = [terms[key].count for key in ("ac", "synapse_conv", "synapse_dense") if key in terms]
        assert sum(synapses) == Fraction(4 * spikes, 2)
    assert apply(CONVENTIONS["spikingjelly"], graph, counts).terms["ac"].count == Fraction(4 * spikes, 2) + 3 * 4


def identity_net(written):
    """A shortcut around `fc2`: as an identity synapse, or as the spikes themselves."""
    weight = np.random.default_rng(2).normal(size=(4, 4))
    shortcut = (Linear(name="id", inputs=("lif_fc",), weight=np.eye(4)),) if written == "synapse" else ()
    ops = (
        Linear(name="fc", inputs=("x",), weight=weight),
        lif("fc"),
        Linear(name="fc2", inputs=("lif_fc",), weight=weight),
        *shortcut,
        Add(name="add", inputs=("fc2", "id" if shortcut else "lif_fc")),
        lif("add"),
    )
    graph = SpikingGraph("net", Input("x", (4,), "time_series", 0), ops, Readout("lif_add", "sum"), 3)
    return graph, run(graph, (np.random.default_rng(3).random((2, 3, 4)) < 0.5).astype(np.float32))


@pytest.mark.parametrize("written", ["synapse", "spikes"])
def test_an_identity_shortcut_is_counted_or_its_difference_is_named(written):
    graph, counts = identity_net(written)
    joined = Fraction(next(row.counts["spike"] for row in counts.layers if row.layer == "fc"), 2)
    ours = Fraction(counts.totals["ac"], 2)
    assert joined > 0
    dense = apply(CONVENTIONS["sanafe"], graph, counts).terms["synapse_dense"]
    assert dense.ours == dense.count == ours  # SANA-FE maps it as an edge of its own
    without = replace(CONVENTIONS["sanafe"], switches=Switches("nothing", zeros="skip"))
    dense = apply(without, graph, counts).terms["synapse_dense"]
    assert (dense.ours, dense.count) == (ours, ours - joined)
    assert [(d.reason, d.count) for d in dense.differences] == [(REASONS["identities", "nothing"], -joined)]


def test_the_two_kinds_of_layers_hold_all_accumulates():
    graph, x = convnet(encoding="time_series", shortcut=True)
    counts = run(graph, x)
    terms = apply(CONVENTIONS["sanafe"], graph, counts).terms
    assert terms["synapse_conv"].ours + terms["synapse_dense"].ours == Fraction(counts.totals["ac"], counts.samples)


def test_what_lemaire_fetches_once_is_fetched_by_a_silent_layer_too():
    weight = np.ones((3, 4))
    fc = Linear(name="fc", inputs=("x",), weight=weight, bias=np.zeros(3))
    graph = graph_of(fc, lif("fc"), shape=(4,), encoding="time_series")
    terms = apply(CONVENTIONS["lemaire"], graph, run(graph, np.zeros((2, 3, 4)))).terms
    assert terms["memory_parameters"].count == 3  # biases
    assert terms["memory_potentials"].count == 2 * 3  # read and written
    assert (terms["memory_in_out"].count, terms["address_ac"].count) == (0, 0)


def test_lemaire_leaves_out_only_what_layers_of_real_values_read():
    fc = Linear(name="fc", inputs=("x",), weight=np.ones((3, 4)))
    graph = graph_of(fc, lif("fc"), shape=(4,))
    counts = run(graph, np.ones((1, 4), np.float32))
    ledger = apply(CONVENTIONS["lemaire"], graph, counts)
    assert ledger.terms["memory_in_out"].count == counts.totals["spike"] > 0
    assert ledger.terms["memory_parameters"].count == ledger.terms["memory_potentials"].count == 0
    assert any("inputs, parameters and potentials of the layers that read real values" in o for o in ledger.left_out)


@pytest.mark.parametrize("mean", [float("nan"), float("inf"), -1.0, 10**400], ids=["nan", "inf", "negative", "huge"])
def test_a_mean_that_is_none_is_refused_in_one_line(mean):
    graph, x = convnet()
    with pytest.raises(
        RmpDeployError, match=r"convention 'kerasspiking': mean_input = .*, allowed 0\.\.3\.4e\+38"
    ) as info:
        apply(CONVENTIONS["kerasspiking"], graph, run(graph, x), mean_input=mean)
    assert "\n" not in str(info.value)
