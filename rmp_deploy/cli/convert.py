"""Convert a network between file formats, by suffix: .onnx, .nir, .net."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rmp_deploy.cli.common import check_output, console, print_json
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import ENCODINGS, RULES, SpikingGraph

Format = TypeVar("Format")
NIR_RULES = ("euler", "exponential")  # converters.nir.RULES; nir itself is imported where a .nir file is at hand


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help=f"the file to read ({', '.join(READERS)})")
    parser.add_argument("target", metavar="OUT", help=f"the file to write ({', '.join(WRITERS)})")
    parser.add_argument("--dt", type=float, metavar="S", help="NIR: seconds per step; it is continuous in time")
    parser.add_argument("--rule", choices=NIR_RULES, help="NIR: what a time constant is in a step (euler)")
    parser.add_argument("--steps", type=int, metavar="T", help="from .nir or .net: time steps to run")
    parser.add_argument("--readout", choices=RULES, help="from .nir (mean) or .net (sum): the answer over time")
    parser.add_argument("--encoding", choices=ENCODINGS, help="from .nir: what the network is fed (time_series)")


def run(args: argparse.Namespace) -> int:
    read = _by_suffix(READERS, args.source)
    write = _by_suffix(WRITERS, args.target)
    check_output(args.target, Path(args.target).suffix)
    if Path(args.source).suffix == Path(args.target).suffix:
        raise RmpDeployError(f"file '{args.target}': the format of '{args.source}', allowed another. Copy the file.")
    if ".nir" not in (Path(args.source).suffix, Path(args.target).suffix):
        for option in ("dt", "rule"):
            if getattr(args, option) is not None:
                raise RmpDeployError(f"convert: --{option} without a .nir file, which alone needs it. Leave it out.")
    graph = read(args)
    path = write(graph, args)
    size = path.stat().st_size
    if args.json:
        ops = [op.name for op in graph.ops]
        print_json({"file": str(path), "bytes": size, "ops": ops, "T": graph.T, "dt": graph.dt})
    else:
        console().print(f"file: {path} ({size:,} bytes, {len(graph.ops)} ops, T = {graph.T})")
    return 0


def _read_onnx(args: argparse.Namespace) -> SpikingGraph:
    for option in ("steps", "readout", "encoding"):
        if getattr(args, option) is not None:
            raise RmpDeployError(f"convert: --{option} with an .onnx file, which says it itself. Leave it out.")
    return onnx_io.load(args.source)


def _read_nir(args: argparse.Namespace) -> SpikingGraph:
    _needs_nir()
    from rmp_deploy.converters.nir import from_nir

    return from_nir(args.source, args.dt, args.rule or "euler", args.steps, args.readout, args.encoding)


def _read_netx(args: argparse.Namespace) -> SpikingGraph:
    _needs_netx()
    from rmp_deploy.converters.netx import from_netx

    if args.encoding is not None:
        raise RmpDeployError("convert: --encoding with a .net file, which has none. Leave it out.")
    return from_netx(args.source, args.steps, args.readout or "sum")


def _write_onnx(graph: SpikingGraph, args: argparse.Namespace) -> Path:
    return onnx_io.save(graph, args.target)


def _write_nir(graph: SpikingGraph, args: argparse.Namespace) -> Path:
    _needs_nir()
    from rmp_deploy.converters.nir import to_nir

    return to_nir(graph, args.target, args.dt, args.rule or "euler")


def _write_netx(graph: SpikingGraph, args: argparse.Namespace) -> Path:
    _needs_netx()
    from rmp_deploy.converters.netx import to_netx

    return to_netx(graph, args.target)


READERS: dict[str, Callable[[argparse.Namespace], SpikingGraph]] = {
    ".net": _read_netx,
    ".nir": _read_nir,
    ".onnx": _read_onnx,
}
WRITERS: dict[str, Callable[[SpikingGraph, argparse.Namespace], Path]] = {
    ".net": _write_netx,
    ".nir": _write_nir,
    ".onnx": _write_onnx,
}


def _by_suffix(formats: dict[str, Format], path: str) -> Format:
    suffix = Path(path).suffix
    if suffix not in formats:
        known = " or ".join(formats)
        raise RmpDeployError(f"file '{path}': suffix = '{suffix}', allowed {known}. Give it that suffix.")
    return formats[suffix]


def _needs_nir() -> None:
    try:
        import rmp_deploy.converters.nir  # noqa: F401
    except ImportError as e:
        raise RmpDeployError(f"convert: needs {e.name}. Run: pip install 'rmp-deploy[nir]'.") from e


def _needs_netx() -> None:
    try:
        import rmp_deploy.converters.netx  # noqa: F401
    except ImportError as e:
        raise RmpDeployError(f"convert: needs {e.name}. Run: pip install 'rmp-deploy[netx]'.") from e
