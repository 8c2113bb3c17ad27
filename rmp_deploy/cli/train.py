"""Train a spiking network with RMP-Loss and write a run folder."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rmp_deploy.cli.common import DATA, console, print_json, progress
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import check_writable
from rmp_deploy.training.config import PRESETS, WANTED_DATA, TrainConfig, load_config, preset

if TYPE_CHECKING:  # torch is an extra
    from rmp_deploy.training.loop import Folder, TrainResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("config", nargs="?", metavar="CONFIG", help="a TOML file")
    source.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--data", metavar="D", help=f"{DATA}; in place of the config's")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder for config, weights and metrics")
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run left RUN, if there is one")
    parser.add_argument("--checkpoint-every", type=float, default=60.0, metavar="S",
                        help="seconds between checkpoints inside an epoch (default: 60)")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard too")


def run(args: argparse.Namespace) -> int:
    config = preset(args.preset) if args.preset else load_config(args.config)
    if args.data is not None:
        config = replace(config, data=args.data)
    if args.preset and not config.data:
        wanted = WANTED_DATA[args.preset.split("-")[0]]
        raise RmpDeployError(f"preset '{args.preset}': data = none, allowed {wanted}. Pass it as --data.")
    if not 0 <= args.checkpoint_every < math.inf:
        what = f"--checkpoint-every = {args.checkpoint_every}, allowed seconds >= 0"
        raise RmpDeployError(f"train: {what}. Correct it.")
    check_writable(args.out)
    _check_torch()
    from rmp_deploy.training.distributed import is_first_process
    from rmp_deploy.training.loop import Folder

    folder = Folder(Path(args.out), args.resume, args.checkpoint_every, args.tensorboard)
    result = train_with_progress(config, "train", folder, args.device)
    if not is_first_process():
        return 0
    last = result.metrics[-1]
    if args.json:
        print_json({"run": args.out, "seconds": result.seconds, **asdict(last)})
    else:
        console().print(
            f"test accuracy {100 * last.test_accuracy:.1f} %, quantization error {last.quantization_error:.3f}, "
            f"{result.seconds:.1f} s\nrun: {args.out}"
        )
    return 0


def train_with_progress(
    config: TrainConfig, title: str, folder: Folder | None = None, device: str | None = None
) -> TrainResult:
    """Train with a progress bar; off a terminal with a line on stderr for every epoch, that says the time left.

    Raises:
        RmpDeployError: torch is not installed.
    """
    _check_torch()
    from rmp_deploy.training.distributed import is_first_process
    from rmp_deploy.training.loop import EpochMetrics, train
    from rmp_deploy.training.memory import keep_freed_memory

    keep_freed_memory()
    if not is_first_process():
        return train(config, folder=folder, device=device)
    with progress() as bar:
        task = bar.add_task(title, total=config.epochs)
        last = time.monotonic()

        def on_epoch(m: EpochMetrics) -> None:
            nonlocal last
            accuracy = f"test accuracy {100 * m.test_accuracy:.1f} %"
            bar.update(task, description=f"{title}: {accuracy}")
            if bar.disable:
                now = time.monotonic()
                left = timedelta(seconds=round((now - last) * (config.epochs - m.epoch)))  # as long as this one took
                last = now
                with contextlib.suppress(OSError):  # nobody reads on: no reason to stop
                    print(
                        f"{title}: epoch {m.epoch}/{config.epochs}, loss {m.loss:.3f}, {accuracy}, {left} left",
                        file=sys.stderr,
                        flush=True,
                    )

        return train(config, on_epoch, lambda epochs: bar.update(task, completed=epochs), folder, device)


def _check_torch() -> None:
    try:
        import rmp_deploy.training.loop  # noqa: F401
    except ImportError as e:
        raise RmpDeployError(f"train: needs {e.name}. Run: pip install 'rmp-deploy[train]'.") from e
