"""Run samples through a file on one backend and, on request, record spikes and membrane potentials."""

from __future__ import annotations

import argparse
import io
import math
import time
from typing import Any, get_args

import numpy as np
from rich.table import Table

from rmp_deploy.backends import BACKENDS
from rmp_deploy.cli.common import (
    add_data,
    add_file,
    batches,
    check_output,
    check_samples,
    console,
    correct,
    load_data,
    print_json,
)
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.trace import Record, Trace, concatenate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    add_data(parser)
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime", help="who runs it (default: onnxruntime)")
    parser.add_argument("--record", default="", metavar="spikes,v", help="what to record: spikes, v, u, readout")
    parser.add_argument("--out", metavar="TRACE.npz", help="file for what --record asks for")


def run(args: argparse.Namespace) -> int:
    wanted = _record(args.record)
    if bool(wanted) != (args.out is not None):
        raise RmpDeployError("simulate: --record and --out go together. Give both or neither.")
    if args.out is not None:
        check_output(args.out, ".npz")
    graph = onnx_io.load(args.file)
    samples = load_data(args, graph)
    check_samples(graph, samples)
    start = time.perf_counter()
    record: tuple[Record, ...] = tuple(dict.fromkeys((*wanted, "spikes")))
    kept: list[Trace] = []
    spikes = dict.fromkeys((op.name for op in graph.spiking), 0)
    n, right = 0, None if samples.y is None else 0
    for _, trace in batches(graph, samples.x, args.backend, record):
        labels = None if samples.y is None else samples.y[n : n + trace.n_samples]
        hits = correct(trace, labels)
        right = None if right is None or hits is None else right + hits
        for name, layer in trace.spikes.items():
            spikes[name] += int(layer.sum())
        n += trace.n_samples
        if wanted:  # only what will be written stays in memory
            kept.append(trace)
    seconds = time.perf_counter() - start
    if args.out is not None:
        whole = concatenate(kept)
        arrays = {f"{what}/{name}": a for what in wanted for name, a in getattr(whole, what).items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, output=whole.output, **arrays)
        write_atomically(args.out, buffer.getvalue())
    rates = {name: total / (n * graph.T * math.prod(graph.shapes[name])) for name, total in spikes.items()}
    result: dict[str, Any] = {
        "backend": args.backend,
        "samples": n,
        "correct": right,
        "accuracy": None if right is None else right / n,
        "firing_rate": rates,
        "spikes": spikes,
        "seconds": seconds,
        "trace": args.out,
    }
    if args.json:
        print_json(result)
        return 0
    table = Table("layer", "spikes", "firing rate", box=None)
    for name, rate in rates.items():
        table.add_row(name, f"{spikes[name]:,}", f"{100 * rate:.1f} %")
    out = console()
    out.print(table)
    accuracy = "no labels" if right is None else f"accuracy {right} of {n} = {100 * right / n:.1f} %"
    out.print(f"{args.backend}: {n} samples in {seconds:.2f} s, {accuracy}")
    if args.out is not None:
        out.print(f"trace: {args.out}")
    return 0


def _record(text: str) -> tuple[Record, ...]:
    wanted = [w for w in text.split(",") if w]
    allowed = get_args(Record)
    for w in wanted:
        if w not in allowed:
            raise RmpDeployError(f"simulate: --record = '{w}', allowed {', '.join(allowed)}. Separate them by commas.")
    return tuple(w for w in allowed if w in wanted)
