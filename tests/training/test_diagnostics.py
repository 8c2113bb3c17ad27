"""The streamed diagnostics are those of the potentials all at once, by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.diagnostics import EDGES, Diagnostics, load_history, save_history
from rmp_deploy.training.models import MLP, ConvNet
from rmp_deploy.training.mpbn import MPBNLIF
from rmp_deploy.training.neurons import IF, LIF, CubaLIF, neurons

T = 3


class SideBySide(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(layer(x) for layer in self)


def neuron_layers() -> nn.Sequential:
    """Layers whose potentials reach beyond the histogram, with and without the threshold in the middle."""
    return SideBySide(LIF(), IF(0.9, reset="soft"), CubaLIF(0.5, 0.5, torch.tensor([0.3, 0.5, 0.9])))


def test_streamed_batches_are_numpys_numbers_over_all_potentials():
    model = neuron_layers().eval()
    x = 1.5 * torch.randn(T, 20, 3, generator=torch.Generator().manual_seed(0))
    x[0, 0] = torch.tensor([2.0, 0.5, -1e-30])  # on an edge belongs to the bin above it, and just below 0 is below 0
    with torch.no_grad(), Diagnostics(model) as diagnostics:
        for batch in x.split(7, dim=1):
            model(batch)
    found = diagnostics.layers()
    with torch.no_grad():
        model(x)
    assert list(found) == ["0", "1", "2"]
    for name, layer in neurons(model).items():
        u = layer.u.detach().numpy()
        spikes = (u > layer.v_threshold.numpy()).astype(np.float64)
        counts, _ = np.histogram(u, EDGES)
        assert found[name].counts.dtype == np.int64
        np.testing.assert_array_equal(found[name].counts, counts)
        assert found[name].counts.sum() == found[name].potentials == u.size
        assert found[name].spikes == spikes.sum()
        assert found[name].firing_rate == spikes.mean()
        assert found[name].quantization_error == pytest.approx(np.minimum(abs(u), abs(1 - u)).mean(), rel=1e-6)
        assert found[name].spike_error == pytest.approx(abs(u - spikes).mean(), rel=1e-6)
    assert found["0"].counts[[0, -1]].all()  # beyond the edges: counted
    assert found["0"].spike_error == pytest.approx(found["0"].quantization_error)  # threshold 0.5
    assert found["1"].spike_error > found["1"].quantization_error * 1.01


def test_edges_are_those_of_figure_1():
    assert len(EDGES) == 67
    assert EDGES[1] == -2
    assert EDGES[-2] == 2
    assert np.diff(EDGES[1:-1]).tolist() == [1 / 16] * 64
    assert {0.0, 0.5, 1.0} < set(EDGES)


def test_of_mpbn_it_sees_what_the_threshold_sees():
    torch.manual_seed(0)
    layer = MPBNLIF(4).eval()
    with torch.no_grad(), Diagnostics(layer) as diagnostics:
        spikes = layer(torch.randn(T, 9, 4))
    (found,) = diagnostics.layers().values()
    np.testing.assert_array_equal(found.counts, np.histogram(layer.u.numpy(), EDGES)[0])
    assert found.spikes == spikes.sum()
    assert found.spike_error == pytest.approx((layer.u - spikes).abs().mean().item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_potentials_of_other_floats(dtype):
    layer = LIF().to(dtype)
    x = torch.linspace(-3, 3, 4001, dtype=dtype).reshape(1, 1, -1)
    with torch.no_grad(), Diagnostics(layer) as diagnostics:
        layer(x)
    (found,) = diagnostics.layers().values()
    u = x.double().numpy()
    np.testing.assert_array_equal(found.counts, np.histogram(u, EDGES)[0])
    assert found.quantization_error == pytest.approx(np.minimum(abs(u), abs(1 - u)).mean(), rel=1e-6)


def test_it_leaves_the_model_as_it_was():
    """No hook stays (export refuses them), nothing is seen after it closes, and a training pass keeps its gradient."""
    torch.manual_seed(0)
    model = MLP(hidden=(6, 5))
    x = torch.rand(4, 1, 8, 8)
    wanted = torch.autograd.grad(model(x).sum(), model.fc1.layer.weight)[0]
    with Diagnostics(model) as diagnostics:
        found = torch.autograd.grad(model(x).sum(), model.fc1.layer.weight)[0]
    assert torch.equal(found, wanted)
    model(x)
    seen = diagnostics.layers()
    assert {name: d.potentials for name, d in seen.items()} == {"lif1": 4 * 4 * 6, "lif2": 4 * 4 * 5}
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_diagnosed_is_named():
    with pytest.raises(ValueError, match="LIF layers in the model = 0"):
        Diagnostics(nn.Linear(2, 2))
    model = ConvNet(channels=(2,), hidden=3).eval()
    with Diagnostics(model) as diagnostics, pytest.raises(RmpDeployError, match="layer 'lif1' = none"):
        diagnostics.layers()
    for bad in (torch.nan, torch.inf):
        with Diagnostics(model) as diagnostics, torch.no_grad():
            model(torch.full((2, 1, 8, 8), bad))
        with pytest.raises(RmpDeployError, match="layer 'lif1' = NaN or infinite, allowed finite"):
            diagnostics.layers()


def history(epochs: int) -> list:
    torch.manual_seed(0)
    model, found = ConvNet(channels=(2,), hidden=3).eval(), []
    for _ in range(epochs):
        with torch.no_grad(), Diagnostics(model) as diagnostics:
            model(torch.rand(5, 1, 8, 8))
        found.append(diagnostics.layers())
    return found


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_history_reads_back_as_it_was(tmp_path, epochs):
    wanted = history(epochs)
    path = save_history(tmp_path / "histograms.npz", wanted)
    found = load_history(path)
    assert len(found) == epochs
    for before, after in zip(wanted, found, strict=True):
        assert list(before) == list(after) == ["lif1", "lif2"]
        for name, d in before.items():
            assert after[name].counts.tolist() == d.counts.tolist()
            assert vars(after[name]) | {"counts": 0} == vars(d) | {"counts": 0}
    with np.load(path) as arrays:  # what a stranger finds in it
        assert arrays["edges"].tolist() == list(EDGES)
        if epochs:
            assert arrays["counts/lif1"].shape == (epochs, len(EDGES) - 1)
            assert arrays["counts/lif1"].sum(1).tolist() == [4 * 5 * 2 * 64] * epochs


def test_a_history_that_is_none_is_refused(tmp_path):
    path = save_history(tmp_path / "histograms.npz", history(2))
    with pytest.raises(RmpDeployError, match=r"no-such\.npz': cannot be read"):
        load_history(tmp_path / "no-such.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RmpDeployError, match="malformed"):
        load_history(path)
    path.write_bytes(whole)
    with np.load(path) as file:
        arrays = dict(file)
    for name, changed in (
        ("edges", arrays["edges"] * 2),
        ("spikes/lif2", arrays["spikes/lif2"][:1]),
        ("spikes/lif1", arrays["spikes/lif1"].reshape(2, 1)),
        ("counts/lif1", arrays["counts/lif1"][:, :5]),
        ("counts/lif1", arrays["counts/lif1"] + 0.5),
        ("spike_error/lif1", np.array(["a", "b"])),
    ):
        np.savez(path, **{**arrays, name: changed})
        with pytest.raises(RmpDeployError, match="other bins, types or lengths"):
            load_history(path)
    np.savez(path, **{name: array for name, array in arrays.items() if name != "spikes/lif1"})
    with pytest.raises(RmpDeployError, match="malformed"):
        load_history(path)
