"""The diagnostics of RMP-Loss: how membrane potentials are distributed, and how far they lie from a spike's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Histogram:
    """Density of membrane potentials before the reset; potentials beyond the edges count in the outermost bins."""

    edges: tuple[float, ...]
    density: tuple[float, ...]  # integrates to 1
    quantization_error: float


def quantization_error(u: npt.NDArray[Any]) -> float:
    """``mean( min(|u|, |1 - u|) )``: the distance to the nearest value that a spike can take."""
    return float(np.minimum(np.abs(u), np.abs(1 - u)).mean(dtype=np.float64))


def histogram(u: npt.NDArray[Any], low: float = -2.0, high: float = 2.0, bins: int = 80) -> Histogram:
    """Histogram of `u` (any shape) between `low` and `high`; paper figure 1 shows [-2, 2]."""
    counts, edges = np.histogram(np.clip(u, low, high), bins=bins, range=(low, high))
    density = counts / (counts.sum() * np.diff(edges))
    return Histogram(tuple(edges.tolist()), tuple(density.tolist()), quantization_error(u))
