"""Run samples through a file on one backend and, on request, record spikes and membrane potentials."""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from rmp_deploy.backends import BACKENDS
from rmp_deploy.cli.common import add_data, add_file, batches, correct, load_data
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.trace import Record, concatenate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_data(parser)
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime", help="who runs it (default: onnxruntime)")
    parser.add_argument("--record", default="", metavar="spikes,v", help="what to record: spikes, v, u")
    parser.add_argument("--out", metavar="TRACE.npz", help="file for what --record asks for")


def run(args: argparse.Namespace) -> int:
    wanted = _record(args.record)
    if bool(wanted) != (args.out is not None):
        raise RmpDeployError("simulate: --record and --out go together. Give both or neither.")
    graph = onnx_io.load(args.file)
    samples = load_data(args)
    graph.check_samples(samples.x)
    start = time.perf_counter()
    record: tuple[Record, ...] = tuple(dict.fromkeys((*wanted, "spikes")))
    trace = concatenate([t for _, t in batches(graph, samples.x, args.backend, record)])
    seconds = time.perf_counter() - start
    if args.out is not None:
        arrays = {f"{what}/{name}": a for what in wanted for name, a in getattr(trace, what).items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, output=trace.output, **arrays)
        write_atomically(Path(args.out), buffer.getvalue())
    rates = {name: float(s.mean()) for name, s in trace.spikes.items()}
    right, n = correct(trace, samples.y), trace.n_samples
    result: dict[str, Any] = {
        "backend": args.backend,
        "samples": n,
        "correct": right,
        "accuracy": None if right is None else right / n,
        "firing_rate": rates,
        "spikes": {name: int(s.sum()) for name, s in trace.spikes.items()},
        "seconds": seconds,
        "trace": args.out,
    }
    if args.json:
        print(json.dumps(result))
        return 0
    console = Console(highlight=False)
    table = Table("layer", "spikes", "firing rate", box=None)
    for name, rate in rates.items():
        table.add_row(name, f"{result['spikes'][name]:,}", f"{100 * rate:.1f} %")
    console.print(table)
    accuracy = "no labels" if right is None else f"accuracy {right} of {n} = {100 * right / n:.1f} %"
    console.print(f"{args.backend}: {n} samples in {seconds:.2f} s, {accuracy}")
    if args.out is not None:
        console.print(f"trace: {args.out}", soft_wrap=True)
    return 0


def _record(text: str) -> tuple[Record, ...]:
    wanted = [w for w in text.split(",") if w]
    allowed = get_args(Record)
    for w in wanted:
        if w not in allowed:
            raise RmpDeployError(f"simulate: --record = '{w}', allowed {', '.join(allowed)}. Separate them by commas.")
    return tuple(w for w in allowed if w in wanted)
