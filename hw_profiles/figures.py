"""One figure of a profile: a point, a range or unknown, with how it was found and who says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rmp_deploy.errors import RmpDeployError

Scope = Literal["per_term", "all_in"]
Evidence = Literal["measured", "simulated", "derived", "estimated"]
Status = Literal["priced", "unknown", "included"]
Extent = Literal["chip", "tile", "core", "neuron", "synapse", "spike"]
Origin = Literal["published", "software", "secondary", "derived"]
Dimension = Literal["J", "W", "s"]

# How many of a unit make one of its dimension: a division rounds once, so that 1.7 pJ prints as 1.7e-12.
UNITS: dict[Dimension, dict[str, float]] = {
    "J": {"J": 1.0, "mJ": 1e3, "uJ": 1e6, "nJ": 1e9, "pJ": 1e12, "fJ": 1e15},
    "W": {"W": 1.0, "mW": 1e3, "uW": 1e6, "nW": 1e9},
    "s": {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9, "ps": 1e12},
}


@dataclass(frozen=True)
class Figure:
    """A published energy of one operation [J]: what it covers, how it was found, and who says so.

    Attributes:
        joule: the value [J]; None where the sources give a range without a point.
        low, high: the range [J]; both are `joule` where there is a point.

    Raises:
        RmpDeployError: neither a point nor a range, negative, not finite, or low > high.
    """

    joule: float | None
    scope: Scope
    evidence: Evidence
    source: str
    low: float = math.nan
    high: float = math.nan

    def __post_init__(self) -> None:
        if self.joule is not None:
            object.__setattr__(self, "low", self.joule)
            object.__setattr__(self, "high", self.joule)
        if not 0 <= self.low <= self.high < math.inf:
            raise RmpDeployError(
                f"figure of '{self.source}': low, high = {self.low}, {self.high} J, "
                "allowed 0 <= low <= high, finite. Correct it."
            )


@dataclass(frozen=True)
class Price:
    """What is known of the energy of one operation: exactly one of three.

    priced: it has a `figure`. included: the figures of the terms `included_in` hold it already, so it is neither
    priced twice nor reported as unpriced. unknown: neither. `why` says why there is no figure.
    """

    figure: Figure | None = None
    why: str = ""
    included_in: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        if self.figure is not None:
            return "priced"
        return "included" if self.included_in else "unknown"

    @property
    def joule(self) -> float | None:
        """Energy of one operation [J]; None if it has no figure of its own, or a range without a point."""
        return None if self.figure is None else self.figure.joule

    @property
    def low(self) -> float | None:
        """Least energy of one operation [J]; None if it has no figure of its own."""
        return None if self.figure is None else self.figure.low

    @property
    def high(self) -> float | None:
        """Greatest energy of one operation [J]; None if it has no figure of its own."""
        return None if self.figure is None else self.figure.high


@dataclass(frozen=True)
class Quantity:
    """A power [W], a time [s] or an energy [J], as `unit` says: a point, a range, or unknown and `why`.

    `value` is None where there is no point; `low` and `high` are None too where nothing is known.
    """

    value: float | None
    unit: Dimension
    low: float | None = None
    high: float | None = None
    evidence: Evidence | None = None
    source: str = ""
    why: str = ""


@dataclass(frozen=True)
class Memory:
    """One access of `access_bits` bits to a memory of `bytes` bytes; None: off chip, of no stated size."""

    name: str
    bytes: int | None
    access_bits: int
    price: Price


@dataclass(frozen=True)
class Barrier:
    """How long the barrier between two steps takes [s] where the network lies on `tiles` tiles."""

    tiles: int
    time: Quantity


@dataclass(frozen=True)
class WholeTask:
    """A figure of a whole task on the chip, as `what` says; never multiplied with counts."""

    what: str
    figure: Quantity


@dataclass(frozen=True)
class Limit:
    """A size that the hardware cannot exceed, in `unit` for each `scope`; None is unknown, and `why` says why.

    evidence: published by the maker; in the source of `software` for the chip; reported by others (`secondary`);
    `derived` from other figures.
    """

    value: int | None
    unit: str
    scope: Extent
    evidence: Origin | None = None
    source: str = ""
    why: str = ""
