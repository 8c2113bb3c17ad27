"""Prove that every backend runs the same network, spike by spike."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy import backends
from rmp_deploy.analysis import parity
from rmp_deploy.analysis.replay import replay
from rmp_deploy.cli.common import add_data, add_file, correct, document, load_data, progress, show
from rmp_deploy.errors import RmpDeployError, op_error
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Record, Trace
from rmp_deploy.report import json as report
from rmp_deploy.training.data import Samples

RECORD: tuple[Record, ...] = ("spikes", "v")
MAX_VALUES = 2**26  # of the golden samples that are checked together, over all steps
LADDER = ("onnxruntime", "lava")  # after torch, where a run is given, and the NumPy reference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_data(parser, 50, required=False)
    parser.add_argument("--self", dest="alone", action="store_true", help="check the file by its own golden samples")
    parser.add_argument("--backend", action="append", choices=LADDER, help="one rung only; repeatable (default: all)")
    parser.add_argument("--run", dest="run_folder", metavar="RUN", help="the torch run it came from: adds torch's rung")


def run(args: argparse.Namespace) -> int:
    if args.alone:
        return _self_check(args)
    if args.data is None:
        raise RmpDeployError("verify: neither --data nor --self. Give the samples, or check the file by its own.")
    graph = onnx_io.load(args.file)
    samples = load_data(args)
    section, traces = verify(graph, args.file, samples, args.run_folder, args.backend or LADDER)
    right = correct(traces[-1], samples.y)
    show(
        document(
            network=report.network(graph, args.file),
            data=report.data(samples.name, len(samples.x), samples.source),
            accuracy=None if right is None else report.accuracy(right, len(samples.x)),
            parity=section,
        ),
        args.json,
    )
    return 0 if section["holds"] else 1


def _self_check(args: argparse.Namespace) -> int:
    """Checksum, and golden samples on ONNX Runtime and the reference: all that a copy of a file says of itself."""
    options = {"--data": args.data, "--samples": args.samples, "--backend": args.backend, "--run": args.run_folder}
    given = ", ".join(name for name, value in options.items() if value is not None)
    if given:
        raise RmpDeployError(f"verify --self: {given} given, allowed FILE alone. Leave out the one or the other.")
    graph = onnx_io.load(args.file)
    section = check_golden(graph, args.file)
    if section is None:
        todo = "Export it with some, or verify it with --data"
        raise RmpDeployError(f"file '{args.file}': golden samples = 0, allowed >= 1. {todo}.")
    show(document(network=report.network(graph, args.file), self_check=section), args.json)
    return 0 if section["holds"] else 1


def verify(
    graph: SpikingGraph,
    file: str | Path,
    samples: Samples,
    run_folder: str | Path | None,
    ladder: Sequence[str] = LADDER,
) -> tuple[report.Section, list[Trace]]:
    """Climb torch (where a run is given) -> reference -> onnxruntime -> lava; the parity section and the traces."""
    graph.check_samples(samples.x)
    runs: dict[str, Callable[[], Trace]] = {
        name: partial(backends.run, graph, samples.x, name, RECORD) for name in ("reference", *ladder)
    }
    trained: SpikingGraph | None = None
    if run_folder is not None:
        trained, run_torch = _torch(run_folder, samples)
        runs = {"torch": run_torch, **runs}
    traces: list[Trace] = []
    seconds: dict[str, float] = {}
    with progress() as bar:
        task = bar.add_task("verify", total=len(runs))
        for name, run_backend in runs.items():
            bar.update(task, description=f"verify: {name}")
            start = time.perf_counter()
            traces.append(run_backend())
            seconds[name] = time.perf_counter() - start
            bar.advance(task)
    return report.parity(
        parity.climb(graph, samples.x, traces, trained), len(samples.x), seconds, check_golden(graph, file)
    ), traces


def check_golden(graph: SpikingGraph, file: str | Path) -> dict[str, Any] | None:
    """Run the file's own golden samples through the file's own bytes on stock ONNX Runtime; None without any.

    It holds where the expected counts are the reference's, the found ones ONNX Runtime's, the readout that of its own
    spikes, and the two backends agree up to ties: float rounding at a threshold may make the counts differ.

    Raises:
        RmpDeployError: `load_golden` refuses the file, or one sample is more than `MAX_VALUES`.
    """
    golden = onnx_io.load_golden(file)
    if golden is None:
        return None
    together = _samples_together(graph)
    layers: dict[str, dict[str, list[int]]] = {name: {"expected": [], "found": []} for name in golden.spike_count}
    holds = True
    for start in range(0, len(golden.x), together):
        part = slice(start, start + together)
        expected = {name: counts[part] for name, counts in golden.spike_count.items()}
        found, right = _check_samples(graph, file, golden.x[part], expected)
        holds = holds and right
        for name, layer in layers.items():
            layer["expected"] += expected[name]
            layer["found"] += found[name]
    return {"samples": len(golden.x), "holds": holds, "layers": layers}


def _samples_together(graph: SpikingGraph) -> int:
    """How many golden samples run at a time: a small file may ask for many steps of many neurons.

    Raises:
        RmpDeployError: one is too many.
    """
    size = {name: math.prod(shape) for name, shape in graph.shapes.items()}
    kept = [graph.input.name, graph.readout.value, *(op.name for op in graph.spiking)]
    values = sum(size.values()) + graph.T * sum(size[name] for name in kept)
    if values > MAX_VALUES:
        todo = "Export it with fewer steps"
        raise op_error("SpikingGraph", graph.name, f"values to check = {values:,}", f"{MAX_VALUES:,} a sample", todo)
    return MAX_VALUES // values


def _check_samples(
    graph: SpikingGraph, file: str | Path, x: npt.NDArray[np.float32], expected: dict[str, list[int]]
) -> tuple[dict[str, list[int]], bool]:
    """The spike counts of samples `x` that ONNX Runtime finds, and whether all is as `check_golden` says."""
    from rmp_deploy.backends import onnxruntime

    outputs = onnxruntime.run_file(file, x)
    found: dict[str, list[int]] = {name: outputs[f"spike_count/{name}"].tolist() for name in expected}
    exact, traced = (backends.run(graph, x, backend, RECORD) for backend in ("reference", "onnxruntime"))
    own = replay(graph, x, traced)
    return found, (
        parity.compare(graph, x, exact, traced).holds
        and expected == _spike_counts(exact)
        and found == _spike_counts(traced)
        and bool((np.abs(outputs["output"] - own.output) <= own.output_tolerance).all())
    )


def _spike_counts(trace: Trace) -> dict[str, list[int]]:
    return {name: spikes.reshape(len(spikes), -1).sum(axis=1).tolist() for name, spikes in trace.spikes.items()}


def _torch(run_folder: str | Path, samples: Samples) -> tuple[SpikingGraph, Callable[[], Trace]]:
    """The graph of the run's network as torch computes it, BatchNorm unfolded, and a call that traces it."""
    try:
        from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
        from rmp_deploy.training.loop import load_run
    except ImportError as e:
        raise RmpDeployError(f"verify --run: needs {e.name}. Run: pip install 'rmp-deploy[train]'.") from e
    _, model = load_run(run_folder)
    trained = to_graph(model, samples.x.shape[1:])
    return trained, partial(trace_torch, model, samples.x, trained.input.encoding)
