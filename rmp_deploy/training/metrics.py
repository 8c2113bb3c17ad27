"""What a run tells of every epoch, and the files that hold it: metrics.csv, layers.csv, diagnostics.npz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rmp_deploy.files import write_atomically
from rmp_deploy.training.diagnostics import History, save_history

METRICS, LAYERS, DIAGNOSTICS = "metrics.csv", "layers.csv", "diagnostics.npz"


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.csv.

    Attributes:
        epoch: counted from 1.
        loss: cross entropy + weighted RMP-Loss, mean over the epoch's batches.
        rmp_loss: the weighted RMP-Loss alone.
        test_accuracy: of the held-out samples, after the epoch, 0..1.
        quantization_error: ``mean( min(|u|, |1 - u|) )`` on the held-out samples, mean over layers.
        train_accuracy: of the batches as they were trained on, 0..1.
        lr: learning rate of the epoch.
        rmp_weight: lambda(n), the weight of RMP-Loss in the epoch.
    """

    epoch: int
    loss: float
    rmp_loss: float
    test_accuracy: float
    quantization_error: float
    train_accuracy: float
    lr: float
    rmp_weight: float


def write_metrics(folder: Path, metrics: Sequence[EpochMetrics], history: History) -> None:
    """Write the files of all epochs so far; each is whole, the old one or the new one.

    metrics.csv has a line for every epoch, layers.csv one for every epoch and layer (firing rate: spikes per neuron and
    step), diagnostics.npz the histograms of membrane potentials (`diagnostics.load_history` reads it).

    Raises:
        RmpDeployError: the folder cannot be written.
    """
    write_atomically(folder / METRICS, _csv([f.name for f in fields(EpochMetrics)], [astuple(m) for m in metrics]))
    layers = [
        (epoch, name, d.quantization_error, d.firing_rate)
        for epoch, of_layers in enumerate(history, start=1)
        for name, d in of_layers.items()
    ]
    write_atomically(folder / LAYERS, _csv(["epoch", "layer", "quantization_error", "firing_rate"], layers))
    save_history(folder / DIAGNOSTICS, history)


def _csv(header: Sequence[str], rows: Sequence[Sequence[int | float | str]]) -> str:
    lines = [",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row) for row in rows]
    return "\n".join([",".join(header), *lines]) + "\n"
