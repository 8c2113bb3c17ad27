"""What a run cost, for the terminal: counts, a line per profile, every ledger with its sources; 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rmp_deploy.report.text import (
    ESTIMATE,
    MISSING,
    Section,
    add_row,
    by_reason,
    count,
    joule,
    key_terms,
    number,
    percent,
    plural,
    price_span,
    ratio,
    relays,
    span,
    table,
)

_SENT = {
    "message_out": "messages sent",
    "message_in": "received",
    "within_tile": "within a tile",
    "hop_east_west": "hops east or west",
    "hop_north_south": "hops north or south",
}


def energy(section: Section, shown: Sequence[str] = ()) -> RenderableType:
    """Counts, one line per profile, every ledger with its sources, and what has no price.

    `shown`: the tables that are printed when asked for, compare and accuracy.
    """
    parts: list[RenderableType] = [_counts(section)]
    if section.get("pools", "folded") != "folded":
        parts.append(Text(f"pools {section['pools']}"))
    if more := relays(section):
        parts.append(Text(more))
    parts += [*map(Text, twin(section)), Text(), _summary(section["profiles"])]
    if "accuracy" in shown:
        parts += [Text(), _accuracy(section)]
    if "compare" in shown:
        parts += [Text(), comparison(section)]
    for each in section["profiles"]:
        parts += [Text(), profile(each)]
    return Group(*parts, Text(), Text(ESTIMATE, "italic"))


def twin(section: Section) -> list[str]:
    """What the ANN of the same layers does in one pass, in lines."""
    ann = section["twin"]
    if not ann:
        return []
    dense = f"ANN twin: {ann['macs']:,} dense MACs per sample, {ann['macs_with_padding']:,} with padding"
    if ann["effective_macs"] is None:
        return [dense, f"its MACs with ReLU zeros skipped are not known: {ann['effective_why']}"]
    return [f"{dense}, {ann['effective_macs'] / ann['samples']:,.0f} with ReLU zeros skipped"]


def _counts(section: Section) -> Table:
    terms = key_terms(section)
    columns = ("layer", "input", "firing rate", *(term["name"] for term in terms))
    rows = table(f"Counts, total of {plural(section['samples'], 'sample')}", columns, left=2)
    for layer in section["layers"]:
        values = (f"{layer['counts'][term['name']]:,}" for term in terms)
        add_row(rows, layer["layer"], layer["input"], percent(layer["firing_rate"]), *values)
    add_row(rows, "total", "", "", *(f"{section['totals'][term['name']]:,}" for term in terms))
    for title, key in (("per sample, mean", "mean"), ("std", "std")):
        if section["spreads"]:
            values = (f"{section['spreads'][term['name']][key]:,.1f}" for term in terms)
            add_row(rows, title, "", "", *values)
    return rows


def _summary(profiles: list[Section]) -> Table:
    columns = ("profile", "numbers", "all priced", "synaptic", "ANN twin", "twin / synaptic")
    rows = table("Energy per sample (estimate)", columns, left=2)
    for p in profiles:
        keys = ("", "synaptic_", "twin_")
        values = [span(p[f"{key}low_per_sample"], p[f"{key}high_per_sample"]) for key in keys]
        values = ["not priced" if v == MISSING and not p["rows"] else v for v in values]
        add_row(rows, p["name"], p["precision"], *values, ratio(p["ratio_low"], p["ratio_high"]))
    return rows


def _accuracy(section: Section) -> Table:
    """What the network would have answered and cost, had it stopped after each step."""
    profiles = [p for p in section["profiles"] if p["rows"]]
    rows = table("Stopped after t steps (estimate)", ("t", "accuracy", "ac", "mac", *(p["name"] for p in profiles)))
    for i, step in enumerate(section["at"]):
        numbers = (count(step["counts"][term]) for term in ("ac", "mac"))
        energies = (span(p["at"][i]["low"], p["at"][i]["high"]) for p in profiles)
        add_row(rows, str(step["t"]), percent(step["accuracy"]), *numbers, *energies)
    return rows


def comparison(section: Section) -> RenderableType:
    """Every convention on the same spikes: its sum, what it counts, and which rule makes the difference to ours."""
    columns = ("convention", "energy", "term", "counts", "exact", "difference")
    rows = table("One run, counted by each convention, per sample (estimate)", columns)
    notes: list[str] = []
    for each in section["conventions"]:
        name, total = each["name"], joule(each["joule_per_sample"])
        for term in each["terms"]:
            marks = []
            for why in [difference["reason"] for difference in term["differences"]] or [term["why"]] * bool(
                term["why"]
            ):
                if why not in notes:
                    notes.append(why)
                marks.append(f"[{notes.index(why) + 1}]")
            numbers = (count(_short(term[key])) for key in ("count", "ours"))
            add_row(rows, name, total, term["term"], *numbers, " ".join(marks))
            name = total = ""  # said once
    return Group(rows, *(Text(f"[{i}] {note}") for i, note in enumerate(notes, 1)))


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 1) if value % 1 else int(value)


def profile(section: Section) -> RenderableType:
    """One profile's ledger; sources as numbered notes, so that the table fits 80 columns."""
    parts: list[RenderableType] = []
    if section["rows"]:
        sources = list(dict.fromkeys(row["source"] for row in section["rows"]))
        columns = ("term", "scope", "evidence", "count", "price", "energy", "source")
        rows = table(f"{section['name']}: {section['title']}", columns, left=3)
        for row in section["rows"]:
            words = (row["term"], row["scope"], row["evidence"], count(row["count"]))
            figures = (price_span(row["price_low"], row["price_high"]), span(row["low"], row["high"]))
            add_row(rows, *words, *figures, f"[{sources.index(row['source']) + 1}]")
        parts += [rows, *(Text(f"[{i}] {source}") for i, source in enumerate(sources, 1))]
    else:
        parts.append(Text(f"{section['name']}: {section['title']}: no published price"))
    parts += [Text(f"note: {note}") for note in section["notes"]]
    for kind in ("included", "unpriced"):
        for why, terms in by_reason(section.get(kind) or []).items():
            listed = ", ".join(f"{u['term']} {count(u['count'])}" for u in terms)
            parts.append(Text(f"{kind} ({why}): {listed}"))
    parts += _break_even(section.get("break_even"))
    parts += _hardware(section.get("hardware"))
    return Group(*parts)


# -- what both forms say of the chip and the twin ---------------------------------------------------------------------


def estimate(section: Section) -> str:
    """An estimate with its unit: ``1.20–3.40 mW``; a dash where nobody knows."""
    if section["low"] is None:
        return MISSING
    return f"{span(section['low'], section['high']).removesuffix('J')}{section['unit']}"


def break_even(found: Section) -> list[tuple[str, str, bool]]:
    """(twin, rate at which the synapses cost as much as it does, or why nobody knows, is it known) of the network."""
    twins = {"dense": "its dense MACs", "effective": "its MACs of activations that are not 0", "quantized": "quantized"}
    told = []
    for key, what in twins.items():
        bound = found["network"][key]
        at = f"at {_percents(bound)}" if bound["low"] is not None else f"not known: {bound['why']}"
        always = ", at any rate that a neuron reaches" if (bound["low"] or 0) > 1 else ""
        told.append((what, at + always, bound["low"] is not None))
    return told


def compute_line(line: Section) -> str:
    """Yan 2024's bound on the spikes of an input, and what this run has; empty where one of them is not known."""
    if line["spikes"] is None or line["limit"]["low"] is None:
        return ""
    low, high = line["limit"]["low"], line["limit"]["high"]
    limit = number(low) if low == high else f"{number(low)}–{number(high)}"
    holds = "holds" if line["spikes"] <= low else "may hold" if line["spikes"] <= high else "does not hold"
    return f"T * rate = {number(line['spikes'])} <= k (1 - gamma) = {limit} {holds} (Yan 2024, computation alone)"


def _percents(bound: Section) -> str:
    low, high = percent(bound["low"]), percent(bound["high"])
    return low if low == high else f"{low.removesuffix(' %')}–{high}"


def on_chip(hardware: Section) -> list[tuple[str, Section]]:
    """(what, estimate) of all that the shape of the hardware adds, in the order in which it is read."""
    routing, memory = hardware["routing"], hardware["memory"]
    found = [("priced operations of a sample", hardware["operations"])]
    if routing:
        found.append(("messages of a sample over the mesh", routing["energy"]))
    if memory["rows"]:
        found.append(("memory accesses of a sample, words packed", memory["packed"]))
        found.append(("memory accesses of a sample, each word alone", memory["whole"]))
    found.append(("static power", hardware["power"]))
    for timing in hardware["timings"]:
        found += [
            (f"time of a step, {timing['name']}", timing["step"]),
            (f"time of a sample, {timing['name']}", timing["sample"]),
            (f"static energy of a sample, {timing['name']}", timing["static"]),
            (f"energy of a sample, {timing['name']}", timing["energy"]),
            (f"energy-delay product, {timing['name']}", timing["energy_delay"]),
        ]
    return found


def placement(hardware: Section) -> str:
    """On what the network lies and what it sent, or why it lies on nothing."""
    routing = hardware["routing"]
    if not routing:
        return f"not on cores: {hardware['unplaced']}"
    sizes = [plural(routing[f"{noun}s"], noun) for noun in ("core", "tile", "chip") if routing[f"{noun}s"] is not None]
    sent = [f"{n:,} {_SENT.get(name, name)}" for name, n in routing["counts"].items() if n is not None]
    return f"on {', '.join(sizes)}; over all samples {', '.join(sent)}"


# -- how the terminal shows it -----------------------------------------------------------------------------------------


def _break_even(found: Section | None) -> list[RenderableType]:
    """At which firing rate the synapses cost as much as the twin; nothing where that is not known for any twin."""
    if not found or found["network"]["dense"]["low"] is None:
        return []
    rate = percent(found["network"]["rate"])
    lines = [f"break-even with the ANN twin, {what}: {told}" for what, told, _ in break_even(found)]
    lines[0] += f" (this run: {rate} spikes per input and step)"
    return [Text(line) for line in (*lines, compute_line(found["line"])) if line]


def _hardware(section: Section | None) -> list[RenderableType]:
    """What is known of the chip's shape; nothing where only the operations are, which stand in the ledger."""
    known = [(what, each) for what, each in on_chip(section) if each["low"] is not None] if section else []
    if not section or len(known) < 2:
        return []
    rows = table("on the chip (estimate)", ("what", ""))
    for what, each in known:
        add_row(rows, what, estimate(each))
    left_out = [Text(f"left out: {what} ({why})") for what, why in section["left_out"].items()]
    return [Text(placement(section)), rows, *left_out]
