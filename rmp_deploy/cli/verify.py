"""Prove that every backend runs the same network, spike by spike."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
from rich.progress import Progress, TaskID

from rmp_deploy import backends
from rmp_deploy.analysis import parity
from rmp_deploy.analysis.agreement import Agreement, agreement, check_pair, is_integer
from rmp_deploy.cli.common import (
    add_data,
    add_file,
    check_output,
    check_samples,
    correct,
    document,
    load_data,
    progress,
    show,
)
from rmp_deploy.cli.golden import RECORD, check_golden, values_of_a_sample
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Trace
from rmp_deploy.report import json as report
from rmp_deploy.training.data import Samples

LADDER = ("onnxruntime", "lava")  # after torch, where a run is given, and the NumPy reference
CHOICES = [name for name in backends.BACKENDS if name != "reference"]
PART = 2**23  # values of the samples that climb together: memory follows the part, not the data set
Run = Callable[[npt.NDArray[Any]], Trace]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_data(parser, 50, required=False)
    parser.add_argument("--self", dest="alone", action="store_true", help="check the file by its own golden samples")
    parser.add_argument(
        "--quantized", metavar="INT.onnx", help="the integer file made of it: adds what that cost, and its rungs"
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=CHOICES,
        help=f"these rungs alone; repeatable (default: {', '.join(LADDER)})",
    )
    parser.add_argument("--run", dest="run_folder", metavar="RUN", help="the torch run it came from: adds torch's rung")
    parser.add_argument("--report", metavar="PAGE.html", help="write the table as one self-contained page")


def run(args: argparse.Namespace) -> int:
    if args.alone:
        return _self_check(args)
    if args.data is None:
        raise RmpDeployError("verify: neither --data nor --self. Give the samples, or check the file by its own.")
    if args.report is not None:
        check_output(args.report, ".html")
    graph = onnx_io.load(args.file)
    if args.run_folder is not None and is_integer(graph):
        todo = "Give the float file, and this one as --quantized"
        raise RmpDeployError(f"verify --run: file '{args.file}' = Loihi's integers, allowed what torch ran. {todo}.")
    quantized = None if args.quantized is None else Quantized(args.quantized, onnx_io.load(args.quantized))
    samples = load_data(args, graph)
    section, right = verify(graph, args.file, samples, args.run_folder, quantized, args.backend or LADDER)
    show(
        document(
            network=report.network(graph, args.file),
            quantized_network=None if quantized is None else report.network(quantized.graph, args.quantized),
            data=report.data(samples.name, len(samples.x), samples.source),
            accuracy=None if right is None else report.accuracy(right, len(samples.x)),
            parity=section,
        ),
        args.json,
        args.report,
    )
    return 0 if section["holds"] else 1


def _self_check(args: argparse.Namespace) -> int:
    """Checksum, and golden samples on ONNX Runtime and the reference: all that a copy of a file says of itself."""
    options = {
        "--data": args.data,
        "--samples": args.samples,
        "--image-size": args.image_size or None,
        "--quantized": args.quantized,
        "--backend": args.backend,
        "--run": args.run_folder,
        "--report": args.report,
    }
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


@dataclass(frozen=True)
class Quantized:
    """The integer form of a network, and the file that holds it."""

    file: str | Path
    graph: SpikingGraph


def verify(
    graph: SpikingGraph,
    file: str | Path,
    samples: Samples,
    run_folder: str | Path | None = None,
    quantized: Quantized | None = None,
    backend_names: Sequence[str] = LADDER,
) -> tuple[report.Section, int | None]:
    """Climb torch (where a run is given) -> reference -> onnxruntime -> lava; with `quantized` its ladder follows.

    Between the two stands what quantization cost, which nothing judges.

    Returns:
        The parity section, and how many predictions of the last trace are right (None without labels).

    Raises:
        RmpDeployError: samples that do not fit, `quantized` is not of `graph`, or a backend cannot run one of them.
    """
    check_samples(graph, samples)
    ladder = _Ladder(graph, backend_names)
    ladders = [ladder]
    if run_folder is not None:
        ladder.trained, run_torch = _torch(run_folder, graph)
        ladder.runs = {"torch": run_torch, **ladder.runs}
    if quantized is not None:
        check_pair(graph, quantized.graph)
        check_samples(quantized.graph, samples)
        ladders.append(_Ladder(quantized.graph, backend_names))
    cost: Agreement | None = None
    together = min(backends.BATCH, max(1, PART // max(values_of_a_sample(each.graph) for each in ladders)))
    starts = range(0, len(samples.x), together)
    with progress() as bar:
        task = bar.add_task("verify", total=len(starts) * sum(len(each.runs) for each in ladders))
        for start in starts:
            part = slice(start, start + together)
            labels = None if samples.y is None else samples.y[part]
            exact = [each.climb(samples.x[part], labels, bar, task) for each in ladders]
            if quantized is not None:
                found = agreement(graph, *exact)
                cost = found if cost is None else cost + found
    rungs = [rung for each in ladders for rung in report.rungs(each.rungs, each.seconds, is_integer(each.graph))]
    loss = None
    if quantized is not None and cost is not None:
        right = None if samples.y is None else (ladder.correct, ladders[1].correct)
        loss = report.quantization(str(quantized.file), cost, right, check_golden(quantized.graph, quantized.file))
    section = report.parity(rungs, len(samples.x), check_golden(graph, file), loss)
    return section, None if samples.y is None else ladders[-1].correct


@dataclass
class _Ladder:
    """One network on all its backends, the reference among them: what the samples gave so far."""

    graph: SpikingGraph
    backend_names: Sequence[str]
    trained: SpikingGraph | None = None
    rungs: list[parity.Rung] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    correct: int = 0  # predictions of the last backend

    def __post_init__(self) -> None:
        names = dict.fromkeys(("reference", *self.backend_names))
        self.runs: dict[str, Run] = {n: partial(backends.run, self.graph, backend=n, record=RECORD) for n in names}

    def climb(self, x: npt.NDArray[Any], labels: npt.NDArray[Any] | None, bar: Progress, task: TaskID) -> Trace:
        """Run `x` on every backend and compare each with the next; the reference's trace."""
        traces: dict[str, Trace] = {}
        for name, run_backend in self.runs.items():
            bar.update(task, description=f"verify {self.graph.name}: {name}")
            start = time.perf_counter()
            traces[name] = replace(run_backend(x), backend=name)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            bar.advance(task)
        found = parity.climb(self.graph, x, list(traces.values()), self.trained)
        self.rungs = [a + b for a, b in zip(self.rungs, found, strict=True)] if self.rungs else found
        self.correct += correct(list(traces.values())[-1], labels) or 0
        return traces["reference"]


def _torch(run_folder: str | Path, graph: SpikingGraph) -> tuple[SpikingGraph, Run]:
    """The graph of the run's network as torch computes it, BatchNorm unfolded, and a call that traces it."""
    try:
        from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
        from rmp_deploy.training.loop import load_run
    except ImportError as e:
        raise RmpDeployError(f"verify --run: needs {e.name}. Run: pip install 'rmp-deploy[train]'.") from e
    config, model = load_run(run_folder)
    T = None if config.model.encoding == "direct" else config.model.T
    trained = to_graph(model, graph.input.shape, T=T)
    return trained, lambda x: trace_torch(model, x, trained.input.encoding)
