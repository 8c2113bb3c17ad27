"""Benchmarks by name: a table, then one JSON object as the last line.

    python benchmarks/run.py NAME [--quick] [--data FOLDER]

Every benchmark alternates with its peer in one process, after a warm-up, and quotes medians and ratios: machines are
noisy, and only what ran side by side compares.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import import_module

BENCHMARKS = {  # a function of this name -> the module that holds it
    "energy_count": "energy_count",
    "infer_float": "float_networks",
    "export_cost": "float_networks",
    "parity_float": "float_networks",
    "fuzz_files": "fuzz_files",
    "integer_parity": "integer_parity",
    "quantize_accuracy": "quantize_accuracy",
    "large_networks": "large_networks",
    "lava_stream": "lava_stream",
    "train_step": "train_step",
    "rmp_overhead": "train_step",
    "freed_memory": "train_step",
    "mpbn_fold": "mpbn",
    "mpbn_integers": "mpbn",
    "mpbn_step": "mpbn",
}
TAKES_DATA = ("quantize_accuracy",)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Benchmarks against peers, side by side in one process.")
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--data", metavar="FOLDER", help=f"Fashion-MNIST as IDX files, for {', '.join(TAKES_DATA)}")
    args = parser.parse_args(argv)
    if args.data and args.name not in TAKES_DATA:
        parser.error(f"--data is for {', '.join(TAKES_DATA)}")
    given = (args.data,) if args.data else ()
    result = getattr(import_module(BENCHMARKS[args.name]), args.name)(args.quick, *given)
    for key, value in result.items():
        print(f"{key:24} {value}")
    print(json.dumps({"benchmark": args.name, **result}))


if __name__ == "__main__":
    main()
