"""Train a spiking network with RMP-Loss and write a run folder."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rmp_deploy.cli.common import DATA, console, print_json, progress
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import check_writable
from rmp_deploy.training.config import PRESETS, WANTED_DATA, TrainConfig, load_config, preset

if TYPE_CHECKING:  # torch is an extra
    from rmp_deploy.training.loop import TrainResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("config", nargs="?", metavar="CONFIG", help="a TOML file")
    source.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--data", metavar="D", help=f"{DATA}; in place of the config's")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder for config, weights and metrics")


def run(args: argparse.Namespace) -> int:
    config = preset(args.preset) if args.preset else load_config(args.config)
    if args.data is not None:
        config = replace(config, data=args.data)
    if args.preset and not config.data:
        wanted = WANTED_DATA[args.preset.split("-")[0]]
        raise RmpDeployError(f"preset '{args.preset}': data = none, allowed {wanted}. Pass it as --data.")
    check_writable(args.out)
    result = train_with_progress(config, "train")
    from rmp_deploy.training.loop import save_run

    out = save_run(result, args.out)
    last = result.metrics[-1]
    if args.json:
        print_json({"run": str(out), "seconds": result.seconds, **asdict(last)})
    else:
        console().print(
            f"test accuracy {100 * last.test_accuracy:.1f} %, quantization error {last.quantization_error:.3f}, "
            f"{result.seconds:.1f} s\nrun: {out}"
        )
    return 0


def train_with_progress(config: TrainConfig, title: str) -> TrainResult:
    """Train with a progress bar.

    Raises:
        RmpDeployError: torch is not installed.
    """
    try:
        from rmp_deploy.training.loop import EpochMetrics, train
    except ImportError as e:
        raise RmpDeployError(f"train: needs {e.name}. Run: pip install 'rmp-deploy[train]'.") from e
    with progress() as bar:
        task = bar.add_task(title, total=config.epochs)

        def on_epoch(m: EpochMetrics) -> None:
            bar.update(task, description=f"{title}: test accuracy {100 * m.test_accuracy:.1f} %")

        return train(config, on_epoch, lambda epochs: bar.update(task, completed=epochs))
