"""Counting against syops, NeuroBench and SpikingJelly: the same network, images and T, in one process.

The convnet of the preset fashion-convnet at T = 4, weights as they are drawn, BatchNorm's statistics those of a few
batches, so that every layer fires; 1,000 images, which are the 500 of tests/data/fashion_mnist twice, 256 at a time.
Ours simulates on ONNX Runtime and counts the deployed graph, pools folded. The peers count our torch module with its
pools folded likewise, so that all of them count the same accumulates, which are printed.
"""

from __future__ import annotations

import gzip
import io
import multiprocessing
import sys
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import partial, reduce
from operator import add
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from float_networks import SHAPE as COLOUR
from float_networks import calibrated
from timing import alternate
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from train_step import resident_mb

import rmp_deploy
from rmp_deploy import backends
from rmp_deploy.analysis.counts import Counter, Counts
from rmp_deploy.converters.torch_to_ir import to_graph
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Conv2d, Linear
from rmp_deploy.ir.trace import Record
from rmp_deploy.passes.fold_pool import fold_pool
from rmp_deploy.training import networks
from rmp_deploy.training.config import PRESETS

DATA = Path(__file__).parents[1] / "tests" / "data" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"
SHAPE, CLASSES, HEADER, IMAGES = (1, 28, 28), 10, 16, 1000
Floats = npt.NDArray[np.float32]


def images(n: int = IMAGES) -> Floats:
    """The first n of the committed test images, which repeat, [n, 1, 28, 28] in 0..1."""
    pixels = np.frombuffer(gzip.decompress(DATA.read_bytes()), np.uint8, offset=HEADER).reshape(-1, *SHAPE)
    return pixels[np.arange(n) % len(pixels)].astype(np.float32) / 255


def network() -> tuple[nn.Module, SpikingGraph]:
    """The torch module that the peers count, and the graph that we do: before its pools are folded."""
    torch.manual_seed(0)
    model = networks.network(PRESETS["fashion-convnet"].model, SHAPE, CLASSES)
    with torch.no_grad():
        for batch in torch.from_numpy(images(500)).split(50):
            model(batch)
    graph = rmp_deploy.fold_batchnorm(to_graph(model.eval(), SHAPE, "fashion-convnet"))
    return as_deployed(model, fold_pool(graph)), graph


def as_deployed(model: nn.Module, graph: SpikingGraph) -> nn.Module:
    """The module with BatchNorm and pools in the layers behind and before them, as they are in `graph`.

    A peer that sees the mean of a window multiplies: only so do its layers read spikes, as on the chip.
    """
    for op in graph.of_type(Conv2d, Linear):
        made = (
            nn.Conv2d(op.weight.shape[1], op.weight.shape[0], op.weight.shape[2:], op.stride, op.padding)
            if isinstance(op, Conv2d)
            else nn.Linear(op.weight.shape[1], op.weight.shape[0])
        )
        made.weight.data, made.bias.data = torch.tensor(op.weight), torch.tensor(op.bias)
        getattr(model, op.name).layer = made
    for name, module in model.named_children():
        if name.startswith(("bn", "pool")):
            module.layer = nn.Identity()
    return model


def simulate(graph: SpikingGraph, x: Floats, record: tuple[Record, ...] = ()) -> None:
    for _ in backends.batches(graph, x, "onnxruntime", record):
        pass


def counted(graph: SpikingGraph, x: Floats) -> Counts:
    """Every count of the deployed graph, pools folded, over all samples."""
    counter = Counter(fold_pool(graph))
    batches = backends.batches(graph, x, "onnxruntime", ("spikes",))
    return reduce(add, (counter.count(trace, part) for part, trace in batches))


def loader(x: Floats) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.from_numpy(x), torch.zeros(len(x))), batch_size=backends.BATCH)


def spikingjelly(model: nn.Module, x: Floats) -> float:
    """Its accumulates in synapses, per sample; it counts its other two kinds of operations with them, as we do."""
    from spikingjelly.activation_based.op_counter import ACCounter, DispatchCounterMode, MACCounter, SynOpCounter

    synops = SynOpCounter()
    with torch.no_grad(), DispatchCounterMode([synops, ACCounter(), MACCounter()]):
        for batch, _ in loader(x):
            model(batch)
    return synops.get_total() / len(x)


def spikingjelly_synapses(model: nn.Module, x: Floats) -> float:
    """The same without its counters of other operations: the least that it can be asked for."""
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

    synops = SynOpCounter()
    with torch.no_grad(), DispatchCounterMode([synops]):
        for batch, _ in loader(x):
            model(batch)
    return synops.get_total() / len(x)


def forward(model: nn.Module, x: Floats) -> None:
    """No counter: what the peers' simulation takes."""
    with torch.no_grad():
        for batch, _ in loader(x):
            model(batch)


def neurobench(model: nn.Module, x: Floats) -> float:
    """Its effective accumulates per sample."""
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel

    with torch.no_grad():
        benchmark = Benchmark(TorchModel(model), loader(x), [], [], [[], [SynapticOperations]])
        return float(benchmark.run(quiet=True)["SynapticOperations"]["Effective_ACs"])


def syops(model: nn.Module, x: Floats) -> float:
    """Its accumulates per sample."""
    from syops import get_model_complexity_info

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        (_, ac, _, _), _ = get_model_complexity_info(
            model, SHAPE, loader(x), print_per_layer_stat=False, as_strings=False
        )
    return float(ac)


PEERS: dict[str, Callable[[nn.Module, Floats], float]] = {
    "spikingjelly_synapses": spikingjelly_synapses,
    "spikingjelly": spikingjelly,
    "neurobench": neurobench,
    "syops": syops,
}


def old_names() -> None:
    """syops imports neurons by the names that old versions of SpikingJelly have: the same classes under them."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    old, names = types.ModuleType("spikingjelly.clock_driven"), types.ModuleType("spikingjelly.clock_driven.neuron")
    for name in ("IFNode", "LIFNode", "ParametricLIFNode"):
        setattr(names, name, getattr(neuron, name))
        setattr(names, f"MultiStep{name}", getattr(neuron, name))
    old.__dict__.update(functional=functional, surrogate=surrogate, neuron=names)
    sys.modules |= {old.__name__: old, names.__name__: names}


def peak_mb(n: int) -> float:
    """The most memory [MB] that a process holds which simulates and counts n images."""
    counted(network()[1], images(n))
    return resident_mb()


def overhead_resnet19(rounds: int, warm_up: int) -> float:
    """`overhead` of a network with more synapses to a neuron: ResNet19 on 32 random images, 3x32x32."""
    graph = rmp_deploy.fold_batchnorm(to_graph(calibrated("resnet19"), COLOUR, "resnet19"))
    x = np.random.default_rng(0).random((32, *COLOUR), dtype=np.float32)
    runs = {"simulate": partial(simulate, graph, x), "count": partial(counted, graph, x)}
    seconds = alternate(runs, rounds, warm_up)
    return seconds["count"] / seconds["simulate"] - 1


def energy_count(quick: bool) -> dict[str, object]:
    """What counting adds to a simulation, `overhead` (0.05 is 5 %), and how much faster ours is, `speedup`.

    overhead: simulation and counts over a simulation that records nothing, less 1; also that of ResNet19, which
    has more synapses to a neuron: a simulation costs by synapse, counts by neuron.
    speedup: what a peer takes beyond the forward pass that it counts, over what our counts take of recorded spikes; of
    the fastest peer. `speedups_from_images`: simulation and counts of both.
    Peak memory [MB] is that of a new process.
    """
    old_names()
    model, graph = network()
    x, counter = images(), Counter(fold_pool(graph))
    batches = list(backends.batches(graph, x, "onnxruntime", ("spikes",)))

    def counts_alone() -> Counts:
        return reduce(add, (counter.count(trace, part) for part, trace in batches))

    peers = {name: partial(peer, model, x) for name, peer in PEERS.items()}
    accumulates = {"ours": counts_alone().totals["ac"] / len(x), **{name: peer() for name, peer in peers.items()}}
    ours = {
        "simulate": partial(simulate, graph, x),
        "simulate and record": partial(simulate, graph, x, ("spikes",)),
        "simulate and count": partial(counted, graph, x),
        "count": counts_alone,
    }
    rounds, warm_up = (3, 1) if quick else (15, 2)
    seconds = alternate(ours, rounds, warm_up)
    side_by_side = alternate(
        {**ours, "forward": partial(forward, model, x), **peers}, rounds if quick else rounds // 3, warm_up
    )
    added = {name: (side_by_side[name] - side_by_side["forward"]) / side_by_side["count"] for name in peers}
    whole = {name: side_by_side[name] / side_by_side["simulate and count"] for name in peers}
    peaks = {}
    for n in (IMAGES // 2, IMAGES):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            peaks[n] = process.submit(peak_mb, n).result()
    return {
        "accumulates_per_sample": accumulates,
        "seconds": seconds,
        "seconds_side_by_side": side_by_side,
        "peak_MB": peaks,
        "speedups_from_images": whole,
        "speedups": added,
        "overhead_resnet19": overhead_resnet19(max(3, rounds // 3), warm_up),
        "overhead": seconds["simulate and count"] / seconds["simulate"] - 1,
        "speedup": min(added.values()),
    }
