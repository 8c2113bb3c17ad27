"""Lava on the CPU: one streamed run against one build per sample, and lava_fast against Lava's own models.

Networks are integer, on random spikes and with random weights, so that every layer fires; examples/fashion.onnx is
trained, quantized here with graded input, and runs on images of tests/data/fashion_mnist. All run in turn on one
machine, after a warm-up; figures are medians.

- `speedup`: samples per second of a 784-512-10 network with T = 8, building included on both sides: all samples in one
  run of the backend `lava_fast`, over what people do: for every sample the same Dense and LIF processes with Lava's
  models and RingBuffers, built, run, read and stopped. `speedup_lava` is the same for one run of `lava`, whose models
  are Lava's own.
- `conv_speedup`: milliseconds per time step of `lava` over `lava_fast`, from the first time step to the last, without
  building; of the network where it is smaller.
- `mismatches`: spikes, potentials and outputs of every variant that differ from the NumPy reference.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from lava_stream_peer import one_build_per_sample
from timing import alternate

import rmp_deploy
from rmp_deploy.backends import lava, lava_runtime
from rmp_deploy.converters.lava.compat import import_lava
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import Flatten, LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.ir.ops.loihi import stored_weight
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training.data import load as load_data

ROOT = Path(__file__).parent.parent
FASHION = ROOT / "examples" / "fashion.onnx"
RECORD = ("spikes", "v")


def weight(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return stored_weight(rng.integers(-50, 51, shape), 8, "mixed")


def neurons(name: str, source: str, vth: int) -> LoihiLIF:
    return LoihiLIF(name=name, inputs=(source,), du=4095, dv=2048, vth=vth)


def mlp(rng: np.random.Generator, n: int) -> tuple[SpikingGraph, np.ndarray]:
    """784-512-10, T = 8, and n samples."""
    ops = (
        LoihiLinear(name="fc1", inputs=("x",), weight=weight(rng, 512, 784)),
        neurons("lif1", "fc1", 200),
        LoihiLinear(name="fc2", inputs=("lif1",), weight=weight(rng, 10, 512)),
        neurons("lif2", "fc2", 200),
    )
    graph = SpikingGraph("mlp", Input("x", (784,), "time_series", 0), ops, Readout("lif2", "sum"), T=8)
    return graph, spikes(rng, n, graph)


def conv_net(rng: np.random.Generator, n: int) -> tuple[SpikingGraph, np.ndarray]:
    """Conv 16, conv 32, dense 10 on 28x28, T = 8, and n samples."""
    ops = (
        LoihiConv2d(name="conv1", inputs=("x",), weight=weight(rng, 16, 1, 3, 3), padding=(1, 1)),
        neurons("lif1", "conv1", 60),
        LoihiConv2d(name="conv2", inputs=("lif1",), weight=weight(rng, 32, 16, 3, 3), padding=(1, 1)),
        neurons("lif2", "conv2", 100),
        Flatten(name="flat", inputs=("lif2",)),
        LoihiLinear(name="out", inputs=("flat",), weight=weight(rng, 10, 32 * 28 * 28), weight_exp=-5),
    )
    graph = SpikingGraph("conv_net", Input("x", (1, 28, 28), "time_series", 0), ops, Readout("out", "sum"), T=8)
    return graph, spikes(rng, n, graph)


def fashion(_rng: np.random.Generator, n: int) -> tuple[SpikingGraph, np.ndarray]:
    """The convolutional network of examples/fashion.onnx in integers, and n images that did not choose its scales."""
    images = load_data(str(ROOT / "tests" / "data" / "fashion_mnist")).x
    return quantize(rmp_deploy.load(FASHION), images[:32], input_coding="graded").graph, images[32 : 32 + n]


def spikes(rng: np.random.Generator, n: int, graph: SpikingGraph) -> np.ndarray:
    return (rng.random((n, graph.T, *graph.input.shape)) < 0.15).astype(np.float32)


def mismatches(graph: SpikingGraph, x: np.ndarray) -> tuple[int, int, dict[str, float]]:
    """Numbers of both backends that differ from the reference's, how many were compared, and the firing rates."""
    expected = rmp_deploy.run(graph, x, "reference", RECORD)
    wrong = compared = 0
    for fast in (False, True):
        found = lava.run(graph, x, RECORD, fast=fast)
        pairs = [(found.output, expected.output)]
        for name in expected.spikes:
            pairs += [(found.spikes[name], expected.spikes[name]), (found.v[name], expected.v[name])]
        wrong += sum(int((a != b).sum()) for a, b in pairs)
        compared += sum(b.size for _, b in pairs)
    return wrong, compared, {name: round(float(s.mean()), 3) for name, s in expected.spikes.items()}


def per_step(graph: SpikingGraph, x: np.ndarray, rounds: int) -> dict[str, float]:
    """Median milliseconds per time step of both backends, in turn, from the first step to the last."""
    wait, clocked = lava_runtime._wait, []

    def clocked_wait(*args: object) -> None:
        start = time.perf_counter()
        wait(*args)
        clocked.append(time.perf_counter() - start)

    times: dict[str, list[float]] = {"lava": [], "lava_fast": []}
    with mock.patch.object(lava_runtime, "_wait", clocked_wait):
        for i in range(rounds + 1):
            for name, measured in times.items():
                lava.run(graph, x, fast=name == "lava_fast")
                if i:  # the first is the warm-up
                    measured.append(1000 * clocked[-1] / (len(x) * graph.T))
    return {name: statistics.median(t) for name, t in times.items()}


def lava_stream(quick: bool) -> dict[str, object]:
    """What the module says; `quick` takes fewer rounds and samples."""
    import_lava()
    rng = np.random.default_rng(0)
    n, n_built, rounds = (200, 3, 3) if quick else (300, 4, 4)
    graph, x = mlp(rng, n)
    contestants: dict[str, Callable[[], object]] = {
        "one run, lava": partial(lava.run, graph, x),
        "one run, lava_fast": partial(lava.run, graph, x, fast=True),
        "one build per sample": partial(one_build_per_sample, graph, x[:n_built]),
    }
    seconds = alternate(contestants, rounds, warm_up=1)
    rates = {name: (n_built if "build" in name else n) / s for name, s in seconds.items()}
    wrong, compared, firing = mismatches(graph, x[:32])
    expected = rmp_deploy.run(graph, x[:n_built], "reference", ("spikes",)).spikes["lif2"]
    wrong += int((one_build_per_sample(graph, x[:n_built]) != expected).sum())
    compared += expected.size
    networks = {"mlp": firing}
    steps = {}
    for make in (conv_net, *((fashion,) if FASHION.exists() else ())):
        graph, x = make(rng, 8)
        steps[make.__name__] = per_step(graph, x, rounds)
        more, size, networks[make.__name__] = mismatches(graph, x[:4])
        wrong, compared = wrong + more, compared + size
    speedups = {name: t["lava"] / t["lava_fast"] for name, t in steps.items()}
    return {
        "firing_rate": networks,
        "samples_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "speedup": round(rates["one run, lava_fast"] / rates["one build per sample"], 1),
        "speedup_lava": round(rates["one run, lava"] / rates["one build per sample"], 1),
        "ms_per_step": {name: {who: round(ms, 2) for who, ms in t.items()} for name, t in steps.items()},
        "conv_speedups": {name: round(s, 1) for name, s in speedups.items()},
        "conv_speedup": round(min(speedups.values()), 1),
        "compared": compared,
        "mismatches": wrong,
    }
