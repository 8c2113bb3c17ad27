"""The report as one self-contained HTML page: nothing loaded, one small script, light and dark, wide and narrow."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rmp_deploy.files import write_atomically
from rmp_deploy.report import svg, text
from rmp_deploy.report.energy import break_even, compute_line, estimate, on_chip, placement
from rmp_deploy.report.text import Section

SECTIONS = ("network", "data", "accuracy", "training", "parity", "energy", "membranes", "raster")
SCRIPT = resources.files("rmp_deploy.report").joinpath("switch.js").read_text("utf-8")
# Dense arithmetic is one colour and spikes the other, in every chart; whatever else a profile prices is a tint.
_TERM_CLASSES = {"mac": "dense", "ac": "spiking"}
_TINTS = ("tint0", "tint1", "tint2", "tint3", "tint4", "tint5")
_SCOPES = {"per_term": "per operation", "all_in": "all-in"}
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|[afpnµmkMG]?J\b|[kMGTP]\b))")
_DOI = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi:?\s*)(10\.\d{4,9}/[^\s,;]+[^\s,;:.)])", re.IGNORECASE)


def _tie(words: str) -> str:
    """Keep a number and its unit together with a thin no-break space."""
    return _BEFORE_UNIT.sub("\u202f", words)


def _tied(formatter: Callable[..., str]) -> Callable[..., str]:
    return lambda *args, **kwargs: _tie(formatter(*args, **kwargs))


def _cite(source: str) -> list[tuple[str, str | None]]:
    """Split a citation into (text, link): a DOI becomes a link, the rest stays as it is."""
    parts: list[tuple[str, str | None]] = []
    end = 0
    for match in _DOI.finditer(source):
        parts += [(source[end : match.start(1)], None), (match[1], f"https://doi.org/{match[1]}")]
        end = match.end()
    return [*parts, (source[end:], None)]


def _colours(energy: Section) -> dict[str, str]:
    """CSS class of every counted term, the same in all profiles."""
    others = [t["name"] for t in energy["terms"] if t["name"] not in _TERM_CLASSES]
    return _TERM_CLASSES | {name: _TINTS[i % len(_TINTS)] for i, name in enumerate(_used_first(others, energy))}


def _used_first(names: list[str], energy: Section) -> list[str]:
    """Terms that cost something in some profile come first, so that the tints in use differ most."""
    used = {row["term"] for profile in energy["profiles"] for row in profile["rows"] if row["high"]}
    return sorted(names, key=lambda name: name not in used)


def _told_by(profile: Section, terms: Sequence[str] | None = None) -> str:
    """Who says what the `terms` cost (None: all that happened), each source once, with its evidence."""
    rows = [row for row in profile["rows"] if row["count"] and (terms is None or row["term"] in terms)]
    return "; ".join(dict.fromkeys(f"{row['source']} ({row['evidence']})" for row in rows)) or profile["title"]


def _profile_bars(energy: Section, profile: Section) -> list[tuple[Section, str, str]]:
    """(layer, stacked bar, what it says and who says so) of one profile, all layers on one scale."""
    titles, colours = text.titles(energy), _colours(energy)
    largest = max((layer["high"] or 0.0 for layer in profile["layers"]), default=0.0)
    bars = []
    for layer in profile["layers"]:
        spent = {term: high for term, high in layer["terms_high"].items() if high}
        told = {t: f"{titles[t]} {_tie(text.span(layer['terms_low'][t], high))}" for t, high in spent.items()}
        parts = [(colours[term], layer["terms_low"][term], told[term]) for term in spent]
        parts.append(("upto", (layer["high"] or 0.0) - (layer["low"] or 0.0), "up to the upper end of the range"))
        words = ", ".join(told.values()) or "nothing that is priced"
        bar = svg.stack(parts, largest, f"{layer['layer']}: {words}")
        bars.append((layer, bar, f"{words}. {_told_by(profile, tuple(spent))}"))
    return bars


def _twin_bars(profile: Section) -> list[tuple[str, str, Section, str]]:
    """(who, CSS class, its energy, bar): the network's synapses and its ANN twins, on one scale; pale: up to a high."""
    ours = {end: profile[f"synaptic_{end}_per_sample"] for end in ("low", "high")}
    sides = [("SNN", "spiking", ours)] + [(f"ANN, {twin['name']}", "dense", twin) for twin in profile["twins"]]
    largest = max(each["high"] or 0.0 for _, _, each in sides)
    bars = []
    for who, css, each in sides:
        low, high = each["low"] or 0.0, each["high"] or 0.0
        bars.append((who, css, each, svg.stack([(css, low, ""), ("upto", high - low, "")], largest)))
    return bars


def _accuracy_chart(key: str, energy: Section, profile: Section) -> str:
    """Accuracy against the energy of the first t steps."""
    largest = profile["at"][-1]["high"]
    unit = text.joule(largest).split()[1]
    points = [
        (step["t"], *(text.in_unit(each[end], largest) for end in ("low", "high")), step["accuracy"])
        for step, each in zip(energy["at"], profile["at"], strict=True)
        if each["high"] is not None  # nothing that happened so far has a price
    ]
    return svg.curve(key, f"Accuracy against energy, {profile['name']}", points, unit)


def _scale(energy: Section) -> Section:
    """The axis that profiles and conventions share: logarithmic where they span more than a decade, from zero else."""
    lows = [p["low_per_sample"] for p in energy["profiles"]] + [c["joule_per_sample"] for c in energy["conventions"]]
    highs = [p["high_per_sample"] for p in energy["profiles"]] + lows
    known = [joule for joule in lows if joule]
    if not known:
        return {"log": False, "low": 0.0, "high": 1.0, "ticks": []}
    low, high = min(known), max(joule for joule in highs if joule)
    if high <= 10 * low:
        return {"log": False, "low": 0.0, "high": high, "ticks": [high * i / 4 for i in range(5)]}
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first) / 4)  # no more labels than a phone has room for
    last += -(last - first) % every
    return {
        "log": True,
        "low": 10.0**first,
        "high": 10.0**last,
        "ticks": [10.0**e for e in range(first, last + 1, every)],
    }


def _share(scale: Section, joule: float) -> float:
    if not scale["log"]:
        return float(joule / scale["high"])
    return math.log(joule / scale["low"]) / math.log(scale["high"] / scale["low"]) if joule > 0 else 0.0


def _axis_labels(scale: Section) -> str:
    ticks = scale["ticks"]
    words = [text.decade(joule) if scale["log"] else text.joule(joule, ticks[-1]) for joule in ticks]
    return svg.axis([(round(_share(scale, joule), 9), each) for joule, each in zip(ticks, words, strict=True)])


def _dot(scale: Section, low: float | None, high: float | None, ours: bool) -> str:
    if low is None or high is None:
        return ""
    lines = [_share(scale, joule) for joule in scale["ticks"]]
    return svg.dot(lines, _share(scale, low), _share(scale, high), ours, text.span(low, high))


def _brief(value: float | None) -> str:
    """A count of a convention, which may be a fraction of an operation."""
    if value is None:
        return text.MISSING
    return text.count(value if abs(value) >= 10_000 else round(value, 1) if value % 1 else int(value))


def _signed(value: float) -> str:
    return ("+" if value > 0 else "−") + _brief(abs(value))


def _meter(energy: Section, layer: Section, term: str) -> str:
    """A bar under a count, on the scale of its column."""
    largest = max(each["counts"][term] for each in energy["layers"])
    return svg.stack([(_TERM_CLASSES.get(term, "spiking"), layer["counts"][term], "")], largest)


def _environment() -> Environment:
    loader = PackageLoader("rmp_deploy", "report")
    env = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    formatters = (
        text.count, text.joule, text.price, text.percent, text.number, text.fixed, text.plural, text.span,
        text.price_span, text.ratio, estimate,
    )  # fmt: skip
    env.filters |= {f.__name__: _tied(f) for f in formatters}
    env.filters |= {
        "brief": _tied(_brief),
        "cite": _cite,
        "compared": lambda rung: text.total(rung, "compared"),
        "divergence": text.divergence,
        "mismatches": lambda rung: text.total(rung, "mismatches"),
        "scope": lambda s: _SCOPES.get(s, s),
        "sentence": lambda s: s[:1].upper() + s[1:],  # Jinja's capitalize would change the names in it
        "signed": _tied(_signed),
        "verdict": text.verdict,
    }
    env.globals |= {
        "accuracy_chart": _accuracy_chart,
        "axis_labels": _axis_labels,
        "break_even": break_even,
        "by_reason": text.by_reason,
        "compute_line": compute_line,
        "CODINGS": text.CODINGS,
        "colours": _colours,
        "dot": _dot,
        "histogram": svg.histogram,
        "key_terms": text.key_terms,
        "meter": _meter,
        "on_chip": on_chip,
        "outputs": svg.outputs,
        "picture": svg.picture,
        "placement": placement,
        "exactness": text.exactness,
        "explained": text.explained,
        "is_integer": text.is_integer,
        "potential": text.potential,
        "profile_bars": _profile_bars,
        "quantization": text.quantization,
        "raster_chart": svg.raster,
        "relays": text.relays,
        "scale": _scale,
        "titles": text.titles,
        "told_by": _told_by,
        "self_check": text.self_check,
        "twin_bars": _twin_bars,
    }
    return env


def render(document: dict[str, Any]) -> str:
    """The page of a report document; a section that the document does not have is left out."""
    document = dict.fromkeys(SECTIONS) | text.printable(document)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document,
            headline=[_tie(part) for part in text.headline(document)],
            noun=text.sample_noun(document),
            quoted=text.priced(document["energy"]),
            script=SCRIPT,
            script_hash="sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
        )
    )


def write(document: dict[str, Any], path: str | Path) -> Path:
    """Render `document` to a file, whole or not at all.

    Raises:
        RmpDeployError: the folder cannot be made or written; nothing is left behind.
    """
    return write_atomically(path, render(document))
