"""Check a file without running it: what is wrong with it, what is doubtful, and what Lava would refuse."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict

from rmp_deploy.analysis import chip_checks
from rmp_deploy.analysis.checks import CHECKS, Check, Finding, check_file, lava_depth, synaptic_depths, warning
from rmp_deploy.cli.common import add_file, console, print_json
from rmp_deploy.errors import op_error
from rmp_deploy.hw_profiles import load as load_profile
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import AvgPool2d, BatchNorm
from rmp_deploy.passes import fold_batchnorm, fold_pool
from rmp_deploy.report import text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    wanted = "also what would go wrong on this chip: a name or a .toml; repeatable"
    parser.add_argument("--profile", action="append", default=[], metavar="P", help=wanted)


def run(args: argparse.Namespace) -> int:
    profiles = [load_profile(name) for name in args.profile]
    of_chips = [check for profile in profiles for check in chip_checks.checks(profile)]
    unknown = {profile.name: chip_checks.unknown_limits(profile) for profile in profiles}
    graph, findings = check_file(args.file, (*ALL, *of_chips))
    steps = None if graph is None else lava_depth(graph)
    depth = steps if graph is None or steps is not None else max(synaptic_depths(graph).values())
    failed = any(finding.severity == "error" for finding in findings)
    if args.json:
        found = [asdict(finding) for finding in findings]
        report = {"file": args.file, "ok": not failed, "synaptic_depth": depth, "findings": found}
        print_json(report | ({"not_checked": unknown} if profiles else {}))
        return int(failed)
    out = console()
    for finding in findings:
        out.print(f"{finding.severity} ({finding.check}): {finding.message}")
    if graph is None:
        return 1
    latency = "" if steps is None else f" (on Lava {graph.T} N + {steps} steps for N samples)"
    out.print(f"{graph.name}: {len(graph.ops)} ops, T = {graph.T}, {depth} synapses deep{latency}")
    for name, limits in unknown.items():
        if limits:
            out.print(f"{name}: not checked, since unknown: {', '.join(limits)}")
    counted = {kind: sum(finding.severity == kind for finding in findings) for kind in ("error", "warning")}
    out.print(", ".join(text.plural(n, kind) for kind, n in counted.items() if n or kind == "warning"))
    return int(failed)


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
