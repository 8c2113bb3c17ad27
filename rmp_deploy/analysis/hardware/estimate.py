"""An estimate of a quantity: a range, a point in it where there is one, or unknown and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rmp_deploy.hw_profiles import Figure, Price, Quantity


@dataclass(frozen=True)
class Estimate:
    """``low <= value <= high`` in `unit` (J, s, W or J s), an estimate and not a measurement.

    `value` is None where there is only a range; `low` and `high` are None too where nobody knows, and `why` says why.
    `sources`: of every figure that it was made from, with its evidence.
    """

    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""
    sources: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        return self.low is not None

    def times(self, factor: float) -> Estimate:
        """`factor` >= 0 of them, in the same unit."""
        return self.product(Estimate("1", factor, factor, factor), self.unit)

    def product(self, other: Estimate, unit: str) -> Estimate:
        """``self * other`` of two that are not negative, in `unit`."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return Estimate(unit, why=self.why or other.why)
        value = None if self.value is None or other.value is None else self.value * other.value
        return Estimate(unit, value, self.low * other.low, self.high * other.high, sources=sources_of((self, other)))


ZERO = Estimate("J", 0.0, 0.0, 0.0)


def sources_of(parts: Iterable[Estimate]) -> tuple[str, ...]:
    """Each source of the `parts` once."""
    return tuple(dict.fromkeys(source for part in parts for source in part.sources))


def total(unit: str, parts: Sequence[Estimate]) -> Estimate:
    """The sum; unknown, with the first reason, where one part is. Of no parts, 0."""
    value: float | None = 0.0
    low = high = 0.0
    for part in parts:
        if part.low is None or part.high is None:
            return Estimate(unit, why=part.why)
        value = None if value is None or part.value is None else value + part.value
        low, high = low + part.low, high + part.high
    return Estimate(unit, value, low, high, sources=sources_of(parts))


def one_of(unit: str, parts: Sequence[Estimate]) -> Estimate:
    """One of the `parts`, at least one, and nobody knows which; unknown, with the first reason, where one part is."""
    lows, highs = [], []
    for part in parts:
        if part.low is None or part.high is None:
            return Estimate(unit, why=part.why)
        lows.append(part.low)
        highs.append(part.high)
    low, high = min(lows), max(highs)
    return Estimate(unit, low if low == high else None, low, high, sources=sources_of(parts))


def of(figure: Price | Quantity) -> Estimate:
    """A profile's figure: the energy of one operation [J], a power [W] or a time [s]."""
    if isinstance(figure, Quantity):
        return Estimate(figure.unit, figure.value, figure.low, figure.high, figure.why, _told_by(figure))
    why = f"held by {', '.join(figure.included_in)}" if figure.included_in else figure.why
    told_by = () if figure.figure is None else _told_by(figure.figure)
    return Estimate("J", figure.joule, figure.low, figure.high, why, told_by)


def _told_by(figure: Figure | Quantity) -> tuple[str, ...]:
    return (f"{figure.source} ({figure.evidence})",) if figure.source else ()
