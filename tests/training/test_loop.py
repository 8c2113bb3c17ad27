"""A run from config to folder and back: reproducible, and refused in one line where something is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data
from rmp_deploy.training.config import ModelConfig, RMPConfig, TrainConfig
from rmp_deploy.training.loop import load_run, save_run, train

SMALL = TrainConfig(epochs=3, batch=128, model=ModelConfig(channels=(4, 8), hidden=16, T=2))


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    result = train(SMALL)
    return result, save_run(result, tmp_path_factory.mktemp("runs") / "small")


def test_the_held_out_digits_are_fixed_and_disjoint():
    train_set, test_set = data.load("digits", "train"), data.load("digits", "test")
    assert (train_set.x.shape, test_set.x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert np.bincount(test_set.y).min() > 20  # every digit is there
    again = data.load("digits", "test")
    np.testing.assert_array_equal(test_set.x, again.x)
    seen = {image.tobytes() for image in train_set.x}
    assert not any(image.tobytes() in seen for image in test_set.x)
    assert train_set.x.min() == 0
    assert train_set.x.max() == 1


def test_training_learns_and_the_same_seed_gives_the_same_weights(small_run):
    result, _ = small_run
    assert result.metrics[-1].test_accuracy > 0.7
    again = train(SMALL)
    for (name, a), b in zip(result.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    other = train(replace(SMALL, seed=8, epochs=1))
    assert not torch.equal(other.model.fc1.layer.weight, again.model.fc1.layer.weight)


def test_rmp_loss_lowers_the_quantization_error(small_run):
    without = train(replace(SMALL, rmp_loss=RMPConfig(k=0.0)))
    strong = train(replace(SMALL, rmp_loss=RMPConfig(k=1.0)))
    assert strong.metrics[-1].quantization_error < 0.9 * without.metrics[-1].quantization_error


def test_a_run_comes_back_from_its_folder(small_run):
    result, folder = small_run
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "diagnostics.npz", "layers.csv", "metrics.csv", "model.safetensors"
    ]  # fmt: skip
    config, model = load_run(folder)
    assert config == SMALL
    x = torch.from_numpy(data.load("digits").x[:20])
    with torch.no_grad():
        assert torch.equal(model(x), result.model(x))
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert rows[0] == "epoch,loss,rmp_loss,test_accuracy,quantization_error,train_accuracy,lr,rmp_weight"
    assert len(rows) == 1 + SMALL.epochs


def test_a_folder_that_is_not_its_run_is_refused(small_run, tmp_path):
    _, folder = small_run
    with pytest.raises(RmpDeployError, match=r"config\.json cannot be read"):
        load_run(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    wider = replace(SMALL, model=replace(SMALL.model, hidden=32)).as_dict()
    (tmp_path / "config.json").write_text(json.dumps(wider))
    with pytest.raises(RmpDeployError, match="weights of another network"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_tensors((folder / "model.safetensors").read_bytes())
    for kind in (torch.float64, torch.float16, torch.int8):
        other = weights | {"fc1.layer.weight": weights["fc1.layer.weight"].to(kind)}
        (tmp_path / "model.safetensors").write_bytes(save_tensors(other))
        with pytest.raises(RmpDeployError, match=rf"fc1.layer.weight = \(.*, {kind}\), allowed \(.*, torch.float32\)"):
            load_run(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(save_tensors(weights | {"more": torch.zeros(1)}))
    with pytest.raises(RmpDeployError, match=r"more = \(.*\), allowed none"):
        load_run(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(RmpDeployError, match="malformed"):
        load_run(tmp_path)


def test_a_diverging_loss_stops_with_its_place():
    with pytest.raises(RmpDeployError, match="loss = nan in epoch 0, step"):
        train(replace(SMALL, lr=1e30))


def test_a_network_that_diverges_in_the_last_step_stops_with_its_place(tmp_path):
    """What the last update of an epoch did is seen by the evaluation alone."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", x=rng.random((75, 1, 8, 8), np.float32), y=np.arange(75) % 3)
    once = replace(SMALL, data=str(tmp_path / "few.npz"), epochs=1, batch=60, lr=1e38)
    with pytest.raises(RmpDeployError, match=r"training: epoch 0, after step 0: .* = NaN or infinite, allowed finite"):
        train(once)


def test_sizes_of_a_run_folder_are_checked_before_a_network_is_allocated(small_run, tmp_path):
    _, folder = small_run
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_tensors((folder / "model.safetensors").read_bytes())
    for shape, classes in (([-1, 8, 8], 10), ([1, 8, 8], 10**12), ([1, 4_000_000, 4_000_000], 10), ("188", 10)):
        task = json.dumps({"data": "digits", "shape": shape, "n_classes": classes})
        (tmp_path / "model.safetensors").write_bytes(save_tensors(weights, {"task": task}))
        with pytest.raises(RmpDeployError, match="malformed"):
            load_run(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(RmpDeployError, match="malformed"):
        load_run(tmp_path)


def test_npz_files(tmp_path):
    np.savez(tmp_path / "ok.npz", x=np.ones((3, 2)), y=np.arange(3))
    loaded = data.load(str(tmp_path / "ok.npz"))
    assert loaded.x.dtype == np.float32
    assert loaded.y.tolist() == [0, 1, 2]
    assert loaded.first(2).x.shape == (2, 2)
    np.savez(tmp_path / "nox.npz", a=np.ones(3))
    np.savez(tmp_path / "labels.npz", x=np.ones((3, 2)), y=np.arange(2))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object))
    np.savez(tmp_path / "flat.npz", x=np.ones(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "ok.npz").read_bytes()[:100])
    cases = {
        "nox": "arrays = ['a']", "labels": "y = int64 (2,)", "objects": "not a readable", "flat": "x = float64 (3,)",
        "cut": "not a readable", "missing": "no such file",
    }  # fmt: skip
    for name, said in cases.items():
        with pytest.raises(RmpDeployError) as e:
            data.load(str(tmp_path / f"{name}.npz"))
        assert said in str(e.value)
    for n in (0, 4):
        with pytest.raises(RmpDeployError, match=f"samples = {n}, allowed 1..3"):
            loaded.first(n)
    with pytest.raises(
        RmpDeployError, match=r"data 'mnist': unknown, allowed digits, a file\.npz, a file\.npy or a folder"
    ):
        data.load("mnist")
