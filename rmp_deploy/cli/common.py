"""What several commands share: options, data, printing, progress."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rmp_deploy import __version__, backends
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import check_writable, target_of, write_together
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Record, Trace
from rmp_deploy.report import csv, html, text
from rmp_deploy.report import json as report
from rmp_deploy.training import data

DATA = "a data set's name, a folder (IDX, CIFAR, images, events: docs/data.md), an .npz with x and y or an .npy"


def add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a spiking network, .onnx")


def add_data(parser: argparse.ArgumentParser, at_most: int | None = None, required: bool = True) -> None:
    """`--data`, `--image-size` and `--samples`; without --samples all, or the first `at_most`."""
    parser.add_argument("--data", required=required, metavar="D", help=DATA)
    parser.add_argument(
        "--image-size",
        type=int,
        default=0,
        metavar="PIXELS",
        help="resize images to PIXELS x PIXELS (default: as they are)",
    )
    meaning = "all" if at_most is None else f"{at_most}, or all if fewer"
    parser.add_argument("--samples", type=int, metavar="N", help=f"the first N of them (default: {meaning})")
    parser.set_defaults(at_most=at_most)


def load_data(args: argparse.Namespace, graph: SpikingGraph) -> data.Samples:
    """The samples that `--data`, `--image-size` and `--samples` ask for, events as frames of the graph's T steps."""
    return first_samples(args, data.load(args.data, image_size=args.image_size, T=graph.T))


def first_samples(args: argparse.Namespace, samples: data.Samples) -> data.Samples:
    """What `--samples` asks for of `samples`."""
    if args.samples is None and args.at_most is not None:
        return samples.first(min(args.at_most, len(samples.x)))
    return samples.first(args.samples)


def check_samples(graph: SpikingGraph, samples: data.Samples) -> None:
    """`graph.check_samples` of all that is in memory; of samples that are read as they are needed, of the first.

    Each batch of these is checked before it runs.
    """
    graph.check_samples(samples.x if isinstance(samples.x, np.ndarray) else samples.x[:1])


def batches(
    graph: SpikingGraph, x: data.SampleArray, backend: str, record: Sequence[Record]
) -> Iterator[tuple[npt.NDArray[Any], Trace]]:
    """`backends.batches` with a progress bar; samples are read as they are needed."""
    with progress() as bar:
        task = bar.add_task(f"simulate on {backend}", total=len(x))
        parts = (x[start : start + backends.BATCH] for start in range(0, len(x), backends.BATCH))
        for part, trace in backends.stream(graph, parts, backend, record):
            yield part, trace
            bar.update(task, advance=len(part))


def console() -> Console:
    """Where results are printed: names and paths are text, never markup, and are not wrapped or coloured."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def check_output(path: str, suffix: str) -> None:
    """Refuse, before the work, an output path of another suffix or in a folder that cannot be written.

    Raises:
        RmpDeployError: see above.
    """
    if not path.endswith(suffix):
        raise RmpDeployError(f"file '{path}': suffix = '{Path(path).suffix}', allowed {suffix}. Give it that suffix.")
    check_writable(Path(path).parent)


def print_json(value: object) -> None:
    print(json.dumps(report.finite(value), allow_nan=False))


def progress() -> Progress:
    """A progress bar with the time left, on stderr where that is a terminal: stdout holds results alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def correct(trace: Trace, labels: npt.NDArray[np.int64] | None) -> int | None:
    """How many predictions are right; None without labels.

    Raises:
        RmpDeployError: a label names a class that the readout does not have.
    """
    if labels is None:
        return None
    classes = trace.output.shape[1]
    if int(labels.max()) >= classes:
        raise RmpDeployError(f"labels: largest = {labels.max()}, allowed 0..{classes - 1}. Use the network's classes.")
    return int((trace.predictions() == labels).sum())


def command_line() -> str:
    return shlex.join(["rmp-deploy", *sys.argv[1:]])


def show(
    document: report.Section,
    as_json: bool,
    page: str | None = None,
    table: str | None = None,
    shown: Sequence[str] = (),
) -> None:
    """Print the document as JSON or for the terminal, with the optional tables `shown`.

    Where paths are given, write the HTML page and the CSV table of its energies: both or none.
    """
    contents = {
        target_of(path): [render(document).encode()]
        for path, render in ((page, html.render), (table, csv.render))
        if path is not None
    }
    if contents:
        write_together(contents)
    if as_json:
        print_json(document)
        return
    text.render(document, Console(highlight=False, markup=False, emoji=False), shown)
    for what, path in (("report", page), ("table", table)):
        if path is not None:
            console().print(f"{what}: {path}")


def document(**sections: report.Section | None) -> report.Section:
    return report.document(__version__, command_line(), **sections)
