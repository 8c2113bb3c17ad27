"""NIR nodes into the IR and out: each against its own differential equation, stepped here in plain NumPy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import nir
import numpy as np
import pytest

from rmp_deploy import backends
from rmp_deploy.converters.nir import from_nir, to_nir, to_nir_graph
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LI, LIF, Add, BatchNorm, Concat, CubaLIF, Delay, Flatten, Linear, MaxPool2d

DT, STEPS = 1e-3, 40
FACTOR = {"euler": lambda tau: 1 - DT / tau, "exponential": lambda tau: np.exp(-DT / tau)}
RULES = pytest.mark.parametrize("rule", FACTOR)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def chain(*nodes: nir.NIRNode, shape: tuple[int, ...] = (3,), out: tuple[int, ...] = (3,)) -> nir.NIRGraph:
    """input -> node0 -> node1 -> ... -> output"""
    named = {f"n{i}": node for i, node in enumerate(nodes)}
    names = ["input", *named, "output"]
    every = {"input": nir.Input(np.array(shape)), **named, "output": nir.Output(np.array(out))}
    return nir.NIRGraph(every, list(pairwise(names)), type_check=False)


def lif(tau=(0.004, 0.01, 0.02), r=(1.0, 2.0, 0.5), v_leak=(0, 0, 0), threshold=(0.3, 0.5, 0.2), v_reset=(0, 0, 0)):
    return nir.LIF(f32(*tau), f32(*r), f32(*v_leak), f32(*threshold), f32(*v_reset))


def stepped(node, x, rule, spiking=True):
    """tau dv/dt = v_leak - v + r x over x [T, N]: spikes and v after the reset, or v alone."""
    d = FACTOR[rule](node.tau.astype(np.float64))
    v, seen = np.zeros(x.shape[1]), []
    for now in x:
        v = d * v + (1 - d) * (node.v_leak + node.r * now)
        spikes = v > node.v_threshold if spiking else np.zeros(len(v), bool)
        v = np.where(spikes, node.v_reset, v) if spiking else v
        seen.append((spikes, v))
    return tuple(np.stack(s) for s in zip(*seen, strict=True))


@pytest.fixture
def x():
    return np.random.default_rng(0).uniform(-0.5, 3, (1, STEPS, 3)).astype(np.float32)


def assert_same(graph, x, name, spikes, v):
    trace = backends.run(graph, x, "reference", ("spikes", "v"))
    assert 0 < spikes.mean() < 1
    assert np.array_equal(trace.spikes[name][0], spikes)
    np.testing.assert_allclose(trace.v[name][0], v, rtol=0, atol=2e-6)


@RULES
@pytest.mark.parametrize("v_leak", [(0, 0, 0), (0.1, -0.05, 0.15)])
def test_lif_honours_every_parameter(rule, v_leak, x):
    """r and v_leak go into the weights and the bias before it; the start is v = 0, whatever v_leak."""
    rng = np.random.default_rng(1)
    node = lif(v_leak=v_leak, v_reset=(-0.1, 0.05, 0))
    weight, bias = rng.uniform(0, 1, (3, 3)).astype(np.float32), f32(0.1, 0, -0.2)
    graph = from_nir(chain(nir.Affine(weight, bias), node), DT, rule, T=STEPS)
    assert [op.kind for op in graph.ops] == ["Linear", "LIF"]
    assert_same(graph, x, "n1", *stepped(node, x[0] @ weight.T.astype(np.float64) + bias, rule))


@RULES
def test_without_a_synapse_before_it_the_gain_is_an_op_of_its_own(rule, x):
    node = lif(v_leak=(0.1, 0, 0.05))
    graph = from_nir(chain(node), DT, rule, T=STEPS)
    assert [(op.name, op.kind) for op in graph.ops] == [("n0.gain", "BatchNorm"), ("n0", "LIF")]
    assert_same(graph, x, "n0", *stepped(node, x[0].astype(np.float64), rule))


@RULES
def test_a_synapse_that_somebody_else_reads_keeps_its_weights(rule, x):
    node, weight = lif(), np.eye(3, dtype=np.float32)
    nodes = {
        "input": nir.Input(np.array([3])),
        "fc": nir.Linear(weight),
        "a": node,
        "b": nir.LIF(*(getattr(node, p) for p in ("tau", "r", "v_leak", "v_threshold"))),
        "output": nir.Output(np.array([3])),
    }
    edges = [("input", "fc"), ("fc", "a"), ("fc", "b"), ("a", "output"), ("b", "output")]
    graph = from_nir(nir.NIRGraph(nodes, edges, type_check=False), DT, rule, T=STEPS)
    assert np.array_equal(graph.by_name["fc"].weight, weight)
    assert graph.by_name["output_.sum"] == Add(name="output_.sum", inputs=("a", "b"))
    for name in ("a", "b"):
        assert_same(graph, x, name, *stepped(node, x[0].astype(np.float64), rule))


@RULES
def test_several_edges_are_a_sum_and_the_gain_goes_into_each_branch(rule, x):
    node, w = lif(v_leak=(0.1, 0.1, 0.1)), np.random.default_rng(2).uniform(0, 1, (2, 3, 3)).astype(np.float32)
    nodes = {"input": nir.Input(np.array([3])), "a": nir.Linear(w[0]), "b": nir.Linear(w[1]), "n": node}
    nodes["output"] = nir.Output(np.array([3]))
    edges = [("input", "a"), ("input", "b"), ("a", "n"), ("b", "n"), ("n", "output")]
    graph = from_nir(nir.NIRGraph(nodes, edges, type_check=False), DT, rule, T=STEPS)
    assert [op.kind for op in graph.ops] == ["Linear", "Linear", "Add", "LIF"]
    assert_same(graph, x, "n", *stepped(node, x[0] @ (w[0].astype(np.float64) + w[1]).T, rule))
    nodes["a"], edges[0:1] = nir.Scale(f32(1, 2, 1)), [("input", "a")]  # a gain of its own is a branch too
    graph = from_nir(nir.NIRGraph(nodes, [*edges, ("input", "n")], type_check=False), DT, rule, T=STEPS)
    current = x[0] * f32(2, 3, 2).astype(np.float64) + x[0] @ w[1].T.astype(np.float64)
    assert_same(graph, x, "n", *stepped(node, current, rule))  # the input itself cannot take the gain


@RULES
def test_if_i_and_li(rule, x):
    r, weight = f32(100, 50, 20), np.eye(3, dtype=np.float32)
    graph = from_nir(chain(nir.Linear(weight), nir.IF(r, f32(1, 1, 1), f32(0, 0.1, 0))), DT, rule, T=STEPS)
    v, spikes, after = np.zeros(3), [], []
    for now in x[0]:
        v = v + DT * r * now
        spikes.append(v > 1)
        v = np.where(v > 1, f32(0, 0.1, 0), v)
        after.append(v)
    assert_same(graph, x, "n1", np.stack(spikes), np.stack(after))
    assert float(graph.by_name["n1"].decay) == 1

    node, fire = nir.LI(f32(0.01, 0.02, 0.005), f32(1, 2, 3), f32(0.1, 0, 0)), nir.Threshold(f32(1, 1, 1))
    nodes = chain(node, fire)
    nodes.edges[-1] = ("n0", "output")
    graph = from_nir(nodes, DT, rule, T=STEPS, readout="last")
    _, v = stepped(node, x[0].astype(np.float64), rule, spiking=False)
    trace = backends.run(graph, x, "reference", ("spikes",))
    np.testing.assert_allclose(trace.output[0], v[-1], atol=2e-6)
    assert np.array_equal(trace.spikes["n1"][0], v > 1)

    nodes = chain(nir.I(r), fire)
    nodes.edges[-1] = ("n0", "output")
    trace = backends.run(from_nir(nodes, DT, rule, T=STEPS, readout="last"), x, "reference")
    np.testing.assert_allclose(trace.output[0], DT * r * x[0].sum(axis=0), atol=1e-5)


@RULES
def test_the_current_of_cuba_comes_before_its_membrane(rule, x):
    tau_syn, tau_mem, r, w_in = f32(0.002, 0.004, 0.01), f32(0.01, 0.005, 0.02), f32(1, 2, 3), f32(1, 0.5, 2)
    zero, threshold = f32(0, 0, 0), f32(0.5, 0.6, 0.9)
    a, d = (FACTOR[rule](tau.astype(np.float64)) for tau in (tau_syn, tau_mem))
    i, v, free, seen = np.zeros(3), np.zeros(3), np.zeros(3), []
    for now in x[0].astype(np.float64):
        i = a * i + (1 - a) * w_in * now
        v = d * v + (1 - d) * r * i
        free = d * free + (1 - d) * (0.1 + r * i)
        spikes = v > threshold
        v = np.where(spikes, 0, v)
        seen.append((spikes, v, free))
    spikes, after, free = (np.stack(s) for s in zip(*seen, strict=True))
    synapse = nir.Linear(np.eye(3, dtype=np.float32))
    node = nir.CubaLIF(tau_syn, tau_mem, r, zero, threshold, zero, w_in)
    graph = from_nir(chain(synapse, node), DT, rule, T=STEPS)
    assert [op.kind for op in graph.ops] == ["Linear", "CubaLIF"]
    assert_same(graph, x, "n1", spikes, after)

    leaky = nir.CubaLI(tau_syn, tau_mem, r, np.full(3, 0.1, np.float32), w_in)
    graph = from_nir(chain(synapse, leaky, nir.Threshold(threshold)), DT, rule, T=STEPS)
    trace = backends.run(graph, x, "reference", ("spikes", "u"))
    np.testing.assert_allclose(trace.u["n2"][0], free, atol=2e-6)
    assert np.array_equal(trace.spikes["n2"][0], free > threshold)


def test_the_threshold_is_strict():
    graph = from_nir(chain(nir.Threshold(f32(1, 1, 1))), DT, T=3)
    x = np.array([[[1, np.nextafter(np.float32(1), 2, dtype=np.float32), 2]] * 3], np.float32)
    assert backends.run(graph, x, "reference", ("spikes",)).spikes["n0"][0, 0].tolist() == [False, True, True]


def test_maps_convolutions_pools_and_flatten():
    """Rectangular and grouped kernels, which nir's own shape check does not know; parameters per neuron, flattened."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    w2, w1 = rng.normal(size=(4, 1, 3, 5)), rng.normal(size=(6, 16, 3))
    thresholds = rng.uniform(0.2, 1, (4, 8, 8))
    image = rng.normal(size=(1, 2, 8, 8)).astype(np.float32)
    network = chain(
        nir.Conv2d(None, w2, 1, "same", (1, 1), 2, f32(0.1, 0.2, 0, 0)),
        nir.Threshold(thresholds.reshape(-1)),
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        nir.AvgPool2d(np.array([2, 2]), 2, 0),
        nir.Flatten(None, 0, -1),
        nir.Scale(np.full(16, 2.0)),
        nir.Threshold(np.full(16, 1.0)),
        shape=(2, 8, 8),
        out=(16,),
    )
    graph = from_nir(network, DT, T=1, encoding="direct")
    trace = backends.run(graph, image, "reference", ("spikes", "u"))
    f = torch.nn.functional
    u = f.conv2d(
        torch.tensor(image), torch.tensor(w2).float(), torch.tensor([0.1, 0.2, 0, 0]), padding="same", groups=2
    )
    np.testing.assert_allclose(trace.u["n1"][0, 0], u[0].numpy(), atol=1e-5)
    spikes = (u > torch.tensor(thresholds)).float()
    pooled = 2 * f.avg_pool2d(4 * f.avg_pool2d(spikes, 2), 2).reshape(-1).numpy()
    np.testing.assert_allclose(trace.u["n6"][0, 0], pooled, atol=1e-6)

    line = chain(
        nir.Conv1d(None, w1, 2, 1, 1, 1, np.zeros(6)), nir.Threshold(np.ones((6, 5))), shape=(16, 9), out=(6, 5)
    )
    graph = from_nir(line, DT, T=1, encoding="direct")
    row = rng.normal(size=(1, 16, 9)).astype(np.float32)
    u = f.conv1d(torch.tensor(row), torch.tensor(w1).float(), stride=2, padding=1)
    np.testing.assert_allclose(backends.run(graph, row, "reference", ("u",)).u["n1"][0, 0], u[0].numpy(), atol=1e-5)
    assert graph.by_name["n0"].bias is None


def test_a_delay_is_its_multiple_of_dt(x):
    graph = from_nir(
        chain(nir.Threshold(f32(1, 1, 1)), nir.Delay(f32(0.003, 0.003, 0.003))), DT, T=STEPS, readout="sum"
    )
    assert graph.by_name["n1"].steps == 3
    spikes = x[0] > 1
    assert backends.run(graph, x, "reference").output[0].tolist() == spikes[:-3].sum(axis=0).tolist()


def recurrent(edges: list[tuple[str, str]], **nodes: nir.NIRNode) -> nir.NIRGraph:
    every = {"input": nir.Input(np.array([3])), **nodes, "output": nir.Output(np.array([3]))}
    return nir.NIRGraph(every, edges, type_check=False)


def test_a_cycle_is_one_step_later_and_delays_the_spikes(x):
    """The recurrent bias acts from the first step on."""
    rng = np.random.default_rng(4)
    w, bias, node = rng.normal(size=(3, 3)).astype(np.float32), f32(0.3, -0.2, 0.1), lif()
    edges = [("w_rec", "lif"), ("lif", "w_rec"), ("input", "lif"), ("lif", "output")]
    graph = from_nir(recurrent(edges, lif=node, w_rec=nir.Affine(w, bias)), DT, T=STEPS)
    assert graph.by_name["lif.delay"] == Delay(name="lif.delay", inputs=("lif",), steps=1, shape=(3,))
    assert graph.by_name["w_rec"].inputs == ("lif.delay",)
    d, before, v, spikes = FACTOR["euler"](node.tau.astype(np.float64)), np.zeros(3), np.zeros(3), []
    for now in x[0].astype(np.float64):
        v = d * v + (1 - d) * node.r * (now + w @ before + bias)
        before = (v > node.v_threshold).astype(np.float64)
        v = np.where(before > 0, 0, v)
        spikes.append(before > 0)
    assert np.array_equal(backends.run(graph, x, "reference", ("spikes",)).spikes["lif"][0], np.stack(spikes))


def test_where_the_delay_of_a_cycle_goes():
    """Into the edge that comes back to the node that a walk from the input meets first, up to a neuron; and nowhere
    where the cycle has a Delay already."""
    eye = np.eye(3, dtype=np.float32)
    there = [("input", "a"), ("a", "ab"), ("ab", "b"), ("b", "output")]
    layers = {"a": lif(), "ab": nir.Linear(eye), "b": lif(), "ba": nir.Linear(eye)}
    graph = from_nir(recurrent([("b", "ba"), ("ba", "a"), *there], **layers), DT, T=5)
    assert {op.name: op.inputs for op in graph.of_type(Delay)} == {"b.delay": ("b",)}
    assert graph.by_name["ba"].inputs == ("b.delay",)
    assert graph.by_name["ab"].inputs == ("a",)

    # `ab` feeds b as well: what b gets must not be late
    graph = from_nir(recurrent([("ab", "a"), *there], **{k: layers[k] for k in ("a", "ab", "b")}), DT, T=5)
    assert {op.name: op.inputs for op in graph.of_type(Delay)} == {"ab.delay": ("ab",)}
    assert graph.by_name["ab"].inputs == ("a",)

    late = {**layers, "d": nir.Delay(np.full(3, 2 * DT))}
    graph = from_nir(recurrent([("b", "ba"), ("ba", "d"), ("d", "a"), *there], **late), DT, T=5)
    assert [(op.name, op.steps) for op in graph.of_type(Delay)] == [("d", 2)]


def test_nested_graphs_are_flat_and_named_by_their_path(x):
    """As snnTorch writes a recurrent layer."""
    w, node = np.random.default_rng(5).normal(size=(3, 3)).astype(np.float32), lif()
    inner_edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    inner = recurrent(inner_edges, lif=node, w_rec=nir.Linear(w))
    outer_edges = [("input", "fc"), ("fc", "rec"), ("rec", "output")]
    nested = recurrent(outer_edges, fc=nir.Linear(w), rec=inner)
    flat = recurrent(
        [("input", "fc"), ("fc", "rec.lif"), ("rec.lif", "rec.w_rec"), ("rec.w_rec", "rec.lif"), ("rec.lif", "output")],
        **{"fc": nir.Linear(w), "rec.lif": node, "rec.w_rec": nir.Linear(w)},
    )
    graph = from_nir(nested, DT, T=STEPS)
    assert graph == from_nir(flat, DT, T=STEPS)
    assert {op.name for op in graph.ops} == {"fc", "rec.lif", "rec.w_rec", "rec.lif.delay", "rec.lif.sum"}


def test_names_that_the_ir_does_not_have():
    network = chain(nir.Linear(np.eye(3)), nir.Threshold(np.ones(3)))
    network.nodes = {{"n0": "time", "n1": "lif 1/a"}.get(k, k): n for k, n in network.nodes.items()}
    network.edges = [("input", "time"), ("time", "lif 1/a"), ("lif 1/a", "output")]
    graph = from_nir(network, DT, T=1)
    assert [graph.input.name, *(op.name for op in graph.ops)] == ["x", "time_", "lif_1_a"]


def test_t_readout_and_encoding_are_the_callers_or_the_defaults():
    graph = from_nir(chain(lif()), DT, T=7)
    assert (graph.T, graph.readout.rule, graph.input.encoding, graph.dt) == (7, "mean", "time_series", DT)
    assert graph.provenance == {"imported from": "NIR, euler, dt = 0.001 s"}
    graph = from_nir(chain(lif()), DT, T=7, readout="last", encoding="direct")
    assert (graph.readout, graph.input.encoding) == (Readout("n0", "last"), "direct")


CUBA = {p: np.ones(3) for p in ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold")}
REFUSED = [
    (chain(lif(tau=(0.0005, 1, 1))), "LIF 'n0': tau = 0.0005 s, allowed dt = 0.001 s or more (euler)"),
    (chain(lif(tau=(0, 1, 1))), "LIF 'n0': tau = 0 s, allowed > 0"),
    (chain(lif(r=(np.nan, 1, 1))), "LIF 'n0': r holds NaN"),
    (chain(nir.LIF(*[np.ones(4)] * 5)), "LIF 'n0': tau.shape = (4,), allowed (3,)"),
    (chain(nir.CubaLIF(**CUBA)), "CubaLIF 'n0': v_leak = 1..1, allowed 0"),
    (chain(lif(), nir.Delay(np.full(3, 0.0015))), "Delay 'n1': delay = 0.0015..0.0015 s, allowed one multiple of dt"),
    (chain(lif(), nir.Delay(f32(0.001, 0.002, 0.001))), "Delay 'n1': delay = 0.001..0.002 s"),
    (chain(lif(), nir.Delay(np.zeros(3))), "Delay 'n1': delay = 0..0 s"),
    (chain(nir.Linear(np.ones((2, 3, 3))), lif()), "Linear 'n0': weight.ndim = 3, allowed 2"),
    (chain(nir.Linear(np.ones((3, 3)) * 1j), lif()), "Linear 'n0': weight: complex128"),
    (chain(nir.Linear(np.full((3, 3), 1e300)), lif()), "Linear 'n0': weight holds 9 NaN or infinite values"),
    (chain(nir.Flatten(None, 1, -1), lif(), shape=(1, 3)), "Flatten 'n0': start_dim, end_dim = 1, -1 of (1, 3)"),
    (
        chain(nir.Conv2d(None, np.ones((3, 3, 2, 2)), 1, "same", 1, 1, np.zeros(3)), shape=(3, 4, 4)),
        "Conv2d 'n0': padding = 'same' is uneven",
    ),
    (
        chain(nir.Scale(np.arange(32.0).reshape(2, 4, 4)), shape=(2, 4, 4)),
        "Scale 'n0': scale varies within a channel",
    ),
    (
        chain(nir.Conv2d((9, 9), np.ones((2, 1, 3, 3)), 1, 0, 1, 1, np.zeros(2)), shape=(1, 5, 7), out=(2, 3, 5)),
        "Conv2d 'n0': input_shape = [9, 9], allowed (5, 7), what reaches it",
    ),
    (
        chain(nir.Conv1d(9, np.ones((2, 1, 3)), 1, 0, 1, 1, np.zeros(2)), shape=(1, 5), out=(2, 3)),
        "Conv1d 'n0': input_shape = 9, allowed (5,)",
    ),
    (
        chain(nir.Flatten({"input": np.array([2, 3])}, 0, -1), shape=(3, 2), out=(6,)),
        "Flatten 'n0': input_type = [2, 3]",
    ),
    (chain(lif(), out=(99,)), "Output 'output': shape = [99], allowed (3,), what reaches it"),
    (
        recurrent([("input", "a"), ("a", "output")], a=chain(lif(), shape=(4,))),
        "Input 'a.input': shape = [4], allowed (3,)",
    ),
    (chain(lif(), shape=(2**20, 2**20)), "Input 'x': shape = (1048576, 1048576), allowed sizes >= 1, 134217728"),
    (chain(lif(), shape=(0,)), "Input 'x': shape = (0,), allowed sizes >= 1"),
    (recurrent([("input", "a"), ("a", "output")], a=lif(), b=lif()), "LIF 'b': edges into it = 0"),
    (recurrent([("input", "a"), ("a", "no"), ("a", "output")], a=lif()), "edge (a, no): no node 'no'"),
    (recurrent([("input", "a"), ("input", "a"), ("a", "output")], a=lif()), "edge (input, a) stands twice"),
    (
        recurrent([("input", "a"), ("output", "a"), ("a", "output")], a=lif()),
        "edge (output, a), allowed from the Input",
    ),
    (
        recurrent([("input", "a"), ("a", "output"), ("b", "c"), ("c", "b")], a=lif(), b=lif(), c=nir.Linear(np.eye(3))),
        "LIF 'b': not reached from the input",
    ),
    (
        recurrent(
            [("input", "a"), ("a", "b"), ("b", "a"), ("a", "c"), ("c", "output")],
            a=nir.Linear(np.eye(3)),
            b=nir.Linear(np.eye(3)),
            c=lif(),
        ),
        "Linear 'a': cycle a -> b -> a has neither a neuron nor a Delay",
    ),
    (nir.NIRGraph({"input": nir.Input(np.array([3]))}, [], type_check=False), "Output nodes = 0, allowed 1"),
    (recurrent([("input", "a"), ("a", "output")], a=nir.Input(np.array([3]))), "Input nodes = 2, allowed 1"),
]


@pytest.mark.parametrize(("network", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_cannot_be_carried_is_refused_by_its_name(network, said):
    with pytest.raises(RmpDeployError) as e:
        from_nir(network, DT, T=5)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dt": None, "T": 5}, "dt = none, allowed > 0 [s]. NIR is continuous in time"),
        ({"dt": 0.0, "T": 5}, "dt = 0.0, allowed > 0"),
        ({"dt": DT, "T": 5, "rule": "midpoint"}, "rule = 'midpoint', allowed euler or exponential"),
        ({"dt": DT}, "T = none, allowed 1 or more"),
        ({"dt": DT, "T": 0}, "T = 0, allowed 1..65535"),
        ({"dt": DT, "T": 5, "readout": "max"}, "readout = 'max', allowed mean or sum or last"),
        ({"dt": DT, "T": 5, "encoding": "rate"}, "encoding = 'rate'"),
    ],
)
def test_what_nir_does_not_say_must_be_said(options, said):
    with pytest.raises(RmpDeployError) as e:
        from_nir(chain(lif()), **options)
    assert said in str(e.value)


def graph_of(*ops, shape=(3,), dt=DT) -> SpikingGraph:
    return SpikingGraph("g", Input("x", shape, "time_series"), ops, Readout(ops[-1].name, "mean"), 5, dt)


PLAIN = LIF(name="a", inputs=("x",), decay=0.5, v_threshold=0.5)
ONES = {p: np.ones(3) for p in ("gamma", "beta", "mean", "var")}
NOT_IN_NIR = [
    (graph_of(LIF(name="a", inputs=("x",), decay=0.5, v_threshold=0.5, reset="soft")), "LIF 'a': reset = 'soft'"),
    (graph_of(PLAIN, Concat(name="c", inputs=("a", "x"))), "Concat 'c': NIR has no such node"),
    (
        graph_of(PLAIN, MaxPool2d(name="m", inputs=("a",), kernel=(2, 2), stride=(2, 2)), shape=(1, 4, 4)),
        "MaxPool2d 'm': NIR has no such node",
    ),
    (
        graph_of(BatchNorm(name="n", inputs=("x",), eps=1e-5, **ONES), replace(PLAIN, inputs=("n",))),
        "BatchNorm 'n': has statistics",
    ),
    (
        graph_of(BatchNorm(name="n", inputs=("x",), eps=0.0, **{**ONES, "mean": np.zeros(3)}), PLAIN),
        "BatchNorm 'n': beta is not 0",
    ),
    (
        graph_of(
            BatchNorm(name="n", inputs=("x",), eps=0.0, **{**ONES, "mean": np.zeros(3)}),
            CubaLIF(name="a", inputs=("n",), decay=0.5, current_decay=0.5, v_threshold=0.5),
        ),
        "BatchNorm 'n': beta is not 0, allowed 0 unless one LIF or LI alone reads it",
    ),
    (graph_of(PLAIN, Add(name="d", inputs=("a", "a"))), "Add 'd': inputs = ('a', 'a'), allowed each once"),
    (
        graph_of(LIF(name="a", inputs=("x",), decay=f32(1, 0.5, 0.5), v_threshold=0.5)),
        "LIF 'a': decay = 0.5..1 has no finite time constant",
    ),
    (
        graph_of(CubaLIF(name="a", inputs=("x",), decay=0.5, current_decay=1.0, v_threshold=0.5)),
        "CubaLIF 'a': current_decay = 1..1 has no finite time constant",
    ),
    # 1 - decay is 1 in float64: a time constant cannot say it
    (graph_of(LIF(name="a", inputs=("x",), decay=1e-30, v_threshold=0.5)), "LIF 'a': decay would come back"),
    (graph_of(PLAIN, dt=None), "dt = none"),
]


@pytest.mark.parametrize(("graph", "said"), NOT_IN_NIR, ids=[said[:40] for _, said in NOT_IN_NIR])
def test_what_nir_cannot_hold_is_refused_by_its_name(graph, said, tmp_path):
    with pytest.raises(RmpDeployError) as e:
        to_nir(graph, tmp_path / "net.nir")
    assert said in str(e.value)
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_neurons_without_memory_or_without_leak_are_nodes_of_their_own():
    graph = graph_of(
        LIF(name="a", inputs=("x",), decay=0.0, v_threshold=0.5),
        LIF(name="b", inputs=("a",), decay=1.0, v_threshold=0.5, v_reset=0.1),
        LI(name="c", inputs=("b",), decay=1.0),
    )
    for rule in FACTOR:
        nodes = to_nir_graph(graph, rule=rule).nodes
        assert [type(nodes[name]) for name in "abc"] == [nir.Threshold, nir.IF, nir.I]


def test_a_recurrence_that_a_bare_cycle_cannot_say_has_a_delay_node():
    """Two Delays of the same spikes would come back as one."""
    ops = [Delay(name=f"d{i}", inputs=("a",), steps=1, shape=(3,)) for i in range(2)]
    ops += [Linear(name=f"w{i}", inputs=(f"d{i}",), weight=np.eye(3)) for i in range(2)]
    ops += [Add(name="s", inputs=("x", "w0", "w1")), LIF(name="a", inputs=("s",), decay=0.5, v_threshold=0.5)]
    graph = graph_of(*ops)
    network = to_nir_graph(graph)
    assert {n for n, node in network.nodes.items() if isinstance(node, nir.Delay)} == {"d0", "d1"}
    assert from_nir(network, DT) == graph


def test_other_readers_find_valid_nir(convnet, tmp_path):
    """nir's own check of shapes and edges passes, and the same graph gives the same bytes."""
    graph = convnet(T=4)
    path = to_nir(graph, tmp_path / "a.nir", dt=DT)
    network = nir.read(path)
    assert network.check_types()
    assert {type(n).__name__ for n in network.nodes.values()} == {
        *("Affine", "AvgPool2d", "Conv2d", "Flatten", "Input", "LIF", "Output")
    }
    assert path.read_bytes() == to_nir(graph, tmp_path / "b.nir", dt=DT).read_bytes()
    assert from_nir(path, DT).ops == graph.ops


def test_a_file_is_read_with_another_dt_than_it_was_written_with():
    graph = graph_of(LIF(name="a", inputs=("x",), decay=0.9, v_threshold=0.5), Flatten(name="f", inputs=("a",)))
    finer = from_nir(to_nir_graph(graph), DT / 10)
    assert float(finer.by_name["a"].decay) == np.float32(0.99)
    assert finer.by_name["a.gain"].gamma[0] == pytest.approx(0.1, rel=1e-6)
