"""Relays make every join equally deep and change no spike; what they cost, and which loops no relay can save."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    Concat,
    Conv2d,
    Delay,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Shape,
)
from rmp_deploy.passes.as_synapses import as_synapses
from rmp_deploy.passes.balance_latency import balance_latency, relay_neurons, relays
from rmp_deploy.passes.depths import depths


def lif(name, source):
    return LIF(name=name, inputs=(source,), decay=0.5, v_threshold=0.4)


def conv(name, source, c_in, c_out, seed=0, kernel=3, stride=1):
    weight = np.random.default_rng(seed).normal(0.1, 1, (c_out, c_in, kernel, kernel)) / kernel / np.sqrt(c_in)
    padding = kernel // 2
    return Conv2d(name=name, inputs=(source,), weight=weight, stride=(stride, stride), padding=(padding, padding))


def graph_of(*ops, shape=(2, 6, 6), T=4, readout=None):
    return SpikingGraph("net", Input("x", shape, "time_series"), tuple(ops), Readout(readout or ops[-1].name, "sum"), T)


def residual(shortcut="identity"):
    """A stem and one block; its shortcut is the stem's spikes, or a convolution of them."""
    stem = [conv("stem", "x", 2, 4), lif("s", "stem")]
    block = [conv("conv1", "s", 4, 4, 1), lif("lif1", "conv1"), conv("conv2", "lif1", 4, 4, 2)]
    side = [] if shortcut == "identity" else [conv("short", "s", 4, 4, 3, kernel=1)]
    join = Add(name="add", inputs=("conv2", "short" if side else "s"))
    return graph_of(*stem, *block, *side, join, lif("lif2", "add"))


def agree(graph, balanced, seed=0, n=5):
    """The same spikes and potentials of every neuron op of `graph`; most layers fire, and not always."""
    rng = np.random.default_rng(seed)
    steps = (graph.T,) if graph.input.encoding == "time_series" else ()
    x = rng.normal(0.3, 0.8, (n, *steps, *graph.input.shape))
    if graph.input.message_bits is not None:
        x = (x > 0.3).astype(np.float64)
    before, after = (reference.run(g, x, ("spikes", "v")) for g in (graph, balanced))
    for name, spikes in before.spikes.items():
        np.testing.assert_array_equal(spikes, after.spikes[name], err_msg=name)
        np.testing.assert_allclose(before.v[name], after.v[name], rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(before.output, after.output, rtol=0, atol=1e-12)
    return before


def assert_balanced(graph):
    """By brute force, and not by the pass: count the synapses and Delay steps on every way into every join."""
    at: dict[str, int] = {}
    known = depths(graph)
    readers = {value for op in graph.ops for value in op.inputs}
    host = {graph.input.name}
    for _ in range(2):  # a Delay may read what is made after it
        for op in graph.ops:
            if op.name not in readers and op.name != graph.readout.value:
                continue  # joined on the host, or by nobody
            found = {at[i] for i in op.inputs if i in at}
            if not found and isinstance(op, Flatten | Add | Concat) and host.issuperset(op.inputs):
                host.add(op.name)
            if op.name in known and not isinstance(op, Delay):
                at[op.name] = known[op.name]
                wanted = at[op.name] - hasattr(op, "weight")
            elif found:
                at[op.name] = max(found) - (op.steps if isinstance(op, Delay) else 0)
                wanted = max(found)
            else:
                continue
            if op.name in readers:  # the readout's own joins happen on the host
                assert found <= {wanted}, (op.name, found, wanted)
    return at


def test_a_residual_block_gets_one_relay_that_its_shortcut_reads():
    graph = residual()
    balanced = balance_latency(graph)
    assert [op.name for op in balanced.ops] == [
        "stem", "s", "relay_s_1", "relay_s_1_lif", "conv1", "lif1", "conv2", "add_identity", "add", "lif2",
    ]  # fmt: skip
    by_name = balanced.by_name
    assert by_name["add_identity"].inputs == ("relay_s_1_lif",)
    assert by_name["conv1"].inputs == ("s",)
    assert by_name["add"].inputs == ("conv2", "add_identity")
    assert relays(graph) == {"s": 1}
    assert relay_neurons(graph) == 4 * 6 * 6
    assert depths(balanced)["lif2"] == 3
    agree(graph, balanced)
    assert_balanced(balanced)


def test_a_convolution_on_the_shortcut_is_itself_one_synapse():
    graph = residual("conv")
    balanced = balance_latency(graph)
    assert balanced.by_name["short"].inputs == ("relay_s_1_lif",)
    assert relay_neurons(graph) == 144
    agree(graph, balanced)


def test_a_relay_of_integers_is_loihis_and_exact():
    ops = [
        LoihiLinear(name="a", inputs=("x",), weight=2 * np.eye(5, dtype=int)),
        LoihiLIF(name="la", inputs=("a",), du=4095, dv=2048, vth=1),
        LoihiLinear(name="b", inputs=("la",), weight=2 * np.eye(5, dtype=int)),
        LoihiLIF(name="lb", inputs=("b",), du=4095, dv=2048, vth=1),
        LoihiLinear(name="c", inputs=("lb",), weight=2 * np.eye(5, dtype=int)),
        LoihiLinear(name="short", inputs=("la",), weight=-2 * np.eye(5, dtype=int)),
        Add(name="add", inputs=("c", "short")),
        LoihiLIF(name="end", inputs=("add",), du=4095, dv=4096, vth=0),
    ]
    graph = SpikingGraph("net", Input("x", (5,), "time_series", 0), tuple(ops), Readout("end", "sum"), 4)
    balanced = balance_latency(graph)
    relay, neurons = balanced.by_name["relay_la_1"], balanced.by_name["relay_la_1_lif"]
    assert isinstance(relay, LoihiLinear)
    assert relay.sign_mode == "excitatory"
    np.testing.assert_array_equal(relay.weight, np.eye(5))
    assert isinstance(neurons, LoihiLIF)
    assert (int(neurons.du), int(neurons.dv), int(neurons.vth)) == (4095, 4096, 0)
    agree(graph, balanced)


def test_readers_share_relays_and_wait_as_long_as_each_has_to():
    """A chain of four synapses; three shortcuts from its first spikes, which wait 1, 2 and 3 steps."""
    ops: list[Op] = [Linear(name="fc0", inputs=("x",), weight=np.eye(3)), lif("l0", "fc0")]
    for i in (1, 2, 3, 4):
        ops.append(Linear(name=f"fc{i}", inputs=(f"l{i - 1}",), weight=np.eye(3)))
        current = f"fc{i}"
        if i > 1:
            ops.append(Linear(name=f"short{i}", inputs=("l0",), weight=np.eye(3) / i))
            ops.append(Add(name=f"add{i}", inputs=(current, f"short{i}")))
            current = f"add{i}"
        ops.append(lif(f"l{i}", current))
    graph = graph_of(*ops, shape=(3,))
    balanced = balance_latency(graph)
    assert relays(graph) == {"l0": 3}
    assert relay_neurons(graph) == 9
    read = [balanced.by_name[f"short{i}"].inputs for i in (2, 3, 4)]
    assert read == [("relay_l0_1_lif",), ("relay_l0_2_lif",), ("relay_l0_3_lif",)]
    assert balanced.by_name["relay_l0_2"].inputs == ("relay_l0_1_lif",)
    agree(graph, balanced)


def test_what_lies_between_is_read_anew_behind_the_relay():
    """The relay of a flattened, delayed map is the map's: a depthwise convolution and no matrix of 36 by 36."""
    ops = [
        conv("stem", "x", 2, 1), lif("s", "stem"),
        Delay(name="late", inputs=("s",), steps=1, shape=(1, 6, 6)),
        Flatten(name="flat", inputs=("late",)),
        Flatten(name="now", inputs=("s",)),
        Linear(name="a", inputs=("now",), weight=np.eye(36)), lif("la", "a"),
        Linear(name="b", inputs=("la",), weight=np.eye(36)),
        Linear(name="c", inputs=("flat",), weight=np.eye(36)),
        Add(name="add", inputs=("b", "c")), lif("end", "add"),
    ]  # fmt: skip
    graph = graph_of(*ops)
    balanced = balance_latency(graph)
    assert relays(graph) == {"s": 2}  # the Delay's step too has to be waited for
    assert {type(op) for op in balanced.ops if op.name.startswith("relay_s")} == {Conv2d, LIF}
    assert balanced.by_name["c"].inputs == ("relay_flat_2",)
    assert balanced.by_name["relay_flat_2"].inputs == ("relay_late_2",)
    assert balanced.by_name["relay_late_2"].inputs == ("relay_s_2_lif",)
    assert balanced.by_name["a"].inputs == ("now",)
    agree(graph, balanced)


def test_the_input_waits_for_nothing():
    """The host sends later: no relay for a shortcut from the input, nor behind layers that could start later."""
    deep = [conv("a", "x", 2, 3), lif("la", "a"), conv("b", "la", 3, 3, 1), lif("lb", "b"), conv("c", "lb", 3, 3, 2)]
    graph = graph_of(*deep, conv("short", "x", 2, 3, 3), Add(name="add", inputs=("c", "short")), lif("end", "add"))
    assert balance_latency(graph) is graph
    assert relay_neurons(graph) == 0
    early = [conv("d", "x", 2, 3, 3), lif("ld", "d"), conv("e", "ld", 3, 3, 4)]
    graph = graph_of(*deep, *early, Add(name="add", inputs=("c", "e")), lif("end", "add"))
    assert balance_latency(graph) is graph  # and not a relay behind ld
    found = depths(graph)
    assert (found["a"], found["d"], found["add"]) == (1, 2, 3)


def test_relays_stand_where_they_are_fewest():
    """A narrow branch waits behind its narrow layer, not before it."""
    ops = [
        Linear(name="in", inputs=("x",), weight=np.ones((20, 4)) / 4), lif("wide", "in"),
        Linear(name="a", inputs=("wide",), weight=np.eye(20)), lif("la", "a"),
        Linear(name="b", inputs=("la",), weight=np.eye(20)), lif("lb", "b"),
        Linear(name="c", inputs=("lb",), weight=np.ones((5, 20)) / 9),
        Linear(name="n", inputs=("wide",), weight=np.ones((2, 20)) / 9), lif("narrow", "n"),
        Linear(name="d", inputs=("narrow",), weight=np.ones((5, 2))),
        Add(name="add", inputs=("c", "d")), lif("end", "add"),
    ]  # fmt: skip
    assert relays(graph_of(*ops, shape=(4,))) == {"narrow": 1}
    widening = [*ops]
    widening[7] = Linear(name="n", inputs=("wide",), weight=np.ones((50, 20)) / 9)
    widening[9] = Linear(name="d", inputs=("narrow",), weight=np.ones((5, 50)))
    graph = graph_of(*widening, shape=(4,))
    assert relays(graph) == {"wide": 1}
    agree(graph, balance_latency(graph))


def recurrent(steps, synapses=1):
    """A layer that reads its own spikes of `steps` steps ago through `synapses` synapses."""
    ops: list[Op] = [
        Linear(name="fc", inputs=("x",), weight=np.eye(3)),
        Delay(name="before", inputs=("l",), steps=steps, shape=(3,)),
        Linear(name="own", inputs=("before",), weight=-0.5 * np.eye(3)),
    ]
    for i in range(1, synapses):
        ops += [lif(f"l{i}", ops[-1].name), Linear(name=f"own{i}", inputs=(f"l{i}",), weight=np.eye(3))]
    return graph_of(*ops, Add(name="add", inputs=("fc", ops[-1].name)), lif("l", "add"), shape=(3,), T=6)


def test_a_loop_of_as_many_steps_as_synapses_needs_nothing_and_a_slower_one_waits():
    for synapses in (1, 2):
        assert balance_latency(recurrent(synapses, synapses)) == recurrent(synapses, synapses)
    slow = recurrent(3)
    assert relays(slow) == {"l": 2}
    agree(slow, balance_latency(slow))


def test_a_loop_with_more_synapses_than_steps_is_refused_by_name():
    with pytest.raises(RmpDeployError) as e:
        balance_latency(recurrent(1, synapses=2))
    text = str(e.value)
    assert text.startswith(("Linear 'own': ", "Linear 'own1': "))
    assert "synapses in its loop = 2, steps of delay = 1, allowed as many: each takes a step. " in text
    assert "\n" not in text


REFUSED = {
    "a current that is delayed": (
        [Linear(name="fc", inputs=("x",), weight=np.eye(3)),
         Delay(name="d", inputs=("fc",), steps=1, shape=(3,)), lif("l", "d")],
        "Delay 'd': input = 'fc', a current, allowed spikes. Delay the spikes that its synapses read.",
    ),
    "two synapses in a row": (
        [Linear(name="a", inputs=("x",), weight=np.eye(3)), Linear(name="b", inputs=("a",), weight=np.eye(3)),
         lif("l", "b")],
        "Linear 'b': input = 'a', a current, allowed spikes or the input. ",
    ),
    "a loop without neurons": (
        [Delay(name="d", inputs=("sum",), steps=1, shape=(3,)), Add(name="sum", inputs=("x", "d")),
         Linear(name="a", inputs=("sum",), weight=np.eye(3)), lif("l", "a")],
        "Delay 'd': a loop without neurons, allowed neurons in every loop. ",
    ),
    "a current that is read early and late": (
        [Linear(name="a", inputs=("x",), weight=np.eye(3)), lif("la", "a"),
         Linear(name="b", inputs=("la",), weight=np.eye(3)), Add(name="add", inputs=("a", "b")), lif("l", "add")],
        "Linear 'a': its current has readers 'la', 'add' at different depths, allowed one depth. "
        "Give each a synapse of its own.",
    ),
    "a loop that is too fast, behind layers and before one": (
        [Linear(name="a", inputs=("x",), weight=np.eye(3)), lif("la", "a"),
         Linear(name="b", inputs=("la",), weight=np.eye(3)), lif("lb", "b"),
         Delay(name="before", inputs=("ld",), steps=1, shape=(3,)),
         Linear(name="c", inputs=("lb",), weight=np.eye(3)), Linear(name="own", inputs=("before",), weight=np.eye(3)),
         Add(name="add", inputs=("c", "own")), lif("lc", "add"),
         Linear(name="d", inputs=("lc",), weight=np.eye(3)), lif("ld", "d"),
         Linear(name="e", inputs=("ld",), weight=np.eye(3)), lif("le", "e")],
        "Linear 'own': synapses in its loop = 2, steps of delay = 1, allowed as many: each takes a step. "
        "Give the Delay in it more steps.",
    ),
    "a value that does not spike": (
        [Linear(name="a", inputs=("x",), weight=np.eye(3)), LI(name="v", inputs=("a",), decay=0.5),
         Linear(name="b", inputs=("x",), weight=np.eye(3)), lif("lb", "b"),
         Linear(name="c", inputs=("lb",), weight=np.eye(3)), lif("lc", "c"),
         Linear(name="d", inputs=("lc",), weight=np.eye(3)), Linear(name="e", inputs=("v",), weight=np.eye(3)),
         Linear(name="f", inputs=("v",), weight=np.eye(3)), lif("lf", "f"),
         Add(name="add", inputs=("d", "e")), lif("l", "add"), Linear(name="g", inputs=("lb",), weight=np.eye(3)),
         Linear(name="h", inputs=("lf",), weight=np.eye(3)), Add(name="j", inputs=("g", "h")), lif("lj", "j")],
        "LI 'v': it would have to wait 1 steps, allowed spikes. ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_wait_is_refused_by_name(case):
    ops, message = REFUSED[case]
    with pytest.raises(RmpDeployError) as e:
        balance_latency(graph_of(*ops, shape=(3,)))
    assert str(e.value).startswith(message)


def named_like_relays(case: str) -> SpikingGraph:
    """The spikes of 'l1' wait, once also flattened; `case` has the name that a relay of theirs would get."""
    first = Linear(name="f1", inputs=("x",), weight=np.eye(4))
    if case == "input":
        ops = [replace(first, inputs=("relay_l1_1",)), lif("l1", "f1"), *block("f2", "l1", "l2")]
        join = Add(name="add", inputs=("l1", "l2"))
        given = Input("relay_l1_1", (4,), "direct")
        ops += [join, *block("f3", "add", "l3")]
        return SpikingGraph("net", given, tuple(ops), Readout("l3", "sum"), 4)
    if case == "synapse":
        ops = [first, lif("l1", "f1"), *block("relay_l1_1", "l1", "l2"), Add(name="add", inputs=("l1", "l2"))]
    elif case == "neurons":
        ops = [first, lif("l1", "f1"), *block("f2", "l1", "relay_l1_1_lif")]
        ops.append(Add(name="add", inputs=("l1", "relay_l1_1_lif")))
    else:
        ops = [first, lif("l1", "f1"), Flatten(name="flat", inputs=("l1",)), *block("relay_flat_1", "flat", "l2")]
        ops.append(Add(name="add", inputs=("flat", "l2")))
    return graph_of(*ops, *block("f3", "add", "l3"), shape=(4,))


def block(synapse, source, neurons):
    weight = np.random.default_rng(len(synapse)).normal(0.2, 1, (4, 4))
    return [Linear(name=synapse, inputs=(source,), weight=weight), lif(neurons, synapse)]


@pytest.mark.parametrize("case", ["synapse", "neurons", "copy", "input"])
def test_names_that_relays_would_get_may_be_taken(case):
    graph = named_like_relays(case)
    balanced = balance_latency(graph)
    assert relays(graph) == {"l1": 1}
    assert len(balanced.by_name) == len(graph.ops) + 2 + (case == "copy")
    for op in graph.ops:
        assert type(balanced.by_name[op.name]) is type(op)
    agree(graph, balanced)
    assert_balanced(balanced)


def test_an_or_pool_is_a_synapse_and_neurons_that_forget():
    pool = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0)}
    graph = graph_of(conv("stem", "x", 2, 3), lif("s", "stem"), MaxPool2d(name="pool", inputs=("s",), **pool),
                     conv("after", "pool", 3, 2), lif("end", "after"))  # fmt: skip
    written = as_synapses(graph)
    assert [op.name for op in written.ops] == ["stem", "s", "pool_or", "pool", "after", "end"]
    assert relays(graph) == {}
    agree(graph, written)
    assert depths(written)["pool"] == 2
    loihi = [
        LoihiConv2d(name="c", inputs=("x",), weight=np.full((2, 2, 1, 1), 2)),
        LoihiLIF(name="s", inputs=("c",), du=4095, dv=4096, vth=3),
        MaxPool2d(name="pool", inputs=("s",), **pool),
        Flatten(name="flat", inputs=("pool",)),
    ]
    graph = SpikingGraph("net", Input("x", (2, 6, 6), "time_series", 0), tuple(loihi), Readout("flat", "sum"), 3)
    written = as_synapses(graph)
    assert [type(written.by_name[name]) for name in ("pool_or", "pool")] == [LoihiConv2d, LoihiLIF]
    agree(graph, written)


def test_identities_where_spikes_become_a_current():
    """Two of one Add, of a map; neurons that read neurons, of flat values; the input is a current already."""
    ops = [
        conv("a", "x", 2, 2), lif("la", "a"), conv("b", "la", 2, 2), lif("lb", "b"), conv("c", "la", 2, 2, 1),
        Add(name="add", inputs=("la", "c", "lb", "la", "x")), lif("joined", "add"),
        Flatten(name="flat", inputs=("joined",)), lif("end", "flat"),
    ]  # fmt: skip
    graph = graph_of(*ops)
    written = as_synapses(graph)
    added = [op.name for op in written.ops if op.name not in graph.by_name]
    assert added == ["add_identity", "add_identity2", "add_identity3", "end_identity"]
    assert written.by_name["add"].inputs == ("add_identity", "c", "add_identity2", "add_identity3", "x")
    assert isinstance(written.by_name["end_identity"], Linear)
    agree(graph, written)
    agree(graph, balance_latency(graph))


def test_an_identity_of_too_many_flat_values_is_refused_before_it_is_made():
    ops = [conv("a", "x", 2, 2), lif("la", "a"), Flatten(name="flat", inputs=("la",)), lif("end", "flat")]
    with pytest.raises(
        RmpDeployError, match=r"^Linear 'end_identity': identity of 20000 flat values, allowed 16384\. "
    ):
        balance_latency(graph_of(*ops, shape=(2, 100, 100)))


class Random:
    """Random layers on values of one shape: joins of anything earlier, delays, recurrent edges."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape: Shape = [(3,), (2, 4, 3)][int(self.rng.integers(2))]
        self.ops: list[Op] = []
        self.spikes: list[str] = []

    def graph(self) -> SpikingGraph:
        for _ in range(int(self.rng.integers(2, 7))):
            self.layer()
        readout = Readout(self.ops[-1].name, "sum")
        encoding = "direct" if self.rng.integers(2) else "time_series"
        return SpikingGraph("random", Input("x", self.shape, encoding), tuple(self.ops), readout, 5)

    def layer(self) -> None:
        rng, n = self.rng, len(self.ops)
        currents = [self.synapse(self.value(), f"{i}_{n}") for i in range(int(rng.integers(1, 3)))]
        loop = bool(rng.integers(4) == 0)
        if loop:
            at, steps = len(self.ops), int(rng.integers(1, 4))
            self.ops.append(Delay(name=f"loop{n}", inputs=("later",), steps=steps, shape=self.shape))
            currents.append(self.synapse(f"loop{n}", f"own_{n}"))
        if self.spikes and rng.integers(3) == 0:
            currents.append(self.spikes[int(rng.integers(len(self.spikes)))])
        if len(currents) > 1:
            self.ops.append(Add(name=f"add{n}", inputs=tuple(currents)))
        self.ops.append(lif(f"lif{n}", f"add{n}" if len(currents) > 1 else currents[0]))
        self.spikes.append(f"lif{n}")
        if loop:
            self.ops[at] = Delay(name=f"loop{n}", inputs=(f"lif{n}",), steps=steps, shape=self.shape)

    def value(self) -> str:
        """Spikes of an earlier layer, or the input; perhaps delayed, or the sum of two."""
        rng, n = self.rng, len(self.ops)
        known = [*self.spikes[-4:], *(["x"] if not self.spikes or rng.integers(4) == 0 else [])]
        value = known[int(rng.integers(len(known)))]
        if rng.integers(4) == 0:
            self.ops.append(Delay(name=f"late{n}", inputs=(value,), steps=int(rng.integers(1, 4)), shape=self.shape))
            value = f"late{n}"
        if self.spikes and rng.integers(4) == 0:
            self.ops.append(Add(name=f"both{n}", inputs=(value, self.spikes[-1])))
            value = f"both{n}"
        return value

    def synapse(self, value: str, name: str) -> str:
        n = self.shape[0]
        if len(self.shape) == 1:
            weight = self.rng.normal(0.3, 0.8, (n, n))
            self.ops.append(Linear(name=f"fc{name}", inputs=(value,), weight=weight))
        else:
            weight = self.rng.normal(0.1, 0.4, (n, n, 3, 3))
            self.ops.append(Conv2d(name=f"fc{name}", inputs=(value,), weight=weight, padding=(1, 1)))
        return f"fc{name}"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_random_graphs_are_balanced_and_mean_the_same(seed):
    graph = Random(seed).graph()
    balanced = balance_latency(graph)
    assert relays(balanced) == {}
    assert relay_neurons(graph) == sum(
        math.prod(balanced.shapes[op.name]) for op in balanced.spiking if op.name.startswith("relay_")
    )
    assert_balanced(balanced)
    agree(graph, balanced, seed)


def test_the_random_graphs_need_relays_often():
    """Otherwise the test above would test less than it says."""
    graphs = [Random(seed).graph() for seed in range(100)]
    assert np.mean([bool(relays(graph)) for graph in graphs]) > 0.5
    assert {Delay, Add, Conv2d, Linear} <= {type(op) for graph in graphs for op in graph.ops}
    rates = [s.mean() for graph in graphs[:30] for s in agree(graph, balance_latency(graph)).spikes.values()]
    assert np.mean([0.02 < rate < 0.98 for rate in rates]) > 0.7
