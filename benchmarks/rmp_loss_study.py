"""What RMP-Loss does to accuracy, quantization error, firing rate and energy: Fashion-MNIST, equal budget, three seeds.

    python benchmarks/rmp_loss_study.py --data FOLDER [--out RUNS] [--jobs N]

FOLDER holds Fashion-MNIST as IDX files. The network is that of the preset fashion-convnet, trained on the first 20,000
training images for 8 epochs and scored on all 10,000 test images; spikes are counted and priced (cmos45) on the first
1,000 of them. T in {1, 2, 4} with RMP-Loss on and off; at T = 2 also its power and its schedules.

Every training is a piece of its own: what RUNS holds already is not trained again, so that the study can be stopped
and started at will. The last line is a JSON object, as in `benchmarks/run.py`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import statistics
import struct
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rmp_deploy import RmpDeployError, count, fold_batchnorm, fold_pool, load_profile, price, twin
from rmp_deploy.backends import batches
from rmp_deploy.files import write_atomically
from rmp_deploy.training import data
from rmp_deploy.training.config import RMPConfig, TrainConfig, preset

SEEDS = (1, 2, 3)
EPOCHS, TRAINED, COUNTED = 8, 20_000, 1_000
OFF, ON = RMPConfig(k=0.0), RMPConfig()
ARMS: dict[str, tuple[int, RMPConfig]] = {  # name -> T, loss
    **{f"T={T}, {name}": (T, loss) for T in (4, 2, 1) for name, loss in (("off", OFF), ("on", ON))},
    "T=2, squared": (2, RMPConfig(power=2)),
    "T=2, ramp_hold": (2, RMPConfig(schedule="ramp_hold")),
    "T=2, constant": (2, RMPConfig(schedule="constant")),
}
MEASURES = ("accuracy", "quantization_error", "firing_rate", "energy_nJ")


@dataclass(frozen=True)
class Piece:
    """One training: an arm of the study with one seed, and its folder."""

    arm: str
    seed: int
    folder: Path
    config: TrainConfig


def pieces(out: Path) -> list[Piece]:
    """All trainings, a seed at a time: a study that is stopped early has whole arms."""
    base = preset("fashion-convnet")
    found = []
    for seed in SEEDS:
        for arm, (T, loss) in ARMS.items():
            model = replace(base.model, T=T)
            config = replace(base, data=str(out / "data"), epochs=EPOCHS, seed=seed, model=model, rmp_loss=loss)
            name = arm.replace("=", "").replace(", ", "-")
            found.append(Piece(arm, seed, out / f"{name}-seed{seed}", config))
    return found


def subset(source: str, folder: Path) -> None:
    """Write the images and labels that the study uses as IDX files of their own, once."""
    if (folder / "complete").exists():
        return
    splits = data.load(source, "train").first(TRAINED), data.load(source, "test")
    for prefix, samples in zip(("train", "t10k"), splits, strict=True):
        images = np.rint(samples.x[:] * 255).astype(np.uint8)[:, 0]
        assert samples.y is not None
        for name, values in (("images-idx3", images), ("labels-idx1", samples.y.astype(np.uint8))):
            header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
            write_atomically(folder / f"{prefix}-{name}-ubyte.gz", gzip.compress(header + values.tobytes(), mtime=0))
    write_atomically(folder / "complete", "")


def run_piece(piece: Piece) -> str:
    """Train and measure what is not there yet."""
    from rmp_deploy.training.loop import save_run, train

    if not (piece.folder / "config.json").exists():  # the last file that save_run writes
        save_run(train(piece.config), piece.folder)
    if not (piece.folder / "measured.json").exists():
        write_atomically(piece.folder / "measured.json", json.dumps(measure(piece), indent=2) + "\n")
    return f"{piece.arm}, seed {piece.seed}"


def measure(piece: Piece) -> dict[str, object]:
    """Accuracy [%], mean quantization error, firing rate, energy [nJ] a sample; both by layer as well."""
    import torch

    from rmp_deploy.converters.torch_to_ir import run_to_graph
    from rmp_deploy.training.diagnostics import Diagnostics
    from rmp_deploy.training.loop import load_run

    torch.set_num_threads(1)
    test = data.load(str(piece.folder.parent / "data"))
    assert test.y is not None
    _, model = load_run(piece.folder)
    right = 0
    with torch.no_grad(), Diagnostics(model) as diagnostics:
        for start in range(0, len(test.y), 500):
            predicted = model(torch.from_numpy(test.x[start : start + 500])).argmax(1)
            right += int((predicted.numpy() == test.y[start : start + 500]).sum())
    layers = diagnostics.layers()
    graph = fold_batchnorm(run_to_graph(piece.folder)[0])
    deployed = fold_pool(graph)
    parts = [count(deployed, trace, x) for x, trace in batches(graph, test.x[:COUNTED], "onnxruntime", ("spikes",))]
    ledger = price(sum(parts[1:], start=parts[0]), twin(graph), load_profile("cmos45"))
    assert ledger.joule_per_sample is not None
    spikes, potentials = (sum(getattr(d, what) for d in layers.values()) for what in ("spikes", "potentials"))
    return {
        "arm": piece.arm,
        "seed": piece.seed,
        "accuracy": 100 * right / len(test.y),
        "quantization_error": statistics.fmean(d.quantization_error for d in layers.values()),
        "firing_rate": spikes / potentials,
        "energy_nJ": 1e9 * ledger.joule_per_sample,
        "layers": {
            name: {"quantization_error": d.quantization_error, "firing_rate": d.firing_rate}
            for name, d in layers.items()
        },
    }


def table(measured: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Mean and sample standard deviation over the seeds of each arm, as far as it was trained."""
    rows: list[dict[str, object]] = []
    for arm in ARMS:
        of_arm = [m for m in measured if m["arm"] == arm]
        if of_arm:
            row: dict[str, object] = {"arm": arm, "seeds": len(of_arm)}
            for what in MEASURES:
                values = [float(str(m[what])) for m in of_arm]
                row[what] = statistics.fmean(values)
                row[f"{what}_std"] = statistics.stdev(values) if len(values) > 1 else None
            rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """The table of docs/rmp_loss_study.md."""

    def cell(row: dict[str, object], what: str, digits: int) -> str:
        std = row[f"{what}_std"]
        return f"{row[what]:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")

    lines = [
        "| T, RMP-Loss | seeds | accuracy [%] | quantization error | firing rate | energy, cmos45 [nJ a sample] |",
        "|---|---|---|---|---|---|",
    ]
    digits = dict(zip(MEASURES, (2, 4, 4, 1), strict=True))
    for row in rows:
        cells = " | ".join(cell(row, what, digits[what]) for what in MEASURES)
        lines.append(f"| {row['arm']} | {row['seeds']} | {cells} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="RMP-Loss on and off, in pieces that resume.")
    parser.add_argument("--data", metavar="FOLDER", required=True, help="Fashion-MNIST as IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/rmp_loss_study"), help="where the pieces lie")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings at a time, one thread each")
    args = parser.parse_args(argv)
    try:
        subset(args.data, args.out / "data")
    except RmpDeployError as e:
        parser.error(str(e))
    todo = pieces(args.out)
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        for i, done in enumerate(as_completed([pool.submit(run_piece, piece) for piece in todo]), start=1):
            print(f"{i} of {len(todo)}: {done.result()}", flush=True)
    measured = [json.loads((piece.folder / "measured.json").read_text()) for piece in todo]
    rows = table(measured)
    print(markdown(rows))
    print(json.dumps({"benchmark": "rmp_loss_study", "arms": rows}))


if __name__ == "__main__":
    main()
