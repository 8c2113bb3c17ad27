"""ResNet19 and VGG16 for 3x32x32 as Loihi's integers: quantize, check and map timed, and ResNet19 on Lava.

Weights are random and BatchNorm statistics those of real images (Fashion-MNIST, padded to 32x32, the same in all three
channels), so that every layer fires. Each command is a process of its own: its seconds include its start and its file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from float_networks import NETWORKS, SHAPE, calibrated

import rmp_deploy
from rmp_deploy.converters.torch_to_ir import to_graph
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LoihiLIF
from rmp_deploy.ir.trace import Trace
from rmp_deploy.training import data

FASHION = Path(__file__).parent.parent / "tests" / "data" / "fashion_mnist"
CALIBRATION = 8  # images
PROFILE = "loihi2"


def large_networks(quick: bool) -> dict[str, object]:
    """Seconds of each command, and of one image through `lava` and `lava_fast` (quick: `lava_fast` alone)."""
    x = images(CALIBRATION + 1)
    commands: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "images.npz", x=x[:CALIBRATION])
        for name in NETWORKS:
            net, integers, samples = (str(Path(folder) / f) for f in (f"{name}.onnx", f"{name}.int.onnx", "images.npz"))
            rmp_deploy.save(rmp_deploy.fold_batchnorm(to_graph(calibrated(name, x[:CALIBRATION]), SHAPE, name)), net)
            commands[name] = {
                "quantize": seconds("quantize", net, "--profile", PROFILE, "--data", samples, "-o", integers),
                "check": seconds("check", integers, "--profile", PROFILE),
                "map": seconds("map", integers, "--profile", PROFILE),
            }
            print(name, commands[name], flush=True)
        graph = rmp_deploy.load(Path(folder) / "resnet19.int.onnx")
    lava = {
        backend: on_lava(graph, x[-1:], backend) for backend in (("lava_fast",) if quick else ("lava_fast", "lava"))
    }
    return {
        "networks": f"{', '.join(NETWORKS)} at {SHAPE}, T = {graph.T}, calibrated with {CALIBRATION} images",
        "command_seconds": commands,
        "resnet19_one_image": lava,
        "slowest_command_seconds": max(s for times in commands.values() for s in times.values()),
    }


def images(n: int) -> np.ndarray:
    """Test images of Fashion-MNIST with a border of 2, the same in three channels: [n, 3, 32, 32]."""
    bordered = np.pad(data.load(str(FASHION)).x[:n], ((0, 0), (0, 0), (2, 2), (2, 2)))
    return np.repeat(bordered, 3, axis=1)


def seconds(*command: str) -> float:
    """Wall-clock seconds of one command; a network that does not fit a chip (exit code 1) was judged all the same."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rmp_deploy.cli", *command], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise RmpDeployError(f"rmp-deploy {command[0]}: {done.stderr.strip()}")
    print(done.stdout.strip().splitlines()[-1])
    return round(time.perf_counter() - start, 1)


def on_lava(graph: SpikingGraph, x: np.ndarray, backend: str) -> dict[str, object]:
    """Seconds of one image, traces recorded, and what differs from the reference; or the reason that it cannot run."""
    start = time.perf_counter()
    try:
        trace = rmp_deploy.run(graph, x, backend, record=("spikes", "v"))
    except RmpDeployError as e:
        return {"refused": str(e)}
    taken = time.perf_counter() - start
    reference = rmp_deploy.run(graph, x, "reference", ("spikes", "v"))
    return {"seconds": round(taken, 1), **differences(graph, reference, trace)}


def differences(graph: SpikingGraph, ours: Trace, theirs: Trace) -> dict[str, int]:
    """Spikes, membranes of Loihi's neurons (the host's are real numbers) and classes that differ between two traces."""
    return {
        "compared": sum(spikes.size for spikes in ours.spikes.values()),
        "spikes_differ": sum(int((ours.spikes[name] != theirs.spikes[name]).sum()) for name in ours.spikes),
        "membranes_differ": sum(int((ours.v[op.name] != theirs.v[op.name]).sum()) for op in graph.of_type(LoihiLIF)),
        "classes_differ": int((ours.predictions() != theirs.predictions()).sum()),
    }
