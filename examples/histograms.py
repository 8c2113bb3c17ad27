"""Draw how training moved the membrane potentials: runs of `rmp-deploy train` -> one SVG.

python examples/histograms.py RUN [RUN ...] -o FILE.svg [--layers lif1 lif2]    (all layers of the first run)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically
from rmp_deploy.report.draw.histograms import Training, to_svg
from rmp_deploy.training.diagnostics import EDGES, load_history
from rmp_deploy.training.metrics import DIAGNOSTICS


def trainings(run: Path, layers: list[str]) -> dict[str, Training]:
    """Every layer of a run: its histograms by epoch under its quantization error of the first and the last epoch."""
    history = load_history(run / DIAGNOSTICS)
    found = list(history[0]) if history else []
    unknown = [name for name in layers if name not in found]
    if unknown or not found:
        raise RmpDeployError(f"run '{run}': layers {unknown} not found, allowed {', '.join(found)}. Name its layers.")
    return {
        name: Training(
            np.stack([epoch[name].counts for epoch in history]),
            f"error {history[0][name].quantization_error:.3f} → {history[-1][name].quantization_error:.3f}",
        )
        for name in layers or found
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--layers", nargs="+")
    args = parser.parse_args()
    try:
        runs: dict[str, dict[str, Training]] = {}
        for run in args.runs:
            runs[str(run)] = trainings(run, args.layers or list(next(iter(runs.values()), ())))
        print(write_atomically(args.out, to_svg("Membrane potentials, epoch by epoch downwards", EDGES, runs)))
    except RmpDeployError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
