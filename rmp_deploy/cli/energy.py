"""Count every operation that the spikes of a data set cause, and price the counts with hardware profiles."""

from __future__ import annotations

import argparse

from rmp_deploy.analysis import ledger as analysis
from rmp_deploy.analysis import membranes
from rmp_deploy.cli.common import (
    add_data,
    add_file,
    batches,
    check_output,
    check_samples,
    document,
    load_data,
    show,
)
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.hw_profiles import load as load_profile
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import LIF
from rmp_deploy.ir.trace import Record, Trace
from rmp_deploy.report import json as report
from rmp_deploy.training.data import Samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_data(parser)
    parser.add_argument("--profile", action="append", required=True, metavar="P", help="a name or a .toml; repeatable")
    parser.add_argument(
        "--compare", action="store_true", help="print how published tools and papers would count the same run"
    )
    parser.add_argument(
        "--accuracy", action="store_true", help="print accuracy and energy after each time step; needs labels"
    )
    parser.add_argument("--csv", metavar="FILE.csv", help="write every layer and term of every profile and convention")
    parser.add_argument("--report", metavar="PAGE.html", help="write the report as one self-contained page")


def run(args: argparse.Namespace) -> int:
    profiles = [load_profile(name) for name in args.profile]
    for path, suffix in ((args.csv, ".csv"), (args.report, ".html")):
        if path is not None:
            check_output(path, suffix)
    graph = onnx_io.load(args.file)
    samples = load_data(args, graph)
    if args.accuracy and samples.y is None:
        todo = "Give data with labels, or leave --accuracy out"
        raise RmpDeployError(f"energy --accuracy: labels of data '{args.data}' = none, allowed one a sample. {todo}.")
    ledger = measure(graph, samples, profiles)
    arms = {"this network": histograms(ledger.first)}
    show(
        document(
            network=report.network(graph, args.file),
            data=report.data(samples.name, len(samples.x), samples.source),
            accuracy=accuracy(ledger),
            energy=report.energy(ledger),
            membranes=report.membranes(graph, arms) if graph.of_type(LIF) else None,
            raster=raster(graph, ledger.first, samples),
        ),
        args.json,
        args.report,
        table=args.csv,
        shown=[name for name in ("compare", "accuracy") if getattr(args, name)],
    )
    return 0


def measure(graph: SpikingGraph, samples: Samples, profiles: list[HardwareProfile]) -> analysis.Ledger:
    """`analysis.ledger.measure` of runs on ONNX Runtime."""
    check_samples(graph, samples)
    record: tuple[Record, ...] = ("spikes", "u") if samples.y is None else ("spikes", "u", "readout")
    return analysis.measure(graph, lambda g: batches(g, samples.x, "onnxruntime", record), profiles, samples.y)


def accuracy(ledger: analysis.Ledger) -> report.Section | None:
    """Of the whole run; None without labels."""
    found = ledger.accuracy
    return None if found is None else report.accuracy(found.correct[-1], found.samples)


def histograms(trace: Trace) -> dict[str, membranes.Histogram]:
    return {name: membranes.histogram(u) for name, u in trace.u.items()}


def raster(graph: SpikingGraph, trace: Trace, samples: Samples, sample: int = 0) -> report.Section:
    label = None if samples.y is None else int(samples.y[sample])
    return report.raster(graph, trace, sample, samples.x[sample : sample + 1][0], label)
