"""Hardware profiles: what one operation costs, how much fits, who says so, and how far each figure may be trusted.

A profile is a TOML file. Every number carries value, unit, scope, evidence and source. TOML has no null, so an unknown
figure is written ``value = "unknown"`` with a `why` and becomes None: never 0, and never a silent gap.
docs/profiles.md describes every key.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, get_args

from rmp_deploy.errors import RmpDeployError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Scope = Literal["per_term", "all_in"]
Evidence = Literal["measured", "simulated", "derived", "estimated"]
Status = Literal["priced", "unknown", "included"]
Extent = Literal["chip", "core", "neuron", "synapse", "spike"]
Origin = Literal["published", "software", "secondary", "derived"]


class Term(NamedTuple):
    """What a count is called in words, and the unit that it counts."""

    title: str
    unit: str


class LimitKind(NamedTuple):
    """What a limit counts, what it is a limit of, and the least value that it can have; `MOST_BITS` for bits."""

    unit: str
    scope: Extent
    least: int = 1


TERMS: dict[str, Term] = {
    "mac": Term("multiply-accumulates of real-valued and graded inputs", "operation"),
    "ac": Term("accumulates, one per synapse that a spike reaches", "operation"),
    "bias_add": Term("bias adds", "operation"),
    "residual_add": Term("residual adds that no synapse accumulates", "operation"),
    "pool_add": Term("pooling adds", "operation"),
    "pool_or": Term("ORs of spikes in pools", "operation"),
    "conversion": Term("conversions between real values and Loihi's integers", "operation"),
    "neuron_active": Term("neuron updates that received input or spiked", "update"),
    "neuron_inactive": Term("neuron updates that did neither", "update"),
    "neuron_multiply": Term("membrane and current decays", "operation"),
    "neuron_add": Term("membrane and current adds", "operation"),
    "neuron_compare": Term("threshold comparisons", "operation"),
    "reset": Term("membrane resets", "operation"),
    "spike": Term("spikes sent", "spike"),
    "weight_read": Term("weights read", "word"),
    "state_read": Term("neuron and delay states read", "word"),
    "state_write": Term("neuron and delay states written", "word"),
}
LIMITS: dict[str, LimitKind] = {
    "cores": LimitKind("core", "chip"),
    "neurons_per_core": LimitKind("neuron", "core"),
    "input_axons_per_core": LimitKind("axon", "core"),
    "output_axons_per_core": LimitKind("axon", "core"),
    "synapse_memory_per_core": LimitKind("byte", "core"),
    "synapses_per_core": LimitKind("synapse", "core"),
    "thresholds_per_core": LimitKind("value", "core"),
    "weight_bits": LimitKind("bit", "synapse"),
    "delay_steps": LimitKind("step", "synapse", 0),
    "decay_bits": LimitKind("bit", "neuron"),
    "threshold_bits": LimitKind("bit", "neuron"),
    "bias_bits": LimitKind("bit", "neuron"),
    "state_bits": LimitKind("bit", "neuron"),
    "graded_spike_bits": LimitKind("bit", "spike", 0),  # 0: a spike carries nothing
}
PER_JOULE: dict[str, float] = {"J": 1.0, "nJ": 1e9, "pJ": 1e12, "fJ": 1e15}
ABSENT = "not in the profile"
MAX_VALUE = 1e15  # also keeps NaN and infinity out
MOST_BITS = 64  # a machine word: what is computed from them stays a number
MAX_BYTES = 1 << 16  # a profile is a few pages of text: anything larger is the wrong file


@dataclass(frozen=True)
class Figure:
    """A published energy of one operation [J]: what it covers, how it was found, and who says so."""

    joule: float
    scope: Scope
    evidence: Evidence
    source: str


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
        """Energy of one operation [J]; None if it has no figure of its own."""
        return None if self.figure is None else self.figure.joule


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


@dataclass(frozen=True)
class HardwareProfile:
    """A price for every name in `TERMS` and a limit for every name in `LIMITS`; what was not given is unknown.

    `uncounted` holds published figures of operations that no count covers yet (mesh hops need a placement).

    Raises:
        RmpDeployError: per-term and all-in figures are mixed, there is more than one all-in figure, or a term is
            included in figures that do not exist.
    """

    name: str
    title: str
    prices: Mapping[str, Price]
    notes: tuple[str, ...] = ()
    uncounted: Mapping[str, Price] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        absent = Price(why=ABSENT)
        prices = {term: self.prices.get(term, absent) for term in TERMS}
        limits = {n: self.limits.get(n, Limit(None, k.unit, k.scope, why=ABSENT)) for n, k in LIMITS.items()}
        object.__setattr__(self, "prices", prices)
        object.__setattr__(self, "limits", limits)
        figures = {term: price.figure for term, price in prices.items() if price.figure is not None}
        all_in = [term for term, figure in figures.items() if figure.scope == "all_in"]
        per_term = [term for term, figure in figures.items() if figure.scope == "per_term"]
        if all_in and per_term:
            raise _bad(
                self.name,
                f"{all_in[0]} is all_in and {per_term[0]} is per_term",
                "one scope (an all-in figure already holds the others)",
                "Split it into two profiles",
            )
        if len(all_in) > 1:
            raise _bad(self.name, f"all_in terms = {', '.join(all_in)}", "1 (two would count twice)", "Keep one")
        for term, price in prices.items():
            held = [prices[t].status for t in price.included_in if t in prices]
            if price.included_in and ("priced" not in held or "included" in held):
                what = f"terms.{term}.included_in = {list(price.included_in)}"
                raise _bad(self.name, what, "terms with a figure of their own, one of them priced", "Correct it")


def read(path: Path) -> HardwareProfile:
    """Read a profile from a TOML file.

    Raises:
        RmpDeployError: the file cannot be read, is not TOML, or does not follow the schema.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _bad(str(path), f"file = {error.strerror}", "a readable TOML file", "Check the path") from error
    if len(content) > MAX_BYTES:
        raise _bad(str(path), f"size > {MAX_BYTES} bytes", f"{MAX_BYTES} bytes", "Check that it is a profile")
    try:
        document: dict[str, object] = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # what the parser and the decoder raise are ValueErrors
        what = f"not TOML ({' '.join(str(error).split())})"
        raise _bad(str(path), what, "a TOML file", "Correct the syntax") from error
    return parse(document, str(path))


def parse(document: Mapping[str, object], where: str) -> HardwareProfile:
    """Validate a parsed TOML document; `where` names it in errors.

    Raises:
        RmpDeployError: an unknown or missing key, unit, scope or evidence, a negative figure, or mixed scopes.
    """
    _keys(where, document, ("name", "title", "terms"), optional=("notes", "uncounted", "limits"))
    notes = document.get("notes", [])
    if not isinstance(notes, list):
        raise _bad(where, f"notes = {_show(notes)}", "a list of texts", "Put it in brackets")
    terms = _table(f"{where}: terms", document["terms"])
    limits = _table(f"{where}: limits", document.get("limits", {}))
    _keys(f"{where}: terms", terms, (), optional=TERMS)
    _keys(f"{where}: limits", limits, (), optional=LIMITS)
    return HardwareProfile(
        name=_text(where, "name", document["name"]),
        title=_text(where, "title", document["title"]),
        notes=tuple(_text(where, "notes", note) for note in notes),
        prices=_each(f"{where}: terms", terms, _price),
        uncounted=_each(f"{where}: uncounted", _table(f"{where}: uncounted", document.get("uncounted", {})), _price),
        limits={
            n: _limit(f"{where}: limits.{n}", _table(f"{where}: limits.{n}", limits[n]), LIMITS[n]) for n in limits
        },
    )


Value = TypeVar("Value")


def _each(
    where: str, tables: Mapping[str, object], read_one: Callable[[str, Mapping[str, object]], Value]
) -> dict[str, Value]:
    strange = [name for name in tables if not name.isidentifier()]
    if strange:
        raise _bad(where, f"name = {_show(strange[0])}", "letters, digits and _", "Rename it")
    return {name: read_one(f"{where}.{name}", _table(f"{where}.{name}", raw)) for name, raw in tables.items()}


def _price(where: str, raw: Mapping[str, object]) -> Price:
    if "included_in" in raw:
        _keys(where, raw, ("included_in", "why"))
        names = raw["included_in"]
        if not isinstance(names, list) or not names or any(not isinstance(n, str) or n not in TERMS for n in names):
            raise _bad(
                where, f"included_in = {_show(names)}", f"a list of {', '.join(TERMS)}", "Name the terms that hold it"
            )
        return Price(included_in=tuple(names), why=_text(where, "why", raw["why"]))
    if raw.get("value") == "unknown":
        _keys(where, raw, ("value", "why"))
        return Price(why=_text(where, "why", raw["why"]))
    _keys(where, raw, ("value", "unit", "scope", "evidence", "source"))
    value, unit = raw["value"], raw["unit"]
    if not isinstance(unit, str) or unit not in PER_JOULE:
        raise _bad(where, f"unit = {_show(unit)}", f"one of {', '.join(PER_JOULE)}", "Convert the value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_VALUE:
        raise _bad(where, f"value = {_show(value)} {unit}", f'0..{MAX_VALUE:g}, or "unknown" with a why', "Correct it")
    for key, allowed in (("scope", get_args(Scope)), ("evidence", get_args(Evidence))):
        if raw[key] not in allowed:
            raise _bad(where, f"{key} = {_show(raw[key])}", " or ".join(allowed), "Choose one")
    figure = Figure(
        joule=value / PER_JOULE[unit],  # a division rounds once: 1.7 pJ prints as 1.7e-12
        scope=raw["scope"],  # type: ignore[arg-type]  # checked above
        evidence=raw["evidence"],  # type: ignore[arg-type]
        source=_text(where, "source", raw["source"]),
    )
    return Price(figure)


def _limit(where: str, raw: Mapping[str, object], kind: LimitKind) -> Limit:
    if raw.get("value") == "unknown":
        _keys(where, raw, ("value", "why"))
        return Limit(None, kind.unit, kind.scope, why=_text(where, "why", raw["why"]))
    _keys(where, raw, ("value", "unit", "scope", "evidence", "source"))
    for key, allowed in (("unit", kind.unit), ("scope", kind.scope)):
        if raw[key] != allowed:
            raise _bad(where, f"{key} = {_show(raw[key])}", allowed, "Convert the value")
    value, evidence = raw["value"], raw["evidence"]
    most = MOST_BITS if kind.unit == "bit" else MAX_VALUE
    if isinstance(value, bool) or not isinstance(value, int) or not kind.least <= value <= most:
        allowed = f'an integer >= {kind.least} and <= {most:g}, or "unknown" with a why'
        raise _bad(where, f"value = {_show(value)}", allowed, "Correct it")
    if evidence not in get_args(Origin):
        raise _bad(where, f"evidence = {_show(evidence)}", " or ".join(get_args(Origin)), "Choose one")
    return Limit(value, kind.unit, kind.scope, evidence, _text(where, "source", raw["source"]))  # type: ignore[arg-type]


def _bad(where: str, what: str, allowed: str, todo: str) -> RmpDeployError:
    return RmpDeployError(f"profile {where}: {what}, allowed {allowed}. {todo}.")


def _show(value: object) -> str:
    """The value in at most a line: a hostile file may hold a text, a nesting or an integer of any size."""
    try:
        return reprlib.repr(value)
    except ValueError:  # more digits than Python prints
        return "a huge integer"


def _table(where: str, raw: object) -> Mapping[str, object]:
    if not isinstance(raw, dict):
        raise _bad(where, f"value = {_show(raw)}", "a table", "Write it as [table] with its keys")
    return raw


def _text(where: str, key: str, raw: object) -> str:
    """The text on one line; what a terminal would obey instead of print is refused."""
    text = " ".join(raw.split()) if isinstance(raw, str) else ""
    if not text or not text.isprintable():
        raise _bad(where, f"{key} = {_show(raw)}", "a text that is not empty, of printable characters", "Write one")
    return text


def _keys(
    where: str,
    table: Mapping[str, object],
    required: tuple[str, ...],
    optional: tuple[str, ...] | Mapping[str, object] = (),
) -> None:
    allowed = (*required, *optional)
    unknown = [key for key in table if key not in allowed]
    if unknown:
        raise _bad(where, f"unknown key {_show(unknown[0])}", ", ".join(allowed), "Correct or remove it")
    missing = [key for key in required if key not in table]
    if missing:
        raise _bad(where, f"key '{missing[0]}' is missing", f"all of {', '.join(required)}", "Add it")
