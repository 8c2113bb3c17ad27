"""Check a file without running it: what is wrong with it, what is doubtful, and what Lava would refuse."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict

from rmp_deploy.analysis.checks import CHECKS, Check, Finding, check_file, synaptic_depths, warning
from rmp_deploy.cli.common import add_file, console, print_json
from rmp_deploy.errors import op_error
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import AvgPool2d, BatchNorm
from rmp_deploy.passes import fold_batchnorm, fold_pool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)


def run(args: argparse.Namespace) -> int:
    graph, findings = check_file(args.file, ALL)
    depth = None if graph is None else max(synaptic_depths(graph).values())
    failed = any(finding.severity == "error" for finding in findings)
    if args.json:
        found = [asdict(finding) for finding in findings]
        print_json({"file": args.file, "ok": not failed, "synaptic_depth": depth, "findings": found})
        return int(failed)
    out = console()
    for finding in findings:
        out.print(f"{finding.severity} ({finding.check}): {finding.message}")
    if graph is None:
        return 1
    latency = f"{depth} synapses deep (on Lava {graph.T} N + {depth} steps for N samples)"
    out.print(f"{graph.name}: {len(graph.ops)} ops, T = {graph.T}, {latency}")
    out.print(f"{len(findings)} warning{'s' * (len(findings) != 1)}")
    return 0


def folds(graph: SpikingGraph) -> Iterator[Finding]:
    """What the passes cannot remove, and what they have yet to."""
    refused = {op.name: error for op, error in (*fold_batchnorm.refusals(graph), *fold_pool.refusals(graph))}
    for op in graph.of_type(BatchNorm, AvgPool2d):
        if op.name in refused:
            yield warning("fold", op, refused[op.name])
        elif isinstance(op, BatchNorm):
            todo = "Apply passes.fold_batchnorm"
            yield warning("fold", op, op_error(op.kind, op.name, "left in the file", "folded into its synapse", todo))


def lava(graph: SpikingGraph) -> Iterator[Finding]:
    """What the Lava backend raises, of every op and not only of the first; it folds the pools before it looks."""
    from rmp_deploy.converters.lava.refusals import refusals

    unfoldable = {op.name for op, _ in fold_pool.refusals(graph)}  # `folds` has said so
    for op, error in refusals(graph if unfoldable else fold_pool.fold_pool(graph)):
        if op.name not in unfoldable:
            yield warning("lava", op, error)


ALL: tuple[Check, ...] = (*CHECKS, folds, lava)
