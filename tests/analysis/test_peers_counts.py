"""Our counts and conventions against the tools themselves, on random networks and the spikes that they fired.

A `Player` is the network as torch modules, whose inputs are the recorded values: every tool sees the same spikes.
"""

import importlib
import io
import math
import sys
import types
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from rmp_deploy.analysis.conventions import CONVENTIONS, Rule, apply
from rmp_deploy.analysis.counts import count, fan_out, twin
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, AvgPool2d, BatchNorm, Conv1d, Conv2d, Flatten, Linear
from rmp_deploy.ir.reference import STATELESS

N, T = 3, 4
SEEDS = range(6)

# --- random networks, and torch modules that repeat what they did ---------------------------------------------------


def weights(rng, *shape):
    """A fifth of them is 0."""
    return rng.normal(size=shape) * (rng.random(shape) > 0.2)


def lif(source):
    return LIF(name=f"lif_{source}", inputs=(source,), decay=0.5, v_threshold=0.6)


def random_conv(rng, name, source, c_in, axes=2):
    groups = 2 if c_in % 2 == 0 and rng.integers(2) else 1
    c_out = groups * int(rng.integers(1, 4))
    kind = Conv2d if axes == 2 else Conv1d
    return kind(
        name=name,
        inputs=(source,),
        weight=weights(rng, c_out, c_in // groups, *rng.integers(1, 4, axes)),
        bias=rng.normal(size=c_out) if rng.integers(2) else None,
        stride=tuple(int(s) for s in rng.integers(1, 4, axes)),
        padding=tuple(int(p) for p in rng.integers(0, 3, axes)),
        dilation=tuple(int(d) for d in rng.integers(1, 3, axes)),
        groups=groups,
    )


def random_net(seed, encoding, pool=False, axes=2):
    """conv, neurons, (mean pool,) conv, neurons, Linear, neurons, Linear; and its samples."""
    rng = np.random.default_rng(seed)
    shape = (2, 17, 16)[: axes + 1]
    ops = [random_conv(rng, "conv1", "x", 2, axes), lif("conv1")]
    if pool:
        ops.append(AvgPool2d(name="pool", inputs=("lif_conv1",), kernel=(2, 2), stride=(2, 2)))
    ops += [random_conv(rng, "conv2", ops[-1].name, ops[0].weight.shape[0], axes), lif("conv2")]
    ops.append(Flatten(name="flat", inputs=("lif_conv2",)))
    inside = shape
    for op in ops:
        inside = op.output_shape(inside)
    ops.append(Linear(name="fc1", inputs=("flat",), weight=weights(rng, 7, *inside), bias=rng.normal(size=7)))
    ops.append(lif("fc1"))
    ops.append(Linear(name="fc2", inputs=("lif_fc1",), weight=weights(rng, 5, 7)))
    graph = SpikingGraph(f"net{seed}", Input("x", shape, encoding), tuple(ops), Readout("fc2", "sum"), T)
    x = rng.random((N, T, *shape)) < 0.3 if encoding == "time_series" else rng.normal(size=(N, *shape))
    return graph, x.astype(np.float32)


def spiking_shortcut(seed):
    """A residual block: what the first neurons fired joins the current of the second convolution."""
    rng = np.random.default_rng(seed)
    ops = (
        Conv2d(name="conv1", inputs=("x",), weight=weights(rng, 4, 2, 3, 3), padding=(1, 1)),
        lif("conv1"),
        Conv2d(name="conv2", inputs=("lif_conv1",), weight=weights(rng, 4, 4, 3, 3), padding=(1, 1)),
        Add(name="sum", inputs=("conv2", "lif_conv1")),
        lif("sum"),
    )
    graph = SpikingGraph("block", Input("x", (2, 6, 6), "time_series"), ops, Readout("lif_sum", "sum"), T)
    return graph, (rng.random((N, T, 2, 6, 6)) < 0.3).astype(np.float32)


def run(graph, x):
    """Counts, and every value that an op reads, [N, T, *shape] of torch."""
    trace = reference.run(graph, x, record=["spikes"])
    direct = graph.input.encoding == "direct"
    values = {"x": np.repeat(x[:, None], T, axis=1) if direct else x, **trace.spikes}
    for op in graph.ops:
        if op.name not in values:
            read = [values[i].astype(np.float32).reshape(-1, *graph.shapes[i]) for i in op.inputs]
            values[op.name] = STATELESS[type(op)](op, *read).reshape(N, T, *graph.shapes[op.name])
    return count(graph, trace, x), {name: torch.tensor(np.asarray(v, np.float32)) for name, v in values.items()}


def module_of(op):
    if isinstance(op, AvgPool2d):
        return torch.nn.AvgPool2d(op.kernel, op.stride, op.padding)
    if isinstance(op, BatchNorm):
        return torch.nn.BatchNorm2d(len(op.gamma)).eval()
    if isinstance(op, Linear):
        module = torch.nn.Linear(op.weight.shape[1], op.weight.shape[0], bias=op.bias is not None)
    else:
        kind = torch.nn.Conv2d if isinstance(op, Conv2d) else torch.nn.Conv1d
        c_out, c_in = op.weight.shape[:2]
        geometry = (op.weight.shape[2:], op.stride, op.padding, op.dilation, op.groups)
        module = kind(c_in * op.groups, c_out, *geometry, bias=op.bias is not None)
    module.weight.data = torch.tensor(op.weight)
    if op.bias is not None:
        module.bias.data = torch.tensor(op.bias)
    return module


class Player(torch.nn.Module):
    """The layers, each of which reads what was recorded; `forward` takes the step's index in N * T."""

    def __init__(self, graph, values, neuron=None):
        super().__init__()
        self.graph, self.values, self.neuron = graph, values, neuron
        played = graph.of_type(Conv1d, Conv2d, Linear, AvgPool2d, BatchNorm)
        self.layers = torch.nn.ModuleDict({op.name: module_of(op) for op in played})
        if neuron is not None:
            self.layers.update({op.name: neuron() for op in graph.spiking})

    def forward(self, index):
        steps = index.reshape(-1).long()
        for op in self.graph.ops:
            read = [self.values[i].flatten(0, 1)[steps] for i in op.inputs]
            if op.name in self.layers:
                self.layers[op.name](*read)
            elif isinstance(op, Add):
                torch.add(*read)
        return torch.zeros(len(steps), 1)


def total(ledger, term):
    return ledger.terms[term].count


CASES = [(seed, encoding) for seed in SEEDS for encoding in ("time_series", "direct")]
ALL_STEPS = torch.arange(N * T)


# --- NeuroBench 2.3.0 -----------------------------------------------------------------------------------------------


def neurobench(graph, values):
    """Its SynapticOperations, one step of one sample at a time, as it runs snnTorch's networks."""
    models = pytest.importorskip("neurobench.models", reason="NeuroBench is not installed")
    from neurobench.metrics.workload import SynapticOperations

    model = models.TorchModel(Player(graph, values))
    model.register_hooks()
    for step in ALL_STEPS:
        model(step.reshape(1, 1))
    with torch.no_grad():
        return SynapticOperations()(model, None, (torch.zeros(N),))


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(("seed", "encoding"), CASES)
def test_neurobench_counts_the_same_effective_and_dense_operations(seed, encoding, axes):
    graph, x = random_net(seed, encoding, axes=axes)
    counts, values = run(graph, x)
    theirs = neurobench(graph, values)
    ours = apply(CONVENTIONS["neurobench"], graph, counts)
    assert theirs["Effective_ACs"] == float(total(ours, "ac"))
    assert theirs["Effective_MACs"] == float(total(ours, "mac"))
    assert theirs["Dense"] == twin(graph).macs * T
    reasons = {difference.reason for difference in ours.differences}
    assert reasons <= {"weights that are 0, and zeros of a real input, are left out"}
    assert len(reasons) == 1  # and there are such weights


@pytest.mark.parametrize("all_fire", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_neurobench_takes_a_mean_pool_that_is_1_everywhere_for_spikes(seed, all_fire):
    """Its test looks at one step of one sample: what its accumulates have too much, its multiply-accumulates lack."""
    graph, x = random_net(seed, "time_series", pool=True)
    conv1, *others = graph.ops
    if all_fire:
        graph = replace(graph, ops=(replace(conv1, bias=np.full(len(conv1.weight), 100)), *others))
    counts, values = run(graph, x)
    theirs, ours = neurobench(graph, values), apply(CONVENTIONS["neurobench"], graph, counts)
    pool, conv2 = values["pool"], graph.by_name["conv2"]
    binary = ((pool == 0) | (pool == 1)).flatten(2).all(dim=2)
    assert binary.all() or not all_fire
    binarized = module_of(replace(conv2, weight=conv2.weight != 0, bias=None))
    with torch.no_grad():
        mistaken = Fraction(int(binarized(pool[binary]).sum()) if binary.any() else 0, N)
    assert theirs["Effective_ACs"] == float(total(ours, "ac") + mistaken)
    assert theirs["Effective_MACs"] == float(total(ours, "mac") - mistaken)
    assert (mistaken > 0) == all_fire


# --- SpikingJelly 2.0.0 ---------------------------------------------------------------------------------------------


def spikingjelly(graph, values):
    counters = pytest.importorskip(
        "spikingjelly.activation_based.op_counter", reason="SpikingJelly 2.0.0 needs Python >= 3.11"
    )
    found = [counters.ACCounter(), counters.MACCounter(), counters.SynOpCounter()]
    player = Player(graph, values)
    with torch.no_grad(), counters.DispatchCounterMode(found):
        for step in ALL_STEPS:
            player(step.reshape(1, 1))
    return [Fraction(counter.get_total(), N) for counter in found]


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(("seed", "encoding"), CASES)
def test_spikingjelly_counts_the_same_accumulates_and_multiply_accumulates(seed, encoding, axes):
    graph, x = random_net(seed, encoding, axes=axes)
    counts, values = run(graph, x)
    ac, mac, synops = spikingjelly(graph, values)
    ours = apply(CONVENTIONS["spikingjelly"], graph, counts)
    assert (ac, mac) == (total(ours, "ac"), total(ours, "mac"))
    assert synops == Fraction(counts.totals["ac"], N)  # exact, as ours
    assert {d.reason for d in ours.differences} <= {"connections to padding are counted"}


@pytest.mark.parametrize("seed", SEEDS)
def test_spikingjelly_counts_pools_alike(seed):
    graph, x = random_net(seed, "time_series", pool=True)
    counts, values = run(graph, x)
    ac, mac, _ = spikingjelly(graph, values)
    ours = apply(CONVENTIONS["spikingjelly"], graph, counts)
    binary = ((values["pool"] == 0) | (values["pool"] == 1)).flatten(2).all(dim=2)
    # its test for spikes looks at one call: a pool that is 0 or 1 everywhere feeds a layer of accumulates
    conv = graph.by_name["conv2"]
    reached = values["pool"].flatten(0, 1)[binary.flatten()].sum(dim=0).numpy() * fan_out(
        conv, values["pool"].shape[2:]
    )
    dense = twin(graph).layers[1].macs_with_padding * int(binary.sum())
    assert ac == total(ours, "ac") + Fraction(int(reached.sum()), N)
    assert mac == total(ours, "mac") - Fraction(dense, N)


def test_spikingjelly_counts_a_residual_sum_by_elements():
    graph, x = spiking_shortcut(0)
    counts, values = run(graph, x)
    ac, mac, synops = spikingjelly(graph, values)
    ours = apply(CONVENTIONS["spikingjelly"], graph, counts)
    assert (ac, mac) == (total(ours, "ac"), total(ours, "mac"))
    elements, joined = 4 * 6 * 6 * T, Fraction(counts.layers[0].counts["spike"], N)
    assert [(d.reason, d.count) for d in ours.differences] == [
        ("spikes that join a current or neurons without a synapse are no operation", -joined),
        ("a residual sum is counted by elements, also where the neuron accumulates it", elements),
    ]
    assert synops == Fraction(counts.totals["ac"], N) - joined


def with_batch_norm():
    rng = np.random.default_rng(0)
    ones = np.ones(4)
    conv = Conv2d(name="conv", inputs=("x",), weight=weights(rng, 4, 2, 3, 3), padding=(1, 1))
    norm = BatchNorm(name="bn", inputs=("conv",), gamma=ones, beta=0 * ones, mean=0 * ones, var=ones, eps=1e-5)
    shape = Input("x", (2, 6, 6), "time_series")
    designed = SpikingGraph("net", shape, (conv, norm, lif("bn")), Readout("lif_bn", "sum"), T)
    folded = SpikingGraph("net", shape, (conv, lif("conv")), Readout("lif_conv", "sum"), T)
    x = (rng.random((N, T, 2, 6, 6)) < 0.3).astype(np.float32)
    counts, values = run(folded, x)
    return designed, folded, counts, {**values, "bn": values["conv"], "lif_bn": values["lif_conv"]}


def test_spikingjelly_counts_batch_norm_of_the_network_as_designed():
    designed, folded, counts, values = with_batch_norm()
    ac, mac, _ = spikingjelly(designed, values)
    ours = apply(CONVENTIONS["spikingjelly"], folded, counts, designed=designed)
    assert (ac, mac) == (total(ours, "ac"), total(ours, "mac"))
    assert total(ours, "mac") == 4 * 6 * 6 * T
    without = apply(CONVENTIONS["spikingjelly"], folded, counts)
    assert total(without, "mac") == 0


# --- syops 0.0.5 ----------------------------------------------------------------------------------------------------


@pytest.fixture
def syops(monkeypatch):
    """syops imports neurons by the names that old versions of SpikingJelly have: the same classes under them."""
    neuron = pytest.importorskip(
        "spikingjelly.activation_based.neuron", reason="syops needs SpikingJelly, which needs Python >= 3.11"
    )
    from spikingjelly.activation_based import functional, surrogate

    old, names = types.ModuleType("spikingjelly.clock_driven"), types.ModuleType("spikingjelly.clock_driven.neuron")
    for name in ("IFNode", "LIFNode", "ParametricLIFNode"):
        setattr(names, name, getattr(neuron, name))
        setattr(names, f"MultiStep{name}", getattr(neuron, name))
    old.functional, old.surrogate, old.neuron = functional, surrogate, names
    monkeypatch.setitem(sys.modules, old.__name__, old)
    monkeypatch.setitem(sys.modules, names.__name__, names)
    return pytest.importorskip("syops", reason="syops is not installed")


def syops_counts(syops, graph, values):
    """AC and MAC per sample. Its average is over calls, one step of one sample each."""
    from spikingjelly.activation_based.neuron import IFNode

    player = Player(graph, values, neuron=IFNode)
    calls = [(step.reshape(1, 1), None) for step in ALL_STEPS]
    silent = {"as_strings": False, "print_per_layer_stat": False, "ost": io.StringIO()}
    (_, ac, mac, _), _ = syops.get_model_complexity_info(player, (1,), calls, **silent)
    return ac * T, mac * T


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(("seed", "encoding"), CASES)
def test_syops_counts_and_prices_the_same(syops, seed, encoding, axes):
    graph, x = random_net(seed, encoding, axes=axes)
    counts, values = run(graph, x)
    ac, mac = syops_counts(syops, graph, values)
    ours = apply(CONVENTIONS["syops"], graph, counts)
    assert ac == pytest.approx(float(total(ours, "ac")), rel=1e-6)  # its rate is a float32 mean
    assert mac == float(total(ours, "mac"))
    assert ours.joule_per_sample == pytest.approx(4.6e-12 * mac + 0.9e-12 * ac, rel=1e-6)
    assert {d.reason for d in ours.differences} <= {
        "the layer's average rate times its connections, not the fan-out of each spike",
        "connections to padding are counted",
        "the bias is part of its layer: times the spike rate, or a multiply-accumulate",
    }


def test_syops_multiplies_batch_norm(syops):
    designed, folded, counts, values = with_batch_norm()
    ac, mac = syops_counts(syops, designed, values)
    ours = apply(CONVENTIONS["syops"], folded, counts, designed=designed)
    assert (ac, mac) == (pytest.approx(float(total(ours, "ac")), rel=1e-6), float(total(ours, "mac")))


def test_syops_counts_the_bias_of_a_linear_once_per_call(syops):
    """Our convention is a call per step and sample; with the samples in one call, theirs has one bias for all."""
    rng = np.random.default_rng(0)
    fc = Linear(name="fc", inputs=("x",), weight=weights(rng, 5, 7), bias=np.ones(5))
    graph = SpikingGraph("net", Input("x", (7,), "time_series"), (fc, lif("fc")), Readout("lif_fc", "sum"), T)
    counts, values = run(graph, (rng.random((N, T, 7)) < 0.5).astype(np.float32))
    silent = {"as_strings": False, "print_per_layer_stat": False, "ost": io.StringIO()}
    player = Player(graph, values)
    (_, ac, _, _), _ = syops.get_model_complexity_info(player, (1,), [(ALL_STEPS.reshape(-1, 1), None)], **silent)
    alone = replace(CONVENTIONS["syops"], terms={"ac": Rule(("ac", "bias_add"))})
    ours = apply(alone, graph, counts)
    rate = Fraction(int(values["x"].sum()), values["x"].numel())
    assert ac * T == pytest.approx(float(total(ours, "ac") - 5 * rate * T + 5 * rate / N), rel=1e-6)


def test_syops_counts_the_spikes_that_a_pool_reads(syops):
    graph, x = random_net(2, "time_series", pool=True)
    counts, values = run(graph, x)
    pool = replace(graph, ops=graph.ops[:3], readout=Readout("pool", "sum"))
    ours = apply(replace(CONVENTIONS["syops"], terms={"ac": Rule(("pool_event",))}), graph, counts)
    player = Player(pool, values)
    del player.layers["conv1"]
    calls = [(step.reshape(1, 1), None) for step in ALL_STEPS]
    player.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))  # it asks the first one for a device
    silent = {"as_strings": False, "print_per_layer_stat": False, "ost": io.StringIO()}
    (_, ac, _, _), _ = syops.get_model_complexity_info(player, (1,), calls, **silent)
    assert ac * T == pytest.approx(float(total(ours, "ac")), rel=1e-6)
    assert total(ours, "ac") == Fraction(counts.layers[0].counts["spike"], N) > 0


# --- sinabs 3.1.3 ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hooks(monkeypatch):
    """sinabs imports pylab for its plots, which counting does not need."""
    if importlib.util.find_spec("pylab") is None:
        monkeypatch.setitem(sys.modules, "pylab", types.ModuleType("pylab"))
    return pytest.importorskip("sinabs.hooks", reason="sinabs is not installed")


@pytest.mark.parametrize("seed", SEEDS)
def test_sinabs_connection_map_is_our_fan_out(hooks, seed):
    graph, _ = random_net(seed, "time_series")
    for op in graph.of_type(Conv2d):
        shapes = graph.shapes[op.inputs[0]], graph.shapes[op.name]
        theirs = hooks.conv_connection_map(module_of(op), *(torch.Size(shape) for shape in shapes))
        assert np.array_equal(theirs[0].numpy(), fan_out(op, shapes[0]))


@pytest.mark.parametrize("seed", SEEDS)
def test_sinabs_synaptic_operations_are_our_accumulates(hooks, seed):
    graph, x = random_net(seed, "time_series")
    counts, values = run(graph, x)
    player = Player(graph, values)
    for op in graph.of_type(Conv2d, Linear):
        hook = hooks.conv_layer_synops_hook if isinstance(op, Conv2d) else hooks.linear_layer_synops_hook
        player.layers[op.name].register_forward_hook(hook)
    with torch.no_grad():
        player(ALL_STEPS)
    for row in counts.layers:
        per_step = float(player.layers[row.layer].hook_data["layer_synops_per_timestep"])
        assert math.isclose(per_step * T, row.counts["ac"] / N, rel_tol=1e-5)  # a mean in float32
