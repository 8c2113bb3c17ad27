"""Costs that the hardware's shape decides: messages and hops against an enumeration, energies and times by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmp_deploy.analysis.counts import Counts, LayerCounts
from rmp_deploy.analysis.hardware import hardware, routing
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import (
    LIMITS,
    MESH,
    TERMS,
    Barrier,
    Figure,
    HardwareProfile,
    Limit,
    Memory,
    Price,
    Quantity,
    load,
)
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LIF,
    Add,
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Linear,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
)
from rmp_deploy.ir.reference import STATELESS
from rmp_deploy.passes.balance_latency import balance_latency
from rmp_deploy.passes.place import PER_CORE, place

PJ, NS = 1e-12, 1e-9
CORE = {
    "neurons_per_core": 20,
    "input_axons_per_core": 80,
    "output_axons_per_core": 90,
    "synapse_memory_per_core": 300,
    "synapses_per_core": 250,
}
FREE = dict.fromkeys(PER_CORE)


def lif(name, *sources, **changes):
    return LIF(name=name, inputs=sources, **{"decay": 0.5, "v_threshold": 1.0, **changes})


def conv(name, source, *shape, **geometry):
    return Conv2d(name=name, inputs=(source,), weight=np.random.default_rng(0).normal(size=shape), **geometry)


def linear(name, source, n_out, n_in):
    return Linear(name=name, inputs=(source,), weight=np.random.default_rng(n_in).normal(size=(n_out, n_in)))


def spiking(*ops, shape, T=2):
    """A graph whose input is spikes, so that all of it stands on the chip."""
    return SpikingGraph("g", Input("x", shape, "time_series", 0), ops, Readout(ops[-1].name, "sum"), T=T)


def chain(*sizes, T=2):
    """Dense layers; the last one has no neurons."""
    ops, value = [], "x"
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        ops.append(linear(f"fc{i}", value, n_out, n_in))
        if i < len(sizes) - 2:
            ops.append(lif(f"s{i}", f"fc{i}"))
            value = f"s{i}"
    return spiking(*ops, shape=sizes[:1], T=T)


def price(low, high=None):
    return Price(
        Figure(low * PJ if high is None else None, "per_term", "measured", "a test", low * PJ, (high or 0) * PJ)
    )


def quantity(unit, low, high=None):
    return Quantity(low if high is None else None, unit, low, low if high is None else high, "measured", "a test")


def chip(rows=4, columns=8, cores_per_tile=4, prices=(), **known):
    """A chip with a mesh and hops of 3 and 4 pJ; `prices` are those of terms."""
    mesh = {"mesh_rows": rows, "mesh_columns": columns, "cores_per_tile": cores_per_tile}
    limits = {"cores": Limit(rows * columns * cores_per_tile, LIMITS["cores"].unit, "chip", "published", "a test")}
    routes = {"within_tile": price(1.5), "hop_east_west": price(3), "hop_north_south": price(4)}
    return HardwareProfile(
        name="chip",
        title="a test",
        prices=dict(prices),
        limits=limits,
        mesh={n: Limit(v, MESH[n].unit, MESH[n].scope, "published", "a test") for n, v in mesh.items()},
        **{"routing": routes, **known},
    )


def counts_of(graph, spikes, samples=1, **terms):
    """Counts of `spikes` [neurons] by name, all in the first step; `terms` of the first row, evenly over the steps."""
    rows = []
    for i, (name, n) in enumerate(spikes.items()):
        counts = {**dict.fromkeys(TERMS, 0), **(terms if i == 0 else {}), "spike": int(np.sum(n))}
        steps = {t: (c // graph.T,) * graph.T for t, c in counts.items()} | {
            "spike": (counts["spike"], *(0,) * (graph.T - 1))
        }
        feeder = graph.by_name[name].inputs[0]
        rows.append(LayerCounts(feeder, name, "spikes", counts, 0, {}, steps, {}, np.asarray(n, np.int64).ravel()))
    return Counts(samples, graph.T, tuple(rows))


def random_counts(graph, seed, most=5):
    """Every neuron of the balanced graph with some spikes, and those by name."""
    balanced, rng = balance_latency(graph), np.random.default_rng(seed)
    spikes = {op.name: rng.integers(0, most, balanced.shapes[op.name]) for op in balanced.spiking}
    return counts_of(balanced, spikes), spikes


def totals(costs):
    names = ("messages", "within_tile", "hop_east_west", "hop_north_south", "between_chips")
    return {name: sum(getattr(row, name) for row in costs.routing.layers) for name in names}


# --- by enumeration ---------------------------------------------------------------------------------------------------


def adjacency(graph):
    """Every synapse as (source, its flat position, neurons, their flat position, op): by pushing a 1 through each."""
    for op in graph.ops:
        if not hasattr(op, "weight"):
            continue
        (head,) = [n for n in graph.ops if isinstance(n, LIF | LoihiLIF) and op.name in reach(graph, n)] or [op]
        shape = graph.shapes[op.inputs[0]]
        for position in range(int(np.prod(shape))):
            x = np.zeros((1, int(np.prod(shape))))
            x[0, position] = 1
            diagonal = isinstance(op, Linear | LoihiLinear) and np.array_equal(op.weight, np.eye(*op.weight.shape))
            stored = op if diagonal else replace(op, weight=np.ones_like(op.weight))
            y = STATELESS[type(op)](stored, x.reshape(1, *shape))
            source, at = origin(graph, op.inputs[0], position)
            for target in np.flatnonzero(y):
                yield source, at, head.name, int(target), op.name


def reach(graph, neurons):
    """Names of the synapses whose currents `neurons` read."""
    found, waiting = set(), list(neurons.inputs)
    while waiting:
        op = graph.by_name[waiting.pop()]
        if hasattr(op, "weight"):
            found.add(op.name)
        else:
            waiting += op.inputs
    return found


def origin(graph, value, position):
    """The neurons behind a value, through Flatten, Delay and Concat along the first axis."""
    op = graph.by_name.get(value)
    if isinstance(op, Concat):
        for name in op.inputs:
            size = int(np.prod(graph.shapes[name]))
            if position < size:
                return origin(graph, name, position)
            position -= size
    return (value, position) if op is None or isinstance(op, LIF | LoihiLIF) else origin(graph, op.inputs[0], position)


def core_of(layer):
    """The core of every neuron among those of its layer, by its flat position."""
    cores = np.empty(layer.shape, int)
    runs = [range(0, n, t) for n, t in zip(layer.shape, layer.tile, strict=True)]
    for core, starts in enumerate(itertools.product(*runs)):
        cores[tuple(slice(s, s + t) for s, t in zip(starts, layer.tile, strict=True))] = core
    return cores.ravel()


def by_enumeration(graph, placement, spikes, rows, columns, per_tile):
    """Messages, those within a tile, hops and those between chips: one message at a time, synapse by synapse."""
    first, cores = 0, {}
    for layer in placement.layers:
        cores[layer.name] = first + core_of(layer)
        first += layer.cores
    sends = {
        (source, at, int(cores[head][target]), op)
        for source, at, head, target, op in adjacency(graph)
        if head in cores and source in cores
    }
    found = Counter(dict.fromkeys(("messages", "within_tile", "hop_east_west", "hop_north_south", "between_chips"), 0))
    for source, at, to, _ in sends:
        n = int(spikes[source].ravel()[at])
        here, there = (divmod(core // per_tile, rows * columns) for core in (int(cores[source][at]), to))
        found["messages"] += n
        if here[0] != there[0]:
            found["between_chips"] += n
            continue
        (row, column), (to_row, to_column) = divmod(here[1], columns), divmod(there[1], columns)
        found["within_tile"] += n * (here == there)
        found["hop_east_west"] += n * abs(column - to_column)
        found["hop_north_south"] += n * abs(row - to_row)
    return found


def check_by_enumeration(graph, limits, seed=0):
    placed, balanced = place(graph, limits), balance_latency(graph)
    counts, spikes = random_counts(graph, seed)
    for rows, columns, per_tile in ((1, 999, 1), (7, 5, 2), (4, 8, 4), (2, 3, 1)):
        wanted = by_enumeration(balanced, placed, spikes, rows, columns, per_tile)
        costs = hardware(balanced, counts, chip(rows, columns, per_tile), placed)
        assert totals(costs) == wanted
        assert wanted["messages"] > 0
    return placed


def joined():
    """Groups, strides, dilation, padding, a concatenation, a residual sum (with its relay), a dense layer, a loop."""
    return spiking(
        conv("c1", "x", 4, 1, 3, 3, padding=(1, 1), groups=2),
        lif("s1", "c1"),
        conv("c2", "s1", 3, 4, 3, 2, stride=(2, 3), padding=(1, 0)),
        lif("s2", "c2"),
        conv("c3", "s1", 2, 2, 2, 2, stride=(2, 3), dilation=(1, 2), groups=2),
        lif("s3", "c3"),
        Concat(name="cat", inputs=("s2", "s3")),
        conv("c4", "cat", 5, 5, 2, 2, padding=(1, 1)),
        lif("s4", "c4"),
        conv("c5", "s4", 5, 5, 1, 1),
        lif("s5", "c5"),
        conv("c6", "s5", 5, 1, 3, 3, padding=(1, 1), groups=5),
        Add(name="add", inputs=("c6", "s4")),
        lif("s6", "add"),
        Flatten(name="flat", inputs=("s6",)),
        linear("fc", "flat", 7, 5 * 4 * 3),
        Delay(name="before", inputs=("s7",), steps=1, shape=(7,)),
        linear("own", "before", 7, 7),
        Add(name="sum", inputs=("fc", "own")),
        lif("s7", "sum"),
        linear("out", "s7", 4, 7),
        shape=(2, 6, 6),
    )


def test_messages_and_hops_are_those_of_an_enumeration_of_all_synapses():
    placed = check_by_enumeration(joined(), CORE)
    assert any(layer.kind == "relay" for layer in placed.layers)
    assert max(layer.cores for layer in placed.layers) > 3


def test_pairs_of_cores_may_come_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(routing, "MOST_PAIRS", 3)
    check_by_enumeration(joined(), CORE)


@pytest.mark.parametrize("seed", range(10))
def test_random_convolutions_of_any_geometry(seed):
    rng = np.random.default_rng(seed)
    groups, out = int(rng.choice([1, 2])), int(rng.integers(1, 4))
    pairs = {
        k: tuple(int(i) for i in rng.integers(low, 3, 2)) for k, low in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    g = spiking(
        conv("c0", "x", 2 * out, 2, 1, 1),
        lif("s0", "c0"),
        conv("c1", "s0", 4, 2 * out // groups, 2, 3, groups=groups, **pairs),
        lif("s1", "c1"),
        conv("c2", "s1", 3, 4, 2, 1, padding=(1, 1)),
        lif("s2", "c2"),
        shape=(2, 7, 8),
    )
    check_by_enumeration(g, {name: int(value * rng.uniform(0.6, 2)) for name, value in CORE.items()}, seed)


def test_a_map_of_one_axis_a_window_in_the_padding_and_an_identity_behind_a_flatten():
    first = Conv1d(name="c0", inputs=("x",), weight=np.ones((4, 2, 1)))
    second = Conv1d(name="c1", inputs=("s0",), weight=np.ones((3, 4, 2)), stride=(2,), padding=(4,))
    g = spiking(
        first,
        lif("s0", "c0"),
        second,
        lif("s1", "c1"),
        Flatten(name="flat", inputs=("s1",)),
        linear("fc", "flat", 24, 24),
        Add(name="add", inputs=("fc", "flat")),
        lif("s2", "add"),
        shape=(2, 9),
    )
    check_by_enumeration(g, {**FREE, "neurons_per_core": 5})


def test_pools_of_spikes_are_neurons_that_send():
    g = spiking(
        conv("c1", "x", 2, 2, 1, 1),
        lif("s1", "c1"),
        MaxPool2d(name="or", inputs=("s1",), kernel=(2, 2), stride=(2, 2)),
        conv("c2", "or", 3, 2, 3, 3, padding=(1, 1)),
        lif("s2", "c2"),
        shape=(2, 6, 6),
    )
    placed = check_by_enumeration(g, {**FREE, "neurons_per_core": 7})
    assert [layer.name for layer in placed.layers] == ["s1", "or", "s2"]


def test_one_spike_of_every_neuron_is_one_message_of_every_output_axon():
    """`map` and the messages count the same axons: also where two synapses of one layer end in the same neurons."""
    ops = joined().ops
    two_ways = (conv("a", "s6", 5, 5, 3, 3, padding=(1, 1)), Add(name="both", inputs=("a", "s6")), lif("s8", "both"))
    g = spiking(*ops, *two_ways, shape=(2, 6, 6))
    placed = place(g, CORE)
    ones = {op.name: np.ones(balance_latency(g).shapes[op.name]) for op in balance_latency(g).spiking}
    costs = hardware(balance_latency(g), counts_of(balance_latency(g), ones), chip(), placed)
    sent = {row.layer: row.messages for row in costs.routing.layers}
    for layer in placed.layers:
        assert sent.get(layer.name, 0) == int(layer.used["output_axons_per_core"].sum())


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_hops_by_hand():
    """4 + 6 neurons, two on a core: cores 0-1 send to cores 2-4, on tiles of one core, two columns and three rows.

    Core 0 lies at row 0, column 0; core 1 at (0, 1); 2 at (1, 0); 3 at (1, 1); 4 at (2, 0). From core 0: 1 south to
    core 2, 1 east and 1 south to 3, 2 south to 4. From core 1: 1 and 1 to 2, 1 south to 3, 1 and 2 to 4.
    """
    g = chain(3, 4, 6)
    placed = place(g, {**FREE, "neurons_per_core": 2})
    counts = counts_of(g, {"s0": [1, 2, 0, 4]}, samples=2)  # 3 spikes on core 0, 4 on core 1, of two samples
    found = hardware(g, counts, chip(3, 2, 1), placed).routing
    assert (found.cores, found.tiles, found.chips, found.between_chips) == (5, 5, 1, 0)
    (row,) = found.layers
    assert (row.layer, row.messages) == ("s0", 7 * 3)
    assert row.hop_east_west == 3 * 1 + 4 * 2
    assert row.hop_north_south == 3 * 4 + 4 * 4
    assert row.within_tile == 0
    assert found.counts == {
        "message_out": 21, "message_in": 21, "within_tile": 0, "hop_east_west": 11, "hop_north_south": 28,
    }  # fmt: skip
    assert found.energy.value == pytest.approx((11 * 3 + 28 * 4) / 2 * PJ)  # per sample
    assert found.terms["hop_east_west"].value == pytest.approx(33 / 2 * PJ)
    assert set(found.left_out) == {"message_out", "message_in"}  # the profile does not price them
    assert found.host_messages is None  # the input is sent, element by element


def test_a_network_on_one_core_and_one_tile_has_no_hops():
    g = chain(3, 4, 6)
    placed = place(g, FREE)
    counts = counts_of(g, {"s0": [1, 2, 0, 4]})
    found = hardware(g, counts, chip(), placed).routing
    assert (found.cores, found.tiles) == (2, 1)  # one core for each layer, four on a tile
    assert totals(hardware(g, counts, chip(), placed)) == {
        "messages": 7, "within_tile": 7, "hop_east_west": 0, "hop_north_south": 0, "between_chips": 0,
    }  # fmt: skip
    assert found.energy.value == pytest.approx(7 * 1.5 * PJ)


def test_beyond_one_chip_the_energy_is_unknown_and_says_why():
    g = chain(3, 4, 6)
    placed = place(g, {**FREE, "neurons_per_core": 2})  # 5 cores on chips of 4
    costs = hardware(g, counts_of(g, {"s0": [1, 2, 0, 4]}), chip(2, 2, 1), placed)
    assert (costs.routing.chips, costs.routing.between_chips) == (2, 7)  # what goes to core 4
    assert not costs.routing.energy.known
    assert costs.routing.energy.why == "7 messages leave their chip, and what that costs is not known"
    assert costs.routing.counts["hop_north_south"] == 3 * 2 + 4 * 2  # to the others: known all the same
    assert costs.left_out["routing"] == costs.routing.energy.why


def test_a_chip_of_unknown_mesh_and_one_that_the_network_does_not_fit():
    g = chain(3, 4, 6)
    counts = counts_of(g, {"s0": [1, 2, 0, 4]})
    placed = place(g, {**FREE, "neurons_per_core": 2})
    plain = hardware(g, counts, replace(chip(), mesh={}), placed).routing
    assert plain.layers[0].messages == 21
    assert plain.layers[0].hop_east_west is None
    assert plain.counts["within_tile"] is plain.between_chips is plain.tiles is None
    assert plain.energy.why == "the mesh of a chip is not known: not in the profile"
    tight = place(g, {**FREE, "input_axons_per_core": 2})
    costs = hardware(g, counts, chip(), tight)
    assert costs.routing is None
    assert costs.unplaced.startswith("it does not fit: input_axons_per_core of one neuron of 's0' = 3, allowed 2")
    assert hardware(g, counts, chip()).unplaced == "the network is not placed on cores"


def test_counts_of_another_network_are_refused_by_name():
    g = chain(3, 4, 6)
    for spikes in ({}, {"s0": [1, 2]}):
        with pytest.raises(RmpDeployError, match=r"LIF 's0': neurons with counted spikes = (none|2), allowed 4"):
            hardware(g, counts_of(g, spikes), chip(), place(g, FREE))


def test_neurons_on_the_host_send_messages_without_hops():
    """A real-valued first layer: its 4 neurons are the host's, and each of their spikes goes to 3 cores."""
    g = chain(3, 4, 6, 2)
    g = replace(g, input=Input("x", (3,), "direct"))
    placed = place(g, {**FREE, "neurons_per_core": 2})
    found = hardware(g, counts_of(g, {"s0": [1, 2, 0, 4], "s1": [1] * 6}), chip(1, 9, 1), placed).routing
    assert found.host_messages == 7 * 3
    assert [row.layer for row in found.layers] == ["s1"]
    assert found.counts["message_out"] == 6


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), more=st.integers(1, 9), columns=st.integers(1, 6))
def test_hops_add_up_over_samples_and_layers_and_a_spike_more_never_lowers_them(seed, more, columns):
    g = joined()
    balanced, placed = balance_latency(g), PLACED
    profile = chip(99, columns, 2)
    one, spikes = random_counts(g, seed)
    other, _ = random_counts(g, seed + 1)
    first, second, both = (hardware(balanced, c, profile, placed) for c in (one, other, one + other))
    for name, n in totals(both).items():
        assert n == totals(first)[name] + totals(second)[name]
        if name not in ("messages", "between_chips"):
            assert n == both.routing.counts[name]
    rng = np.random.default_rng(seed)
    name = list(spikes)[int(rng.integers(len(spikes)))]
    grown = {**spikes, name: spikes[name] + more * (rng.random(spikes[name].shape) < 0.2)}
    larger = totals(hardware(balanced, counts_of(balanced, grown), profile, placed))
    assert all(larger[n] >= totals(first)[n] for n in larger)


PLACED = place(joined(), CORE)


# --- memory -----------------------------------------------------------------------------------------------------------

SRAM = (
    Memory("32 KB", 32_768, 64, price(20)),
    Memory("8 KB", 8192, 64, price(10)),
    Memory("DRAM", None, 64, price(1300, 2600)),
)


def memory_of(g, profile, **terms):
    counts = counts_of(g, {"s0": [0] * g.shapes["s0"][0]}, samples=2, **terms)
    costs = hardware(g, counts, profile)
    return {row.holds: row for row in costs.memory.rows}, costs


def test_memory_by_the_size_of_what_a_layer_keeps():
    """3 x 100 floats are 1200 bytes: 8 KB, 10 pJ per 64 bits. 500 reads of two samples: 250 * 5 pJ, or 250 * 10."""
    g = chain(3, 100, 2)
    rows, costs = memory_of(g, chip(memory=SRAM), weight_read=500, state_read=400, state_write=400)
    weights, states = rows["weights"], rows["states"]
    assert (weights.words, weights.bits, weights.bytes, weights.memory) == (300, 32, 1200, "8 KB")
    assert (states.words, states.bits, states.accesses) == (100, 32, 800)  # 400 reads: 2 samples, 2 steps, 100 words
    assert weights.packed.value == pytest.approx(250 * 5 * PJ)
    assert weights.whole.value == pytest.approx(250 * 10 * PJ)
    assert costs.memory.packed.value == pytest.approx((250 + 400) * 5 * PJ)
    assert costs.memory.whole.value == pytest.approx((250 + 400) * 10 * PJ)


def test_real_valued_words_take_the_bits_that_the_prices_are_for():
    g = chain(3, 100, 2)
    rows, _ = memory_of(g, chip(memory=SRAM, precision="int8"), weight_read=500)
    assert (rows["weights"].bits, rows["weights"].bytes) == (8, 300)
    assert rows["weights"].packed.value == pytest.approx(250 * 10 / 8 * PJ)


def test_larger_layers_take_larger_memories_and_beyond_the_largest_is_unknown():
    for n_in, memory, low, high in ((22, "32 KB", 10, 10), (90, "DRAM", 650, 1300)):
        g = chain(n_in, 100, 2)
        rows, _ = memory_of(g, chip(memory=SRAM), weight_read=2)
        assert rows["weights"].memory == memory
        assert (rows["weights"].packed.low, rows["weights"].packed.high) == pytest.approx((low * PJ, high * PJ))
    assert rows["weights"].packed.value is None  # a range without a point
    rows, costs = memory_of(g, chip(memory=SRAM[:2]), weight_read=2)
    assert rows["weights"].memory is None
    why = "the profile has no figure for a memory of 36000 bytes (the largest has 32768)"
    assert rows["weights"].packed.why == costs.memory.packed.why == costs.left_out["memory"] == why


def test_integers_take_the_bits_they_have_and_a_delay_holds_its_steps():
    fire = {"du": np.int32(4095), "dv": np.int32(0), "vth": np.int32(9)}
    weight = 32 * np.ones((5, 3), np.int32)
    g = spiking(
        LoihiLinear(name="fc0", inputs=("x",), weight=weight, num_weight_bits=4),
        LoihiLIF(name="s0", inputs=("fc0",), **fire),
        Delay(name="late", inputs=("s0",), steps=3, shape=(5,)),
        LoihiLinear(name="fc1", inputs=("late",), weight=weight.T),
        shape=(3,),
    )
    none = dict.fromkeys(TERMS, 0)
    first = LayerCounts("fc0", "s0", "spikes", {**none, "weight_read": 6, "state_read": 10, "state_write": 10}, 0)
    second = LayerCounts("fc1", None, "spikes", {**none, "weight_read": 9, "state_read": 10, "state_write": 10}, 0)
    found = hardware(g, Counts(1, 2, (first, second)), chip(memory=SRAM)).memory.rows
    assert [(row.layer, row.holds, row.words, row.bits, row.bytes) for row in found] == [
        ("fc0", "weights", 15, 4, 8),
        ("fc0", "states", 5, 24, 15),
        ("fc1", "weights", 15, 8, 15),
        ("fc1", "states", 15, 24, 45),  # three steps of 5; one of them is read and one written in a step
    ]
    assert found[0].packed.value == pytest.approx(6 * 4 / 64 * 10 * PJ)
    assert found[0].whole.value == pytest.approx(6 * 10 * PJ)


def test_what_a_term_of_the_profile_holds_is_not_priced_twice():
    g = chain(3, 100, 2)
    prices = {"ac": price(23.6), "weight_read": Price(included_in=("ac",), why="it reads its weight")}
    _, costs = memory_of(g, chip(memory=SRAM, prices=prices), ac=500, weight_read=500, state_read=400, state_write=400)
    assert costs.memory.held == ("weight_read",)
    assert costs.memory.packed.value == pytest.approx(400 * 5 * PJ)  # states alone
    _, without = memory_of(g, chip(memory=SRAM, prices=prices), weight_read=500)
    assert (without.memory.held, without.memory.packed.value) == ((), pytest.approx(250 * 5 * PJ))  # no ac held it
    assert costs.operations.value == pytest.approx(250 * 23.6 * PJ)


def test_reads_that_have_a_price_do_not_hide_writes_that_have_none():
    g = chain(3, 100, 2)
    counted = {"ac": 500, "weight_read": 500, "state_read": 400, "state_write": 400}
    _, costs = memory_of(g, chip(memory=SRAM, prices={"state_read": price(1)}), **counted)
    assert costs.memory.held == ("state_read",)
    assert costs.memory.packed.value == pytest.approx((250 + 200) * 5 * PJ)  # weights and writes
    _, costs = memory_of(g, chip(prices={"ac": price(1), "state_read": price(1)}), **counted)
    assert costs.left_out["memory"] == "the profile has no figure for any memory"
    ours = {"weight_read": price(1), "state_read": price(1), "state_write": price(1)}
    _, costs = memory_of(g, chip(prices=ours), **counted)
    assert costs.memory.packed.why == "other figures of the profile hold it"
    assert "memory" not in costs.left_out


def test_several_memories_of_one_size_are_a_range_over_all_of_them():
    """9000 floats do not fit in 32 KB: 1 read of 32 bits is half an access, 2 of them in two samples a whole half."""
    g = chain(90, 100, 2)
    off = (Memory("DDR", None, 64, price(1300)), Memory("HBM", None, 32, price(250, 450)))
    for memories in (off, off[::-1]):
        rows, _ = memory_of(g, chip(memory=SRAM[:2] + memories), weight_read=2)
        packed = rows["weights"].packed
        assert (packed.value, packed.low, packed.high) == pytest.approx((None, 250 * PJ, 650 * PJ))
        assert rows["weights"].memory == " or ".join(m.name for m in memories)
    assert [m.name for m in load("cmos7").memory if m.bytes is None] == ["DDR3 or DDR4", "HBM2", "GDDR6"]
    rows, _ = memory_of(chain(900, 1500, 2), load("cmos7"), weight_read=2)
    packed = rows["weights"].packed  # of 8-bit words, an eighth of an access
    assert (packed.low, packed.high) == pytest.approx((250 / 8 * PJ, 1300 / 8 * PJ))


def test_nothing_that_happened_has_a_price():
    g = chain(3, 100, 2)
    _, costs = memory_of(g, chip(prices={"mac": price(1)}), ac=10)
    assert (costs.operations.value, costs.operations.low) == (None, None)
    assert costs.operations.why == "the profile has no figure for an operation that happened"
    _, costs = memory_of(g, chip(prices={"mac": price(1)}))
    assert costs.operations.value == 0  # nothing happened


def test_counts_without_steps_are_refused_in_a_line():
    g = chain(3, 4, 6)
    placed, counts = place(g, FREE), counts_of(g, {"s0": [1, 2, 0, 4]}, **RUN)
    profile = chip(latency=TIMES, barrier=BARRIER)
    for none, message in (
        (replace(counts, T=0), "counts: T = 0, allowed >= 1. Count a run."),
        (
            replace(counts, layers=tuple(replace(row, steps={}) for row in counts.layers)),
            "counts: steps of 'neuron_active' of layer 'fc0' = 0, allowed 2. Count with `count`.",
        ),
    ):
        with pytest.raises(RmpDeployError) as info:
            hardware(g, none, profile, placed)
        assert str(info.value) == message


# --- time and static power --------------------------------------------------------------------------------------------

TIMES = {
    "ac": quantity("s", 3.5 * NS),
    "neuron_active": quantity("s", 8 * NS),
    "neuron_inactive": quantity("s", 5 * NS),
    "hop_east_west": quantity("s", 4 * NS),
}
BARRIER = (Barrier(1, quantity("s", 100 * NS)), Barrier(4, quantity("s", 400 * NS)))
RUN = {"ac": 400, "neuron_active": 40, "neuron_inactive": 24}  # of two samples and two steps


def timed(neurons_per_core, **changes):
    g = chain(3, 4, 6)
    routes = {**chip().routing, "within_tile": Price(included_in=("spike",), why="it is one")}
    known = {
        "routing": routes,
        "latency": TIMES,
        "barrier": BARRIER,
        "static": {"chip": quantity("W", 0.1)},
        **changes,
    }
    profile = chip(1, 9, 2, prices={"ac": price(20), "spike": price(1.7)}, **known)
    placed = place(g, {**FREE, "neurons_per_core": neurons_per_core})
    counts = counts_of(g, {"s0": [1, 2, 0, 4]}, samples=2, **RUN)
    return hardware(g, counts, profile, placed)


def test_time_and_energy_delay_by_hand():
    """One core a layer, one tile. A step of a sample: 100 accumulates take 350 ns; 10 and 6 updates 110 ns."""
    costs = timed(100)
    (run,) = costs.timings
    assert run.name == "as fast as the cores allow"
    assert run.step.value == pytest.approx((350 + 100) * NS)
    assert run.sample.value == pytest.approx(2 * 450 * NS)
    assert run.static.value == pytest.approx(0.1 * 900 * NS)
    # 200 accumulates and 3.5 spikes a sample, which are messages within a tile: that price is the spike's already
    assert costs.operations.value == pytest.approx((200 * 20 + 3.5 * 1.7) * PJ)
    assert costs.routing.terms["within_tile"].why == "held by spike"
    assert costs.routing.energy.value == 0
    energy = (200 * 20 + 3.5 * 1.7) * PJ + 0.1 * 900 * NS
    assert run.energy.value == pytest.approx(energy)
    assert run.energy_delay.value == pytest.approx(energy * 900 * NS)
    assert run.energy_delay.unit == "J s"
    untimed = {
        f"time of {name}": "not in the profile" for name in ("spike", "message_out", "message_in", "within_tile")
    }
    assert costs.left_out == {"message_out": "not in the profile", "message_in": "not in the profile", **untimed}


def test_a_layer_on_more_cores_is_faster_and_a_barrier_between_two_sizes_is_a_range():
    """4 neurons on 2 cores, 6 on 3: 3 tiles. 50 accumulates a core take 175 ns; the barrier is of 1 to 4 tiles."""
    costs = timed(2)
    assert costs.routing.tiles == 3
    step = costs.timings[0].step
    assert step.value is None
    assert (step.low, step.high) == pytest.approx(((175 + 100) * NS, (175 + 400) * NS))
    product = costs.timings[0].energy_delay
    assert product.low < product.high


def test_a_message_that_travels_longer_than_the_cores_work():
    far = {**TIMES, "hop_east_west": quantity("s", 1000 * NS)}
    costs = timed(2, latency=far)
    hops = costs.routing.counts["hop_east_west"] / costs.routing.counts["message_out"] * 1000
    assert hops > 175
    # all spikes are in the first step: the second takes the cores' time
    assert costs.timings[0].sample.low == pytest.approx((hops + 175 + 2 * 100) * NS)


def test_a_hop_with_a_range_leaves_no_point():
    far = {**TIMES, "hop_east_west": quantity("s", 1000 * NS, 2000 * NS)}
    (run,) = timed(2, latency=far, barrier=(Barrier(1, quantity("s", 0)), Barrier(4, quantity("s", 0)))).timings
    assert run.sample.value is None
    assert run.sample.low < run.sample.high
    assert (run.static.value, run.energy_delay.value) == (None, None)


def test_what_happens_and_is_in_no_time_is_named():
    known = {**TIMES, "spike": quantity("s", 30 * NS), "message_out": quantity("s", 5 * NS)}
    costs = timed(100, latency=known)
    assert costs.timings[0].sample.value == pytest.approx(2 * 450 * NS)
    why = "nothing says which of a core's units it occupies, and when"
    assert costs.left_out["time of spike"] == costs.left_out["time of message_out"] == why
    assert costs.left_out["time of within_tile"] == "not in the profile"  # it happens
    assert "time of hop_east_west" not in costs.left_out
    assert "time of hop_north_south" not in costs.left_out  # it does not happen


def test_multiplies_take_time_in_the_unit_of_the_synapses():
    """200 accumulates of 3.5 ns and 40 multiplies of 20 ns, of two samples and two steps: 175 + 200 ns a step."""
    g = chain(3, 4, 6)
    run, placed = {**RUN, "ac": 200, "mac": 40}, place(g, FREE)
    counts = counts_of(g, {"s0": [1, 2, 0, 4]}, samples=2, **run)
    times = {**TIMES, "within_tile": quantity("s", 2 * NS)}
    known = chip(latency={**times, "mac": quantity("s", 20 * NS)}, barrier=BARRIER)
    assert hardware(g, counts, known, placed).timings[0].sample.value == pytest.approx(2 * (175 + 200 + 100) * NS)
    unknown = hardware(g, counts, chip(latency=times, barrier=BARRIER), placed).timings[0].sample
    assert (unknown.low, unknown.why) == (None, "time of mac: not in the profile")


def test_a_chip_that_is_held_to_a_rate_draws_its_power_all_that_time():
    free, held = timed(100, latency={**TIMES, "step": quantity("s", 1e-3)}).timings
    assert free.sample.value == pytest.approx(900 * NS)
    assert (held.name, held.step.value, held.sample.value) == ("held to a fixed rate", 1e-3, 2e-3)
    assert held.static.value == pytest.approx(0.1 * 2e-3)


UNKNOWN = {
    "a latency": ({"latency": {}}, "time of neuron_active: not in the profile"),
    "the barrier": ({"barrier": ()}, "the profile has no barrier"),
    "a barrier of so many tiles": ({"barrier": BARRIER[1:]}, "the profile has no barrier of 1 tiles"),
}


@pytest.mark.parametrize(("changes", "why"), UNKNOWN.values(), ids=UNKNOWN)
def test_without_a_time_there_is_no_static_energy_and_no_product(changes, why):
    (run,) = timed(100, **changes).timings
    for each in (run.step, run.sample, run.static, run.energy, run.energy_delay):
        assert (each.value, each.low, each.high, each.why) == (None, None, None, why)


def test_static_power_is_that_of_the_chips_else_of_the_cores_used():
    assert timed(100).power.value == pytest.approx(0.1)
    cores = timed(2, static={"core": quantity("W", 1e-3, 2e-3)}).power
    assert (cores.value, cores.low, cores.high) == pytest.approx((None, 5e-3, 10e-3))
    (run,) = timed(100, static={}).timings
    assert run.sample.known
    assert (run.static.why, run.energy_delay.why) == ("not in the profile",) * 2


def test_a_profile_of_arithmetic_knows_no_chip():
    g = chain(3, 4, 6)
    costs = hardware(g, counts_of(g, {"s0": [1, 2, 0, 4]}, ac=10), load("cmos45"))
    assert costs.operations.value == pytest.approx(10 * 0.9 * PJ)
    assert costs.routing is None
    assert costs.timings[0].energy_delay.why == "the network is not placed on cores"
