"""Published answers, to their printed digits, through our own counts, conventions and profiles.

The names G1 .. G12 are those of our notes; each test's first line says who published what.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy.analysis.conventions import CONVENTIONS, Rule, apply
from rmp_deploy.analysis.counts import Counts, LayerCounts, count, twin
from rmp_deploy.analysis.energy import price
from rmp_deploy.hw_profiles import TERMS, load
from rmp_deploy.ir import reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Add, AvgPool2d, BatchNorm, Conv2d, Flatten, Linear

PJ, MJ, GIGA = 1e-12, 1e-3, 10**9


def lif(source, threshold=0.5):
    return LIF(name=f"lif_{source}", inputs=(source,), decay=0.5, v_threshold=threshold)


def conv(name, source, c_out, c_in, kernel, bias=False, **geometry):
    weight = np.broadcast_to(np.float32(1), (c_out, c_in, *kernel))
    return Conv2d(name=name, inputs=(source,), weight=weight, bias=np.ones(c_out) if bias else None, **geometry)


def linear(name, source, n_in, n_out, bias=False):
    return Linear(name=name, inputs=(source,), weight=np.ones((n_out, n_in)), bias=np.ones(n_out) if bias else None)


def graph_of(*ops, shape, T=1, encoding="direct"):
    return SpikingGraph("net", Input("x", shape, encoding), ops, Readout(ops[-1].name, "sum"), T)


def run(graph, x):
    return count(graph, reference.run(graph, x, record=["spikes"]), x)


def row(layer, kind, activity=None, **counted):
    return LayerCounts(layer, None, kind, {**dict.fromkeys(TERMS, 0), **counted}, 0, activity=activity or {})


# --- G1: syops-counter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ac", "mac", "published"),
    [(0.10, 0.14, "0.734"), (0.50, 2.75, "13.10"), (1.69, 0.20, "2.44"), (0, 1.82, "8.372")],
)
def test_g1_syops_energy_of_published_networks(ac, mac, published):
    """Table of the syops-counter README: AC and MAC [G] to energy [mJ]; ResNets and spiking ResNets on ImageNet."""
    T = round(mac * 1000)  # a first layer of 1000 * 1000 connections, a second of 10 times as many
    ops = conv("first", "x", 1, 1, (1, 1)), lif("first"), conv("second", "lif_first", 10, 1, (1, 1))
    graph = graph_of(*ops, shape=(1, 1000, 1000), T=T)
    spikes = {"input_events": round(ac * 10**8), "input_elements": T * 10**6}
    rows = row("first", "real-valued", mac=T * 10**6), row("second", "spikes", spikes, ac=round(ac * GIGA))
    counts = Counts(1, T, rows)
    ledger = apply(CONVENTIONS["syops"], graph, counts)
    assert (ledger.terms["ac"].count, ledger.terms["mac"].count) == (round(ac * GIGA), round(mac * GIGA))
    digits = len(published.split(".")[1])
    assert f"{ledger.joule_per_sample / MJ:.{digits}f}" == published
    same = price(counts, twin(graph), load("cmos45"))  # the two prices are Horowitz's
    assert same.synaptic_joule_per_sample == pytest.approx(ledger.joule_per_sample)


# --- G2: Spikformer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sop", "published"), [(6.82, 7.734), (11.09, 11.577), (13.67, 13.899), (22.09, 21.477)])
def test_g2_spikformer_energy_on_imagenet(sop, published):
    """Zhou et al., ICLR 2023, Table 2: SOPs [G] to energy [mJ] at T = 4; first layer 3 -> 64, 3x3, on 224 x 224.

    Their first layer is a multiply-accumulate at each of the 4 steps, padding counted. SOPs are printed to 0.01 G,
    which leaves +-0.0045 mJ.
    """
    ops = (
        conv("first", "x", 64, 3, (3, 3), padding=(1, 1)),
        lif("first"),
        conv("rest", "lif_first", 64, 64, (7, 7), padding=(3, 3)),  # stands for all spiking layers
    )
    graph = graph_of(*ops, shape=(3, 224, 224), T=4)
    steps, inside = 4, twin(graph)
    connections = inside.layers[1].macs_with_padding * steps
    spikes = {"input_events": round(sop * GIGA), "input_elements": connections}
    rows = row("first", "real-valued", mac=inside.layers[0].macs * steps), row("rest", "spikes", spikes, ac=1)
    ledger = apply(CONVENTIONS["spikformer"], graph, Counts(1, 4, rows))
    assert ledger.terms["mac"].count == 346_816_512
    assert ledger.terms["ac"].count == round(sop * GIGA)
    assert ledger.joule_per_sample / MJ == pytest.approx(published, abs=0.9 * 0.005 + 0.0005)
    once = apply(CONVENTIONS["spikformer-once"], graph, Counts(1, 4, (replace(rows[0], mac_if_cached=1), rows[1])))
    assert once.terms["mac"].count == 346_816_512 / 4


# --- G3: NeuroBench's algorithm track -------------------------------------------------------------------------------


def parameter_bytes(graph):
    """float32 weights and biases, and the four arrays of a BatchNorm."""
    names = ("weight", "bias", "gamma", "beta", "mean", "var")
    arrays = (getattr(op, name, None) for op in graph.ops for name in names)
    return sum(array.nbytes for array in arrays if array is not None)


def test_g3_google_speech_commands_snn():
    """NeuroBench: Dense 29,030,400 of 20-256-256-256-35 at T = 200, footprint 583,900 B, 80 of them its neurons'."""
    ops, source = [], "x"
    for i, (n_in, n_out) in enumerate([(20, 256), (256, 256), (256, 256), (256, 35)]):
        ops += [linear(f"fc{i}", source, n_in, n_out, bias=True), lif(f"fc{i}")]
        source = f"lif_fc{i}"
    graph = graph_of(*ops, shape=(20,), T=200, encoding="time_series")
    assert twin(graph).macs * graph.T == 29_030_400
    assert parameter_bytes(graph) + 4 * 5 * 4 == 583_900  # 4 layers with 5 float32 buffers each
    # every input is 1 and every neuron fires: all connections are accumulates
    counts = run(graph, np.ones((1, 200, 20)))
    assert counts.totals["ac"] == 29_030_400


def test_g3_google_speech_commands_ann():
    """NeuroBench: Dense 1,880,256 of the M5 network on 8000 samples of audio, footprint 109,228 B."""
    ops, source, c_in = [], "x", 1
    for i, (c_out, kernel, stride) in enumerate([(32, 80, 16), (32, 3, 1), (64, 3, 1), (64, 3, 1)]):
        unit = np.ones(c_out)
        ops += [
            conv(f"conv{i}", source, c_out, c_in, (1, kernel), bias=True, stride=(1, stride)),
            BatchNorm(name=f"bn{i}", inputs=(f"conv{i}",), gamma=unit, beta=unit, mean=unit, var=unit, eps=1e-5),
            lif(f"bn{i}"),
            AvgPool2d(name=f"pool{i}", inputs=(f"lif_bn{i}",), kernel=(1, 4), stride=(1, 4)),
        ]
        source, c_in = f"pool{i}", c_out
    ops += [Flatten(name="flat", inputs=(source,)), linear("fc", "flat", 64, 35, bias=True)]
    graph = graph_of(*ops, shape=(1, 1, 8000))
    assert twin(graph).macs == 1_880_256
    assert parameter_bytes(graph) + 4 * 8 == 109_228  # and 4 counters of batches, int64


@pytest.mark.parametrize(
    ("sizes", "dense", "footprint"),
    [
        ((96, 50, 2), 4_900, 19_648),
        ((192, 50, 2), 9_700, 38_848),
        ((96, 32, 48, 2), 4_704, None),
        ((192, 32, 48, 2), 7_776, None),
    ],
)
def test_g3_primate_reaching(sizes, dense, footprint):
    """NeuroBench: Dense of the SNN baselines 96-50-2 and 192-50-2, and of the ANN baselines; SNN footprints."""
    ops, source = [], "x"
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        ops += [linear(f"fc{i}", source, n_in, n_out), lif(f"fc{i}")]
        source = f"lif_fc{i}"
    graph = graph_of(*ops, shape=(sizes[0],), encoding="time_series")
    assert twin(graph).macs == dense
    assert footprint is None or parameter_bytes(graph) + 12 * 4 == footprint  # 12 numbers of its neurons


def test_g3_unit_tests_of_neurobench():
    """tests/test_metrics.py: 3x3 kernels on 3x3 and 12x12 maps, and 20 -> 5 on ten steps of ones for five samples."""
    for size, dense in ((3, 9), (12, 900)):
        assert twin(graph_of(conv("c", "x", 1, 1, (3, 3)), lif("c"), shape=(1, size, size))).macs == dense
    graph = graph_of(linear("fc", "x", 20, 5), lif("fc"), shape=(20,), T=10, encoding="time_series")
    counts = run(graph, np.ones((5, 10, 20)))
    assert apply(CONVENTIONS["neurobench"], graph, counts).terms["ac"].count == 1000


# --- G5: measured keyword spotting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "printed", "unit"), [("gpu", 0.0298, 2e-4), ("cpu", 0.0063, 1e-4), ("loihi1", 0.00027, 1e-5)]
)
def test_g5_keyword_spotting_measured(name, printed, unit):
    """Blouw et al. 2018, arXiv 1812.01739: joules per inference are running minus idle power times the time of one."""
    task = {key: known.figure.value for key, known in load(name).whole_task.items()}
    assert task["keyword_energy"] == pytest.approx(printed, rel=1e-9)
    dynamic = task["keyword_running_power"] - task["keyword_idle_power"]
    # of the printed powers and rates: 0.0297 J for the GPU, whose printed energy is 0.0298 J
    assert dynamic * task["keyword_time"] == pytest.approx(printed, abs=unit)


# --- G7: KerasSpiking -----------------------------------------------------------------------------------------------


def test_g7_kerasspiking_dense_layer_on_a_cpu():
    """KerasSpiking's documentation: Dense 784 -> 128, relu, on the device cpu is 8.64e-4 J per inference."""
    graph = graph_of(linear("fc", "x", 784, 128), lif("fc"), shape=(784,), T=10)
    x = np.random.default_rng(0).random((3, 784)).astype(np.float32)
    ledger = apply(CONVENTIONS["kerasspiking-cpu"], graph, run(graph, x))
    assert f"{ledger.joule_per_sample:.2e}" == "8.64e-04"
    assert (ledger.terms["synapse"].count, ledger.terms["neuron"].count) == (100_352, 128)


@pytest.mark.parametrize(("operations", "gpu", "cpu"), [(32, 9.6, 280), (1024, 310, 8800), (2048, 610, 18000)])
def test_g7_dense_layers_on_gpu_and_cpu(operations, gpu, cpu):
    """npj Unconventional Computing 2024, s44335-024-00002-4, Table 3: energy [nJ] of dense layers, two digits."""
    graph = graph_of(linear("fc", "x", operations // 32, 32), lif("fc"), shape=(operations // 32,))
    counts = run(graph, np.ones((1, operations // 32)))
    for device, published in (("gpu", gpu), ("cpu", cpu)):
        joule = apply(CONVENTIONS[f"kerasspiking-{device}"], graph, counts).terms["synapse"].joule
        assert float(f"{joule * 1e9:.2g}") == published


# --- G8: SpikingJelly's own tests -----------------------------------------------------------------------------------


def test_g8_linear_layers():
    """Linear(4, 3) reads [1, 0, 1, 0]: 6 operations, 5.4 pJ; reads two samples of 0.5: 24 MACs, 110.4 pJ."""
    spikes = graph_of(linear("fc", "x", 4, 3), lif("fc"), shape=(4,), encoding="time_series")
    ledger = apply(CONVENTIONS["spikingjelly"], spikes, run(spikes, np.array([[[1.0, 0, 1, 0]]])))
    assert (ledger.terms["ac"].count, ledger.terms["mac"].count) == (6, 0)
    assert ledger.joule_per_sample == pytest.approx(5.4 * PJ)
    real = graph_of(linear("fc", "x", 4, 3), lif("fc"), shape=(4,))
    ledger = apply(CONVENTIONS["spikingjelly"], real, run(real, np.full((2, 4), 0.5)))
    assert (ledger.terms["ac"].count, ledger.terms["mac"].count) == (0, 24 / 2)
    assert 2 * ledger.joule_per_sample == pytest.approx(110.4 * PJ)


def test_g8_sum_of_spikes():
    """ones(2, 3) + ones(2, 3): 12 ACs, 10.8 pJ."""
    ops = (
        lif("x"),
        LIF(name="other", inputs=("x",), decay=0, v_threshold=0.5),
        Add(name="sum", inputs=("lif_x", "other")),
    )
    graph = graph_of(*ops, lif("sum"), shape=(3,), encoding="time_series")
    ledger = apply(CONVENTIONS["spikingjelly"], graph, run(graph, np.ones((2, 1, 3))))
    assert 2 * ledger.terms["ac"].count == 12
    assert 2 * ledger.joule_per_sample == pytest.approx(10.8 * PJ)


def test_g8_half_precision():
    """Linear(4, 2): 4 ACs at the fp16 price are 1.6 pJ."""
    graph = graph_of(linear("fc", "x", 4, 2), lif("fc"), shape=(4,), encoding="time_series")
    ledger = price(run(graph, np.array([[[1.0, 0, 1, 0]]])), twin(graph), load("cmos45_fp16"))
    assert ledger.synaptic_joule_per_sample == pytest.approx(1.6 * PJ)


def test_g8_lemaire_memory():
    """pJ per byte of words of 4 bytes: 2.5 in 8 KiB, 5 in 32 KiB, 25 in 1 MiB; nothing behind that."""
    sram = CONVENTIONS["lemaire"].terms["memory_potentials"].price
    assert [sram.joule(1024 * k) / 4 / PJ for k in (8, 32, 1024, 4096)] == pytest.approx([2.5, 5, 25, 25])


def test_g8_lemaire_addresses():
    """Grouped conv 4 -> 8, 2 groups, 3x3, two spikes: 72 additions and 4 multiplications of addresses."""
    op = Conv2d(name="conv", inputs=("x",), weight=np.ones((8, 2, 3, 3)), padding=(1, 1), groups=2)
    graph = graph_of(op, lif("conv"), shape=(4, 5, 5), encoding="time_series")
    x = np.zeros((1, 1, 4, 5, 5))
    x[0, 0, 0, 2, 2] = x[0, 0, 3, 1, 1] = 1
    ledger = apply(CONVENTIONS["lemaire"], graph, run(graph, x))
    assert (ledger.terms["address_ac"].count, ledger.terms["address_mac"].count) == (72, 4)


# --- G12: one spike before a convolution ----------------------------------------------------------------------------

SYNAPSES_ALONE = {name: Rule(("ac", "bias_add")) for name in ("syops",)} | {"lemaire": Rule(("ac",))}


@pytest.mark.parametrize(
    ("pixel", "stride", "exact", "kernel", "lemaire", "without_bias", "with_bias"),
    [
        ((0, 0), 1, 4, 9, 9, 9, 10),
        ((0, 1), 1, 6, 9, 9, 9, 10),
        ((1, 1), 1, 9, 9, 9, 9, 10),
        ((0, 0), 2, 1, 9, 4, 2.25, 2.5),
        ((1, 1), 2, 4, 9, 4, 2.25, 2.5),
    ],
)
def test_g12_one_spike_in_a_corner_on_a_border_and_inside(
    pixel, stride, exact, kernel, lemaire, without_bias, with_bias
):
    """3x3 kernel, padding 1, on 4x4: exact, as Norse counts (C_out K^2), as Lemaire and as syops do."""
    x = np.zeros((1, 1, 1, 4, 4))
    x[(0, 0, 0, *pixel)] = 1
    for bias, syops in ((False, without_bias), (True, with_bias)):
        op = conv("conv", "x", 1, 1, (3, 3), bias=bias, padding=(1, 1), stride=(stride, stride))
        graph = graph_of(op, lif("conv"), shape=(1, 4, 4), encoding="time_series")
        counts = run(graph, x)
        found = {
            name: apply(replace(CONVENTIONS[name], terms={"ac": rule}), graph, counts).terms["ac"]
            for name, rule in SYNAPSES_ALONE.items()
        }
        assert counts.totals["ac"] == exact
        assert (found["syops"].count, found["lemaire"].count) == (syops, lemaire)
        assert apply(CONVENTIONS["lemaire"], graph, counts).terms["address_ac"].count == kernel
        assert found["lemaire"].ours == exact


@pytest.mark.parametrize(("stride", "with_padding", "without"), [(1, 144, 100), (2, 36, 25)])
def test_g12_dense_with_and_without_padding(stride, with_padding, without):
    op = conv("conv", "x", 1, 1, (3, 3), padding=(1, 1), stride=(stride, stride))
    graph = graph_of(op, lif("conv"), shape=(1, 4, 4))
    counts = run(graph, np.full((1, 1, 4, 4), 0.5))
    assert apply(CONVENTIONS["spikformer"], graph, counts).terms["mac"].count == with_padding
    assert apply(CONVENTIONS["neurobench"], graph, counts).terms["mac"].count == without
