"""The training loop: config in, a trained network out, with a run folder that survives whatever stops it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import checkpoint, data
from rmp_deploy.training.amp import autocast, float32_potentials
from rmp_deploy.training.batches import Batches
from rmp_deploy.training.config import TrainConfig
from rmp_deploy.training.diagnostics import LayerDiagnostics, NotFiniteError, chain, load_history
from rmp_deploy.training.distributed import Processes, processes
from rmp_deploy.training.evaluation import evaluate
from rmp_deploy.training.global_batch_norm import global_batch_norm
from rmp_deploy.training.interrupt import Interrupt
from rmp_deploy.training.lock import alone_in
from rmp_deploy.training.memory import or_not_enough
from rmp_deploy.training.metrics import DIAGNOSTICS, LAYERS, METRICS, EpochMetrics, write_metrics
from rmp_deploy.training.networks import build, check_held_out
from rmp_deploy.training.not_finite import first_not_finite
from rmp_deploy.training.rmp_loss import RMPLoss, weight_at
from rmp_deploy.training.run_folder import CONFIG, WEIGHTS, Task, TrainResult, load_run, save_run
from rmp_deploy.training.state import State
from rmp_deploy.training.tensorboard import TensorBoard

__all__ = ["EpochMetrics", "Folder", "TrainResult", "build", "evaluate", "load_run", "save_run", "train"]

CHECKPOINT_SECONDS = 60.0
WRITING = 0.05  # at most this part of the time goes into checkpoints inside an epoch
OnEpoch = Callable[[EpochMetrics], None]
OnStep = Callable[[float], None]


@dataclass(frozen=True)
class Folder:
    """Where a run keeps its checkpoint and metrics while it trains, and its network in the end.

    Attributes:
        resume: go on from the checkpoint, if there is one; without it a checkpoint is refused.
        checkpoint_seconds: between checkpoints inside an epoch; there is one after every epoch anyhow.
        tensorboard: write event files too.
    """

    path: Path
    resume: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    tensorboard: bool = False

    @property
    def checkpoint(self) -> Path:
        return self.path / checkpoint.FILE

    def prepare(self, is_first: bool = True) -> bool:
        """Whether there is a checkpoint to go on from; the first process removes what a killed run was just writing.

        Raises:
            RmpDeployError: the folder holds a finished run, or a checkpoint that nobody asked to resume.
        """
        stopped = self.checkpoint.exists()
        if stopped and not self.resume:
            what = f"file '{self.checkpoint}': left by a run that was stopped, allowed none"
            raise RmpDeployError(f"{what}. Go on with --resume, or train into another folder.")
        if not stopped and (self.path / WEIGHTS).exists():
            what = f"run '{self.path}': holds a trained network, allowed a new folder"
            raise RmpDeployError(f"{what}. Train into another one, or remove it.")
        for name in (checkpoint.FILE, METRICS, LAYERS, DIAGNOSTICS, WEIGHTS, CONFIG) if is_first else ():
            for unfinished in self.path.glob(f".{name}.*"):
                unfinished.unlink(missing_ok=True)
        return stopped

    def left(self) -> str:
        """What a run that is interrupted at any moment has left here, in words."""
        if self.checkpoint.exists():
            return f"The checkpoint of before is whole: '{self.checkpoint}'. Go on with --resume."
        if (self.path / CONFIG).exists():
            return f"The run is finished: '{self.path}'."
        return "There was no checkpoint yet. Train again."


def train(
    config: TrainConfig,
    on_epoch: OnEpoch = lambda _: None,
    on_step: OnStep = lambda _: None,
    folder: Folder | None = None,
    device: str | None = None,
) -> TrainResult:
    """Train a network with cross entropy + RMP-Loss by SGD with a cosine schedule; same config, same weights.

    `on_step` is told after each batch how many epochs are done, as a fraction too. With a `folder` the run can be
    stopped at any moment and resumed with the same weights bit for bit, and the folder is a finished run
    (`run_folder.load_run`) when `train` returns; Ctrl-C or SIGTERM then stop it behind a batch, with a checkpoint.
    `device` is "cpu" or "cuda", by default a GPU where there is one. Under `torchrun` every process takes a part of
    each batch; the first one writes and calls back.

    Raises:
        RmpDeployError: the data does not fit the network; the loss, a gradient or a potential is not finite (names
            epoch, step and layer); the folder's checkpoint is of another run, or nobody asked to resume it; another run
            trains into the folder; there is not enough memory, or another process is gone.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; says where it can be resumed. A second Ctrl-C does not wait for the
            step, and leaves the checkpoint of before.
    """
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True
    try:
        with processes(device) as all_processes, or_not_enough():
            if not all_processes.is_first:
                on_epoch, on_step = lambda _: None, lambda _: None
            with alone_in(folder.path) if folder and all_processes.is_first else nullcontext():
                return _Training(config, all_processes, folder).run(on_epoch, on_step)
    except KeyboardInterrupt as e:
        if e.args or folder is None:
            raise
        raise KeyboardInterrupt(folder.left()) from None
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic = deterministic


class _Training:
    """One run: its data, its network, where it stands."""

    def __init__(self, config: TrainConfig, all_processes: Processes, folder: Folder | None) -> None:
        self.config, self.processes, self.folder = config, all_processes, folder
        resume = folder is not None and folder.prepare(all_processes.is_first)
        samples, self.held_out = data.load_splits(config.data, image_size=config.image_size, T=config.model.T)
        self.task = Task.of(config, samples)
        check_held_out(samples, self.held_out)
        self.model = build(config, samples).to(all_processes.device)
        self.rmp_loss = RMPLoss(self.model, config.rmp_loss.k, config.rmp_loss.power, config.rmp_loss.schedule)
        self.state = State.start(config, self.model, all_processes)
        self.batches = Batches(config, samples, self.state.generators, all_processes.device)
        self.history: list[dict[str, LayerDiagnostics]] = []
        self.identity = {
            "config": {k: v for k, v in config.as_dict().items() if k != "data"},  # wherever it lies
            "data": {"train": checkpoint.fingerprint(samples), "test": checkpoint.fingerprint(self.held_out)},
            "processes": all_processes.count,
            "device": all_processes.device.type,
        }
        if resume:
            assert folder is not None
            self.state.restore(folder.checkpoint, self.identity, all_processes)
            self.history = self._diagnostics_so_far(folder.path / DIAGNOSTICS)
        self._check_same_in_all_processes()
        self.written, self.cost = time.perf_counter(), 0.0  # the last checkpoint: when, and what it took [s]

    def _diagnostics_so_far(self, file: Path) -> list[dict[str, LayerDiagnostics]]:
        """Those of the checkpoint's epochs; the file may have one more, of an epoch that no checkpoint followed."""
        history = load_history(file)[: self.state.epoch] if self.state.epoch else []
        if reduce(chain, history, "") != self.state.diagnostics:
            what = f"not the {self.state.epoch} epochs that {checkpoint.FILE} was written with"
            raise RmpDeployError(f"file '{file}': {what}, allowed these. Train into another folder.")
        return history

    def _check_same_in_all_processes(self) -> None:
        """Processes that differ would train together, each its own network, and nobody would know."""
        digest = hashlib.sha256(json.dumps([self.identity, self.state.epoch, self.state.step]).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(
                name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
        if any(not torch.equal(mine, other) for other in self.processes.gather(mine)):
            what = "config, data, weights or checkpoint differ between the processes, allowed the same in all"
            raise RmpDeployError(f"training: {what}. Start them with one config and one folder.")

    def run(self, on_epoch: OnEpoch, on_step: OnStep) -> TrainResult:
        interrupt = Interrupt()
        with interrupt if self.folder else nullcontext():
            self._train_epochs(interrupt, on_epoch, on_step)
            result = TrainResult(
                self.config, self.task, self.model.eval(), self.state.metrics, self.history, self.state.seconds
            )
            if self.folder and self.processes.is_first:  # asked to stop here, it is finished before it can
                save_run(result, self.folder.path)
                self.folder.checkpoint.unlink(missing_ok=True)
        return result

    def _train_epochs(self, interrupt: Interrupt, on_epoch: OnEpoch, on_step: OnStep) -> None:
        with ExitStack() as stack:
            if self.processes.count > 1:
                stack.enter_context(global_batch_norm(self.model))
            if self.config.amp:
                stack.enter_context(float32_potentials(self.model))
            board = stack.enter_context(self._tensorboard())
            while self.state.epoch < self.config.epochs:
                self._train_epoch(interrupt, on_step)
                self._end_epoch()
                on_epoch(self.state.metrics[-1])
                if board:
                    board.write(self.state.metrics[-1], self.history[-1])
                self._checkpoint(interrupt.asked)

    def _train_epoch(self, interrupt: Interrupt, on_step: OnStep) -> None:
        state = self.state
        self.model.train()
        batches = self.batches.order()
        start = time.perf_counter()
        for step in range(state.step, len(batches)):
            losses, correct = self._train_step(batches[step])
            state.sums += losses
            state.correct += correct
            state.seen += len(batches[step])
            state.step += 1
            state.seconds += time.perf_counter() - start
            start = time.perf_counter()
            on_step(state.epoch + state.step / len(batches))
            if self.folder:
                due = start - self.written >= max(self.folder.checkpoint_seconds, self.cost / WRITING)
                self._checkpoint(interrupt.asked, due)

    def _train_step(self, batch: Tensor) -> tuple[Tensor, int]:
        """One step of SGD; loss and weighted RMP-Loss [2] of the whole batch, and how many samples were right."""
        state, everyone = self.state, self.processes
        part = everyone.part(batch)
        x, y = self.batches.read(part)
        with autocast(everyone.device, self.config.amp):
            outputs = self.model(x)
        if len(part):
            cross_entropy = nn.functional.cross_entropy(outputs.float(), y)
            regularizer = self.rmp_loss(state.epoch, self.config.epochs).to(everyone.device)
        else:  # fewer samples than processes
            cross_entropy, regularizer = outputs.float().sum(), state.sums.new_zeros(())
        loss = cross_entropy + regularizer
        losses = torch.stack([loss, regularizer]).detach()
        correct = (outputs.argmax(1) == y).sum()
        if everyone.count > 1:
            share = len(part) / len(batch)
            loss = loss * share
            losses = everyone.sum(losses * share)
            correct = everyone.sum(correct)
        if not torch.isfinite(losses[0]):
            self._stop(f"loss = {losses[0].item()}", x)
        state.optimizer.zero_grad()
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        everyone.sum_gradients(self.model)
        if (bad := state.check_gradients()) is not None:
            self._stop(f"{bad} is not finite", x)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        return losses, int(correct)

    def _end_epoch(self) -> None:
        state, config = self.state, self.config
        start = time.perf_counter()
        steps, lr = state.step, state.learning_rate()
        state.next_learning_rate()
        m = config.model
        try:
            found = evaluate(self.model, self.held_out, m.encoding, m.T, self.processes)
        except NotFiniteError as e:
            raise RmpDeployError(f"training: epoch {state.epoch}, after step {steps - 1}: {e}") from e
        weight = weight_at(state.epoch, config.epochs, config.rmp_loss.k, config.rmp_loss.schedule)
        loss, rmp_loss = (state.sums / steps).tolist()
        right = state.correct / state.seen
        accuracy, error, layers = found
        state.metrics.append(EpochMetrics(state.epoch + 1, loss, rmp_loss, accuracy, error, right, lr, weight))
        self.history.append(layers)
        state.diagnostics = chain(state.diagnostics, layers)
        state.epoch, state.step = state.epoch + 1, 0
        state.correct = state.seen = 0
        state.sums.zero_()
        state.order = state.generators["order"].get_state()
        state.seconds += time.perf_counter() - start
        if self.folder and self.processes.is_first:
            write_metrics(self.folder.path, state.metrics, self.history)  # before the checkpoint that counts on them

    def _checkpoint(self, asked: bool, due: bool = True) -> None:
        """Write a checkpoint if it is due or somebody asked to stop, and then stop: all processes at the same step."""
        if self.folder is None:
            return
        if self.processes.count > 1:
            first = due and self.processes.is_first
            flags = torch.tensor([float(asked), float(first)], device=self.processes.device)
            asked, due = (bool(flag) for flag in self.processes.sum(flags).tolist())
        if due or asked:
            start = time.perf_counter()
            self.state.save(self.folder.checkpoint, self.identity, self.processes)
            self.written = time.perf_counter()
            self.cost = self.written - start
        if asked:
            where = f"epoch {self.state.epoch}, step {self.state.step}"
            raise KeyboardInterrupt(f"Checkpoint at {where}: '{self.folder.checkpoint}'. Go on with --resume.")

    def _stop(self, what: str, x: Tensor) -> NoReturn:
        with autocast(self.processes.device, self.config.amp):
            layer = first_not_finite(self.model, x)
        place = f"epoch {self.state.epoch}, step {self.state.step}"
        first = f"; first: {layer}" if layer else ""
        raise RmpDeployError(f"training: {what} in {place}{first}. Lower lr.")

    @contextmanager
    def _tensorboard(self) -> Iterator[TensorBoard | None]:
        if self.folder is None or not self.folder.tensorboard or not self.processes.is_first:
            yield None
            return
        board = TensorBoard(self.folder.path, self.state.epoch + 1)
        try:
            yield board
        finally:
            board.close()
