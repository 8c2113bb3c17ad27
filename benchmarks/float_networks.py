"""VGG16 and ResNet19 for 3x32x32 from torch to ONNX Runtime: how fast, at what cost, and is every spike the same?

Weights are random, BatchNorm statistics those of one random batch, so that every layer fires.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from timing import alternate
from torch import nn

import rmp_deploy
from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.training.models import resnet19, vgg16

SHAPE, BATCH, T = (3, 32, 32), 8, 4
NETWORKS: dict[str, Callable[..., nn.Module]] = {"vgg16": vgg16, "resnet19": resnet19}


def infer_float(quick: bool) -> dict[str, object]:
    """The exported file on ONNX Runtime against the torch model in eval mode: same process, same number of threads.

    ONNX Runtime's threads may spin after a run, which slows torch down in this process, and so are timed both ways;
    `speedup` is without spinning, of the network where it is smaller.
    """
    x = np.random.default_rng(0).random((BATCH, *SHAPE), dtype=np.float32)
    tensor = torch.from_numpy(x)
    rates, seconds, speedups = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            model = calibrated(name)
            graph = rmp_deploy.fold_batchnorm(to_graph(model, SHAPE, name))
            spikes = trace_torch(model, x, graph.input.encoding).spikes
            rates[name] = {layer: round(float(s.mean()), 3) for layer, s in spikes.items()}
            file = rmp_deploy.save(graph, Path(folder) / f"{name}.onnx")
            for spinning in (False, True):
                session = ort.InferenceSession(str(file), _options(spinning), providers=["CPUExecutionProvider"])

                def run_torch(model: nn.Module = model) -> np.ndarray:
                    with torch.no_grad():
                        return model(tensor).numpy()

                def run_onnx(session: ort.InferenceSession = session) -> np.ndarray:
                    return session.run(["output"], {"input": x})[0]

                case = f"{name}, spinning" if spinning else name
                contestants = {"torch": run_torch, "onnxruntime": run_onnx}
                seconds[case] = alternate(contestants, rounds=3 if quick else 15, warm_up=2)
                speedups[case] = seconds[case]["torch"] / seconds[case]["onnxruntime"]
    return {
        "networks": f"{', '.join(NETWORKS)} at {SHAPE}, batch {BATCH}, T = {T}, {torch.get_num_threads()} threads",
        "firing_rate": rates,
        "seconds": seconds,
        "speedups": speedups,
        "speedup": min(speedups[name] for name in NETWORKS),
    }


def export_cost(quick: bool) -> dict[str, object]:
    """Seconds and peak resident memory of to_graph, fold_batchnorm and save, over the process with the model loaded."""
    seconds, memory = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, build in NETWORKS.items():
            torch.manual_seed(0)
            model = build(T=T).eval()
            weights = sum(p.numel() * p.element_size() for p in model.parameters())
            gc.collect()
            before = _resident()
            with _peak_resident() as peak:
                start = time.perf_counter()
                graph = rmp_deploy.fold_batchnorm(to_graph(model, SHAPE, name))
                rmp_deploy.save(graph, Path(folder) / f"{name}.onnx")
                seconds[name] = time.perf_counter() - start
            memory[name] = (max(peak) - before) / weights
            del graph, model
    return {"export_seconds": seconds, "peak_memory_over_weights": memory}


def parity_float(quick: bool) -> dict[str, object]:
    """torch -> reference -> ONNX Runtime, every spike of one sample; a mismatch must follow from float rounding."""
    x = np.random.default_rng(0).random((1, *SHAPE), dtype=np.float32)
    rungs, holds = {}, True
    for name in ("vgg16",) if quick else NETWORKS:
        model = calibrated(name)
        trained = to_graph(model, SHAPE, name)
        found = rungs_of(model, x, trained, rmp_deploy.fold_batchnorm(trained))
        rungs.update({f"{name}: {rung}": figures for rung, figures in found.items()})
        holds &= all(figures["holds"] for figures in found.values())
    return {"rungs": rungs, "holds": holds}


def rungs_of(model: nn.Module, x: np.ndarray, trained: SpikingGraph, graph: SpikingGraph) -> dict[str, dict[str, int]]:
    """What the ladder from torch over the reference to ONNX Runtime compared, rung by rung."""
    traces = [trace_torch(model, x, trained.input.encoding)]
    traces += [rmp_deploy.run(graph, x, backend, record=("spikes", "v")) for backend in ("reference", "onnxruntime")]
    return {
        f"{rung.source} -> {rung.target}": {
            "holds": rung.holds,
            "compared": rung.compared,
            "mismatches": rung.mismatches,
            "ties": sum(layer.ties for layer in rung.layers),
        }
        for rung in rmp_deploy.climb(graph, x, traces, trained)
    }


def calibrated(name: str, x: np.ndarray | None = None) -> nn.Module:
    """The network with random weights and the BatchNorm statistics of `x`, or of one random batch, in eval mode."""
    torch.manual_seed(0)
    model = NETWORKS[name](T=T)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # of this batch alone
    with torch.no_grad():
        model.train()(torch.rand(BATCH, *SHAPE) if x is None else torch.from_numpy(x))
    return model.eval()


def _options(spinning: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return options


def _resident() -> int:
    """Resident memory of this process in bytes; Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _peak_resident() -> Iterator[list[int]]:
    """Sample `_resident` every millisecond while the block runs."""
    samples, done = [_resident()], threading.Event()

    def sample() -> None:
        while not done.wait(0.001):
            samples.append(_resident())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
