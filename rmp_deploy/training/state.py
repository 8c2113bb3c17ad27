"""Everything that a run needs to go on as if nothing had stopped it, to and from a checkpoint."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmp_deploy.errors import show
from rmp_deploy.training import checkpoint
from rmp_deploy.training.config import TrainConfig
from rmp_deploy.training.distributed import Processes
from rmp_deploy.training.metrics import EpochMetrics

COUNTERS = ("epoch", "step", "correct", "seen")
PER_PROCESS = ("augmentation", "encoding")  # generators; the order of samples is one for all processes


@dataclass
class State:
    """A run between two of its batches.

    Attributes:
        epoch, step: epochs that are done, and batches of the epoch after them.
        sums: of this epoch's losses and RMP-Losses, [2].
        correct, seen: samples of this epoch that were classified right, and all.
        seconds: of training, in all the processes' lives [s].
        order: the generator of the samples' order as it was before this epoch.
        diagnostics: `diagnostics.chain` of the epochs that are done.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    generators: dict[str, torch.Generator]
    order: Tensor
    sums: Tensor
    epoch: int = 0
    step: int = 0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    metrics: list[EpochMetrics] = field(default_factory=list)
    diagnostics: str = ""

    @classmethod
    def start(cls, config: TrainConfig, model: nn.Module, processes: Processes) -> State:
        """The state of `config` before its first batch, with SGD, a cosine schedule and generators of its seed."""
        optimizer = torch.optim.SGD(
            _parameters(config, model), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        generators = {"order": torch.Generator().manual_seed(config.seed)}
        for place, name in enumerate(PER_PROCESS, start=1):
            seed = np.random.SeedSequence([config.seed, place, processes.rank]).generate_state(1, np.uint64)
            generators[name] = torch.Generator().manual_seed(int(seed[0]))
        return cls(
            model,
            optimizer,
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs),
            torch.amp.GradScaler(processes.device.type, enabled=config.amp and processes.device.type == "cuda"),
            generators,
            generators["order"].get_state(),
            torch.zeros(2, device=processes.device),
        )

    def save(self, path: Path, run: dict[str, Any], processes: Processes) -> None:
        """Write the checkpoint of `run`, what `restore` compares; all processes call it, the first one writes.

        Raises:
            RmpDeployError: the folder cannot be written.
        """
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        for index, of_parameter in optimizer["state"].items():
            tensors |= {f"optimizer/{index}/{k}": v for k, v in of_parameter.items() if isinstance(v, Tensor)}
        tensors |= {"random/order": self.order, "sums": self.sums}
        local = {name: self.generators[name].get_state() for name in PER_PROCESS}
        local["torch"] = torch.get_rng_state()
        if processes.device.type == "cuda":
            local["cuda"] = torch.cuda.get_rng_state(processes.device)
        for name, state in local.items():
            tensors |= {f"random/{name}/{rank}": s for rank, s in enumerate(processes.gather(state))}
        values = {
            "run": run,
            "epoch": self.epoch,
            "step": self.step,
            "correct": self.correct,
            "seen": self.seen,
            "seconds": self.seconds,
            "metrics": [asdict(m) for m in self.metrics],
            "scaler": self.scaler.state_dict(),
            "diagnostics": self.diagnostics,
        }
        if processes.is_first:
            checkpoint.write(path, values, tensors)

    def restore(self, path: Path, run: dict[str, Any], processes: Processes) -> None:
        """Take over the checkpoint of the same `run`: config, data, number of processes, device.

        Raises:
            RmpDeployError: it cannot be read, is damaged or of another run (names what differs).
        """
        values, tensors = checkpoint.read(path)
        try:
            checkpoint.check_same_run(path, values["run"], run)
            _check_names(values, ("run", *COUNTERS, "seconds", "metrics", "scaler", "diagnostics"))
            self._take_counters(values, run["config"], int(run["data"]["train"]["shape"][0]))
            checkpoint.check_alike(_under("model/", tensors), self.model.state_dict())
            self.model.load_state_dict(_under("model/", tensors))
            of_parameters: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _under("optimizer/", tensors).items():
                index, what = name.split("/")
                of_parameters.setdefault(int(index), {})[what] = tensor
            self._take_momentum(of_parameters)
            self._take_scaler(values["scaler"])
            checkpoint.check_alike({"sums": tensors["sums"]}, {"sums": self.sums})
            self.sums.copy_(tensors["sums"])
            local = [*PER_PROCESS, "torch", *(["cuda"] if processes.device.type == "cuda" else [])]
            random = {"order", *(f"{name}/{rank}" for name in local for rank in range(processes.count))}
            _check_names(_under("random/", tensors), random)
            _check_names({n for n in tensors if not n.startswith(("model/", "optimizer/", "random/"))}, {"sums"})
            self.order = tensors["random/order"]
            self.generators["order"].set_state(self.order)
            for name in PER_PROCESS:
                self.generators[name].set_state(tensors[f"random/{name}/{processes.rank}"])
            torch.set_rng_state(tensors[f"random/torch/{processes.rank}"])
            if processes.device.type == "cuda":
                torch.cuda.set_rng_state(tensors[f"random/cuda/{processes.rank}"], processes.device)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as e:
            raise checkpoint.malformed(path, " ".join(str(e).split())) from e

    def _take_counters(self, values: dict[str, Any], config: dict[str, Any], samples: int) -> None:
        """Where the run stands; raises ValueError for what no run of `config` on so many samples can have."""
        steps = -(-samples // config["batch"])
        limits = {"epoch": config["epochs"], "step": steps, "seen": samples, "correct": values["seen"]}
        for what, limit in limits.items():
            if type(values[what]) is not int or not 0 <= values[what] <= limit:
                raise ValueError(f"{what} = {show(values[what])}, allowed 0..{limit}")
        if type(values["seconds"]) is not float or not 0 <= values["seconds"] < math.inf:
            raise ValueError(f"seconds = {show(values['seconds'])}, allowed a number >= 0")
        self.metrics = [_metrics(epoch, m) for epoch, m in enumerate(values["metrics"], start=1)]
        if len(self.metrics) != values["epoch"] or bool(values["step"]) != bool(values["seen"]):
            raise ValueError("metrics, samples and steps of different epochs")
        self.epoch, self.step, self.correct, self.seen = (values[k] for k in COUNTERS)
        self.seconds, self.diagnostics = values["seconds"], values["diagnostics"]

    def _take_momentum(self, of_parameters: dict[int, dict[str, Tensor]]) -> None:
        """The optimizer's buffers; its settings are the config's, and the schedule is walked to the epoch again."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        has = bool(self.optimizer.defaults["momentum"]) and (self.epoch, self.step) != (0, 0)
        wanted = {i: {"momentum_buffer": p} for i, p in enumerate(parameters)} if has else {}
        if self.scaler.is_enabled() and not of_parameters:
            wanted = {}  # every step so far was left out
        if set(of_parameters) != set(wanted):
            raise ValueError(f"momentum of {len(of_parameters)} parameters, allowed {len(wanted)}")
        for index, buffers in wanted.items():
            checkpoint.check_alike(of_parameters[index], buffers)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": of_parameters, "param_groups": groups})
        for _ in range(self.epoch):
            self.next_learning_rate()

    def _take_scaler(self, values: dict[str, Any]) -> None:
        ours = self.scaler.state_dict()  # empty where it is not enabled
        _check_names(values, ours)
        for name, value in values.items():
            if type(value) is not type(ours[name]) or not 0 <= value < math.inf:
                raise ValueError(f"scaler's {name} = {show(value)}, allowed a {type(ours[name]).__name__} >= 0")
        self.scaler.load_state_dict(values)

    def next_learning_rate(self) -> None:
        """Let the schedule go on by an epoch; torch warns where, as after a resume, the optimizer has made no step."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.scheduler.step()

    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def check_gradients(self) -> str | None:
        """The first parameter whose gradient is not finite, by name.

        With a scaler that is in order: it leaves such a step out, unless the scale has become too small to help.
        """
        if self.scaler.is_enabled():
            return None if self.scaler.get_scale() > 2.0**-24 else "gradients at any scale"
        gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        if bool(torch.nn.utils.get_total_norm(gradients.values(), norm_type=math.inf).isfinite()):
            return None
        return f"gradient of '{next(n for n, g in gradients.items() if not bool(g.isfinite().all()))}'"


def _parameters(config: TrainConfig, model: nn.Module) -> list[dict[str, Any]]:
    """All parameters as one group; or those of synapses' weights, and the rest without weight decay."""
    if config.weight_decay_on == "all":
        return [{"params": list(model.parameters())}]
    synapses = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    decayed = {m.weight for m in synapses}
    rest = [p for p in model.parameters() if p not in decayed]
    return [{"params": [p for p in model.parameters() if p in decayed]}, {"params": rest, "weight_decay": 0.0}]


def _metrics(epoch: int, values: dict[str, Any]) -> EpochMetrics:
    """One epoch's line; raises ValueError unless every value is the finite number that a run writes."""
    _check_names(values, [f.name for f in fields(EpochMetrics)])
    for name, value in values.items():
        if type(value) not in (int, float) or not -math.inf < value < math.inf:
            raise ValueError(f"{name} of epoch {epoch} = {show(value)}, allowed a finite number")
    if type(values["epoch"]) is not int or values["epoch"] != epoch:
        raise ValueError(f"metrics of epoch {values['epoch']}, allowed {epoch} in this place")
    return EpochMetrics(**values)


def _check_names(found: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise ValueError with the first name that is missing or that nobody knows."""
    found, wanted = set(found), set(wanted)
    for name in sorted(found ^ wanted):
        raise ValueError(f"'{name}' is {'unknown' if name in found else 'missing'}")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
