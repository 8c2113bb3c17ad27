"""One training step against SpikingJelly and snnTorch: the same network, weights, batch and losses, in one process.

conv-BN-LIF-pool twice, linear-LIF, linear on 28x28 images, batch 64, a static image at every step: forward, backward,
SGD step. The neurons are the same in all three: decay 0.25, threshold 0.5, hard reset to 0, detached, arctan surrogate.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from timing import alternate
from torch import Tensor, nn

DECAY, THRESHOLD, BATCH, CLASSES = 0.25, 0.5, 64, 10
CHANNELS, HIDDEN = (16, 32), 128


def layers() -> dict[str, nn.Module]:
    """The layers without memory, with the weights that all contestants start from."""
    torch.manual_seed(0)
    first, second = CHANNELS
    return {
        "conv1": nn.Conv2d(1, first, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(first),
        "conv2": nn.Conv2d(first, second, 3, padding=1, bias=False),
        "bn2": nn.BatchNorm2d(second),
        "fc1": nn.Linear(second * 7 * 7, HIDDEN, bias=False),
        "fc2": nn.Linear(HIDDEN, CLASSES),
    }


def ours(T: int) -> nn.Module:
    from rmp_deploy.training.models import DirectEncoding, MeanOverTime, TimeDistributed
    from rmp_deploy.training.neurons import LIF
    from rmp_deploy.training.surrogate import Arctan

    of = layers()

    def lif() -> nn.Module:
        return LIF(DECAY, THRESHOLD, surrogate=Arctan(2.0), detach_reset=True)

    return nn.Sequential(
        DirectEncoding(T),
        TimeDistributed(of["conv1"]),
        TimeDistributed(of["bn1"]),
        lif(),
        TimeDistributed(nn.AvgPool2d(2)),
        TimeDistributed(of["conv2"]),
        TimeDistributed(of["bn2"]),
        lif(),
        TimeDistributed(nn.AvgPool2d(2)),
        TimeDistributed(nn.Flatten()),
        TimeDistributed(of["fc1"]),
        lif(),
        TimeDistributed(of["fc2"]),
        MeanOverTime(),
    )


def spikingjelly(T: int) -> Callable[[Tensor], Tensor]:
    """Multi-step mode, the fast one: layers see [T * B, ...], neurons loop over T."""
    from spikingjelly.activation_based import functional, neuron, surrogate
    from spikingjelly.activation_based.layer import SeqToANNContainer

    of = layers()

    def lif() -> nn.Module:
        return neuron.LIFNode(
            1 / (1 - DECAY), False, THRESHOLD, 0.0, surrogate.ATan(2.0), detach_reset=True, step_mode="m"
        )

    net = nn.Sequential(
        SeqToANNContainer(of["conv1"], of["bn1"]),
        lif(),
        SeqToANNContainer(nn.AvgPool2d(2), of["conv2"], of["bn2"]),
        lif(),
        SeqToANNContainer(nn.AvgPool2d(2), nn.Flatten(), of["fc1"]),
        lif(),
        SeqToANNContainer(of["fc2"]),
    )

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            functional.reset_net(self.net)
            return self.net(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)

    return Net()


def snntorch(T: int) -> Callable[[Tensor], Tensor]:
    """Layers on [T * B, ...] as in SpikingJelly, so that BatchNorm sees the same batch; neurons step by step."""
    import snntorch as snn
    from snntorch import surrogate

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of = nn.ModuleDict(layers())
            self.pool = nn.AvgPool2d(2)
            self.lifs = nn.ModuleList(
                snn.Leaky(DECAY, THRESHOLD, surrogate.atan(2.0), reset_mechanism="zero", reset_delay=False)
                for _ in range(3)
            )

        def fire(self, i: int, x: Tensor) -> Tensor:
            lif, spikes = self.lifs[i], []
            mem = lif.reset_mem()
            for x_t in x.unflatten(0, (T, -1)):
                s, mem = lif(x_t, mem)
                spikes.append(s)
            return torch.cat(spikes)

        def forward(self, x: Tensor) -> Tensor:
            of = self.of
            x = x.repeat(T, 1, 1, 1)
            x = self.pool(self.fire(0, of["bn1"](of["conv1"](x))))
            x = self.pool(self.fire(1, of["bn2"](of["conv2"](x))))
            x = self.fire(2, of["fc1"](x.flatten(1)))
            return of["fc2"](x).unflatten(0, (T, -1)).mean(0)

    return Net()


CONTESTANTS: dict[str, Callable[[int], nn.Module]] = {"ours": ours, "spikingjelly": spikingjelly, "snntorch": snntorch}


def stepper(net: nn.Module, x: Tensor, y: Tensor, extra: Callable[[], Tensor] | None = None) -> Callable[[], float]:
    """A call that makes one training step and returns its loss."""
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        (loss if extra is None else loss + extra()).backward()
        optimizer.step()
        return float(loss.detach())

    return step


def data() -> tuple[Tensor, Tensor]:
    """One batch of random images and labels."""
    torch.manual_seed(1)
    return torch.rand(BATCH, 1, 28, 28), torch.randint(0, CLASSES, (BATCH,))


def resident_mb() -> float:
    """The most memory [MB] that this process has held so far.

    On Linux from /proc: what getrusage says of a new process may be its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: in bytes


def peak_mb(name: str, T: int) -> float:
    """What 6 training steps hold at most [MB], beyond what a step at T = 1 has left: imports, kernels, weights."""
    x, y = data()
    stepper(CONTESTANTS[name](1), x, y)()
    step, before = stepper(CONTESTANTS[name](T), x, y), resident_mb()
    for _ in range(6):
        step()
    return resident_mb() - before


def train_step(quick: bool) -> dict[str, object]:
    """Seconds of one training step [s] at T = 4 and 16, and how much faster ours is than the faster of the peers.

    Peak memory [MB] is that of a new process for each contestant: within one the first would leave its memory to the
    others.
    """
    result: dict[str, object] = {"network": f"conv {CHANNELS}, hidden {HIDDEN}, 28x28, batch {BATCH}"}
    x, y = data()
    for T in (4, 16):
        steps = {name: stepper(build(T), x, y) for name, build in CONTESTANTS.items()}
        losses = {name: step() for name, step in steps.items()}
        if max(losses.values()) - min(losses.values()) > 1e-4:
            raise SystemExit(f"error: the contestants are not the same network, their first losses are {losses}")
        seconds = alternate(steps, 3 if quick else 20, warm_up=2 if quick else 6)
        result[f"first_loss_T{T}"] = losses["ours"]
        result[f"seconds_T{T}"] = seconds
        result[f"speedup_T{T}"] = min(s for name, s in seconds.items() if name != "ours") / seconds["ours"]
        peaks = {}
        for name in CONTESTANTS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                peaks[name] = process.submit(peak_mb, name, T).result()
        result[f"peak_MB_T{T}"] = peaks
        result[f"memory_T{T}"] = peaks["ours"] / min(m for name, m in peaks.items() if name != "ours")
    return result


def rmp_overhead(quick: bool) -> dict[str, object]:
    """What RMP-Loss adds to a training step at T = 4: key `overhead`, 0.05 is 5 %."""
    from rmp_deploy.training.rmp_loss import RMPLoss

    x, y = data()
    off, on = ours(4), ours(4)
    rmp_loss = RMPLoss(on, schedule="constant")
    contestants = {"off": stepper(off, x, y), "on": stepper(on, x, y, lambda: rmp_loss(0, 1))}
    seconds = alternate(contestants, 5 if quick else 60)
    return {"seconds": seconds, "overhead": seconds["on"] / seconds["off"] - 1}


def seconds_of_a_step(steps: int) -> float:
    """Median seconds [s] of a step of ours at T = 4 in this process, on one thread."""
    torch.set_num_threads(1)
    step = stepper(ours(4), *data())
    return alternate({"ours": step}, steps)["ours"]


def freed_memory(quick: bool) -> dict[str, object]:
    """What keeping freed memory (`rmp_deploy.training.memory`) saves of a step: key `speedup`. Processes in turn."""
    from rmp_deploy.training.memory import keep_freed_memory

    seconds: dict[str, list[float]] = {"by default": [], "kept": []}
    for _ in range(1 if quick else 5):
        for name, start in (("by default", None), ("kept", keep_freed_memory)):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=start) as process:
                seconds[name].append(process.submit(seconds_of_a_step, 10 if quick else 20).result())
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {"seconds": medians, "speedup": medians["by default"] / medians["kept"]}
