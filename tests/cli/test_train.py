"""`rmp-deploy train`: what it prints, what it leaves, what it refuses; exit codes as everywhere."""

from __future__ import annotations

import json
import re

import pytest

from rmp_deploy.cli import main
from rmp_deploy.training.config import load_config
from rmp_deploy.training.loop import Folder, train

TOML = "epochs = 2\nbatch = 128\n[model]\nchannels = [4, 8]\nhidden = 16\nT = 2\n"


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    return path


def test_it_prints_its_last_epoch_and_where_the_run_is(toml, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", str(toml), "--out", str(run), "--device", "cpu"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("test accuracy ")
    assert second == f"run: {run}"
    last = (run / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert f"test accuracy {100 * float(last[3]):.1f} %, quantization error {float(last[4]):.3f}, " in first


def test_off_a_terminal_every_epoch_is_a_line_with_the_time_left(toml, tmp_path, capsys):
    assert main(["train", str(toml), "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines, start=1):
        accuracy = r"loss \d+\.\d{3}, test accuracy \d+\.\d %"
        assert re.fullmatch(rf"train: epoch {epoch}/2, {accuracy}, \d+:\d\d:\d\d left", line)
    assert lines[1].endswith(" 0:00:00 left")


def test_json_has_every_metric_of_the_last_epoch(toml, tmp_path, capsys):
    assert main(["train", str(toml), "--out", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(found) == {"run", "seconds", *header}
    assert found["epoch"] == 2


def test_a_stopped_run_is_refused_until_resume_is_asked_for(toml, tmp_path, capsys):
    run = tmp_path / "run"

    def stop(_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(load_config(toml), on_epoch=stop, folder=Folder(run, checkpoint_seconds=0))
    arguments = ["train", str(toml), "--out", str(run)]
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert (err.count("\n"), err[:5]) == (1, "error")
    assert "Go on with --resume, or train into another folder." in err
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    toml.write_text(TOML.replace("128", "64"))
    assert main([*arguments, "--resume"]) == 2
    assert "config.batch = 128, allowed 64 as this run has" in capsys.readouterr().err
    toml.write_text(TOML)
    assert main([*arguments, "--resume"]) == 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert "holds a trained network, allowed a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_seconds_between_checkpoints_are_a_number(toml, tmp_path, capsys, seconds):
    assert main(["train", str(toml), "--out", str(tmp_path / "run"), f"--checkpoint-every={seconds}"]) == 2
    assert "allowed seconds >= 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tensorboard_writes_beside_the_run(toml, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    assert main(["train", str(toml), "--out", str(tmp_path / "run"), "--tensorboard"]) == 0
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
