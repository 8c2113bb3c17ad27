"""What several commands share: options, data, printing, progress."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rmp_deploy import __version__, backends
from rmp_deploy.backends import BATCH
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Record, Trace
from rmp_deploy.report import html, text
from rmp_deploy.report import json as report
from rmp_deploy.training import data


def add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a spiking network, .onnx")


def add_data(parser: argparse.ArgumentParser, at_most: int | None = None) -> None:
    """`--data` and `--samples`; without --samples all, or the first `at_most`."""
    parser.add_argument("--data", required=True, metavar="D", help="a data set's name or an .npz with x and y")
    meaning = "all" if at_most is None else f"{at_most}, or all if fewer"
    parser.add_argument("--samples", type=int, metavar="N", help=f"the first N of them (default: {meaning})")
    parser.set_defaults(at_most=at_most)


def load_data(args: argparse.Namespace) -> data.Samples:
    """The samples that `--data` and `--samples` ask for."""
    samples = data.load(args.data)
    if args.samples is None and args.at_most is not None:
        return samples.first(min(args.at_most, len(samples.x)))
    return samples.first(args.samples)


def batches(
    graph: SpikingGraph, x: npt.NDArray[Any], backend: str, record: Sequence[Record]
) -> Iterator[tuple[npt.NDArray[Any], Trace]]:
    """Run `x` batch by batch with a progress bar: memory follows the batch, not the data."""
    with progress() as bar:
        task = bar.add_task(f"simulate on {backend}", total=len(x))
        for i in range(0, len(x), BATCH):
            part = x[i : i + BATCH]
            yield part, backends.run(graph, part, backend, record)
            bar.update(task, advance=len(part))


def progress() -> Progress:
    """A progress bar with the time left, on stderr where that is a terminal: stdout holds results alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def correct(trace: Trace, labels: npt.NDArray[np.int64] | None) -> int | None:
    """How many predictions are right; None without labels."""
    return None if labels is None else int((trace.predictions() == labels).sum())


def command_line() -> str:
    return shlex.join(["rmp-deploy", *sys.argv[1:]])


def show(document: report.Section, as_json: bool, page: str | None = None) -> None:
    """Print the document as JSON or for the terminal; write the HTML page where a path is given."""
    if page is not None:
        html.write(document, page)
    if as_json:
        print(json.dumps(document))
        return
    console = Console(highlight=False)
    text.render(document, console)
    if page is not None:
        console.print(f"report: {page}", soft_wrap=True)


def document(**sections: report.Section | None) -> report.Section:
    return report.document(__version__, command_line(), **sections)
