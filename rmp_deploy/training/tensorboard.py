"""A run's metrics for TensorBoard: the numbers of metrics.csv and layers.csv, and the histograms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.diagnostics import EDGES, LayerDiagnostics
from rmp_deploy.training.metrics import EpochMetrics

FOLDER = "tensorboard"


class TensorBoard:
    """Event files in a run's folder `tensorboard`; epochs from `epoch` on replace those of an interrupted run.

    Raises:
        RmpDeployError: the package tensorboard is not installed.
    """

    def __init__(self, run: Path, epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as e:
            todo = "Run: pip install 'rmp-deploy[tensorboard]'"
            raise RmpDeployError(f"train --tensorboard: needs {e.name}. {todo}.") from e
        self._writer = SummaryWriter(str(run / FOLDER), purge_step=epoch)

    def write(self, metrics: EpochMetrics, layers: Mapping[str, LayerDiagnostics]) -> None:
        """Add one epoch and flush it."""
        scalars = asdict(metrics)
        epoch = scalars.pop("epoch")
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)
        for name, layer in layers.items():
            self._writer.add_scalar(f"quantization_error/{name}", layer.quantization_error, epoch)
            self._writer.add_scalar(f"firing_rate/{name}", layer.firing_rate, epoch)
            self._add_histogram(f"potentials/{name}", layer, epoch)
        self._writer.flush()

    def _add_histogram(self, name: str, layer: LayerDiagnostics, epoch: int) -> None:
        """Counts as they are. What lies beyond the last edges is drawn in bins as wide as the others."""
        low, *_, high = inner = np.array(EDGES[1:-1])
        width = inner[1] - inner[0]
        self._writer.add_histogram_raw(
            name,
            min=low - width,
            max=high + width,
            num=layer.potentials,
            sum=float("nan"),  # nobody kept it; TensorBoard draws the bins
            sum_squares=float("nan"),
            bucket_limits=[*inner.tolist(), high + width],
            bucket_counts=layer.counts.tolist(),
            global_step=epoch,
        )

    def close(self) -> None:
        self._writer.close()
