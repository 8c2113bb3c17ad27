"""Count every operation that the spikes of a data set cause, and price the counts with hardware profiles."""

from __future__ import annotations

import argparse
from functools import reduce
from operator import add

from rmp_deploy.analysis import counts, membranes
from rmp_deploy.analysis.energy import price
from rmp_deploy.analysis.relays import Relays, relays
from rmp_deploy.cli.common import (
    add_data,
    add_file,
    batches,
    check_output,
    check_samples,
    correct,
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
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.balance_latency import balance_latency
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.passes.fold_pool import fold_pool
from rmp_deploy.report import json as report
from rmp_deploy.training.data import Samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_data(parser)
    parser.add_argument("--profile", action="append", required=True, metavar="P", help="a name or a .toml; repeatable")
    parser.add_argument("--report", metavar="PAGE.html", help="write the report as one self-contained page")


def run(args: argparse.Namespace) -> int:
    profiles = [load_profile(name) for name in args.profile]
    if args.report is not None:
        check_output(args.report, ".html")
    graph = onnx_io.load(args.file)
    samples = load_data(args, graph)
    check_samples(graph, samples)
    section, right, first = measure(graph, samples, profiles)
    show(
        document(
            network=report.network(graph, args.file),
            data=report.data(samples.name, len(samples.x), samples.source),
            accuracy=None if right is None else report.accuracy(right, len(samples.x)),
            energy=section,
            membranes=report.membranes(graph, {"this network": histograms(first)}) if graph.of_type(LIF) else None,
            raster=raster(graph, first, samples),
        ),
        args.json,
        args.report,
    )
    return 0


def measure(
    graph: SpikingGraph, samples: Samples, profiles: list[HardwareProfile]
) -> tuple[report.Section, int | None, Trace]:
    """Run all samples on ONNX Runtime, count and price: the energy section, how many were right, the first batch.

    Counts are taken on the graph as it is deployed: with its pools folded, or, where they cannot fold exactly, with
    their adds counted and the real-valued maps behind them as multiply-accumulates. The ANN twin is the network before
    that. What the network costs more on Loihi, where ways that join must be equally deep and pools are neurons, stands
    beside it.
    """
    unfolded = fold_batchnorm(graph)
    try:
        deployed, pools = fold_pool(unfolded), "folded"
    except RmpDeployError as e:
        deployed, pools = unfolded, f"not folded: {e}"
    counts.check(deployed)
    balanced, refused = deployed, None
    try:
        balanced = balance_latency(deployed)
    except RmpDeployError as e:
        refused = Relays(0, {}, str(e))
    parts: list[counts.Counts] = []
    on_loihi: list[counts.Counts] = []
    right = None if samples.y is None else 0
    done = 0
    first: Trace | None = None
    for x, trace in batches(unfolded, samples.x, "onnxruntime", ("spikes", "u")):
        parts.append(counts.count(deployed, trace, x))
        if balanced is not deployed:
            on_loihi.append(counts.count(balanced, trace, x))
        hits = correct(trace, None if samples.y is None else samples.y[done : done + len(x)])
        right = None if right is None or hits is None else right + hits
        done += len(x)
        first = first or trace
    assert first is not None  # the samples were checked: at least one
    total, twin = reduce(add, parts), counts.twin(unfolded)
    more = relays(deployed, balanced, total, reduce(add, on_loihi)) if on_loihi else None
    section = report.energy(total, twin, [price(total, twin, profile) for profile in profiles], pools, refused or more)
    return section, right, first


def histograms(trace: Trace) -> dict[str, membranes.Histogram]:
    return {name: membranes.histogram(u) for name, u in trace.u.items()}


def raster(graph: SpikingGraph, trace: Trace, samples: Samples, sample: int = 0) -> report.Section:
    label = None if samples.y is None else int(samples.y[sample])
    return report.raster(graph, trace, sample, samples.x[sample : sample + 1][0], label)
