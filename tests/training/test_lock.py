"""Two runs never write into one folder, and one that was killed is in nobody's way."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import replace

import pytest
from torch import multiprocessing

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.config import ModelConfig, TrainConfig
from rmp_deploy.training.lock import LOCK, alone_in
from rmp_deploy.training.loop import Folder, train

CONFIG = TrainConfig(epochs=1, batch=512, model=ModelConfig(name="mlp", channels=(4,), T=1))
FORK = multiprocessing.get_context("fork")


def refused(folder):
    with pytest.raises(RmpDeployError) as e, alone_in(folder):
        pass
    assert "\n" not in str(e.value)
    return str(e.value)


def in_another_process(function):
    """What `function` gives, in words, in a forked process."""
    theirs, ours = FORK.Pipe()

    def say():
        try:
            theirs.send(str(function()))
        except RmpDeployError as e:
            theirs.send(str(e))

    process = FORK.Process(target=say)
    process.start()
    said = ours.recv()
    process.join()
    return said


def test_a_second_run_into_the_folder_is_refused_while_the_first_trains(tmp_path):
    folder, said = tmp_path / "run", []

    def second():
        train(replace(CONFIG, seed=8), folder=Folder(folder, resume=True))

    def on_epoch(_):
        lock = json.loads((folder / LOCK).read_text())
        assert lock == {"pid": os.getpid(), "host": socket.gethostname()}
        said.append(in_another_process(second))
        said.append(refused(folder))  # this process itself

    train(CONFIG, on_epoch=on_epoch, folder=Folder(folder))
    assert said[0] == said[1]
    assert said[0].startswith(f"file '{folder / LOCK}': process {os.getpid()} on host '{socket.gethostname()}' trains")
    assert "Wait for it, train into another folder, or remove the file if it is gone." in said[0]
    assert (folder / "model.safetensors").exists()
    assert not (folder / LOCK).exists()


def test_the_lock_of_a_process_that_was_killed_is_taken_over_by_one_of_several(tmp_path):
    def killed():
        with alone_in(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=killed)
    process.start()
    process.join()
    left = json.loads((tmp_path / LOCK).read_text())
    assert left["pid"] == process.pid
    start, done = FORK.Barrier(8), FORK.Barrier(8)
    taken = FORK.Value("i", 0)

    def contend():
        start.wait(60)
        try:
            with alone_in(tmp_path):
                with taken.get_lock():
                    taken.value += 1
                done.wait(60)
        except RmpDeployError:
            done.wait(60)

    contenders = [FORK.Process(target=contend) for _ in range(8)]
    for contender in contenders:
        contender.start()
    for contender in contenders:
        contender.join()
        assert contender.exitcode == 0
    assert taken.value == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"pid": 12, "host": "elsewhere"}', "process 12 on host 'elsewhere'"),
        ("what?", "process unknown on host 'unknown'"),
        ('{"pid": 12}', "process unknown on host 'unknown'"),
    ],
)
def test_a_lock_of_another_host_or_of_nobody_knows_whom_is_believed(tmp_path, text, said):
    (tmp_path / LOCK).write_text(text)
    assert said in refused(tmp_path)
    assert (tmp_path / LOCK).read_text() == text


def test_an_empty_lock_is_of_a_run_that_was_killed_before_it_wrote_its_name(tmp_path):
    (tmp_path / LOCK).touch()
    with alone_in(tmp_path):
        assert (tmp_path / LOCK).stat().st_size
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_was_made_for_nothing_is_removed_and_one_that_cannot_be_made_is_one_line(tmp_path):
    folder = tmp_path / "a" / "b"
    with pytest.raises(RmpDeployError, match="no-such"):
        train(replace(CONFIG, data=str(tmp_path / "no-such.npz")), folder=Folder(folder))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "run", tmp_path / "nul\0l"):
        assert "cannot be written (" in refused(place)
