"""Other tools' exporters and importers: the same spikes on both sides of the file."""

from __future__ import annotations

import contextlib
import io

import nir
import numpy as np
import pytest
import torch
from torch import nn

from rmp_deploy import backends
from rmp_deploy.converters.nir import from_nir, to_nir
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Linear

# snnTorch and Norse call what nirtorch is about to replace
pytestmark = pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")
STEPS, SAMPLES = 30, 4
SNNTORCH_DT = 1e-4  # the constant in its exporter and its importer


def spikes_of(net: nn.Module, layers: dict[str, nn.Module], x: np.ndarray) -> dict[str, np.ndarray]:
    """Step `net` over x [N, T, ...]; the spikes [N, T, ...] that each layer returns first."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_hook(
            lambda _m, _i, out, name=name: seen[name].append((out[0] if isinstance(out, tuple) else out).numpy() > 0)
        )
    with torch.no_grad():
        for t in range(x.shape[1]):
            net(torch.from_numpy(x[:, t]))
    return {name: np.stack(steps, axis=1) for name, steps in seen.items()}


def output_of(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """Step a network that takes and gives its state over x [N, T, ...]: the spikes [N, T, ...] that it returns."""
    state, steps = None, []
    with torch.no_grad():
        for t in range(x.shape[1]):
            spikes, state = net(torch.from_numpy(x[:, t]), state)
            steps.append(spikes.numpy() > 0)
    return np.stack(steps, axis=1)


@pytest.fixture
def samples():
    return np.random.default_rng(0).random((SAMPLES, STEPS, 6), dtype=np.float32)


def test_snntorch_leaky_recurrent_and_synaptic(samples, tmp_path):
    """Its recurrent bias acts from the first step on: the Delay stands before the recurrent weights."""
    snn = pytest.importorskip("snntorch")
    export_nir = pytest.importorskip("snntorch.export_nir")
    torch.manual_seed(0)
    common = {"reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
            half = torch.full((8,), 0.5)
            self.rec = snn.RLeaky(beta=0.9 * torch.ones(8), threshold=half, linear_features=8, **common)
            alpha, beta = torch.full((3,), 0.7), torch.full((3,), 0.8)
            self.syn = snn.Synaptic(alpha=alpha, beta=beta, threshold=torch.full((3,), 0.5), **common)

        def forward(self, x):
            return self.syn(self.out(self.rec(self.fc(x))))

    net = Net()
    assert net.rec.recurrent.bias.detach().abs().min() > 0
    nir.write(tmp_path / "net.nir", export_nir.export_to_nir(net, torch.randn(1, 6), ignore_dims=[0]))
    for layer in (net.rec, net.syn):
        layer.reset_mem()
    theirs = spikes_of(net, {"rec.lif": net.rec, "syn": net.syn}, samples)
    graph = from_nir(tmp_path / "net.nir", SNNTORCH_DT, T=STEPS)
    found = backends.run(graph, samples, "reference", ("spikes",)).spikes
    assert found.keys() == theirs.keys()
    for name, spikes in theirs.items():
        assert 0.1 < spikes.mean() < 0.7
        assert np.array_equal(found[name], spikes), name


def two_layers(dt: float) -> SpikingGraph:
    rng = np.random.default_rng(1)
    ops = (
        Linear(name="fc", inputs=("x",), weight=rng.normal(size=(8, 6)), bias=rng.normal(size=8) / 5),
        LIF(name="lif", inputs=("fc",), decay=0.9, v_threshold=0.5),
        Linear(name="fc2", inputs=("lif",), weight=rng.normal(size=(5, 8))),
        LIF(name="lif2", inputs=("fc2",), decay=0.8, v_threshold=0.4),
    )
    return SpikingGraph("two", Input("x", (6,), "time_series"), ops, Readout("lif2", "sum"), STEPS, dt)


def test_snntorch_reads_our_file(samples, tmp_path):
    pytest.importorskip("snntorch")
    import_nir = pytest.importorskip("snntorch.import_nir")
    graph = two_layers(SNNTORCH_DT)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        net = import_nir.import_from_nir(nir.read(to_nir(graph, tmp_path / "net.nir")))
    found = backends.run(graph, samples, "reference", ("spikes",)).spikes["lif2"]
    assert 0.1 < found.mean() < 0.9
    assert np.array_equal(found, output_of(net, samples))


def test_norse(samples):
    """Norse 1.1.0 writes tau * dt in place of tau (norse/torch/utils/export_nir.py): read with dt * dt it is right."""
    norse = pytest.importorskip("norse.torch")
    torch.manual_seed(0)

    def cell(n: int) -> nn.Module:
        parameters = norse.LIFBoxParameters(
            tau_mem_inv=torch.full((n,), 100.0), v_th=torch.full((n,), 0.03), v_leak=torch.zeros(n)
        )
        return norse.LIFBoxCell(parameters, dt=1e-3)

    net = norse.SequentialState(nn.Linear(6, 8), cell(8), nn.Linear(8, 3), cell(3))
    network = norse.to_nir(net, torch.randn(6), dt=1e-3)
    assert network.nodes["1"].tau[0] == pytest.approx(0.01 * 1e-3)
    graph = from_nir(network, 1e-3 * 1e-3, T=STEPS)
    found = backends.run(graph, samples, "reference", ("spikes",)).spikes["3"]
    assert 0.1 < found.mean() < 0.7
    assert np.array_equal(found, output_of(net, samples))
