"""Accuracy and diagnostics of a network on labelled samples."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.config import Encoding
from rmp_deploy.training.data import Samples
from rmp_deploy.training.diagnostics import Diagnostics, LayerDiagnostics, NotFiniteError
from rmp_deploy.training.distributed import Processes
from rmp_deploy.training.encoders import encode

BATCH = 512
SEED = 1  # of random encodings: every evaluation sees the same spikes
ALONE = Processes(torch.device("cpu"))


class Evaluation(NamedTuple):
    """Accuracy 0..1; quantization error ``mean( min(|u|, |1 - u|) )``, mean over layers; each layer's diagnostics."""

    accuracy: float
    quantization_error: float
    layers: dict[str, LayerDiagnostics]


def evaluate(
    model: nn.Module, samples: Samples, encoding: Encoding = "direct", T: int = 1, processes: Processes = ALONE
) -> Evaluation:
    """Evaluate `model` in eval mode and float32 on the device of `processes`; each takes a part of the samples.

    Counts are exact sums over the processes. The model is left in eval mode.

    Raises:
        RmpDeployError: no labels, fewer samples than processes, or membrane potentials or outputs that are not finite.
    """
    if samples.y is None:
        todo = "Add y to score"
        raise RmpDeployError(f"data '{samples.name}': labels = none, allowed one per sample. {todo}.")
    if len(samples.x) < processes.count:
        what = f"held-out samples = {len(samples.x)}, allowed >= {processes.count}, one for each process"
        raise RmpDeployError(f"data '{samples.name}': {what}. Start fewer.")
    mine = processes.part(torch.arange(len(samples.x)))
    generator = torch.Generator().manual_seed(SEED + processes.rank)
    correct = torch.zeros((), dtype=torch.int64)
    with torch.no_grad(), Diagnostics(model.eval()) as diagnostics:
        for indices in torch.split(mine, BATCH):
            chosen = slice(int(indices[0]), int(indices[-1]) + 1)
            x = torch.from_numpy(np.ascontiguousarray(samples.x[chosen])).to(processes.device)
            outputs = model(model_input(x, encoding, T, generator))
            if not bool(outputs.isfinite().all()):
                raise NotFiniteError("evaluation: outputs = NaN or infinite, allowed finite. Train with a lower lr.")
            correct += (outputs.argmax(1).cpu() == torch.from_numpy(samples.y[chosen])).sum()
    layers = {name: _over_processes(layer, processes) for name, layer in diagnostics.layers().items()}
    right = int(processes.sum(correct.to(processes.device)))
    error = sum(layer.quantization_error for layer in layers.values()) / len(layers)
    return Evaluation(right / len(samples.x), error, layers)


def model_input(x: Tensor, encoding: Encoding, T: int, generator: torch.Generator) -> Tensor:
    """What a network takes for samples `x` [B, ...]: as they are where it encodes them itself, else [T, B, ...]."""
    return x if encoding == "direct" else encode(x, T, encoding, generator)


def _over_processes(layer: LayerDiagnostics, processes: Processes) -> LayerDiagnostics:
    """One layer's diagnostics of all samples from those of each process's."""
    if processes.count == 1:
        return layer
    errors = torch.tensor([layer.quantization_error, layer.spike_error], dtype=torch.float64) * layer.potentials
    counts = torch.from_numpy(np.append(layer.counts, layer.spikes))
    errors, counts = (processes.sum(values.to(processes.device)).cpu() for values in (errors, counts))
    all_counts = replace(layer, counts=counts[:-1].numpy(), spikes=int(counts[-1]))
    nearer, to_spike = (errors / all_counts.potentials).tolist()
    return replace(all_counts, quantization_error=nearer, spike_error=to_spike)
