"""Count every operation that the spikes of a data set cause, and price the counts with hardware profiles."""

from __future__ import annotations

import argparse
from functools import reduce
from operator import add

import numpy as np

from rmp_deploy.analysis import counts, membranes
from rmp_deploy.analysis.energy import price
from rmp_deploy.cli.common import add_data, add_file, batches, document, load_data, show
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.hw_profiles import load as load_profile
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Trace
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
    graph = onnx_io.load(args.file)
    samples = load_data(args)
    graph.check_samples(samples.x)
    section, right, first = measure(graph, samples, profiles)
    show(
        document(
            network=report.network(graph, args.file),
            data=report.data(samples.name, len(samples.x), samples.source),
            accuracy=None if right is None else report.accuracy(right, len(samples.x)),
            energy=section,
            membranes=report.membranes(graph, {"this network": histograms(first)}),
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

    Counts are taken on the graph as it is deployed, with its pools folded; the ANN twin is the network before that.
    """
    unfolded = fold_batchnorm(graph)
    deployed = fold_pool(unfolded)
    parts: list[counts.Counts] = []
    predictions: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    first: Trace | None = None
    for x, trace in batches(unfolded, samples.x, "onnxruntime", ("spikes", "u")):
        parts.append(counts.count(deployed, trace, x))
        predictions.append(trace.predictions())
        first = first or trace
    assert first is not None  # the samples were checked: at least one
    total, twin = reduce(add, parts), counts.twin(unfolded)
    section = report.energy(total, twin, [price(total, twin, profile) for profile in profiles])
    right = None if samples.y is None else int((np.concatenate(predictions) == samples.y).sum())
    return section, right, first


def histograms(trace: Trace) -> dict[str, membranes.Histogram]:
    return {name: membranes.histogram(u) for name, u in trace.u.items()}


def raster(graph: SpikingGraph, trace: Trace, samples: Samples, sample: int = 0) -> report.Section:
    label = None if samples.y is None else int(samples.y[sample])
    return report.raster(graph, trace, sample, samples.x[sample], label)
