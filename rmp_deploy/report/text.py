"""How a report reads: numbers with their units, the headline, and the terminal form (compact at 80 columns)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Section = dict[str, Any]

MISSING = "–"
ESTIMATE = "Estimate, not a measurement: exact counts times published prices. Unpriced is unknown, never zero."
CODINGS = {
    "host": "host-encoded: the first synapses and neurons stay real-valued on the host, only spikes cross",
    "graded": "graded spikes: the host rounds the samples to integers, which the first synapses read",
    "spikes": "spikes",
    "integers": "integers",
}
_PREFIXES = {-18: "a", -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P"}


# -- numbers ---------------------------------------------------------------------------------------------------------


def _exponent(value: float) -> int:
    """Power of 1000 whose prefix shows `value` with one to three digits before the point."""
    rounded = float(f"{abs(value):.2e}")  # 999,999 is 1.00 M, not 1000 k
    power = 3 * math.floor(math.log10(rounded) / 3) if rounded and math.isfinite(rounded) else 0
    return min(max(power, min(_PREFIXES)), max(_PREFIXES))


def count(value: float | None) -> str:
    """Exact below 10,000, then three digits and an SI prefix: ``1.23 M``."""
    if value is None:
        return MISSING
    if abs(value) < 10_000 or not math.isfinite(value):
        return f"{value:,}"
    power = _exponent(value)
    return f"{value / 10**power:#.3g}".rstrip(".") + f" {_PREFIXES[power]}"


def joule(value: float | None, like: float | None = None) -> str:
    """Three digits with the unit that fits: ``118 nJ``. `like` fixes the unit, for values to be compared."""
    if value is None:
        return MISSING
    if value == 0 or not math.isfinite(value):
        return f"{value:g} J"
    power = _exponent(like or value)
    scaled = value / 10.0**power
    digits = f"{scaled:#.3g}".rstrip(".")
    return f"{digits if abs(scaled) >= 0.001 else '<0.001'} {_PREFIXES[power]}J"


def decade(value: float) -> str:
    """A power of ten on an axis: ``100 nJ``."""
    power = _exponent(value)
    return f"{value / 10.0**power:.3g} {_PREFIXES[power]}J"


def in_unit(value: float, like: float) -> float:
    """`value` in the unit that `joule` shows `like` in."""
    return value / 10.0 ** _exponent(like)


def span(low: float | None, high: float | None, like: float | None = None) -> str:
    """A point, or both ends of a range in the unit of the upper one: ``1.20–3.40 µJ``."""
    if low is None or high is None:
        return MISSING
    if low == high:
        return joule(low, like)
    like = like or high
    return f"{joule(low, like).split()[0]}–{joule(high, like)}"


def price_span(low: float | None, high: float | None) -> str:
    """A published figure, or a published range: ``1.54 pJ``, ``11.3–26.6 nJ``."""
    if low is None or high is None or low == high:
        return price(high)
    ends = [price(low), price(high)]
    units = {end.split()[1] for end in ends}
    return f"{ends[0].split()[0]}–{ends[1]}" if len(units) == 1 else "–".join(ends)


def ratio(low: float | None, high: float | None) -> str:
    """How many times: ``0.74``, ``0.5–2.1``, ``>= 0.5`` where nothing bounds it."""
    if low is None:
        return MISSING
    if low == high:
        return f"{low:.2f}"
    return f">= {low:.2f}" if high is None else f"{low:.2f}–{high:.2f}"


def price(value: float | None) -> str:
    """A published figure with no digit that was not published: ``0.9 pJ``; in pJ, as papers do, unless far from it."""
    if value is None:
        return MISSING
    power = -12 if 1e-15 <= value < 1e-9 else _exponent(value)
    return f"{value / 10.0**power:.6g} {_PREFIXES[power]}J"


def percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """Plain significant digits: ``0.113``, ``2.4e-7``; ``overflow`` of what float32 cannot hold."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "overflow"
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def fixed(value: float | None) -> str:
    """Three decimals, for errors in units of the membrane potential that stand side by side."""
    return MISSING if value is None else f"{value:.3f}"


def plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def printable(value: Any) -> Any:
    """Replace what no terminal or page should interpret: names come from files that anyone may have written."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in value)
    if isinstance(value, dict):
        return {printable(k): printable(v) for k, v in value.items()}
    return [printable(v) for v in value] if isinstance(value, list | tuple) else value


# -- what both forms say ---------------------------------------------------------------------------------------------


def total(rung: Section, field: str) -> int:
    """Sum over a rung's layers."""
    return sum(layer[field] for layer in rung["layers"])


def verdict(rung: Section) -> str:
    """``0 mismatching spikes``"""
    return plural(total(rung, "mismatches"), "mismatching spike")


def is_integer(rung: Section) -> bool:
    """True for a rung of a network of Loihi's integers."""
    return rung.get("arithmetic") == "integer"


def exactness(rung: Section) -> str:
    """What an integer rung that holds has proven, and which of its layers were judged as float; empty for floats."""
    if not (rung["holds"] and is_integer(rung)):
        return ""
    host = [layer["layer"] for layer in rung["layers"] if not layer["exact"]]
    return "bit for bit" + (f" but for {', '.join(host)} (float, on the host)" if host else "")


def quantization(section: Section) -> str:
    """What quantization changed, in one line; empty where only one network was verified."""
    cost = section.get("quantization")
    if not cost:
        return ""
    parts = [f"{cost['mismatches']:,} of {cost['compared']:,} spikes differ"]
    parts.append(f"{cost['same_predictions']:,} of {plural(section['samples'], 'prediction')} the same")
    if cost["accuracy"]:
        before, after = (percent(cost["accuracy"][key]["value"]) for key in ("float", "integer"))
        parts.append(f"accuracy {before} -> {after}")
    return f"quantization (a loss, not judged): {', '.join(parts)}"


def explained(rung: Section) -> str:
    """Why a rung with mismatches holds all the same; empty where there is nothing to explain."""
    if not rung["holds"] or not total(rung, "mismatches"):
        return ""
    return f"explained by {plural(total(rung, 'ties'), 'tie')} within float rounding of the threshold"


def readout(rung: Section) -> str:
    """That the readouts are not those of their own spikes; empty where they are."""
    if rung.get("output_holds", True):
        return ""
    return f"readout differs by {number(rung['max_output_error'])}, "


def self_check(section: Section, file: str = "the file") -> str:
    """What the file's own golden samples say; empty where the file holds none."""
    check = section.get("self_check")
    if not check:
        return ""
    bad = [name for name, layer in check["layers"].items() if layer["expected"] != layer["found"]]
    if not bad:
        result = "the spike counts are the expected ones"
        result += "" if check["holds"] else ", but those of the reference or the readout are not"
    elif check["holds"]:
        result = f"float rounding at a threshold explains other spike counts in {', '.join(bad)}"
    else:
        result = f"other spike counts in {', '.join(bad)}"
    return f"self-check of {file} on its {plural(check['samples'], 'golden sample')}: {result}"


def divergence(first: Section, rung: Section) -> str:
    """Where the two sides of a rung part, what each did, and how far u was from the threshold."""
    neuron = ", ".join(str(i) for i in first["neuron"])
    sides = f"{rung['from']} {first['from']}, {rung['to']} {first['to']}"
    place = f"sample {first['sample']}, step {first['step']}, neuron ({neuron}): {sides}"
    u, threshold = number(first["u"], 9), number(first["v_threshold"], 9)
    rounding = f" (float rounding explains {number(first['tolerance'])})" if first.get("tolerance") else ""
    return f"{place}; u = {u}, threshold {threshold}, distance {number(first['distance'])}{rounding}"


def potential(layer: Section, rung: Section) -> str:
    """Where a potential is not the one of its own spikes; empty where all are."""
    if layer.get("v_holds", True):
        return ""
    first = layer.get("first_v")
    if not first:
        return f"potentials of {layer['layer']} differ by more than float rounding explains"
    neuron = ", ".join(str(i) for i in first["neuron"])
    place = f"sample {first['sample']}, step {first['step']}, neuron ({neuron})"
    sides = ", ".join(f"{rung[side]} {number(first[side], 9)}" for side in ("from", "to"))
    excuse = f", float rounding explains {number(first['tolerance'])}" if first["tolerance"] else ""
    why = f"the spikes give {number(first['v'], 9)}{excuse}"
    return f"potentials of {layer['layer']} differ first at {place}: {sides}; {why}"


def codings(document: Section) -> list[str]:
    """How samples reach the networks of Loihi's integers that the document tells of."""
    networks = [document.get(key) or {} for key in ("network", "quantized_network")]
    known = [(each["name"], each["input_coding"]) for each in networks if each.get("input_coding")]
    return [f"input of {name}: {CODINGS[coding]}" for name, coding in known]


def sample_noun(document: Section) -> str:
    shape = (document.get("network") or {}).get("input_shape") or ()
    return "image" if len(shape) == 3 else "sample"


def relays(energy: Section) -> str:
    """What the network costs more on Loihi than what was counted; empty where it costs the same."""
    more = energy.get("relays")
    if not more:
        return ""
    if more["refused"]:
        return f"relays on Loihi are not known: {more['refused']}"
    terms = [f"{term} {n:+,}" for term, n in more["terms"].items()]
    what = f"{plural(more['neurons'], 'neuron')} more (relays, OR pools)"
    return f"on Loihi {what}, not in these counts: {', '.join(terms)}"


def priced(energy: Section | None) -> Section | None:
    """The first profile with a price: the one that the headline quotes."""
    profiles = (energy or {}).get("profiles") or []
    return next((p for p in profiles if p["rows"]), None)


def headline(document: Section) -> list[str]:
    """The one-line result, in parts; empty where the document claims nothing."""
    parts = []
    if checked := document.get("parity"):
        rungs = checked["rungs"]
        bad = sum(not rung["holds"] for rung in rungs)
        mismatches = sum(total(rung, "mismatches") for rung in rungs)
        what = plural(mismatches, "mismatching spike")
        if bad and not mismatches:
            what = "potentials or readouts differ"
        parts.append(f"{what} in {f'{bad} of ' if bad else ''}{plural(len(rungs), 'hand-over')}")
        if checked["holds"] and any(explained(rung) for rung in rungs):
            parts.append("all explained by float rounding")
        if not checked["holds"] and not bad:
            parts.append("but the file fails its self-check")
    if scored := document.get("accuracy"):
        parts.append(f"{percent(scored['value'])} accuracy")
    if profile := priced(document.get("energy")):
        parts.append(
            f"{span(profile['low_per_sample'], profile['high_per_sample'])} per {sample_noun(document)} (estimate)"
        )
    return parts


def key_terms(energy: Section) -> list[Section]:
    """The counts that people ask for first: multiply-accumulates, accumulates, spikes."""
    chosen = [t for t in energy["terms"] if t["name"] in ("mac", "ac") or "spike" in (t["unit"], *t["name"].split("_"))]
    return chosen or energy["terms"][:3]


def titles(energy: Section) -> dict[str, str]:
    return {term["name"]: term["title"] for term in energy["terms"]}


def by_reason(terms: list[Section]) -> dict[str, list[Section]]:
    """Terms without a price of their own, under the reason that they share."""
    reasons: dict[str, list[Section]] = {}
    for term in terms:
        reasons.setdefault(term["why"], []).append(term)
    return reasons


# -- terminal --------------------------------------------------------------------------------------------------------


def table(title: str, columns: Iterable[str], left: int = 1) -> Table:
    """A table whose first `left` columns are words and the others numbers."""
    made = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for i, column in enumerate(columns):
        made.add_column(Text(column), justify="left" if i < left else "right", overflow="fold")
    return made


def add_row(rows: Table, *cells: str) -> None:
    rows.add_row(*(Text(cell) for cell in cells))  # Text: a name such as "[red]" is not markup


def parity(section: Section) -> RenderableType:
    """One verdict line per rung, the layers under them, and every first divergence in full.

    What quantization cost stands between the float and the integer network, and is no rung.
    """
    lines: list[RenderableType] = []
    columns = ("hand-over", "layer", "compared", "mismatches", "ties", "largest |Δv|")
    rows = table(f"Spikes compared, {plural(section['samples'], 'sample')}", columns, left=2)
    cost = quantization(section)
    for rung in section["rungs"]:
        if cost and is_integer(rung):
            lines.append(Text(cost, "italic"))
            name = "quantization (a loss)"
            for layer in section["quantization"]["layers"]:
                numbers = (f"{layer[field]:,}" for field in ("compared", "mismatches"))
                add_row(rows, name, layer["layer"], *numbers, MISSING, MISSING)
                name = ""  # said once
            cost = ""
        name = f"{rung['from']} -> {rung['to']}"
        result = explained(rung) or exactness(rung) if rung["holds"] else f"{readout(rung)}DOES NOT HOLD"
        words = f"{'integer: ' * is_integer(rung)}{name}: {verdict(rung)} of {total(rung, 'compared'):,} compared"
        lines.append(Text(f"{words}, {result}" if result else words, "" if rung["holds"] else "bold"))
        name = "int: " * is_integer(rung) + name
        for layer in rung["layers"]:
            numbers = (f"{layer[field]:,}" for field in ("compared", "mismatches", "ties"))
            add_row(rows, name, layer["layer"], *numbers, number(layer["max_v_error"]))
            name = ""
            if words := potential(layer, rung):
                lines.append(Text(f"  {words}"))
            if layer["first"]:
                lines.append(Text(f"  first at {layer['layer']}: {divergence(layer['first'], rung)}"))
    for checked, file in ((section, "the file"), (section.get("quantization") or {}, "the quantized file")):
        if check := self_check(checked, file):
            lines.append(Text(check))
    return Group(*lines, Text(), rows)


def accuracy(section: Section) -> RenderableType:
    return Text(f"accuracy: {section['correct']:,} of {section['samples']:,} = {percent(section['value'])}")


def training(section: Section) -> RenderableType:
    """The arms side by side."""
    title = f"Training: {plural(section['epochs'], 'epoch')}, {section['seconds']:.1f} s, seed {section['seed']}"
    rows = table(title, ("arm", "accuracy", "quantization error"))
    for arm in section["arms"]:
        add_row(rows, arm["name"], percent(arm["accuracy"]), fixed(arm["quantization_error"]))
    return rows


def render(document: Section, console: Console, shown: Sequence[str] = ()) -> None:
    """Print the headline and every section that the document has and a terminal can show.

    `shown`: the tables of energies that are printed when asked for, compare and accuracy.
    """
    from rmp_deploy.report.energy import energy  # it is made of the tables above

    document = printable(document)
    if parts := headline(document):
        console.print(Text(", ".join(parts), "bold"))
    if check := self_check(document):
        console.print(Text(check))
    for coding in codings(document):
        console.print(Text(coding))
    writers = {"accuracy": accuracy, "parity": parity, "training": training}
    for name, write in writers.items():
        if document.get(name):
            console.print()
            console.print(write(document[name]))
    if document.get("energy"):
        console.print()
        console.print(energy(document["energy"], shown))
