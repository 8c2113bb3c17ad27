"""Draw a file: every op, its parameters and shapes, as a picture (.svg) or for Graphviz (.dot)."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmp_deploy.cli.common import add_file, check_output, console, print_json
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically
from rmp_deploy.ir import onnx_io
from rmp_deploy.report import draw


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument("-o", "--out", required=True, metavar="NET.svg|NET.dot", help="the picture to write")


def run(args: argparse.Namespace) -> int:
    as_dot = args.out.endswith(".dot")
    if not as_dot and not args.out.endswith(".svg"):
        suffix = Path(args.out).suffix
        raise RmpDeployError(f"file '{args.out}': suffix = '{suffix}', allowed .svg or .dot. Give it one of them.")
    check_output(args.out, ".dot" if as_dot else ".svg")
    graph = onnx_io.load(args.file)
    text, layout = (draw.to_dot(graph), None) if as_dot else draw.to_svg(graph)
    path = write_atomically(args.out, text)
    if args.json:
        print_json({"file": str(path), "ops": len(graph.ops), "layout": layout})
    else:
        console().print(f"picture: {path} ({len(graph.ops)} ops{f', laid out by {layout}' * (layout is not None)})")
    return 0
