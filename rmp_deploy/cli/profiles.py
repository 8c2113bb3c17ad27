"""List the hardware profiles, or show every number of one with its source."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmp_deploy.cli.common import print_json
from rmp_deploy.hw_profiles import HardwareProfile, load, names
from rmp_deploy.report.text import count, price


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", nargs="?", metavar="P", help="a name or a .toml: show all of it")


def run(args: argparse.Namespace) -> int:
    chosen = [load(args.profile)] if args.profile else [load(name) for name in names()]
    if args.json:
        print_json({"profiles": [asdict(profile) for profile in chosen]})
        return 0
    out = Console(highlight=False, markup=False, emoji=False)
    if args.profile:
        _show(chosen[0], out)
        return 0
    table = Table("profile", "mac", "ac", "cores", "neurons per core", "title", box=None)
    for profile in chosen:
        energies = (price(profile.prices[t].joule) for t in ("mac", "ac"))
        sizes = (count(profile.limits[n].value) for n in ("cores", "neurons_per_core"))
        _row(table, profile.name, *energies, *sizes, profile.title)
    out.print(table)
    return 0


def _show(profile: HardwareProfile, console: Console) -> None:
    console.print(f"{profile.name}: {profile.title}", style="bold")
    for note in profile.notes:
        console.print(f"  {note}")
    table = Table("term", "energy", "scope", "evidence", "source, or why there is none", box=None)
    for term, known in {**profile.prices, **profile.uncounted}.items():
        figure = known.figure
        if figure is None:
            inside = f"in {', '.join(known.included_in)}: " if known.included_in else ""
            _row(table, term, known.status, "", "", inside + known.why)
        else:
            _row(table, term, price(figure.joule), figure.scope, figure.evidence, figure.source)
    console.print(table)
    limits = Table("limit", "value", "of one", "evidence", "source, or why there is none", box=None)
    for name, limit in profile.limits.items():
        value = "unknown" if limit.value is None else f"{limit.value:,} {limit.unit}{'s' * (limit.value != 1)}"
        _row(limits, name, value, limit.scope, limit.evidence or "", limit.source or limit.why)
    console.print(limits)


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell) for cell in cells))  # Text: a source such as "[red]" is not markup
