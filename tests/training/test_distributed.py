"""Two real processes over gloo train as one does: the same losses, the same files, the same BatchNorm."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import checkpoint
from rmp_deploy.training.config import ModelConfig, TrainConfig
from rmp_deploy.training.distributed import Processes, processes
from rmp_deploy.training.evaluation import evaluate
from rmp_deploy.training.global_batch_norm import GlobalBatchNorm1d, GlobalBatchNorm2d, global_batch_norm
from rmp_deploy.training.loop import Folder, load_run, train
from rmp_deploy.training.models.layers import DirectEncoding, TimeDistributed

TOML = 'epochs = 6\nbatch = {batch}\nlr = 0.05\ndata = "{data}"\n[model]\nchannels = [4, 8]\nhidden = 16\nT = 2\n'
MODEL = ModelConfig(channels=(4, 8), hidden=16, T=2)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """75 images, 60 to train on, of three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(75) % 3
    x = np.clip(rng.normal(0.3, 0.2, (75, 1, 8, 8)) + 0.4 * (np.arange(8) // 3 == y[:, None])[:, None, None], 0, 1)
    path = tmp_path_factory.mktemp("samples") / "three.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


def torchrun(n, *arguments):
    """The command; it finds a free port by itself."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), "-m", "rmp_deploy.cli", "train"]
    return [sys.executable, *start, *(str(a) for a in arguments)]


def run(*arguments):
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=600)


def metrics(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_of_torchrun_lose_what_one_does(samples, tmp_path):
    """One batch an epoch: every line is one step's loss."""
    toml = tmp_path / "small.toml"
    toml.write_text(TOML.format(batch=60, data=samples))
    done = run(*torchrun(2, toml, "--out", tmp_path / "two", "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epoch"] == 6  # the first process alone prints
    config = TrainConfig(data=str(samples), epochs=6, batch=60, lr=0.05, model=MODEL)
    one = train(config, folder=Folder(tmp_path / "one"))
    two = metrics(tmp_path / "two")
    assert list(two[0]) == list(metrics(tmp_path / "one")[0])
    assert one.metrics[0].loss > 1.2 * one.metrics[-1].loss
    for a, b in zip(one.metrics[:3], two, strict=False):
        assert float(b["loss"]) == pytest.approx(a.loss, rel=1e-5)
        assert float(b["rmp_loss"]) == pytest.approx(a.rmp_loss, rel=1e-4, abs=1e-7)
        assert float(b["train_accuracy"]) == pytest.approx(a.train_accuracy, abs=1e-5)
        assert float(b["test_accuracy"]) == pytest.approx(a.test_accuracy, abs=1e-5)
        assert float(b["quantization_error"]) == pytest.approx(a.quantization_error, rel=1e-4)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == names
    _, model = load_run(tmp_path / "two")  # plain BatchNorms again, and the weights of one process
    assert not any(isinstance(m, GlobalBatchNorm1d | GlobalBatchNorm2d) for m in model.modules())
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-2, atol=1e-3)


def _join(rank, n, port, function, out):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.save(function(), f"{out}/{rank}.pt")


def free_port():
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return server.port


def in_processes(n, function, tmp_path):
    """What `function` gives in each of n forked processes."""
    arguments = (n, free_port(), function, str(tmp_path))
    multiprocessing.start_processes(_join, arguments, nprocs=n, start_method="fork")
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(n)]


def _command(arguments, out):
    with out.open("w") as sys.stderr:
        code = main([str(a) for a in arguments])
    sys.exit(code)


def two_processes(tmp_path, *arguments):
    """The command in two processes as torchrun starts them; what they say on stderr is in 0.err and 1.err."""
    fork, port, both = multiprocessing.get_context("fork"), free_port(), []
    for rank in range(2):
        said = partial(_command, ["train", *arguments], tmp_path / f"{rank}.err")
        both.append(fork.Process(target=_join, args=(rank, 2, port, said, tmp_path)))
        both[-1].start()
    return both


def wait_for(file, both):
    while not file.exists() and all(process.is_alive() for process in both):
        time.sleep(0.001)


def test_two_processes_resume_in_two(samples, tmp_path):
    """SIGTERM to both, as torchrun hands it on; then resumed: the bytes of two processes that nobody stopped."""
    toml = tmp_path / "small.toml"
    toml.write_text(TOML.format(batch=6, data=samples) + 'encoding = "poisson"\n')
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = TrainConfig(data=str(samples), epochs=6, batch=6, lr=0.05, model=replace(MODEL, encoding="poisson"))
    in_processes(2, lambda: train(config, folder=Folder(whole), device="cpu").seconds, tmp_path)
    both = two_processes(tmp_path, toml, "--out", stopped, "--checkpoint-every", "0", "--device", "cpu")
    file = stopped / checkpoint.FILE
    wait_for(file, both)
    for process in both:
        os.kill(process.pid, signal.SIGTERM)
    for rank, process in enumerate(both):
        process.join()
        assert process.exitcode == 130
        assert (tmp_path / f"{rank}.err").read_text().endswith(f"'{file}'. Go on with --resume.\n")
    with pytest.raises(RmpDeployError, match="processes = 2, allowed 1 as this run has"):
        train(config, folder=Folder(stopped, resume=True))
    in_processes(2, lambda: train(config, folder=Folder(stopped, resume=True), device="cpu").seconds, tmp_path)
    for path in whole.iterdir():
        assert path.read_bytes() == (stopped / path.name).read_bytes(), path.name


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_loses_another_says_so_in_one_line(samples, tmp_path, victim):
    toml = tmp_path / "small.toml"
    toml.write_text(TOML.format(batch=2, data=samples).replace("epochs = 6", "epochs = 100000"))
    run = tmp_path / "run"
    both = two_processes(tmp_path, toml, "--out", run, "--checkpoint-every", "0", "--device", "cpu")
    wait_for(run / checkpoint.FILE, both)
    both[victim].kill()
    for process in both:
        process.join()
    assert (both[victim].exitcode, both[1 - victim].exitcode) == (-signal.SIGKILL, 2)
    *epochs, last = (tmp_path / f"{1 - victim}.err").read_text().splitlines()
    assert all(line.startswith("train: epoch ") for line in epochs)
    said = rf"error: training: process {1 - victim} of 2 lost another one \((Connection|Read error|Write error).*\)\. "
    assert re.fullmatch(said + "Read the message .*, then start all of them again with --resume.", last)
    checkpoint.read(run / checkpoint.FILE)


def batch_norm_case(kind, shape, batches):
    """A BatchNorm of random gains, its inputs and the gradients of its outputs, in float64."""
    torch.manual_seed(3)
    layer = kind(shape[0]).double()
    nn.init.uniform_(layer.weight, -1, 1)
    nn.init.uniform_(layer.bias, -1, 1)
    return (
        layer,
        [torch.randn(n, *shape).double() * 3 + 5 for n in batches],
        [torch.randn(n, *shape).double() for n in batches],
    )


def normalized(layer, xs, gradients, part):
    """Outputs, gradients of inputs, of weight and bias, running statistics after all batches."""
    outputs, d_inputs = [], []
    for x, gradient in zip(xs, gradients, strict=True):
        mine = part(x).clone().requires_grad_()
        y = layer(mine)
        y.backward(part(gradient))
        outputs.append(y.detach())
        d_inputs.append(mine.grad)
    statistics = [layer.running_mean, layer.running_var, layer.num_batches_tracked]
    return outputs, d_inputs, [layer.weight.grad, layer.bias.grad], statistics


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (5,)), (nn.BatchNorm1d, (5, 3)), (nn.BatchNorm2d, (5, 3, 2))]
)
def test_global_batch_norm_is_batch_norm_of_the_whole_batch(tmp_path, kind, shape):
    """Outputs, every gradient and the running statistics; batches of 8, 7 and 1 sample: 4 + 4, 4 + 3, 1 + 0."""
    batches = (8, 7, 1) if len(shape) > 1 else (8, 7)

    def parts():
        layer, xs, gradients = batch_norm_case(kind, shape, batches)
        with processes("cpu") as both, global_batch_norm(layer):
            assert type(layer) is not kind
            return normalized(layer, xs, gradients, lambda t: torch.tensor_split(t, 2)[both.rank])

    first, second = in_processes(2, parts, tmp_path)
    layer, xs, gradients = batch_norm_case(kind, shape, batches)
    outputs, d_inputs, d_parameters, statistics = normalized(layer, xs, gradients, lambda t: t)
    for whole, a, b in zip(outputs + d_inputs, first[0] + first[1], second[0] + second[1], strict=True):
        torch.testing.assert_close(torch.cat([a, b]), whole)
    for whole, a, b in zip(d_parameters, first[2], second[2], strict=True):
        torch.testing.assert_close(a + b, whole)
    for whole, a, b in zip(statistics, first[3], second[3], strict=True):
        torch.testing.assert_close(a, whole)
        assert torch.equal(a, b)
    assert type(layer) is kind


def test_global_batch_norm_of_half_precision_is_computed_in_float32(tmp_path):
    """More values of a channel than float16 counts, under autocast as in mixed precision."""
    x = torch.rand(2, 3, 200, 200, generator=torch.Generator().manual_seed(1))

    def parts():
        layer, found = nn.BatchNorm2d(3), []
        with processes("cpu") as both, global_batch_norm(layer):
            for dtype in (torch.float16, torch.bfloat16):
                mine = torch.tensor_split(x.to(dtype), 2)[both.rank].requires_grad_()
                y = layer(mine)
                y.sum().backward()
                found += [y.detach(), mine.grad]
        return (*found, layer.running_mean)

    first, second = in_processes(2, parts, tmp_path)
    layer = nn.BatchNorm2d(3)
    for i, dtype in enumerate((torch.float16, torch.bfloat16)):
        y = torch.cat([first[2 * i], second[2 * i]])
        assert y.dtype == first[2 * i + 1].dtype == dtype
        torch.testing.assert_close(y, layer(x.to(dtype)).detach(), rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(first[-1], layer.running_mean, rtol=1e-4, atol=1e-4)


def test_processes_of_different_runs_do_not_train_together(samples, tmp_path):
    def parts():
        rank = int(os.environ["RANK"])
        try:
            train(TrainConfig(data=str(samples), epochs=1, model=MODEL, seed=7 + rank))
        except RmpDeployError as e:
            return str(e)
        return "trained"

    for said in in_processes(2, parts, tmp_path):
        assert "differ between the processes" in said


def test_static_images_keep_their_shortcut(tmp_path):
    """One pass for T equal steps, as with a plain BatchNorm: its running variance is corrected for B samples alike."""
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def network():
        torch.manual_seed(0)
        conv = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
        return nn.Sequential(DirectEncoding(4), TimeDistributed(conv))

    def parts():
        model = network()
        with processes("cpu") as both, global_batch_norm(model):
            y = model(torch.tensor_split(x, 2)[both.rank])
            return y.stride(0), y.detach().contiguous(), model[1].layer[1].running_var

    (stride, first, variance), (_, second, _) = in_processes(2, parts, tmp_path)
    model = network()
    assert stride == 0
    torch.testing.assert_close(torch.cat([first, second], dim=1), model(x).detach().contiguous())
    torch.testing.assert_close(variance, model[1].layer[1].running_var)


def test_evaluation_is_the_exact_sum_of_its_parts(samples, tmp_path):
    from rmp_deploy.training import data
    from rmp_deploy.training.networks import build

    config = TrainConfig(model=MODEL)
    held_out = data.load(str(samples))

    def parts():
        with processes("cpu") as both:
            found = evaluate(build(config, held_out), held_out, processes=both)
        layers = [(torch.from_numpy(d.counts), d.spikes, d.quantization_error) for d in found.layers.values()]
        return found.accuracy, found.quantization_error, layers

    first, second = in_processes(2, parts, tmp_path)
    alone = evaluate(build(config, held_out), held_out)
    for accuracy, error, layers in (first, second):
        assert accuracy == alone.accuracy
        assert error == pytest.approx(alone.quantization_error, rel=1e-6)
        for (counts, spikes, _), d in zip(layers, alone.layers.values(), strict=True):
            assert np.abs(counts.numpy() - d.counts).sum() <= 2  # a potential on a bin's edge may round to either side
            assert abs(spikes - d.spikes) <= 1
            assert counts.sum() == d.potentials
    with pytest.raises(RmpDeployError, match="held-out samples = 75, allowed >= 100, one for each process"):
        evaluate(build(config, held_out), held_out, processes=Processes(torch.device("cpu"), 0, 100))


@pytest.mark.parametrize(("n", "batch"), [(2, 25), (3, 29)])
def test_uneven_batches_and_processes_without_samples(samples, tmp_path, n, batch):
    """25 + 25 + 10 samples in two processes, 13 + 12 each; the last batch of 29 + 29 + 2 is too small for three."""
    config = TrainConfig(data=str(samples), epochs=2, batch=batch, lr=0.05, model=MODEL)

    def losses():
        return [m.loss for m in train(config, device="cpu").metrics]

    one = losses()
    for several in in_processes(n, losses, tmp_path):
        assert several == pytest.approx(one, rel=2e-5)


def test_devices_and_processes_that_are_not_there_are_refused(monkeypatch):
    config = TrainConfig(epochs=1, model=MODEL)
    with pytest.raises(RmpDeployError, match="device = 'tpu', allowed cpu or cuda"):
        train(config, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(RmpDeployError, match="device = 'cuda', allowed cpu"):
            train(config, device="cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RmpDeployError, match="processes cannot meet") as e:
        train(config, device="cpu")
    assert "\n" not in str(e.value)
