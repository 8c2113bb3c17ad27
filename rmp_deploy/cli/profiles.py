"""List the hardware profiles, or show every number of one with its source."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from rmp_deploy.cli.common import print_json
from rmp_deploy.hw_profiles import HardwareProfile, Limit, Price, Quantity, load, names
from rmp_deploy.report.text import MISSING, count, price


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", nargs="?", metavar="P", help="a name or a .toml: show all of it")


def run(args: argparse.Namespace) -> int:
    chosen = [load(args.profile)] if args.profile else [load(name) for name in names()]
    if args.json:
        print_json({"profiles": [asdict(profile) for profile in chosen]})
        return 0
    out = Console(highlight=False, markup=False, emoji=False)
    if args.profile:
        out.print(_all_of(chosen[0]))
        return 0
    table = Table(Column("profile", no_wrap=True), "precision", "mac", "ac", "cores x neurons", "title", box=None)
    for profile in chosen:
        energies = (_amount(profile.prices[term]) for term in ("mac", "ac"))
        cores, neurons = (profile.limits[name].value for name in ("cores", "neurons_per_core"))
        sizes = MISSING if cores is None else f"{cores:,} x {count(neurons)}"
        _row(table, profile.name, profile.precision, *energies, sizes, profile.title)
    out.print(table)
    return 0


def _all_of(profile: HardwareProfile) -> RenderableType:
    """Every number with its source as a numbered note, so that the tables fit 80 columns; then what is unknown."""
    sources: list[str] = []
    uncounted = {f"{name} (not counted)": known for name, known in profile.uncounted.items()}
    memory = {f"{m.name}, {m.access_bits} bits": m.price for m in profile.memory}
    barrier = {f"barrier of {b.tiles} tile{'s' * (b.tiles != 1)}": b.time for b in profile.barrier}
    tables: tuple[tuple[str, Mapping[str, Price | Quantity | Limit]], ...] = (
        ("energy of one", {**profile.prices, **uncounted}),
        ("access of", memory),
        ("message", {**profile.routing, **profile.mesh}),
        ("power", profile.static),
        ("time of one", {**profile.latency, **barrier}),
        ("whole task", {task.what: task.figure for task in profile.whole_task.values()}),
        ("limit", profile.limits),
    )
    stated = f"precision: {profile.precision}"
    if profile.precision_source:
        stated += f" {_note(profile.precision_source, sources)}"
    parts: list[RenderableType] = [Text(f"{profile.name}: {profile.title}", "bold"), Text(stated)]
    parts += [Text(f"note: {note}") for note in profile.notes]
    for title, entries in tables:
        parts += _section(title, entries, sources)
    parts += [Text(), *(Text(f"[{i}] {source}") for i, source in enumerate(sources, 1))]
    return Group(*parts)


def _section(
    title: str, entries: Mapping[str, Price | Quantity | Limit], sources: list[str]
) -> Iterator[RenderableType]:
    """What has a number as a table, and the rest by reason."""
    table = Table(title, "value", "scope", "evidence", "source", box=None)
    reasons: dict[str, list[str]] = {}
    for name, known in entries.items():
        about = known.figure if isinstance(known, Price) else known
        if about is None or not about.source:
            inside = isinstance(known, Price) and known.included_in
            status = f"in {', '.join(inside)}" if inside else "unknown"
            reasons.setdefault(f"{status} ({getattr(known, 'why', '')})", []).append(name)
        else:
            scope = "" if isinstance(about, Quantity) else about.scope
            _row(table, name, _amount(known), scope, about.evidence or "", _note(about.source, sources))
    if entries:
        yield Text()
        yield table if table.row_count else Text(f" {title}", "bold")
    for reason, given in reasons.items():
        yield Padding(Text(f"{', '.join(given)}: {reason}"), (0, 0, 0, 3))


def _amount(known: Price | Quantity | Limit) -> str:
    """The value or the range with its unit; a dash where nothing is known."""
    if isinstance(known, Limit):
        return MISSING if known.value is None else f"{known.value:,} {known.unit}{'s' * (known.value != 1)}"
    unit = "J" if isinstance(known, Price) else known.unit
    if known.low is None or known.high is None:
        return MISSING
    low, high = (price(end).removesuffix("J") + unit for end in (known.low, known.high))
    if low == high:
        return low
    return f"{low.split()[0] if low.split()[1] == high.split()[1] else low} to {high}"


def _note(source: str, sources: list[str]) -> str:
    """The number of `source` among the notes, of which it becomes one."""
    if source not in sources:
        sources.append(source)
    return f"[{sources.index(source) + 1}]"


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell) for cell in cells))  # Text: a source such as "[red]" is not markup
