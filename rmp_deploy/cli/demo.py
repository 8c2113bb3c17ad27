"""The whole story on handwritten digits: train, export, verify on Lava, count and price, report. Under two minutes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmp_deploy import backends
from rmp_deploy.cli.common import console, document, show
from rmp_deploy.cli.energy import accuracy, histograms, measure, raster
from rmp_deploy.cli.export import GOLDEN_SAMPLES
from rmp_deploy.cli.train import train_with_progress
from rmp_deploy.cli.verify import verify
from rmp_deploy.files import check_writable
from rmp_deploy.hw_profiles import load as load_profile
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.report import json as report
from rmp_deploy.training import data
from rmp_deploy.training.config import RMPConfig, preset

if TYPE_CHECKING:  # torch is an extra
    from rmp_deploy.training.loop import TrainResult

PROFILES = ("cmos45", "loihi1")
ARMS = {"with RMP-Loss": RMPConfig(), "without RMP-Loss": RMPConfig(k=0.0)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/demo", metavar="FOLDER", help="where to write (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=7, help="of weights and sample order (default: 7)")
    parser.add_argument("--samples", type=int, default=50, metavar="N", help="test images to verify (default: 50)")


def run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    config = replace(preset("digits-convnet"), seed=args.seed)
    test = data.load(config.data)
    to_verify = test.first(args.samples)
    check_writable(out)
    say = _quiet if args.json else console().print

    say("1. train a convolutional SNN on 1,437 handwritten digits, with and without RMP-Loss")
    results = {}
    for arm, rmp_loss in ARMS.items():
        results[arm] = train_with_progress(replace(config, rmp_loss=rmp_loss), arm)
        _save(results[arm], out / arm.replace(" ", "-"))
        last = results[arm].metrics[-1]
        say(f"   {arm}: test accuracy {100 * last.test_accuracy:.1f} %, {results[arm].seconds:.0f} s")

    file = out / "net.onnx"
    run_folder = out / "with-RMP-Loss"
    graphs = {arm: _graph(out / arm.replace(" ", "-")) for arm in ARMS}
    onnx_io.save(graphs["with RMP-Loss"], file, golden=test.x[:GOLDEN_SAMPLES])
    graph = onnx_io.load(file)
    say(f"2. export to {file}, {file.stat().st_size:,} bytes, a valid ONNX model that any ONNX Runtime runs")

    say(f"3. verify {args.samples} test images: torch, NumPy reference, ONNX Runtime, Lava")
    parity, _ = verify(graph, file, to_verify, run_folder)

    say("4. count and price every operation of 360 test images\n")
    ledger = measure(graph, test, [load_profile(name) for name in PROFILES])
    other = backends.run(graphs["without RMP-Loss"], test.x[:], "onnxruntime", ("u",))
    arms = {"with RMP-Loss": histograms(ledger.first), "without RMP-Loss": histograms(other)}
    lines = [(a, r.metrics[-1].test_accuracy, r.metrics[-1].quantization_error) for a, r in results.items()]
    page = out / "report.html"
    show(
        document(
            network=report.network(graph, str(file)),
            data=report.data(test.name, len(test.x), test.source),
            accuracy=accuracy(ledger),
            training=report.training(config.as_dict(), sum(r.seconds for r in results.values()), lines),
            parity=parity,
            energy=report.energy(ledger),
            membranes=report.membranes(graph, arms),
            raster=raster(graph, ledger.first, test),
        ),
        args.json,
        str(page),
    )
    say(f"file: {file}")
    return 0 if parity["holds"] else 1


def _save(result: TrainResult, folder: Path) -> None:
    from rmp_deploy.training.loop import save_run

    save_run(result, folder)


def _graph(run_folder: Path) -> SpikingGraph:
    from rmp_deploy.converters.torch_to_ir import run_to_graph

    graph, _ = run_to_graph(run_folder)
    return fold_batchnorm(graph)


def _quiet(*_: object) -> None:
    """Say nothing: --json prints one object."""
