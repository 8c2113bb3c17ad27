"""What a run tells: files of every epoch, TensorBoard's events, and where NaN came from."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data
from rmp_deploy.training.config import ModelConfig, RMPConfig, TrainConfig
from rmp_deploy.training.diagnostics import load_history
from rmp_deploy.training.evaluation import evaluate
from rmp_deploy.training.loop import Folder, train
from rmp_deploy.training.models import ConvNet
from rmp_deploy.training.neurons import neurons
from rmp_deploy.training.not_finite import first_not_finite
from rmp_deploy.training.state import State

CONFIG = TrainConfig(epochs=3, batch=128, model=ModelConfig(channels=(4, 8), hidden=16, T=2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics") / "run"
    seen = []
    result = train(
        CONFIG, on_epoch=lambda _: seen.append((folder / "metrics.csv").read_text().count("\n")), folder=Folder(folder)
    )
    return result, folder, seen


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_epoch_has_its_line_as_soon_as_it_is_over(trained):
    result, folder, seen = trained
    assert seen == [2, 3, 4]
    table = rows(folder / "metrics.csv")
    assert [float(r["lr"]) for r in table] == pytest.approx([0.1, 0.075, 0.025])  # a cosine over three epochs
    assert [float(r["rmp_weight"]) for r in table] == pytest.approx([0, 0.2 / 3, 0.2 / 3], rel=1e-5)
    for row, m in zip(table, result.metrics, strict=True):
        assert int(row["epoch"]) == m.epoch
        assert float(row["loss"]) == pytest.approx(m.loss, rel=1e-5)
        assert float(row["test_accuracy"]) == pytest.approx(m.test_accuracy, rel=1e-5)
    assert result.metrics[-1].train_accuracy > 0.6


def test_layers_and_histograms_are_those_of_the_network(trained):
    """The last epoch's lines against potentials that are looked at here."""
    result, folder, _ = trained
    held_out = data.load("digits", "test")
    with torch.no_grad():
        logits = result.model(torch.from_numpy(held_out.x))
    assert result.metrics[-1].test_accuracy == float((logits.argmax(1).numpy() == held_out.y).mean())
    table = {(int(r["epoch"]), r["layer"]): r for r in rows(folder / "layers.csv")}
    history = load_history(folder / "diagnostics.npz")
    assert (len(table), len(history)) == (9, 3)
    errors = []
    for name, layer in neurons(result.model).items():
        u = layer.u.double().numpy()
        errors.append(np.minimum(np.abs(u), np.abs(1 - u)).mean())
        row = table[3, name]
        assert float(row["quantization_error"]) == pytest.approx(errors[-1], rel=1e-5)
        assert float(row["firing_rate"]) == pytest.approx((u > 0.5).mean(), rel=1e-5)
        assert history[-1][name].potentials == u.size == 360 * 2 * u[0, 0].size
    assert result.metrics[-1].quantization_error == pytest.approx(np.mean(errors), rel=1e-6)


def test_evaluation_draws_the_same_spikes_every_time():
    config = replace(CONFIG, epochs=1, model=replace(CONFIG.model, encoding="poisson"))
    result = train(config)
    held_out = data.load("digits", "test")
    again = evaluate(result.model, held_out, "poisson", 2)
    assert again.accuracy == result.metrics[-1].test_accuracy
    assert again.quantization_error == result.metrics[-1].quantization_error
    with pytest.raises(RmpDeployError, match="labels = none, allowed one per sample"):
        evaluate(result.model, replace(held_out, y=None), "poisson", 2)


def test_tensorboard_has_the_numbers_of_the_files(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    result = train(replace(CONFIG, epochs=2), folder=Folder(folder, tensorboard=True))
    events = EventAccumulator(str(folder / "tensorboard"), {"histograms": 0}).Reload()
    for name in ("loss", "rmp_loss", "test_accuracy", "quantization_error", "train_accuracy", "lr", "rmp_weight"):
        found = [(e.step, e.value) for e in events.Scalars(name)]
        assert [step for step, _ in found] == [1, 2]
        np.testing.assert_allclose([v for _, v in found], [getattr(m, name) for m in result.metrics], rtol=1e-6)
    rate = events.Scalars("firing_rate/lif2")[-1].value
    assert rate == pytest.approx(result.history[-1]["lif2"].firing_rate, rel=1e-6)
    histogram = events.Histograms("potentials/lif1")[-1].histogram_value
    assert histogram.bucket == result.history[-1]["lif1"].counts.tolist()


def test_tensorboard_that_is_not_installed_is_one_line_and_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(RmpDeployError, match=r"needs tensorboard. Run: pip install 'rmp-deploy\[tensorboard\]'"):
        train(CONFIG, folder=Folder(tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_with_its_first_layer():
    with pytest.raises(RmpDeployError, match=r"loss = nan in epoch 0, step 1; first: outputs of layer '\w+\.layer'"):
        train(replace(CONFIG, lr=1e38))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ConvNet()


X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_first_layer_that_is_not_finite_is_found(model):
    assert first_not_finite(model, X) is None
    with torch.no_grad():
        model.bn2.layer.bias[3] = float("nan")
        model.fc1.layer.weight[0, 0] = float("inf")
    assert first_not_finite(model, X) == "outputs of layer 'bn2.layer'"
    assert not any(m._forward_hooks for m in model.modules())


def test_potentials_are_looked_at_because_spikes_hide_a_nan(model):
    model.lif1.fixed_decay.fill_(float("nan"))
    spikes = torch.nn.Sequential(*list(model)[:4])(X)
    assert torch.isfinite(spikes).all()
    assert first_not_finite(model, X) == "membrane potentials of layer 'lif1'"


def test_a_gradient_that_is_not_finite_has_the_name_of_its_parameter(model):
    state = State.start(CONFIG, model, processes=_alone())
    model(X).sum().backward()
    assert state.check_gradients() is None
    model.fc1.layer.weight.grad[2, 5] = float("inf")
    model.fc2.layer.bias.grad[0] = float("nan")
    assert state.check_gradients() == "gradient of 'fc1.layer.weight'"
    for parameter in model.parameters():
        parameter.grad.fill_(3e38)  # large, and finite: no sum of squares overflows
    assert state.check_gradients() is None


def test_weights_beyond_float32_stop_the_run_though_spikes_hide_them():
    """Without RMP-Loss a network of silent NaN potentials has a finite loss; its gradients are not."""
    with pytest.raises(RmpDeployError, match="in epoch 0, step") as e:
        train(replace(CONFIG, lr=1e38, rmp_loss=RMPConfig(k=0.0)))
    assert "first: " in str(e.value)


def _alone():
    from rmp_deploy.training.evaluation import ALONE

    return ALONE
