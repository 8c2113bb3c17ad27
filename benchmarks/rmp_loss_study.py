"""What RMP-Loss does to accuracy, quantization error, firing rate and energy: Fashion-MNIST, equal budget, three seeds.

    python benchmarks/rmp_loss_study.py --data FOLDER [--out RUNS] [--jobs N]

FOLDER holds Fashion-MNIST as IDX files. The network is that of the preset fashion-convnet, trained on the first 20,000
training images for 8 epochs and scored on all 10,000 test images; spikes are counted and priced (cmos45) on the first
1,000 of them. T in {1, 2, 4} with RMP-Loss on and off; at T = 2 also its power and its schedules.

Every training is a piece of its own: what RUNS holds already, of the same settings and data, is not trained again, so
that the study can be stopped and started at will. The last line is a JSON object, as in `benchmarks/run.py`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
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
from rmp_deploy.training.config import RMPConfig, TrainConfig, from_dict, preset

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
    """Write the images and labels that the study uses as IDX files of their own, once.

    Raises:
        RmpDeployError: `source` cannot be read, or the folder holds other images.
    """
    files: dict[str, bytes] = {}
    for prefix, samples in (("train", data.load(source, "train").first(TRAINED)), ("t10k", data.load(source, "test"))):
        images = np.rint(samples.x[:] * 255).astype(np.uint8)[:, 0]
        assert samples.y is not None
        for name, values in (("images-idx3", images), ("labels-idx1", samples.y.astype(np.uint8))):
            header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
            files[f"{prefix}-{name}-ubyte.gz"] = header + values.tobytes()
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()
    complete = folder / "complete"
    if not complete.exists():
        for name, content in files.items():
            write_atomically(folder / name, gzip.compress(content, mtime=0))
        write_atomically(complete, digest + "\n")
    if complete.read_text().strip() != digest:
        raise RmpDeployError(f"folder '{folder}': holds other images than {source}. Choose another --out.")


def run_piece(piece: Piece) -> str:
    """Train and measure what is not there yet.

    Raises:
        RmpDeployError: the folder holds a run of other settings.
    """
    from rmp_deploy.training.loop import save_run, train

    if not (piece.folder / "config.json").exists():  # the last file that save_run writes
        save_run(train(piece.config), piece.folder)
    if from_dict(json.loads((piece.folder / "config.json").read_text())) != piece.config:
        raise RmpDeployError(f"run '{piece.folder}': trained with other settings. Choose another --out.")
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
        "accuracy": 100 * right / len(test.y),
        "quantization_error": statistics.fmean(d.quantization_error for d in layers.values()),
        "firing_rate": spikes / potentials,
        "energy_nJ": 1e9 * ledger.joule_per_sample,
        "layers": {
            name: {"quantization_error": d.quantization_error, "firing_rate": d.firing_rate}
            for name, d in layers.items()
        },
    }


Measured = dict[tuple[str, int], dict[str, float]]  # (arm, seed) -> measures


def table(measured: Measured) -> list[dict[str, object]]:
    """Mean and sample standard deviation over the seeds of each arm."""
    return [{"arm": arm} | _over_seeds([measured[arm, seed] for seed in SEEDS]) for arm in ARMS]


def differences(measured: Measured) -> list[dict[str, object]]:
    """Every arm with RMP-Loss less the one without it at the same T and seed: mean and deviation over the seeds."""
    rows = []
    for arm in ARMS:
        off = f"{arm.split(',')[0]}, off"
        if arm != off:
            pairs = [(measured[arm, seed], measured[off, seed]) for seed in SEEDS]
            rows.append({"arm": arm} | _over_seeds([{m: a[m] - b[m] for m in MEASURES} for a, b in pairs]))
    return rows


def _over_seeds(values: Sequence[dict[str, float]]) -> dict[str, object]:
    of = {measure: [v[measure] for v in values] for measure in MEASURES}
    means: dict[str, object] = {measure: statistics.fmean(found) for measure, found in of.items()}
    return means | {f"{measure}_std": statistics.stdev(found) for measure, found in of.items()}


def markdown(rows: Sequence[dict[str, object]], title: str, sign: str = "") -> str:
    """A table of docs/rmp_loss_study.md."""
    lines = [
        f"| {title} | accuracy [%] | quantization error | firing rate | energy, cmos45 [nJ a sample] |",
        "|---|---|---|---|---|",
    ]
    digits = dict(zip(MEASURES, (2, 3, 3, 0), strict=True))
    for row in rows:
        cells = [f"{row[m]:{sign}.{d}f} ± {row[f'{m}_std']:.{d}f}" for m, d in digits.items()]
        lines.append(f"| {' | '.join([str(row['arm']), *cells])} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="RMP-Loss on and off, in pieces that resume.")
    parser.add_argument("--data", metavar="FOLDER", required=True, help="Fashion-MNIST as IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/rmp_loss_study"), help="where the pieces lie")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings at a time, one thread each")
    args = parser.parse_args(argv)
    todo = pieces(args.out)
    try:
        subset(args.data, args.out / "data")
        with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
            for i, done in enumerate(as_completed([pool.submit(run_piece, piece) for piece in todo]), start=1):
                print(f"{i} of {len(todo)}: {done.result()}", flush=True)
    except RmpDeployError as e:
        parser.error(str(e))
    measured = {(p.arm, p.seed): json.loads((p.folder / "measured.json").read_text()) for p in todo}
    arms, against_off = table(measured), differences(measured)
    print(markdown(arms, "T, RMP-Loss"), markdown(against_off, "less off, same seed", "+"), sep="\n\n")
    print(json.dumps({"benchmark": "rmp_loss_study", "arms": arms, "less_off": against_off}))


if __name__ == "__main__":
    main()
