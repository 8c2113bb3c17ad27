"""Placement: what every core holds is what enumerating all synapses gives; blocks fit, and what cannot fit is named."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.correlate import correlate
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LIF,
    Add,
    Concat,
    Conv1d,
    Conv2d,
    Delay,
    Dequantize,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    MaxPool2d,
    Quantize,
    SumPool2d,
)
from rmp_deploy.passes.balance_latency import balance_latency
from rmp_deploy.passes.place import PER_CORE, place
from rmp_deploy.passes.quantize import quantize

CORE = {
    "neurons_per_core": 20,
    "input_axons_per_core": 40,
    "output_axons_per_core": 60,
    "synapse_memory_per_core": 300,
    "synapses_per_core": 250,
}
FREE = dict.fromkeys(PER_CORE)


def lif(name, *sources, **changes):
    return LIF(name=name, inputs=sources, **{"decay": 0.5, "v_threshold": 1.0, **changes})


def conv(name, source, *shape, seed=0, **geometry):
    weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Conv2d(name=name, inputs=(source,), weight=weight, **geometry)


def linear(name, source, n_out, n_in):
    return Linear(name=name, inputs=(source,), weight=np.random.default_rng(n_in).normal(size=(n_out, n_in)))


def spiking(*ops, shape=(2, 6, 6), readout=None):
    """A graph whose input is spikes, so that all of it stands on the chip."""
    return SpikingGraph("g", Input("x", shape, "time_series", 0), ops, Readout(readout or ops[-1].name, "sum"), T=2)


def joined():
    """Groups, strides, dilation, padding, a concatenation, a residual sum, a dense layer behind a map."""
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
        Add(name="add", inputs=("c5", "s4")),
        lif("s5", "add"),
        Flatten(name="flat", inputs=("s5",)),
        linear("fc", "flat", 7, 5 * 4 * 3),
        lif("s6", "fc"),
        linear("out", "s6", 4, 7),
    )


def adjacency(graph):
    """Every synapse of a balanced graph as (source value, its flat position, neurons, their flat position), one by one.

    By pushing a 1 through each synapse from each position of what it reads, weights replaced by ones.
    """
    found = []
    for op in graph.ops:
        if not hasattr(op, "weight"):
            continue
        (head,) = [n for n in graph.ops if isinstance(n, LIF | LoihiLIF) and op.name in reach(graph, n)] or [op]
        shape = graph.shapes[op.inputs[0]]
        for position in range(int(np.prod(shape))):
            x = np.zeros((1, int(np.prod(shape))))
            x[0, position] = 1
            if isinstance(op, Linear | LoihiLinear):
                is_identity = np.array_equal(op.weight, np.eye(len(op.weight)))
                y = x @ (op.weight if is_identity else np.ones_like(op.weight)).T
            else:
                ones = np.ones_like(op.weight)
                y = correlate(x.reshape(1, *shape), ones, op.stride, op.padding, op.dilation, op.groups)
            source, at = origin(graph, op.inputs[0], position)
            found += [(source, at, head.name, int(target), op) for target in np.flatnonzero(y)]
    return found


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
    """The core of every neuron, by its flat position."""
    cores = np.empty(layer.shape, int)
    runs = [range(0, n, t) for n, t in zip(layer.shape, layer.tile, strict=True)]
    for core, starts in enumerate(itertools.product(*runs)):
        cores[tuple(slice(s, s + t) for s, t in zip(starts, layer.tile, strict=True))] = core
    return cores.ravel()


def by_enumeration(graph, placement, bits=8):
    """What every core of every layer holds, counted synapse by synapse."""
    layers = {layer.name: layer for layer in placement.layers}
    cores = {name: core_of(layer) for name, layer in layers.items()}
    use = {name: {what: np.zeros(layer.cores, int) for what in PER_CORE} for name, layer in layers.items()}
    inputs, outputs = set(), set()
    for source, at, head, target, op in adjacency(graph):
        if head in layers:
            core = cores[head][target]
            use[head]["synapses_per_core"][core] += 1
            inputs.add((head, core, op.name, source, at))
            if source in layers:
                outputs.add((source, at, head, core, op.name))
    for head, core, *_ in inputs:
        use[head]["input_axons_per_core"][core] += 1
    for source, at, *_ in outputs:
        use[source]["output_axons_per_core"][cores[source][at]] += 1
    for name, layer in layers.items():
        use[name]["neurons_per_core"] = np.bincount(cores[name], minlength=layer.cores)
        use[name]["synapse_memory_per_core"] = -(-use[name]["synapses_per_core"] * bits // 8)
    return use


def check_by_enumeration(graph, placement, **kinds):
    wanted = by_enumeration(balance_latency(graph), placement, **kinds)
    assert [layer.name for layer in placement.layers] == list(wanted)
    for layer in placement.layers:
        for what in PER_CORE:
            np.testing.assert_array_equal(layer.used[what], wanted[layer.name][what], f"{layer.name} {what}")


def test_a_dense_layer_by_hand():
    """30 inputs, 10 neurons, 4 readouts. 300 bytes hold 10 rows of 30 weights, but 250 synapses only 8 of them."""
    g = spiking(linear("fc1", "x", 10, 30), lif("s1", "fc1"), linear("fc2", "s1", 4, 10), shape=(30,))
    placed = place(g, CORE)
    hidden, readout = placed.layers
    assert (hidden.name, hidden.kind, hidden.tile, hidden.cores) == (
        "s1",
        "neurons",
        (5,),
        2,
    )  # equal blocks: not 8 + 2
    assert (readout.name, readout.kind, readout.tile, readout.cores) == ("fc2", "readout", (4,), 1)
    assert {what: hidden.used[what].tolist() for what in PER_CORE} == {
        "neurons_per_core": [5, 5],
        "input_axons_per_core": [30, 30],  # every block hears every input
        "output_axons_per_core": [5, 5],  # and sends to one core
        "synapse_memory_per_core": [150, 150],
        "synapses_per_core": [150, 150],
    }
    assert readout.used["output_axons_per_core"].tolist() == [0]
    assert (placed.host, placed.excesses, placed.assumed_bits) == ((), (), 8)
    check_by_enumeration(g, placed)


def test_a_convolution_by_hand():
    """3x3 with padding on 1 x 4 x 4: rows 0-1 read rows 0-2, 12 of 16 pixels; 25 of 36 taps of each row pair exist."""
    g = spiking(conv("c", "x", 2, 1, 3, 3, padding=(1, 1)), lif("s", "c"), shape=(1, 4, 4))
    (layer,) = place(g, {**FREE, "neurons_per_core": 16, "input_axons_per_core": 12}).layers
    assert (layer.tile, layer.cores) == ((2, 2, 4), 2)
    assert layer.used["input_axons_per_core"].tolist() == [12, 12]
    # rows: 2 + 3 taps; columns: 2 + 3 + 3 + 2 taps; 2 channels
    assert layer.used["synapses_per_core"].tolist() == [2 * 5 * 10] * 2
    assert layer.kernel_bytes == 2 * 18  # the kernel once on each core


def test_every_count_is_what_enumerating_the_synapses_gives():
    g = joined()
    check_by_enumeration(g, place(g, CORE))
    check_by_enumeration(g, place(g, FREE))


@pytest.mark.parametrize("seed", range(8))
def test_counts_and_limits_of_random_convolutions(seed):
    rng = np.random.default_rng(seed)
    groups, out = int(rng.choice([1, 2])), int(rng.integers(1, 4))
    pairs = {
        k: tuple(int(i) for i in rng.integers(low, 3, 2)) for k, low in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    g = spiking(
        conv("c1", "x", 2 * out, 2 // groups, 2, 3, groups=groups, **pairs),
        lif("s1", "c1"),
        conv("c2", "s1", 3, 2 * out, 2, 1, padding=(1, 1)),
        lif("s2", "c2"),
        shape=(2, 7, 8),
    )  # fmt: skip
    limits = {name: int(value * rng.uniform(0.5, 2)) for name, value in CORE.items()}
    placed = place(g, limits)
    check_by_enumeration(g, placed)
    assert placed.excesses == ()
    for layer in placed.layers:
        assert all(int(layer.used[what].max()) <= limits[what] for what in PER_CORE)


def test_weights_of_integer_layers_take_the_bits_they_have():
    """Five rows of 9 synapses of 4 bits, then the host's readout; the input passes a Quantize on the host."""
    weight = 32 * np.ones((5, 9), np.int32)
    g = SpikingGraph(
        "g",
        Input("x", (9,), "direct"),
        (
            Quantize(name="q", inputs=("x",), scale=np.float32(10), message_bits=4),
            LoihiLinear(name="fc", inputs=("q",), weight=weight, num_weight_bits=4),
            LoihiLIF(name="s", inputs=("fc",), du=np.int32(4095), dv=np.int32(2048), vth=np.int32(50)),
            LoihiLinear(name="fc2", inputs=("s",), weight=weight[:3, :5], num_weight_bits=4),
            Dequantize(name="out", inputs=("fc2",), scale=np.float32(0.1)),
        ),
        Readout("out", "mean"),
        T=2,
    )
    placed = place(g, {**FREE, "synapse_memory_per_core": 23})
    assert [(layer.name, layer.cores) for layer in placed.layers] == [("s", 1), ("fc2", 1)]
    assert placed.layers[0].used["synapse_memory_per_core"].tolist() == [23]  # 45 * 4 bits
    assert (placed.host, placed.assumed_bits) == (("q", "out"), None)
    check_by_enumeration(g, placed, bits=4)


def test_a_real_valued_first_layer_stays_on_the_host():
    g = replace(joined(), input=Input("x", (2, 6, 6), "direct"))
    placed = place(g, FREE)
    assert placed.host == ("c1", "s1")
    assert "s1" not in {layer.name for layer in placed.layers}
    only = SpikingGraph("g", g.input, g.ops[:2], Readout("s1", "sum"), T=2)
    with pytest.raises(RmpDeployError, match="layers that spikes reach = 0, allowed at least 1"):
        place(only, FREE)


def test_relays_or_pools_and_integers_are_layers_like_others():
    """A pool's neurons and the relay of the branch that is one synapse shorter, with their synapses."""
    ones = np.ones((2, 2, 1, 1), np.int32)
    fire = {"du": np.int32(4095), "dv": np.int32(4096), "vth": np.int32(0)}

    def synapse(name, source):
        return LoihiConv2d(name=name, inputs=(source,), weight=ones, sign_mode="excitatory")

    g = spiking(
        synapse("c1", "x"),
        LoihiLIF(name="s1", inputs=("c1",), **fire),
        MaxPool2d(name="or", inputs=("s1",), kernel=(2, 2), stride=(2, 2)),
        synapse("c2", "or"),
        LoihiLIF(name="s2", inputs=("c2",), **fire),
        synapse("c3", "s2"),
        synapse("c4", "or"),
        Add(name="add", inputs=("c3", "c4")),
        LoihiLIF(name="s3", inputs=("add",), **fire),
        shape=(2, 4, 4),
    )
    placed = place(g, CORE)
    assert [(layer.name, layer.kind, layer.shape) for layer in placed.layers] == [
        ("s1", "neurons", (2, 4, 4)),
        ("or", "neurons", (2, 2, 2)),
        ("relay_or_1_lif", "relay", (2, 2, 2)),
        ("s2", "neurons", (2, 2, 2)),
        ("s3", "neurons", (2, 2, 2)),
    ]
    check_by_enumeration(g, placed)


def test_a_loop_is_cut_until_its_own_axons_fit():
    """Every neuron sends to every block of its own layer: 12 neurons on 4 cores need 3 * 4 output axons on each."""
    g = spiking(
        linear("fc", "x", 12, 3),
        Delay(name="before", inputs=("s",), steps=1, shape=(12,)),
        linear("own", "before", 12, 12),
        Add(name="sum", inputs=("fc", "own")),
        lif("s", "sum"),
        shape=(3,),
    )
    placed = place(g, {**FREE, "neurons_per_core": 4, "output_axons_per_core": 12})
    (layer,) = placed.layers
    assert (layer.tile, layer.used["output_axons_per_core"].tolist()) == ((4,), [12, 12, 12])
    check_by_enumeration(g, placed)
    smaller = place(g, {**FREE, "neurons_per_core": 4, "output_axons_per_core": 11})
    assert smaller.layers[0].tile == (1,)  # 2 on each of 6 cores, 12 axons; then 1 on each of 12 cores: 12 again
    (excess,) = smaller.excesses
    assert (excess.layer, excess.limit, excess.value, excess.allowed) == ("s", "output_axons_per_core", 12, 11)


def test_a_neuron_that_hears_more_than_a_core_can_is_named_with_its_size():
    g = spiking(conv("c", "x", 3, 5, 3, 3), lif("s", "c"), shape=(5, 6, 6))
    placed = place(g, CORE)
    (excess,) = placed.excesses
    assert (excess.layer, excess.limit, excess.value, excess.allowed) == ("s", "input_axons_per_core", 45, 40)
    (layer,) = placed.layers
    for what in set(PER_CORE) - {"input_axons_per_core"}:
        assert layer.used[what].max() <= CORE[what]  # the other limits hold all the same
    check_by_enumeration(g, placed)


REFUSED = {
    "soft reset": ([conv("c", "x", 2, 2, 1, 1), lif("s", "c", reset="soft")], "LIF 's': reset = 'soft'"),
    "sum pool": (
        [SumPool2d(name="p", inputs=("x",), kernel=(2, 2), stride=(2, 2)), conv("c", "p", 2, 2, 1, 1), lif("s", "c")],
        r"SumPool2d 'p': op = SumPool2d, allowed synapses and neurons \[map\]",
    ),
    "currents side by side": (
        [conv("a", "x", 2, 2, 1, 1), conv("b", "x", 3, 2, 1, 1), Concat(name="j", inputs=("a", "b")), lif("s", "j")],
        r"LIF 's': synapses of shapes \[\(2, 6, 6\), \(3, 6, 6\)\] end in it, allowed those of its own",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("ops", "said"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_place_is_refused_by_name(ops, said):
    with pytest.raises(RmpDeployError, match=said):
        place(spiking(*ops), FREE)


def test_a_map_of_one_axis_and_a_large_one_cost_no_enumeration():
    small = Conv1d(name="c", inputs=("x",), weight=np.ones((3, 2, 3)), stride=(2,), padding=(1,))
    g = spiking(small, lif("s", "c"), shape=(2, 9))
    (layer,) = place(g, {**FREE, "neurons_per_core": 6}).layers
    assert (layer.shape, layer.cores) == ((3, 5), 3)
    large = spiking(conv("c", "x", 64, 64, 3, 3, padding=(1, 1)), lif("s", "c"), shape=(64, 224, 224))
    (layer,) = place(large, {**FREE, "synapse_memory_per_core": 2**17}).layers
    assert int(layer.used["synapses_per_core"].sum()) == 64 * 64 * (3 * 224 - 2) ** 2


def test_a_long_window_and_a_wide_dense_layer_are_counted_by_their_positions():
    """For hundreds of sizes of blocks each: a window of 80 taps on 16,000 positions, 80,000 neurons of 2 inputs."""
    window = Conv1d(name="c", inputs=("x",), weight=np.ones((1, 1, 80)))
    g = spiking(window, lif("s", "c"), shape=(1, 16_000))
    (layer,) = place(g, {**FREE, "input_axons_per_core": 1000}).layers
    assert (layer.tile, layer.cores) == ((1, 885), 18)  # 921 positions read 1000; 18 equal blocks read 964
    assert layer.used["input_axons_per_core"].tolist() == [964] * 17 + [15_921 - 17 * 885 + 79]
    assert int(layer.used["synapses_per_core"].sum()) == 80 * 15_921
    g = spiking(linear("fc", "x", 80_000, 2), lif("s", "fc"), shape=(2,))
    (layer,) = place(g, {**FREE, "neurons_per_core": 1000}).layers
    assert (layer.cores, layer.used["input_axons_per_core"].tolist()) == (80, [2] * 80)


def test_a_real_valued_network_is_placed_as_its_quantized_form_is(convnet, images):
    """8 bits a weight, the first layer on the host, shortcuts as synapses: what `quantize` makes, block by block."""
    plain, x = convnet(), images(4)
    weight = np.random.default_rng(7).normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32)
    deeper = (
        Conv2d(name="extra", inputs=("lif1",), weight=weight, padding=(1, 1)),
        Add(name="add", inputs=("extra", "lif1")),
        lif("lif_extra", "add", v_threshold=0.5),
    )
    at = [op.name for op in plain.ops].index("pool1")
    ops = [*plain.ops[:at], *deeper, replace(plain.ops[at], inputs=("lif_extra",)), *plain.ops[at + 1 :]]
    for g in (plain, replace(plain, ops=tuple(ops))):
        limits = {**CORE, "input_axons_per_core": 400, "output_axons_per_core": 900, "synapse_memory_per_core": 4000}
        limits["synapses_per_core"] = 4000
        as_float, as_integers = place(g, limits), place(quantize(g, x).graph, limits)
        assert as_float.assumed_bits == 8
        assert as_integers.assumed_bits is None
        assert len(as_float.layers) == len(as_integers.layers) > 1
        for one, other in zip(as_float.layers, as_integers.layers, strict=True):
            assert (one.name, one.kind, one.synapses, one.tile) == (other.name, other.kind, other.synapses, other.tile)
            for what in PER_CORE:
                np.testing.assert_array_equal(one.used[what], other.used[what])
