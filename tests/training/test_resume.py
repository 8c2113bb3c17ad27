"""A run that is stopped and resumed gives the bytes of one that was not; what cannot be resumed is refused."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import multiprocessing

from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import checkpoint
from rmp_deploy.training.config import ModelConfig, TrainConfig
from rmp_deploy.training.lock import LOCK
from rmp_deploy.training.loop import Folder, load_run, train
from rmp_deploy.training.run_folder import read_run

try:
    from torchvision.transforms import v2
except (ImportError, RuntimeError):  # the second: torchvision of another build than torch
    v2 = None
needs_torchvision = pytest.mark.skipif(v2 is None, reason="no torchvision that works with this torch (a CPU build)")

CONFIG = TrainConfig(epochs=3, batch=256, model=ModelConfig(channels=(4, 8), hidden=16, T=2))
TOML = "epochs = 3\nbatch = 256\n[model]\nchannels = [4, 8]\nhidden = 16\nT = 2\n"
POISSON = 'encoding = "poisson"\n'
FILES = ("model.safetensors", "metrics.csv", "layers.csv", "diagnostics.npz", "config.json")


def stopped_after(config: TrainConfig, folder: Folder, batches: int) -> None:
    """Train and be gone after so many batches; the last checkpoint is the one before them."""
    done = []

    def on_step(_: float) -> None:
        done.append(1)
        if len(done) == batches:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, on_step=on_step, folder=folder)


def same_files(a, b):
    for name in FILES:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert not (b / checkpoint.FILE).exists()
    assert sorted(p.name for p in b.iterdir()) == sorted(FILES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(CONFIG, folder=Folder(folder))
    return folder


@pytest.fixture
def stopped(tmp_path):
    """A run stopped in its second epoch."""
    folder = tmp_path / "run"
    stopped_after(CONFIG, Folder(folder, checkpoint_seconds=0), 8)
    return folder


@pytest.mark.parametrize("batches", [2, 6, 10])  # 6 are an epoch: before it is evaluated
def test_a_stopped_run_goes_on_to_the_same_bytes(whole, tmp_path, batches):
    folder = tmp_path / "run"
    stopped_after(CONFIG, Folder(folder, checkpoint_seconds=0), batches)
    train(CONFIG, folder=Folder(folder, resume=True))
    same_files(whole, folder)


def test_random_encodings_learnt_decays_and_undecayed_parameters_go_on_too(tmp_path):
    model = replace(CONFIG.model, encoding="poisson", learn_decay=True)
    config = replace(CONFIG, epochs=2, weight_decay_on="weights", model=model)
    train(config, folder=Folder(tmp_path / "whole"))
    stopped_after(config, Folder(tmp_path / "run", checkpoint_seconds=0), 8)
    train(config, folder=Folder(tmp_path / "run", resume=True))
    same_files(tmp_path / "whole", tmp_path / "run")


@needs_torchvision
def test_augmentation_goes_on_too(tmp_path):
    config = replace(CONFIG, epochs=2, augmentation=("crop", "flip"))
    train(config, folder=Folder(tmp_path / "whole"))
    stopped_after(config, Folder(tmp_path / "run", checkpoint_seconds=0), 8)
    train(config, folder=Folder(tmp_path / "run", resume=True))
    same_files(tmp_path / "whole", tmp_path / "run")
    plain = train(replace(config, augmentation=()))
    assert plain.metrics[0].loss != train(config).metrics[0].loss


def test_a_run_resumed_twice_and_one_resumed_from_its_end_give_the_same(whole, tmp_path):
    folder = tmp_path / "run"
    stopped_after(CONFIG, Folder(folder, checkpoint_seconds=0), 4)
    stopped_after(CONFIG, Folder(folder, resume=True, checkpoint_seconds=0), 6)
    kept = None

    def keep(_):
        nonlocal kept
        kept = (folder / checkpoint.FILE).read_bytes()

    train(CONFIG, on_epoch=keep, folder=Folder(folder, resume=True, checkpoint_seconds=0))
    same_files(whole, folder)
    (folder / checkpoint.FILE).write_bytes(kept)  # as if it had been killed while it wrote its network
    (folder / "model.safetensors").write_bytes(b"")
    train(CONFIG, folder=Folder(folder, resume=True))
    same_files(whole, folder)


def _command(folder, options):
    torch.set_num_threads(1)
    arguments = ["train", str(folder / "small.toml"), "--out", str(folder / "run"), "--checkpoint-every", "0", *options]
    with (folder / "out").open("w") as sys.stdout, (folder / "err").open("w") as sys.stderr:
        code = main(arguments)
    sys.exit(code)


def start(folder, *options):
    """The command in a process of its own; forked, it need not import torch again."""
    process = multiprocessing.get_context("fork").Process(target=_command, args=(folder, options))
    process.start()
    return process


def position(file):
    """Epoch and step of a checkpoint; None where there is none."""
    if not file.exists():
        return None
    with safe_open(file, "pt") as tensors:
        values = json.loads(tensors.metadata()["values"])
    return values["epoch"], values["step"]


def wait_for(process, file, reached):
    """Until the checkpoint says that the run has come as far as that."""
    while process.is_alive():
        found = position(file)
        if found is not None and found >= reached:
            return
        time.sleep(0.001)
    raise AssertionError(f"the run ended before {reached}: {process.exitcode}")


def test_kill_9_in_the_middle_of_an_epoch_twice(tmp_path):
    """A real process that the system kills while it trains, at two moments, and once more after it was resumed."""
    (tmp_path / "small.toml").write_text(TOML + POISSON)
    config = replace(CONFIG, model=replace(CONFIG.model, encoding="poisson"))
    train(config, folder=Folder(tmp_path / "whole"))
    file = tmp_path / "run" / checkpoint.FILE
    for reached, options in (((0, 2), ()), ((1, 2), ("--resume",))):
        process = start(tmp_path, *options)
        wait_for(process, file, reached)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert position(file) >= reached
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == process.pid  # nobody is left to remove it
    process = start(tmp_path, "--resume")
    process.join()
    assert process.exitcode == 0
    same_files(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_checkpoint_and_says_where(whole, tmp_path, number):
    (tmp_path / "small.toml").write_text(TOML)
    file = tmp_path / "run" / checkpoint.FILE
    process = start(tmp_path)
    wait_for(process, file, (0, 2))
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 130
    assert (tmp_path / "out").read_text() == ""
    epoch, step = position(file)
    said = (tmp_path / "err").read_text().splitlines()
    assert said[-1] == f"error: interrupted. Checkpoint at epoch {epoch}, step {step}: '{file}'. Go on with --resume."
    assert len(said) == 1 + epoch  # a line for each
    assert main(["train", str(tmp_path / "small.toml"), "--out", str(tmp_path / "run"), "--resume"]) == 0
    same_files(whole, tmp_path / "run")


def test_ctrl_c_in_the_loop_of_this_process(whole, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="Checkpoint at epoch 0, step 1"):
        train(CONFIG, on_step=lambda _: os.kill(os.getpid(), signal.SIGINT), folder=Folder(folder))
    train(CONFIG, folder=Folder(folder, resume=True))
    same_files(whole, folder)


def refused(folder, config=CONFIG, resume=True):
    with pytest.raises(RmpDeployError) as e:
        train(config, folder=Folder(folder, resume))
    assert "\n" not in str(e.value)
    return str(e.value)


def test_nothing_is_overwritten_without_being_asked_to(stopped, whole):
    before = (stopped / checkpoint.FILE).read_bytes()
    assert "left by a run that was stopped, allowed none. Go on with --resume" in refused(stopped, resume=False)
    assert (stopped / checkpoint.FILE).read_bytes() == before
    assert "holds a trained network, allowed a new folder" in refused(whole, resume=False)
    assert "holds a trained network" in refused(whole)


def test_resume_without_a_checkpoint_starts(tmp_path, whole):
    train(CONFIG, folder=Folder(tmp_path / "run", resume=True))
    same_files(whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.05}, "config.lr = 0.1, allowed 0.05 as this run has"),
        ({"model": replace(CONFIG.model, hidden=32)}, "config.model.hidden = 16, allowed 32"),
        ({"model": replace(CONFIG.model, channels=(4, 4))}, "config.model.channels = [4, 8], allowed [4, 4]"),
        ({"epochs": 4}, "config.epochs = 3, allowed 4"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused_by_what_differs(stopped, change, said):
    assert said in refused(stopped, replace(CONFIG, **change))


def test_data_are_known_by_what_they_are_not_by_where_they_lie(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 1, 4, 4), np.float32), np.arange(60) % 3
    other = x.copy()
    other[0, 0, 0, 0] += 1
    sets = {"a": (x, y), "b": (x, y), "x": (other, y), "y": (x, (y + 1) % 3), "n": (x[:50], y[:50])}
    for name, (values, labels) in sets.items():
        np.savez(tmp_path / f"{name}.npz", x=values, y=labels)
    small = TrainConfig(epochs=2, batch=8, model=ModelConfig(channels=(2,), hidden=4, T=2))
    folder = tmp_path / "run"
    stopped_after(replace(small, data=str(tmp_path / "a.npz")), Folder(folder, checkpoint_seconds=0), 4)
    for name, said in (
        ("x", "data.train.sha256"),
        ("y", "data.train.sha256"),
        ("n", "data.train.shape = [48, 1, 4, 4]"),
    ):
        assert said in refused(folder, replace(small, data=str(tmp_path / f"{name}.npz")))
    train(replace(small, data=str(tmp_path / "b.npz")), folder=Folder(folder, resume=True))


def test_damaged_and_foreign_checkpoints_are_refused(stopped):
    file = stopped / checkpoint.FILE
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    cases = {
        "empty": (b"", "not a whole checkpoint"),
        "header": (good[:100], "not a whole checkpoint"),
        "cut": (good[:-1], "not a whole checkpoint"),
        "flipped": (bytes(flipped), "its bytes are not those that were written"),
        "foreign": (save_tensors({"a": torch.zeros(3)}), "format = none, allowed rmp-deploy checkpoint 2"),
        "text": (b"{}" * 50, "not a whole checkpoint"),
    }
    for data, said in cases.values():
        file.write_bytes(data)
        assert said in refused(stopped)
        assert file.read_bytes() == data
    file.write_bytes(good)
    values, tensors = checkpoint.read(file)
    (epoch,) = values["metrics"]
    for broken, said in (
        ({"run": values["run"]}, "not a whole checkpoint"),
        ({**values, "epoch": -1}, "epoch = -1, allowed 0..3"),
        ({**values, "epoch": math.inf}, "epoch = inf, allowed 0..3"),
        ({**values, "step": 1000}, "step = 1000, allowed 0.."),
        ({**values, "step": 1.9}, "step = 1.9, allowed 0.."),
        ({**values, "seen": "all"}, "not a whole checkpoint"),
        ({**values, "metrics": values["metrics"][:-1]}, "of different epochs"),
        ({**values, "metrics": [{"what": 1}]}, "not a whole checkpoint"),
        ({**values, "metrics": [{**epoch, "loss": "1.0"}]}, "loss of epoch 1 = '1.0', allowed a finite number"),
        ({**values, "metrics": [{**epoch, "loss": True}]}, "loss of epoch 1 = True, allowed a finite number"),
        ({**values, "metrics": [{**epoch, "lr": math.nan}]}, "lr of epoch 1 = nan, allowed a finite number"),
        ({**values, "metrics": [{**epoch, "epoch": 2}]}, "metrics of epoch 2, allowed 1 in this place"),
        ({**values, "metrics": [{**epoch, "more": 2}]}, "'more' is unknown"),
        ({**values, "more": 1}, "'more' is unknown"),
        ({**values, "scaler": {"scale": 1.0}}, "'scale' is unknown"),
        ({**values, "diagnostics": "0"}, "diagnostics.npz': not the 1 epochs that checkpoint.safetensors was written"),
    ):
        checkpoint.write(file, broken, tensors)
        assert said in refused(stopped)
    checkpoint.write(file, values, {n: t for n, t in tensors.items() if n != "model/fc2.layer.bias"})
    assert "fc2.layer.bias" in refused(stopped)
    checkpoint.write(file, values, tensors | {"model/fc2.layer.bias": tensors["model/fc2.layer.bias"].double()})
    assert "fc2.layer.bias = ((10,), torch.float64), allowed ((10,), torch.float32)" in refused(stopped)
    checkpoint.write(file, values, tensors | {"optimizer/0/momentum_buffer": torch.zeros(3)})
    assert "momentum_buffer = ((3,), torch.float32), allowed" in refused(stopped)
    checkpoint.write(file, values, {n: t for n, t in tensors.items() if n != "optimizer/0/momentum_buffer"})
    assert "momentum of" in refused(stopped)
    for name in ("more", "random/more/0", "random/torch/1", "model/more", "optimizer/0/more", "optimizer/99/more"):
        checkpoint.write(file, values, tensors | {name: torch.zeros(1)})
        assert "not a whole checkpoint" in refused(stopped), name
    checkpoint.write(file, values, {n: t for n, t in tensors.items() if n != "random/encoding/0"})
    assert "'encoding/0' is missing" in refused(stopped)


def test_a_diagnostics_file_that_is_gone_is_missed(stopped):
    (stopped / "diagnostics.npz").unlink()
    assert "diagnostics.npz': cannot be read" in refused(stopped)


def test_diagnostics_of_another_network_or_of_no_potentials_are_refused(stopped):
    file = stopped / "diagnostics.npz"
    with np.load(file) as found:
        arrays = dict(found)
    other = {name.replace("lif1", "lif9"): values for name, values in arrays.items()}
    np.savez(file, **other)
    assert "diagnostics.npz': not the 1 epochs that checkpoint.safetensors was written with" in refused(stopped)
    moved = {name: values.copy() for name, values in arrays.items()}
    (counts,) = moved["counts/lif1"]
    fullest = counts.argmax()
    counts[[fullest - 1, fullest]] += (1, -1)  # one potential, one bin away
    np.savez(file, **moved)
    assert "diagnostics.npz': not the 1 epochs that" in refused(stopped)
    np.savez(file, **arrays)  # in other bytes, the same
    assert Folder(stopped, resume=True).prepare()
    np.savez(file, **{n: np.zeros_like(v) if n.startswith("counts/") else v for n, v in arrays.items()})
    assert "arrays of other bins, types or lengths" in refused(stopped)


def test_what_a_killed_run_was_writing_is_removed_when_it_is_resumed(stopped, whole):
    (stopped / f".{checkpoint.FILE}.abc123").write_bytes(b"half")
    train(CONFIG, folder=Folder(stopped, resume=True))
    same_files(whole, stopped)


def test_what_a_run_killed_in_its_first_checkpoint_was_writing_is_removed_too(tmp_path):
    (tmp_path / f".{checkpoint.FILE}.abc123").write_bytes(b"half")
    assert not Folder(tmp_path, resume=True).prepare()
    assert list(tmp_path.iterdir()) == []


def test_a_run_knows_its_network_without_its_data_and_an_old_one_with_them(whole, tmp_path):
    found = read_run(whole)
    assert (found.task.data, found.task.shape, found.task.n_classes) == ("digits", (1, 8, 8), 10)
    moved = tmp_path / "moved"
    moved.mkdir()
    config = json.loads((whole / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "data": "/nowhere"}))
    (moved / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    _, model = load_run(moved)
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    old_keys = {k: v for k, v in config.items() if k not in ("image_size", "augmentation", "weight_decay_on", "amp")}
    (moved / "config.json").write_text(json.dumps(old_keys))
    (moved / "model.safetensors").write_bytes(
        save_tensors(model.state_dict())
    )  # without a task, as it was written once
    assert read_run(moved).task == found.task
