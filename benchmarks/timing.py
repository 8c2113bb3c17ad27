"""Timing side by side: machines are noisy, and only what ran in turn in one process compares."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def alternate(contestants: dict[str, Callable[[], object]], rounds: int, warm_up: int = 6) -> dict[str, float]:
    """Median seconds [s] of each contestant, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(warm_up + rounds):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            if i >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}
