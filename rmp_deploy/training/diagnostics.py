"""The paper's two diagnostics, streamed over batches: quantization error of every layer, histogram of its potentials.

Source: Guo et al., ICCV 2023, arXiv 2308.06787, figure 1 (membrane potentials on [-2, 2] against the two spike values);
docs/rmp_loss.md says how each fact is known.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import write_atomically
from rmp_deploy.training.neurons import LIF, neurons

PER_UNIT, LOW, HIGH = 16, -2, 2  # bins of 1/16: every edge is exact in every float, 0, 0.5 and 1 among them
PIECE = 1 << 20  # potentials at a time: 4 MB of scratch, and fewer than the 2^24 that float32 counts
BINS = (HIGH - LOW) * PER_UNIT + 2
COLUMNS = ("counts", "spikes", "quantization_error", "spike_error")  # of a history
EDGES = (-math.inf, *(LOW + i / PER_UNIT for i in range(BINS - 1)), math.inf)


class NotFiniteError(RmpDeployError):
    """NaN or infinity in what a network computes."""


@dataclass(frozen=True, eq=False)
class LayerDiagnostics:
    """Membrane potentials u before the reset and spikes s of one layer, over time, samples and neurons.

    Attributes:
        counts: potentials by bin, int64 [len(EDGES) - 1]; bin i holds ``EDGES[i] <= u < EDGES[i + 1]``, the first and
            the last what lies beyond [-2, 2): their sum is the number of potentials.
        spikes: how many spikes.
        quantization_error: ``mean( min(|u|, |1 - u|) )``: to the nearer of 0 and 1, what RMP-Loss makes small.
        spike_error: ``mean( |u - s| )``: to the spike that u became. The same number where v_threshold is 0.5.
    """

    counts: npt.NDArray[np.int64]
    spikes: int
    quantization_error: float
    spike_error: float

    @property
    def potentials(self) -> int:
        """T x samples x neurons."""
        return int(self.counts.sum())

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and step, 0..1."""
        return self.spikes / self.potentials


class Diagnostics:
    """Watches every LIF of a model while it is open; each batch adds to sums whose size no batch changes.

    ::

        with torch.no_grad(), Diagnostics(model.eval()) as diagnostics:
            for x in batches:
                model(x)
        layers = diagnostics.layers()  # by module path

    Counts are exact. Errors are summed over a million potentials in the dtype of u, at least float32, then in float64.

    Raises:
        ValueError: the model has no LIF layers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._watched = {name: (layer, _Sums()) for name, layer in neurons(model).items()}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        if not self._watched:
            raise ValueError("Diagnostics: LIF layers in the model = 0, allowed at least 1. Use rmp_deploy's neurons.")

    def __enter__(self) -> Diagnostics:
        self._hooks = [layer.register_forward_hook(sums.add) for layer, sums in self._watched.values()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def layers(self) -> dict[str, LayerDiagnostics]:
        """What was seen so far, by module path in the order of registration.

        Raises:
            RmpDeployError: no forward pass has reached a layer, or its potentials are not finite.
        """
        return {name: sums.result(name) for name, (_, sums) in self._watched.items()}


class _Sums:
    """The sums of one layer; they stay on its device until somebody asks for them."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.spikes = torch.zeros((), dtype=torch.int64)
        self.errors = torch.zeros(2, dtype=torch.float64)  # to the nearer of 0 and 1, to the spike

    @torch.no_grad()
    def add(self, layer: nn.Module, _: Any, spikes: Tensor) -> None:
        """A forward hook: add one pass, in pieces whose scratch is small and whose float32 count of spikes is exact."""
        assert isinstance(layer, LIF)
        assert layer.u is not None
        self.counts, self.spikes, self.errors = (s.to(spikes.device) for s in (self.counts, self.spikes, self.errors))
        for piece, s in zip(torch.split(layer.u.flatten(), PIECE), torch.split(spikes.flatten(), PIECE), strict=True):
            u = piece.to(torch.promote_types(piece.dtype, torch.float32))
            bins = (u * PER_UNIT).floor_().sub_(LOW * PER_UNIT - 1).clamp_(0, BINS - 1)
            # NaN is in no bin and may become any byte: `result` refuses it by its error
            self.counts += torch.bincount(bins.to(torch.uint8), minlength=BINS)[:BINS]
            self.spikes += s.sum(dtype=u.dtype).long()
            to_nearer = (u - (u > 0.5).to(u.dtype)).abs_().sum()
            self.errors += torch.stack([to_nearer, (u - s).abs_().sum()])

    def result(self, name: str) -> LayerDiagnostics:
        to_nearer, to_spike = self.errors.tolist()
        if not math.isfinite(to_nearer):
            what = f"membrane potentials of layer '{name}' = NaN or infinite"
            raise NotFiniteError(f"diagnostics: {what}, allowed finite. Train with a lower lr.")
        potentials = int(self.counts.sum())
        if not potentials:
            what = f"membrane potentials of layer '{name}' = none"
            raise RmpDeployError(f"diagnostics: {what}, allowed at least one. Run the model forward first.")
        counts = self.counts.cpu().numpy().copy()
        return LayerDiagnostics(counts, int(self.spikes), to_nearer / potentials, to_spike / potentials)


History = Sequence[Mapping[str, LayerDiagnostics]]  # by epoch, then by module path


def save_history(path: str | Path, history: History) -> Path:
    """Write the diagnostics of every epoch as an .npz, whole or not at all.

    Arrays: ``edges`` [bins + 1]; for each layer ``counts/<layer>`` int64 [epochs, bins], ``spikes/<layer>`` int64,
    ``quantization_error/<layer>`` and ``spike_error/<layer>`` float64 [epochs].

    Raises:
        RmpDeployError: the file cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"edges": np.array(EDGES)}
    for name in history[0] if history else ():
        layer = [epoch[name] for epoch in history]
        arrays[f"counts/{name}"] = np.stack([d.counts for d in layer])
        arrays[f"spikes/{name}"] = np.array([d.spikes for d in layer], np.int64)
        arrays[f"quantization_error/{name}"] = np.array([d.quantization_error for d in layer])
        arrays[f"spike_error/{name}"] = np.array([d.spike_error for d in layer])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return write_atomically(path, buffer.getvalue())


def chain(before: str, epoch: Mapping[str, LayerDiagnostics]) -> str:
    """SHA-256 of one epoch's diagnostics and of the `chain` of all epochs before it, "" where there are none."""
    digest = hashlib.sha256(before.encode())
    for name, d in epoch.items():
        digest.update(f"{name} {d.spikes} {d.quantization_error!r} {d.spike_error!r} ".encode() + d.counts.tobytes())
    return digest.hexdigest()


def load_history(path: str | Path) -> list[dict[str, LayerDiagnostics]]:
    """Read what `save_history` wrote.

    Raises:
        RmpDeployError: the file is missing, malformed or has other bins.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        same_bins = arrays["edges"].tolist() == list(EDGES)
        layers = [name.removeprefix("counts/") for name in arrays if name.startswith("counts/")]
        columns = {name: [arrays[f"{what}/{name}"] for what in COLUMNS] for name in layers}
        epochs = {len(column) for layer in columns.values() for column in layer}
        well_formed = same_bins and len(epochs) <= 1 and all(_is_layer(*c) for c in columns.values())
    except OSError as e:
        raise RmpDeployError(f"diagnostics '{path}': cannot be read ({e.strerror or e}). Train first.") from e
    except Exception as e:  # of a corrupt archive: zipfile's, zlib's, numpy's, even tokenize's (array headers) errors
        raise RmpDeployError(f"diagnostics '{path}': malformed ({type(e).__name__}). Train again.") from e
    if not well_formed:
        raise RmpDeployError(f"diagnostics '{path}': arrays of other bins, types or lengths. Train again.")
    rows = range(epochs.pop() if epochs else 0)
    return [
        {
            name: LayerDiagnostics(counts[i], int(spikes[i]), float(nearer[i]), float(to_spike[i]))
            for name, (counts, spikes, nearer, to_spike) in columns.items()
        }
        for i in rows
    ]


def _is_layer(counts: npt.NDArray[Any], spikes: npt.NDArray[Any], *errors: npt.NDArray[Any]) -> bool:
    integers = counts.dtype == spikes.dtype == np.int64
    numbers = all(e.dtype == np.float64 and e.ndim == 1 for e in errors)
    if not (integers and numbers and spikes.ndim == 1 and counts.shape[1:] == (BINS,) and len(counts) == len(spikes)):
        return False
    potentials = counts.sum(1)
    return bool((counts >= 0).all() and (potentials > 0).all() and ((spikes >= 0) & (spikes <= potentials)).all())
