"""Place a file on a chip: the cores, axons and synapse memory that each layer takes, and what does not fit."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rich.console import Console

from rmp_deploy.analysis.utilization import excess_errors, utilization
from rmp_deploy.cli.common import add_file, check_output, console, print_json
from rmp_deploy.files import write_atomically
from rmp_deploy.hw_profiles import load as load_profile
from rmp_deploy.ir import onnx_io
from rmp_deploy.report.draw import cores
from rmp_deploy.report.utilization import headline, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument("--profile", required=True, metavar="P", help="a name or a .toml")
    parser.add_argument("--picture", metavar="MAP.svg", help="draw the cores as a picture")


def run(args: argparse.Namespace) -> int:
    profile = load_profile(args.profile)
    if args.picture is not None:
        check_output(args.picture, ".svg")
    graph = onnx_io.load(args.file)
    found = utilization(graph, profile)
    if args.picture is not None:
        write_atomically(args.picture, cores.to_svg(found, graph.name, headline(found, graph.name)))
    if args.json:
        errors = [str(error) for _, error in excess_errors(found)]
        print_json({"file": args.file, **asdict(found), "errors": errors, "picture": args.picture})
    else:
        render(found, graph.name, Console(highlight=False, markup=False, emoji=False))
        if args.picture is not None:
            console().print(f"picture: {args.picture}")
    return int(not found.fits)
