"""Ctrl-C at any moment of a run, the one that writes its network included; tests/training/test_resume.py goes on."""

from __future__ import annotations

import os
import signal

import pytest

from rmp_deploy.training import checkpoint
from rmp_deploy.training.config import ModelConfig, TrainConfig
from rmp_deploy.training.loop import Folder, train

CONFIG = TrainConfig(epochs=1, batch=1024, model=ModelConfig("mlp", channels=(4,), T=1))


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_at_any_write_leaves_a_whole_checkpoint_or_a_finished_run(request, tmp_path, monkeypatch, signals):
    """Behind every write, rename and removal of a run once; the second Ctrl-C does not wait for anything."""
    calls = []
    # a shell's background jobs, such as this test may be one of, ignore Ctrl-C: here it interrupts, as at a terminal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupted(call, at):
        def done(*args, **kwargs):
            result = call(*args, **kwargs)
            calls.append(call)
            for _ in range(signals if len(calls) == at else 0):
                os.kill(os.getpid(), signal.SIGINT)
            return result

        return done

    def attempt(folder, at):
        """What the run says when it is interrupted behind the call of that number; None where it ends by itself."""
        calls.clear()
        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "unlink"):
                patch.setattr(os, name, interrupted(getattr(os, name), at))
            try:
                train(CONFIG, folder=Folder(folder, checkpoint_seconds=0))
            except KeyboardInterrupt as e:
                return str(e)
        return None

    assert attempt(tmp_path / "whole", at=0) is None
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    said = []
    for at in range(1, len(calls) + 1):
        folder = tmp_path / str(at)
        said.append(attempt(folder, at))
        if (folder / checkpoint.FILE).exists():
            assert f"'{folder / checkpoint.FILE}'. Go on with --resume." in said[-1]
            checkpoint.read(folder / checkpoint.FILE)
            train(CONFIG, folder=Folder(folder, resume=True))
        elif (folder / "config.json").exists():
            assert said[-1] in (None, f"The run is finished: '{folder}'.")
        else:
            assert said[-1] == "There was no checkpoint yet. Train again."
            train(CONFIG, folder=Folder(folder))
        assert not (folder / checkpoint.FILE).exists()
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == whole
    said = {text and text.split(":")[0] for text in said}
    if signals == 1:
        assert said >= {"Checkpoint at epoch 0, step 2", "Checkpoint at epoch 1, step 0", None}
    else:
        assert said >= {"There was no checkpoint yet. Train again.", "The checkpoint of before is whole"}


def test_signals_do_what_they_did_after_a_run(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    train(CONFIG, folder=Folder(tmp_path / "run"))
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
