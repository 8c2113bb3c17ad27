"""Profiles from TOML files: every key is checked, and a mistake is one line that names it.

TOML has no null, so an unknown figure is written ``value = "unknown"`` with a `why` and becomes None.
docs/profiles.md describes every key.
"""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from rmp_deploy.hw_profiles.figures import (
    UNITS,
    Barrier,
    Dimension,
    Evidence,
    Figure,
    Limit,
    Memory,
    Origin,
    Price,
    Quantity,
    Scope,
    WholeTask,
)
from rmp_deploy.hw_profiles.schema import (
    LATENCIES,
    LIMITS,
    MESH,
    ROUTES,
    STATIC,
    TERMS,
    UNSTATED,
    HardwareProfile,
    bad,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_VALUE = 1e15  # also keeps NaN and infinity out
MAX_MESH = 1 << 20  # tiles in a row and cores in a tile: a core's number stays a machine word
MOST_BITS = 64  # a machine word: what is computed from them stays a number
MAX_BYTES = 1 << 16  # a profile is a few pages of text: anything larger is the wrong file
NOT_ROUNDED = "0 or what is not rounded to it"
OFF_CHIP = "off_chip"
UNLISTED = "unlisted"
SECTIONS = ("notes", "precision_source", "uncounted", "limits", "memory", "routing", "static", "latency", "whole_task")

Value = TypeVar("Value")
Table = Mapping[str, object]


def read(path: Path) -> HardwareProfile:
    """Read a profile from a TOML file.

    Raises:
        RmpDeployError: the file cannot be read, is not TOML, or does not follow the schema.
    """
    where = str(path) if str(path).isprintable() else ascii(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        why = error.strerror if isinstance(error, OSError) else "no path"
        raise bad(where, f"file = {why}", "a readable TOML file", "Check the path") from error
    if len(content) > MAX_BYTES:
        raise bad(where, f"size > {MAX_BYTES} bytes", f"{MAX_BYTES} bytes", "Check that it is a profile")

    def number(text: str) -> float:
        """The float; what is not 0 and is rounded to 0 would be a free operation."""
        value = float(text)
        if value == 0 and re.search("[1-9]", text.lower().partition("e")[0]):
            raise bad(where, f"number = {_show(text)}", NOT_ROUNDED, "Correct it")
        return value

    try:
        document: dict[str, object] = tomllib.loads(content.decode(), parse_float=number)
    except (ValueError, RecursionError) as error:  # what the parser and the decoder raise are ValueErrors
        what = f"not TOML ({' '.join(str(error).split())})"
        raise bad(where, what, "a TOML file", "Correct the syntax") from error
    return parse(document, where)


def parse(document: Table, where: str) -> HardwareProfile:
    """Validate a parsed TOML document; `where` names it in errors.

    Raises:
        RmpDeployError: an unknown or missing key, unit, scope or evidence, a negative figure, min > max, mixed scopes.
    """
    _keys(where, document, ("name", "title", "precision", "terms"), optional=SECTIONS)
    notes = document.get("notes", [])
    if not isinstance(notes, list):
        raise bad(where, f"notes = {_show(notes)}", "a list of texts", "Put it in brackets")
    precision = _text(where, "precision", document["precision"])
    source = document.get("precision_source", "")
    if precision != UNSTATED or source:
        source = _text(where, "precision_source", source)

    def section(name: str) -> Table:
        return _table(f"{where}: {name}", document.get(name, {}))

    routing, latency = section("routing"), section("latency")
    _keys(f"{where}: routing", routing, (), optional=(*ROUTES, *MESH, UNLISTED))
    _keys(f"{where}: latency", latency, (), optional=(*LATENCIES, "barrier", UNLISTED))
    return HardwareProfile(
        name=_text(where, "name", document["name"]),
        title=_text(where, "title", document["title"]),
        notes=tuple(_text(where, "notes", note) for note in notes),
        precision=precision,
        precision_source=str(source),
        prices=_each(f"{where}: terms", section("terms"), _price, TERMS),
        uncounted=_each(f"{where}: uncounted", section("uncounted"), _price),
        limits=_each(f"{where}: limits", section("limits"), _limit, LIMITS),
        memory=tuple(_list(f"{where}: memory", document.get("memory", []), _memory)),
        routing=_each(f"{where}: routing", _only(routing, ROUTES), _part, ROUTES),
        mesh=_each(f"{where}: routing", _only(routing, MESH), _limit, MESH),
        static=_each(f"{where}: static", section("static"), _power, STATIC),
        latency=_each(f"{where}: latency", _only(latency, LATENCIES), _time, LATENCIES),
        barrier=tuple(_list(f"{where}: latency.barrier", latency.get("barrier", []), _barrier)),
        whole_task=_each(f"{where}: whole_task", section("whole_task"), _whole_task),
    )


def _only(table: Table, names: Mapping[str, object]) -> Table:
    return {name: raw for name, raw in table.items() if name in names or name == UNLISTED}


def _each(
    where: str,
    tables: Table,
    read_one: Callable[[str, str, Table], Value],
    allowed: Mapping[str, object] | None = None,
) -> dict[str, Value]:
    """`read_one(where, name, table)` of every table; `unlisted` is the why of the allowed names that have none."""
    given = dict(tables)
    if allowed is not None:
        _keys(where, tables, (), optional=(*allowed, UNLISTED))
        if UNLISTED in given:
            unknown = {"value": "unknown", "why": _text(where, UNLISTED, given.pop(UNLISTED))}
            given = {name: given.get(name, unknown) for name in allowed}
    strange = [name for name in given if not name.isidentifier()]
    if strange:
        raise bad(where, f"name = {_show(strange[0])}", "letters, digits and _", "Rename it")
    return {name: read_one(f"{where}.{name}", name, _table(f"{where}.{name}", raw)) for name, raw in given.items()}


def _list(where: str, raw: object, read_one: Callable[[str, Table], Value]) -> list[Value]:
    """`read_one(where, table)` of every table of an array of tables."""
    if not isinstance(raw, list):
        raise bad(where, f"value = {_show(raw)}", "an array of tables", "Write each as [[table]] with its keys")
    return [read_one(f"{where}[{i}]", _table(f"{where}[{i}]", each)) for i, each in enumerate(raw)]


def _price(where: str, name: str, raw: Table) -> Price:
    if "included_in" in raw:
        _keys(where, raw, ("included_in", "why"))
        names = raw["included_in"]
        if not isinstance(names, list) or not names or any(not isinstance(n, str) or n not in TERMS for n in names):
            raise bad(
                where, f"included_in = {_show(names)}", f"a list of {', '.join(TERMS)}", "Name the terms that hold it"
            )
        return Price(included_in=tuple(names), why=_text(where, "why", raw["why"]))
    if raw.get("value") == "unknown":
        return Price(why=_why(where, raw))
    low, high = _range(where, raw, "J", ("scope", "evidence", "source"))
    return Price(
        Figure(
            joule=low if low == high else None,
            scope=_choice(where, "scope", raw, get_args(Scope)),
            evidence=_choice(where, "evidence", raw, get_args(Evidence)),
            source=_text(where, "source", raw["source"]),
            low=low,
            high=high,
        )
    )


def _part(where: str, name: str, raw: Table) -> Price:
    """The energy of one message, hop or access: a part, and so never all-in."""
    price = _price(where, name, raw)
    if price.figure is not None and price.figure.scope == "all_in":
        raise bad(where, "scope = 'all_in'", "per_term (an all-in figure is the price of a term)", "Correct it")
    return price


def _quantity(where: str, raw: Table, unit: Dimension, more: tuple[str, ...] = ()) -> Quantity:
    if raw.get("value") == "unknown":
        return Quantity(None, unit, why=_why(where, raw, more))
    low, high = _range(where, raw, unit, ("evidence", "source", *more))
    evidence = _choice(where, "evidence", raw, get_args(Evidence))
    return Quantity(
        low if low == high else None, unit, low, high, evidence, source=_text(where, "source", raw["source"])
    )


def _power(where: str, name: str, raw: Table) -> Quantity:
    return _quantity(where, raw, "W")


def _time(where: str, name: str, raw: Table) -> Quantity:
    return _quantity(where, raw, "s")


def _barrier(where: str, raw: Table) -> Barrier:
    time = _quantity(where, raw, "s", ("tiles",))
    return Barrier(_integer(where, "tiles", raw["tiles"], 1), time)


def _whole_task(where: str, name: str, raw: Table) -> WholeTask:
    """A figure in any unit of energy, power or time."""
    units = {unit: dimension for dimension, table in UNITS.items() for unit in table}
    unit = _choice(where, "unit", {"unit": "J", **raw}, tuple(units))
    return WholeTask(_text(where, "what", raw.get("what")), _quantity(where, raw, units[unit], ("what",)))


def _memory(where: str, raw: Table) -> Memory:
    sizes = ("name", "bytes", "access_bits")
    missing = [key for key in sizes if key not in raw]
    if missing:
        raise bad(where, f"key '{missing[0]}' is missing", f"all of {', '.join(sizes)}", "Add it")
    size = None if raw["bytes"] == OFF_CHIP else _integer(where, "bytes", raw["bytes"], 1, f', or "{OFF_CHIP}"')
    name = _text(where, "name", raw["name"])
    price = _part(where, name, {key: value for key, value in raw.items() if key not in sizes})
    return Memory(name, size, _integer(where, "access_bits", raw["access_bits"], 1), price)


def _limit(where: str, name: str, raw: Table) -> Limit:
    kind = {**LIMITS, **MESH}[name]
    if raw.get("value") == "unknown":
        return Limit(None, kind.unit, kind.scope, why=_why(where, raw))
    _keys(where, raw, ("value", "unit", "scope", "evidence", "source"))
    for key, allowed in (("unit", kind.unit), ("scope", kind.scope)):
        if raw[key] != allowed:
            raise bad(where, f"{key} = {_show(raw[key])}", allowed, "Convert the value")
    most = MOST_BITS if kind.unit == "bit" else MAX_MESH if name in MESH else MAX_VALUE
    value = _integer(where, "value", raw["value"], kind.least, ', or "unknown" with a why', most)
    evidence: Origin = _choice(where, "evidence", raw, get_args(Origin))
    return Limit(value, kind.unit, kind.scope, evidence, _text(where, "source", raw["source"]))


def _why(where: str, raw: Table, more: tuple[str, ...] = ()) -> str:
    _keys(where, raw, ("value", "why", *more))
    return _text(where, "why", raw["why"])


def _range(where: str, raw: Table, dimension: Dimension, more: tuple[str, ...]) -> tuple[float, float]:
    """`value`, or `min` and `max`, in joules, watts or seconds."""
    ends = ("min", "max") if "min" in raw or "max" in raw else ("value", "value")
    _keys(where, raw, (*dict.fromkeys(ends), "unit", *more))
    unit = _choice(where, "unit", raw, tuple(UNITS[dimension]), "Convert the value")
    for key in ends:
        value = raw[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_VALUE:
            allowed = f'0..{MAX_VALUE:g}, or "unknown" with a why'
            raise bad(where, f"{key} = {_show(value)} {unit}", allowed, "Correct it")
        if value and not value / UNITS[dimension][unit]:
            raise bad(where, f"{key} = {_show(value)} {unit}", NOT_ROUNDED, "Correct it")
    low, high = (float(raw[key]) for key in ends)  # type: ignore[arg-type]  # checked above
    if low > high:
        raise bad(where, f"min = {low:g} {unit}", f"at most max = {high:g} {unit}", "Exchange them")
    per_unit = UNITS[dimension][unit]
    return low / per_unit, high / per_unit


def _choice(where: str, key: str, raw: Table, allowed: tuple[str, ...], todo: str = "Choose one") -> Any:
    """One of `allowed`: Any, so that it can be assigned to the Literal whose arguments they are."""
    if not isinstance(raw[key], str) or raw[key] not in allowed:
        raise bad(where, f"{key} = {_show(raw[key])}", f"one of {', '.join(allowed)}", todo)
    return raw[key]


def _integer(where: str, key: str, value: object, least: int, other: str = "", most: float = MAX_VALUE) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        allowed = f"an integer >= {least} and <= {most:g}{other}"
        raise bad(where, f"{key} = {_show(value)}", allowed, "Correct it")
    return value


def _show(value: object) -> str:
    """The value in at most a line: a hostile file may hold a text, a nesting or an integer of any size."""
    try:
        return reprlib.repr(value)
    except ValueError:  # more digits than Python prints
        return "a huge integer"


def _table(where: str, raw: object) -> Table:
    if not isinstance(raw, dict):
        raise bad(where, f"value = {_show(raw)}", "a table", "Write it as [table] with its keys")
    return raw


def _text(where: str, key: str, raw: object) -> str:
    """The text on one line; what a terminal would obey instead of print is refused."""
    text = " ".join(raw.split()) if isinstance(raw, str) else ""
    if not text or not text.isprintable():
        raise bad(where, f"{key} = {_show(raw)}", "a text that is not empty, of printable characters", "Write one")
    return text


def _keys(
    where: str, table: Table, required: tuple[str, ...], optional: tuple[str, ...] | Mapping[str, object] = ()
) -> None:
    allowed = (*required, *optional)
    unknown = [key for key in table if key not in allowed]
    if unknown:
        raise bad(where, f"unknown key {_show(unknown[0])}", ", ".join(allowed), "Correct or remove it")
    missing = [key for key in required if key not in table]
    if missing:
        raise bad(where, f"key '{missing[0]}' is missing", f"all of {', '.join(required)}", "Add it")
