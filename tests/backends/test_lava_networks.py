"""Residual, recurrent, delayed and joined networks on Lava, many samples in one run: the spikes of the reference.

In floating point every spike is equal and every potential within rounding; in fixed point both are equal bit for bit.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmp_deploy.analysis.parity import compare
from rmp_deploy.backends import lava
from rmp_deploy.converters.lava.refusals import refusals
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Op,
    Quantize,
    Shape,
)
from rmp_deploy.ir.ops.loihi import stored_weight
from rmp_deploy.passes.balance_latency import relays

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")


class Layers:
    """Builds a network op by op; real-valued, or of Loihi's integers. Every op returns its name."""

    def __init__(self, seed: int, shape: Shape, loihi: bool = False) -> None:
        self.rng, self.loihi = np.random.default_rng(seed), loihi
        self.shapes: dict[str, Shape] = {"x": shape}
        self.ops: list[Op] = []

    def add(self, op: Op) -> str:
        self.ops.append(op)
        self.shapes[op.name] = op.output_shape(*(self.shapes[i] for i in op.inputs if i in self.shapes))
        return op.name

    def synapse(self, name: str, source: str, n: int, kernel: int = 3, bias: bool = True, **geometry: object) -> str:
        """n channels, or n neurons of flat values."""
        rng, shape = self.rng, self.shapes[source]
        groups = int(geometry.get("groups", 1))
        size = (n, shape[0] // groups, *(kernel,) * (len(shape) - 1))
        fan_in = np.prod(size[1:])
        kinds = {1: Linear, 2: Conv1d, 3: Conv2d}
        if len(shape) > 1:
            geometry.setdefault("padding", (kernel // 2,) * (len(shape) - 1))
        if self.loihi:
            weight = stored_weight(np.rint(rng.normal(20, 180, size) / np.sqrt(fan_in)).astype(int), 8, "mixed")
            kind = {1: LoihiLinear, 3: LoihiConv2d}[len(shape)]
            return self.add(kind(name=name, inputs=(source,), weight=weight, weight_exp=-1, **geometry))
        weight = rng.normal(0.2, 1.5, size) / np.sqrt(fan_in)
        given = {"bias": rng.normal(0.1, 0.2, n)} if bias else {}
        return self.add(kinds[len(shape)](name=name, inputs=(source,), weight=weight, **given, **geometry))

    def neurons(self, name: str, source: str, current_decay: float | None = None) -> str:
        rng, shape = self.rng, self.shapes[source]
        if self.loihi:
            each = (shape[0], *(1,) * (len(shape) - 1))
            parameters = {"du": 4095 if current_decay is None else int(4096 * (1 - current_decay)) - 1,
                          "dv": rng.integers(1000, 4097, each), "vth": rng.integers(10, 60, each),
                          "bias_mant": rng.integers(0, 400, each)}  # fmt: skip
            return self.add(LoihiLIF(name=name, inputs=(source,), **parameters))
        fire = {"decay": rng.uniform(0, 0.9, shape), "v_threshold": rng.uniform(0.2, 0.8, shape)}
        if current_decay is not None:
            return self.add(CubaLIF(name=name, inputs=(source,), current_decay=np.float32(current_decay), **fire))
        return self.add(LIF(name=name, inputs=(source,), **fire))

    def layer(self, name: str, source: str, n: int, **options: object) -> str:
        return self.neurons(name, self.synapse(f"{name}_w", source, n, **options))

    def join(self, name: str, *values: str) -> str:
        return self.add(Add(name=name, inputs=values))

    def delay(self, name: str, value: str, steps: int, shape: Shape | None = None) -> str:
        shape = shape or self.shapes[value]
        return self.add(Delay(name=name, inputs=(value,), steps=steps, shape=shape))

    def graph(self, T: int = 3, encoding: str = "time_series", rule: str = "sum") -> SpikingGraph:
        bits = 0 if self.loihi and encoding == "time_series" else None
        given = Input("x", self.shapes["x"], encoding, bits)
        return SpikingGraph("net", given, tuple(self.ops), Readout(self.ops[-1].name, rule), T)

    def samples(self, n: int, T: int = 3, encoding: str = "time_series") -> np.ndarray:
        if encoding == "direct":
            return self.rng.random((n, *self.shapes["x"]))
        return (self.rng.random((n, T, *self.shapes["x"])) < 0.4).astype(np.float64)


def agree(graph: SpikingGraph, x: np.ndarray, alive: bool = True) -> None:
    """Lava's run is the reference's, layer by layer, and every layer fires, and not always."""
    ours, theirs = (backend.run(graph, x, ("spikes", "v")) for backend in (reference, lava))
    assert list(theirs.spikes) == list(theirs.v) == [op.name for op in graph.spiking]  # no relays, no pools
    for name, spikes in ours.spikes.items():
        np.testing.assert_array_equal(spikes, theirs.spikes[name], err_msg=name)
        fixed = isinstance(graph.by_name[name], LoihiLIF)
        np.testing.assert_allclose(theirs.v[name], ours.v[name], rtol=0, atol=0 if fixed else 1e-9, err_msg=name)
        assert not alive or 0.02 < spikes.mean() < 0.98, f"{name}: a silent or saturated layer proves nothing"
    in_loihi = graph.readout.value in graph.currents
    np.testing.assert_allclose(theirs.output, ours.output, rtol=0, atol=0 if in_loihi else 1e-9)
    rung = compare(graph, x, ours, theirs)
    assert rung.holds
    assert rung.mismatches == 0


@pytest.mark.parametrize("loihi", [False, True])
@pytest.mark.parametrize("shortcut", ["identity", "conv", "pool"])
def test_residual_blocks(shortcut, loihi):
    """Two blocks: of spikes, of a convolution with stride, of a pool folded into one; a linear readout."""
    net = Layers(1, (2, 6, 6), loihi)
    value = net.layer("stem", "x", 4)
    for i in (1, 2):
        stride = {"stride": (2, 2)} if shortcut != "identity" and i == 2 else {}
        inner = net.layer(f"inner{i}", value, 4, **stride)
        outer = net.synapse(f"outer{i}", inner, 4)
        if shortcut == "identity" or i == 1:
            side = value if not loihi else identity_of(net, f"add{i}_identity", value)
        elif shortcut == "conv":
            side = net.synapse(f"side{i}", value, 4, kernel=1, **stride)
        elif loihi:
            pytest.skip("an average is no integer: the pool is folded before it is quantized")
        else:
            pooled = net.add(AvgPool2d(name="pool", inputs=(value,), kernel=(2, 2), stride=(2, 2)))
            side = net.synapse(f"side{i}", pooled, 4, kernel=1)
        value = net.neurons(f"joined{i}", net.join(f"add{i}", outer, side))
    net.synapse("fc", net.add(Flatten(name="flat", inputs=(value,))), 3)
    graph = net.graph()
    if shortcut != "pool":
        assert relays(graph) == {"stem": 1, "joined1": 1}
    agree(graph, net.samples(6))


def identity_of(net: Layers, name: str, value: str, weight: int = 30) -> str:
    """What a quantized identity shortcut is: one weight per channel."""
    weights = np.full((net.shapes[value][0], 1, 1, 1), weight)
    return net.add(LoihiConv2d(name=name, inputs=(value,), weight=weights, groups=net.shapes[value][0]))


@pytest.mark.parametrize("loihi", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_recurrent_layers_and_samples_that_do_not_leak(steps, loihi):
    """T = 2 is shorter than the delays of 2 and 3; what the sample before left in relays and synapses is not seen."""
    for T in (2, 5):
        net = Layers(steps + 5, (6,), loihi)
        current = net.synapse("fc", "x", 8)
        before = net.delay("before", "lif", steps, (8,))
        own = net.synapse("own", before, 8, bias=False)
        net.neurons("lif", net.join("add", current, own))
        net.layer("out", "lif", 3)
        agree(net.graph(T), net.samples(9, T))
        assert relays(net.graph(T)) == ({"lif": steps - 1} if steps > 1 else {})


@pytest.mark.parametrize("loihi", [False, True])
def test_one_sample_after_another_is_each_alone(loihi):
    net = Layers(5, (6,), loihi)
    late = net.delay("late", net.layer("first", "x", 5), 2)
    current = net.join("add", net.synapse("now", "first", 4), net.synapse("then", late, 4))
    net.neurons("lif", current)
    graph, x = net.graph(T=3), net.samples(5)
    together = lava.run(graph, x, ("spikes", "v"))
    for i in range(len(x)):
        alone = lava.run(graph, x[i : i + 1], ("spikes", "v"))
        for name in together.v:
            np.testing.assert_array_equal(together.spikes[name][i], alone.spikes[name][0])
            np.testing.assert_array_equal(together.v[name][i], alone.v[name][0])


@pytest.mark.parametrize("loihi", [False, True])
def test_delays_of_spikes_and_of_the_input(loihi):
    net = Layers(2, (5,), loihi)
    first = net.layer("first", "x", 6)
    currents = [net.synapse(f"w{k}", net.delay(f"d{k}", first, k), 6) for k in (1, 2, 3)]
    currents.append(net.synapse("w_x", net.delay("d_x", "x", 2), 6))
    net.neurons("lif", net.join("add", *currents))
    agree(net.graph(T=5), net.samples(7, T=5))


def test_spikes_that_are_added_up_and_concatenated_before_a_synapse():
    """SEW's sums are graded messages; a Concat splits its reader, be it grouped or behind a Flatten."""
    for loihi in (False, True):
        net = Layers(3, (2, 5, 4), loihi)
        a, b = net.layer("a", "x", 2), net.layer("b", "x", 4)
        late = net.delay("late", net.join("sum", a, a, a), 1)
        both = net.add(Concat(name="both", inputs=(a, b, late)))
        c = net.layer("c", both, 4)
        d = net.layer("d", both, 8, groups=4)
        flat = net.add(Flatten(name="flat", inputs=(net.add(Concat(name="all", inputs=(d, c, both))),)))
        net.layer("end", flat, 5)
        agree(net.graph(), net.samples(5))


def test_concat_and_the_like_behind_the_last_neurons_are_joined_on_the_host():
    net = Layers(4, (3,))
    a = net.layer("a", "x", 2)
    b = net.layer("b", net.layer("deep", "x", 4), 2)
    late = net.delay("late", net.join("sum", a, b), 2)
    net.add(Concat(name="all", inputs=(late, b, a)))
    graph = net.graph(T=4, rule="last")
    assert relays(graph) == {}
    agree(graph, net.samples(4, T=4))


def test_current_based_neurons_with_biases():
    """Lava's bias would go past the synaptic current, so that it is sent as a current."""
    net = Layers(6, (5,))
    a = net.neurons("a", net.synapse("w_a", "x", 7), current_decay=0.5)
    net.neurons("b", net.join("add", net.synapse("w_b", a, 4), net.synapse("w_x", "x", 4)), current_decay=0.9)
    agree(net.graph(T=6), net.samples(5, T=6))
    net = Layers(6, (5,), loihi=True)
    net.neurons("a", net.synapse("w_a", "x", 7), current_decay=0.5)
    agree(net.graph(T=6), net.samples(5, T=6))


@pytest.mark.parametrize("loihi", [False, True])
def test_or_pools(loihi):
    net = Layers(7, (2, 7, 6), loihi)
    a = net.layer("a", "x", 4)
    pool = net.add(MaxPool2d(name="pool", inputs=(a,), kernel=(3, 2), stride=(2, 2), padding=(1, 0)))
    side = net.synapse("side", pool, 3)
    inner = net.layer("inner", pool, 4)
    net.neurons("end", net.join("add", net.synapse("outer", inner, 3), side))
    graph = net.graph()
    assert relays(graph) == {"pool": 1}
    agree(graph, net.samples(5))


def test_leaky_readouts_one_axis_and_neurons_without_a_synapse():
    net = Layers(8, (3, 9))
    a = net.layer("a", "x", 4, stride=(2,), dilation=(2,))
    b = net.neurons("b", net.join("add", net.synapse("w", net.layer("in", a, 4), 4), a))  # a relay and an identity
    after = net.neurons("after", net.neurons("again", b))
    flat = net.add(Flatten(name="flat", inputs=(after,)))
    net.add(LI(name="v", inputs=(net.synapse("fc", flat, 3),), decay=np.array([0.5, 0.9, 1.0])))
    for rule in ("sum", "last"):
        agree(net.graph(T=4, rule=rule), net.samples(4, T=4), alive=False)


def test_the_input_reaches_every_depth_without_relays():
    """Direct-coded samples join deep layers as a current, flattened, and through synapses of their own."""
    net = Layers(9, (4,))
    deep = net.layer("b", net.layer("a", "x", 5), 4)
    net.neurons("end", net.join("add", net.synapse("w", deep, 4), net.synapse("w_x", "x", 4), "x"))
    net.neurons("direct", "x")
    net.layer("tail", "end", 3)
    graph = net.graph(encoding="direct", T=4)
    assert relays(graph) == {}
    agree(graph, net.samples(6, encoding="direct"), alive=False)


def test_graded_input_is_quantized_by_the_host_and_the_readout_is_dequantized():
    net = Layers(10, (1, 6, 6), loihi=True)
    net.add(Quantize(name="q", inputs=("x",), scale=np.float32(31), message_bits=5))
    a = net.neurons("a", net.synapse("w_a", "q", 4))
    inner = net.layer("inner", a, 4)
    b = net.neurons("b", net.join("add", net.synapse("outer", inner, 4), identity_of(net, "add_identity", a)))
    fc = net.synapse("fc", net.add(Flatten(name="flat", inputs=(b,))), 3)
    net.add(Dequantize(name="out", inputs=(fc,), scale=np.float32(0.01), bias=np.array([0.1, -0.2, 0.3])))
    agree(net.graph(encoding="direct", rule="mean"), net.samples(6, encoding="direct"), alive=False)


@pytest.mark.parametrize("quantized_first", [True, False])
def test_graded_input_may_be_flattened_before_or_behind_quantize(quantized_first):
    net = Layers(13, (1, 3, 4), loihi=True)
    scale = {"scale": np.float32(31), "message_bits": 5}
    if quantized_first:
        flat = net.add(Flatten(name="flat", inputs=(net.add(Quantize(name="q", inputs=("x",), **scale)),)))
    else:
        flat = net.add(Quantize(name="q", inputs=(net.add(Flatten(name="flat", inputs=("x",))),), **scale))
    net.layer("lif", flat, 6)
    net.neurons("direct", flat)
    net.layer("out", "lif", 3)
    agree(net.graph(encoding="direct"), net.samples(6, encoding="direct"), alive=False)


def test_a_matrix_of_few_weights_is_lavas_sparse():
    from lava.proc.sparse.process import Sparse

    from rmp_deploy.converters.lava.synapse import SYNAPSES
    from rmp_deploy.converters.lava.wiring import links
    from rmp_deploy.passes.paths import parts

    for loihi in (False, True):
        net = Layers(11, (12,), loihi)
        a = net.layer("a", "x", 12)
        diagonal = 40 * np.eye(12, dtype=int)
        few = (
            LoihiLinear(name="few", inputs=(a,), weight=diagonal, weight_exp=-1)
            if loihi
            else Linear(name="few", inputs=(a,), weight=diagonal / 60, bias=np.full(12, 0.1))
        )
        net.neurons("end", net.add(few))
        graph = net.graph()
        (link,) = links(graph, few, parts(graph)[a])
        process, _ = SYNAPSES[type(few)](few, link, "few")
        assert isinstance(process, Sparse)
        agree(graph, net.samples(6))


def refused_network(case: str) -> SpikingGraph:
    loihi = case == "split floor"
    net = Layers(12, (3,), loihi)
    if case == "late current":
        current = net.delay("late", net.synapse("fc", "x", 3), 1)
        net.neurons("lif", current)
    elif case == "joined currents":
        net.neurons("lif", net.add(Concat(name="both", inputs=(net.synapse("a", "x", 3), net.synapse("b", "x", 3)))))
    elif case == "potential as a message":
        value = net.add(LI(name="v", inputs=(net.synapse("a", "x", 3),), decay=0.5))
        net.layer("lif", net.add(Flatten(name="flat", inputs=(value,))), 2)
    elif case == "split floor":
        a = net.layer("a", "x", 2)
        both = net.add(Concat(name="both", inputs=(a, net.delay("late", a, 1))))
        weight = np.full((3, 4), 6)
        net.neurons("lif", net.add(LoihiLinear(name="fc", inputs=(both,), weight=weight, weight_exp=-2)))
    elif case == "too fast a loop":
        before = net.delay("before", "lif", 1, (3,))
        own = net.synapse("own", net.layer("inner", before, 3), 3)
        net.neurons("lif", net.join("add", net.synapse("fc", "x", 3), own))
    elif case == "a current twice":
        current = net.synapse("fc", "x", 3)
        net.neurons("lif", net.join("add", current, current))
    elif case == "two pieces":
        net.layer("here", "x", 2)
        net.layer("there", net.delay("late", "x", 1), 2)
    return net.graph()


REFUSED = {
    "late current": "Delay 'late': input = Linear 'fc', a current, allowed spikes or the input [lava]. ",
    "joined currents": "Concat 'both': input = Linear 'a', a current, allowed spikes or the input [lava]. ",
    "potential as a message": "LI 'v': reader = Linear 'lif_w', allowed the readout [lava]. ",
    "split floor": "LoihiLinear 'fc': weight = 6 with weight_exp = -2, allowed multiples of 4 [lava]. ",
    "too fast a loop": "Linear 'inner_w': synapses in its loop = 2, steps of delay = 1, allowed as many: ",
    "a current twice": "LIF 'lif': 'fc' arrives twice, allowed every current once [lava]. ",
    "two pieces": "Linear 'there_w': no way between it and 'here', allowed one network",
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case):
    graph = refused_network(case)
    with pytest.raises(RmpDeployError) as e:
        lava.run(graph, np.ones((1, 3, 3)))
    assert str(e.value).startswith(REFUSED[case])
    assert "\n" not in str(e.value)
    assert str(next(refusals(graph))[1]) == str(e.value)


def test_a_pool_of_joined_spikes_is_one_layer_to_an_exponent():
    """The weights are odd multiples of 2 with weight_exp = -2: exact where one process floors the whole sum."""
    net = Layers(13, (2, 4, 4), loihi=True)
    both = net.add(Concat(name="both", inputs=(net.layer("a", "x", 2), net.layer("b", "x", 2))))
    pool = net.add(MaxPool2d(name="pool", inputs=(both,), kernel=(2, 2), stride=(2, 2)))
    weight = 2 * net.rng.integers(-30, 40, (3, 16))
    assert (weight % 4).any()
    flat = net.add(Flatten(name="flat", inputs=(pool,)))
    net.add(LoihiLinear(name="fc", inputs=(flat,), weight=weight, weight_exp=-2))
    agree(net.graph(), net.samples(5))


def random_network(seed: int) -> tuple[SpikingGraph, np.ndarray]:
    """Layers of maps and flat values, which join, delay, pool and lead back."""
    rng = np.random.default_rng(seed)
    loihi, flat, T = bool(seed % 2), bool(rng.integers(2)), int(rng.integers(1, 5))
    net = Layers(seed, (5,) if flat else (2, 5, 4), loihi)
    c = 4
    spikes = [net.layer("first", "x", c)]
    for i in range(int(rng.integers(1, 5))):
        read = spikes[int(rng.integers(len(spikes)))]
        if rng.integers(3) == 0:
            read = net.delay(f"late{i}", read, int(rng.integers(1, 4)))
        if rng.integers(3) == 0:
            read = net.add([Add, Concat][int(rng.integers(2))](name=f"joined{i}", inputs=(read, spikes[-1])))
        currents = [net.synapse(f"w{i}", read, c)]
        if rng.integers(2):
            currents.append(net.synapse(f"side{i}", spikes[int(rng.integers(len(spikes)))], c, kernel=1))
        if rng.integers(3) == 0 and not loihi:
            currents.append(spikes[int(rng.integers(len(spikes)))])
        loop = bool(rng.integers(3) == 0)
        if loop:
            net.delay(f"before{i}", f"lif{i}", int(rng.integers(1, 4)), net.shapes[currents[0]])
            currents.append(net.synapse(f"own{i}", f"before{i}", c))
        current = net.join(f"add{i}", *currents) if len(currents) > 1 else currents[0]
        spikes.append(net.neurons(f"lif{i}", current, current_decay=0.5 if rng.integers(3) == 0 else None))
        if not flat and rng.integers(4) == 0:
            pool = MaxPool2d(name=f"pool{i}", inputs=(spikes[-1],), kernel=(3, 3), stride=(1, 1), padding=(1, 1))
            spikes.append(net.add(pool))
    return net.graph(T), net.samples(5, T)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_random_networks(seed):
    graph, x = random_network(seed)
    try:
        agree(graph, x, alive=False)
    except RmpDeployError as e:
        assert "largest possible" in str(e) or "[lava]" in str(e)  # refused by name
