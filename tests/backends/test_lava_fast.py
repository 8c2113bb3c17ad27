"""lava_fast against lava: the same processes with other models, bit for bit in fixed point."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from rmp_deploy import backends
from rmp_deploy.analysis.parity import climb
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Conv2d, Flatten, Linear, LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.ir.ops.loihi import WEIGHT_SPAN, stored_weight

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")
RECORD = ("spikes", "v")


class Port:
    """A port of a model that runs without a runtime: gives `value`, keeps what is sent."""

    def __init__(self, value=None):
        self.value = value
        self.shape = () if value is None else value.shape

    def recv(self):
        return self.value

    def send(self, value):
        self.value = value


@pytest.fixture(scope="module")
def models():
    from rmp_deploy.converters.lava.compat import import_lava

    import_lava()
    from rmp_deploy.converters.lava.fast import models

    return models


def stepped(model, params, inputs, **values):
    """What a model sends when it is stepped through `inputs`, in a process of its own or not."""
    made = model(params)
    for name, value in values.items():
        setattr(made, name, value.copy() if isinstance(value, np.ndarray) else value)
    port_in, port_out = ("a_in", "s_out") if "reset_interval" in params else ("s_in", "a_out")
    setattr(made, port_out, Port())
    sent = []
    for time_step, x in enumerate((*inputs, inputs[0]), start=1):
        setattr(made, port_in, Port(x))
        made.time_step = time_step
        made.run_spk()
        sent.append(np.array(getattr(made, port_out).value))
    return sent, made


def spikes_or_messages(rng, bits, *shape):
    if bits == 0:
        return rng.integers(0, 2, shape).astype(np.int32)
    return rng.integers(1 - 2**bits, 2**bits, shape).astype(np.int32)


@pytest.mark.parametrize("seed", range(60))
def test_conv_equals_lavas_model(models, seed):
    """Any geometry, groups too; sums beyond 2^23 wrap as there."""
    from lava.proc.conv.models import PyConvModelFixed, PyConvModelFloat
    from lava.proc.conv.process import Conv

    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    c_in, c_out = groups * rng.integers(1, 4, 2)
    kernel, size = rng.integers(1, 4, 2), rng.integers(7, 12, 2)
    bits = int(rng.choice([0, 0, 4, 16]))
    geometry = {
        "kernel_size": kernel,
        "stride": rng.integers(1, 4, 2),
        "padding": rng.integers(0, 3, 2),
        "dilation": rng.integers(1, 4, 2),
        "groups": np.array([groups]),
        "num_message_bits": np.array([bits]),
    }
    shape = (c_out, *kernel, c_in // groups)
    weight = rng.integers(-256, 256, shape).astype(np.int32) << (12 if bits == 0 and seed % 4 == 0 else 0)
    values = {**geometry, "weight": weight, "a_buf": np.zeros(1, np.int32)}
    inputs = [spikes_or_messages(rng, bits, *size, c_in) for _ in range(3)]
    ours, theirs = (stepped(m, {}, inputs, **values)[0] for m in (models.FIXED[Conv], PyConvModelFixed))
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert any(b.any() for b in theirs)
    values["weight"] = rng.normal(size=shape)
    as_float = [x.astype(float) if bits else x for x in inputs]
    ours, theirs = (stepped(m, {}, as_float, **values)[0] for m in (models.FLOATING[Conv], PyConvModelFloat))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * 2**bits)


@pytest.mark.parametrize("kind", ["Dense", "Sparse"])
@pytest.mark.parametrize("seed", range(40))
def test_dense_and_sparse_equal_lavas_models(models, seed, kind):
    """Weights that Lava clips and truncates, every exponent; sums beyond int32 wrap as there."""
    from lava.proc.dense.models import PyDenseModelBitAcc, PyDenseModelFloat
    from lava.proc.dense.process import Dense
    from lava.proc.sparse.models import PySparseModelBitAcc, PySparseModelFloat
    from lava.proc.sparse.process import Sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    process = {"Dense": Dense, "Sparse": Sparse}[kind]
    fixed, floating = {
        "Dense": (PyDenseModelBitAcc, PyDenseModelFloat),
        "Sparse": (PySparseModelBitAcc, PySparseModelFloat),
    }[kind]
    n_out, n_in = rng.integers(1, 40, 2)
    bits = int(rng.choice([0, 0, 8, 24]))
    params = {
        "weight_exp": int(rng.integers(-8, 8)),
        "num_weight_bits": int(rng.integers(1, 9)),
        "sign_mode": SignMode[rng.choice(list(WEIGHT_SPAN)).upper()],
    }
    weight = rng.integers(-300, 301, (n_out, n_in)).astype(np.int32)
    wrap = csr_matrix if kind == "Sparse" else np.asarray
    values = {"num_message_bits": np.array([bits]), "a_buff": np.zeros(n_out, np.int32)}
    inputs = [spikes_or_messages(rng, bits, n_in) for _ in range(3)]
    ours, theirs = (
        stepped(m, params, inputs, weights=wrap(weight), **values)[0] for m in (models.FIXED[process], fixed)
    )
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    weight = wrap(rng.normal(size=(n_out, n_in)))
    ours, theirs = (stepped(m, {}, inputs, weights=weight, **values)[0] for m in (models.FLOATING[process], floating))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * 2**bits)


@pytest.mark.parametrize("size", [2**10, 2**17, 2**23])
@pytest.mark.parametrize("seed", range(5))
def test_neurons_equal_lavas_model(models, seed, size):
    """Parameters per neuron with their extremes; currents that wrap and potentials that saturate."""
    from lava.proc.lif.models import PyLifResetModelBitAcc
    from lava.proc.lif.process import LIFReset

    rng = np.random.default_rng(seed)
    n = 500
    values = {
        "u": np.zeros(n, np.int32),
        "v": np.zeros(n, np.int32),
        "du": rng.choice(np.array([4095, 4094, 2000, 0, -1]), n) if seed else 4095,
        "dv": rng.choice(np.array([0, 1, 2048, 3000, 4096]), n) if seed else 1000,
        "vth": rng.choice(np.array([0, 50, 9000, 131_071]), n),
        "bias_mant": rng.integers(-4096, 4096, n).astype(np.int16),
        "bias_exp": rng.integers(0, 8, n).astype(np.int16),
    }
    params = {"reset_interval": 7, "reset_offset": 3}
    inputs = [rng.integers(1 - size, size, n).astype(np.int32) for _ in range(20)]
    theirs, their_model = stepped(PyLifResetModelBitAcc, params, inputs, **values)
    ours, our_model = stepped(models.FIXED[LIFReset], params, inputs, **values)
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert (our_model.v == their_model.v).all()
    assert (our_model.u == their_model.u).all()
    assert 0.05 < np.mean(theirs) < 0.95


def weight(rng, *shape):
    return stored_weight(rng.integers(-64, 65, shape), 8, "mixed")


def neuron(rng, name, source, shape):
    return LoihiLIF(
        name=name,
        inputs=(source,),
        du=rng.choice(np.array([4095, 2000, -1]), shape),
        dv=rng.integers(0, 4097, shape),
        vth=rng.integers(5, 200, shape),
        bias_mant=rng.integers(-40, 90, shape),
        bias_exp=rng.integers(0, 8, shape),
    )


def conv_net(rng, bits):
    """Two convolutions of random geometry, the second with groups, and a Linear whose weights are mostly 0."""

    def convolution(name, source, c_out, c_in, groups):
        return LoihiConv2d(
            name=name,
            inputs=(source,),
            weight=weight(rng, c_out, c_in // groups, *rng.integers(1, 4, 2)),
            stride=tuple(map(int, rng.integers(1, 3, 2))),
            padding=tuple(map(int, rng.integers(0, 3, 2))),
            dilation=tuple(map(int, rng.integers(1, 3, 2))),
            groups=groups,
        )

    shape = (2, 10, 9)
    conv1 = convolution("conv1", "x", 4, 2, int(rng.integers(1, 3)))
    map1 = conv1.output_shape(shape)
    conv2 = convolution("conv2", "lif1", 6, 4, int(rng.integers(1, 3)))
    map2 = conv2.output_shape(map1)
    sparse = weight(rng, 12, int(np.prod(map2))) * (rng.random((12, int(np.prod(map2)))) < 0.1)
    ops = (
        conv1,
        neuron(rng, "lif1", "conv1", map1),
        conv2,
        neuron(rng, "lif2", "conv2", map2),
        Flatten(name="flat", inputs=("lif2",)),
        LoihiLinear(name="fc", inputs=("flat",), weight=sparse, weight_exp=2),
        neuron(rng, "lif3", "fc", (12,)),
        LoihiLinear(name="out", inputs=("lif3",), weight=weight(rng, 3, 12), weight_exp=-1),
    )
    return SpikingGraph(
        "net", Input("x", shape, "direct" if bits else "time_series", bits), ops, Readout("out", "sum"), 4
    )


@pytest.mark.parametrize(("seed", "bits"), [(0, 0), (1, 0), (2, 4), (3, 8)])
def test_whole_networks_are_equal_bit_for_bit(seed, bits):
    rng = np.random.default_rng(seed)
    graph = conv_net(rng, bits)
    shape = (3, *graph.input.shape) if bits else (3, graph.T, *graph.input.shape)
    x = rng.integers(0, max(2, 2**bits), shape)
    traces = [backends.run(graph, x, name, RECORD) for name in ("reference", "lava", "lava_fast")]
    assert [trace.backend for trace in traces] == ["reference", "lava", "lava_fast"]
    for rung in climb(graph, x, traces):
        assert rung.holds
        assert rung.mismatches == 0
    for name, expected in traces[0].v.items():
        assert 0.01 < traces[0].spikes[name].mean() < 0.99, "a silent or saturated layer proves nothing"
        assert all((trace.v[name] == expected).all() for trace in traces)
    assert all((trace.output == traces[0].output).all() for trace in traces)


def test_real_valued_networks_are_equal_up_to_float64_rounding():
    rng = np.random.default_rng(5)

    def lif(name, source):
        return LIF(name=name, inputs=(source,), decay=rng.random(()), v_threshold=0.5)

    ops = (
        Conv2d(name="conv1", inputs=("x",), weight=rng.normal(size=(4, 2, 3, 3)), bias=rng.normal(size=4) * 0.2),
        lif("lif1", "conv1"),
        Conv2d(name="conv2", inputs=("lif1",), weight=rng.normal(size=(6, 2, 3, 2)), groups=2, stride=(2, 1)),
        lif("lif2", "conv2"),
        Flatten(name="flat", inputs=("lif2",)),
        Linear(name="out", inputs=("flat",), weight=rng.normal(size=(3, 90)), bias=rng.normal(size=3)),
    )
    graph = SpikingGraph("net", Input("x", (2, 9, 8), "direct"), ops, Readout("out", "sum"), 4)
    x = rng.random((4, 2, 9, 8), dtype=np.float32)
    traces = [backends.run(graph, x, name, RECORD) for name in ("reference", "lava", "lava_fast")]
    for rung in climb(graph, x, traces):
        assert rung.holds
    for name in traces[0].v:
        np.testing.assert_allclose(traces[2].v[name], traces[1].v[name], rtol=0, atol=1e-12)
    np.testing.assert_allclose(traces[2].output, traces[1].output, rtol=0, atol=1e-12)


def test_a_data_set_is_run_in_batches(monkeypatch):
    """Each batch is a run of its own, whose files hold no more than its samples."""
    from rmp_deploy.converters.lava.recorder.processes import Rows

    rows, written = [], Rows.__init__

    def noting(self, file, dtype, shape, latency):
        rows.append(shape[0])
        written(self, file, dtype, shape, latency)

    monkeypatch.setattr(backends, "BATCH", 2)
    monkeypatch.setattr(Rows, "__init__", noting)
    rng = np.random.default_rng(6)
    graph = conv_net(rng, 4)
    x = rng.integers(0, 16, (5, *graph.input.shape))
    parts = list(backends.batches(graph, x, "lava_fast", RECORD))
    assert [len(part) for part, _ in parts] == [2, 2, 1]
    assert set(rows) == {2 * graph.T, graph.T}
    expected = backends.run(graph, x, "reference", RECORD)
    for name, v in expected.v.items():
        assert (np.concatenate([trace.v[name] for _, trace in parts]) == v).all()


def test_what_lava_refuses_is_refused():
    ops = (
        Linear(name="fc", inputs=("x",), weight=np.eye(2)),
        LIF(name="n", inputs=("fc",), decay=0.5, v_threshold=0.5, reset="soft"),
    )
    graph = SpikingGraph("net", Input("x", (2,), "direct"), ops, Readout("n", "sum"), 2)
    with pytest.raises(RmpDeployError, match=r"^LIF 'n': reset = 'soft', allowed 'hard' \[lava\]\. "):
        backends.run(graph, np.ones((1, 2)), "lava_fast")
    with pytest.raises(RmpDeployError, match=r"^backend 'lava_fast': record = 'u', allowed spikes, v, readout\. "):
        backends.run(graph, np.ones((1, 2)), "lava_fast", ("u",))
