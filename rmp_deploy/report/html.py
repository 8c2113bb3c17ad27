"""The report as one self-contained HTML page: no script, nothing loaded, light and dark, wide and narrow."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from rmp_deploy.files import write_atomically
from rmp_deploy.report import svg, text
from rmp_deploy.report.text import Section

SECTIONS = ("network", "data", "accuracy", "training", "parity", "energy", "membranes", "raster")
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
    used = {row["term"] for profile in energy["profiles"] for row in profile["rows"] if row["joule"]}
    return sorted(names, key=lambda name: name not in used)


def _profile_bars(energy: Section, profile: Section) -> list[tuple[Section, str]]:
    """(layer, stacked bar) of one profile, all layers on one scale."""
    titles, colours = text.titles(energy), _colours(energy)
    largest = max((layer["joule"] or 0.0 for layer in profile["layers"]), default=0.0)
    bars = []
    for layer in profile["layers"]:
        spent = {term: joule for term, joule in layer["terms"].items() if joule}
        told = {term: f"{titles[term]} {_tie(text.joule(joule))}" for term, joule in spent.items()}
        parts = [(colours[term], joule, told[term]) for term, joule in spent.items()]
        bars.append((layer, svg.stack(parts, largest, f"{layer['layer']}: {', '.join(told.values())}")))
    return bars


def _twin_bars(profile: Section) -> tuple[str, str]:
    """The network's synaptic energy and its ANN twin's, on one scale."""
    ours, twin = profile["synaptic_joule_per_sample"] or 0.0, profile["twin_joule_per_sample"] or 0.0
    largest = max(ours, twin)
    return svg.stack([("spiking", ours, "")], largest), svg.stack([("dense", twin, "")], largest)


def _meter(energy: Section, layer: Section, term: str) -> str:
    """A bar under a count, on the scale of its column."""
    largest = max(each["counts"][term] for each in energy["layers"])
    return svg.stack([(_TERM_CLASSES.get(term, "spiking"), layer["counts"][term], "")], largest)


def _environment() -> Environment:
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    formatters = (text.count, text.joule, text.price, text.percent, text.number, text.fixed, text.plural)
    env.filters |= {f.__name__: _tied(f) for f in formatters}
    env.filters |= {
        "cite": _cite,
        "compared": lambda rung: text.total(rung, "compared"),
        "divergence": text.divergence,
        "mismatches": lambda rung: text.total(rung, "mismatches"),
        "scope": lambda s: _SCOPES.get(s, s),
        "sentence": lambda s: s[:1].upper() + s[1:],  # Jinja's capitalize would change the names in it
        "verdict": text.verdict,
    }
    env.globals |= {
        "by_reason": text.by_reason,
        "CODINGS": text.CODINGS,
        "colours": _colours,
        "histogram": svg.histogram,
        "key_terms": text.key_terms,
        "meter": _meter,
        "outputs": svg.outputs,
        "picture": svg.picture,
        "exactness": text.exactness,
        "explained": text.explained,
        "is_integer": text.is_integer,
        "potential": text.potential,
        "profile_bars": _profile_bars,
        "quantization": text.quantization,
        "raster_chart": svg.raster,
        "relays": text.relays,
        "titles": text.titles,
        "self_check": text.self_check,
        "twin_bars": _twin_bars,
    }
    return env


def render(document: dict[str, Any]) -> str:
    """The page of a report document; a section that the document does not have is left out."""
    document = dict.fromkeys(SECTIONS) | text.printable(document)
    template = _environment().from_string(
        resources.files("rmp_deploy.report").joinpath("page.html.j2").read_text("utf-8")
    )
    return template.render(
        document,
        headline=[_tie(part) for part in text.headline(document)],
        noun=text.sample_noun(document),
        quoted=text.priced(document["energy"]),
    )


def write(document: dict[str, Any], path: str | Path) -> Path:
    """Render `document` to a file, whole or not at all.

    Raises:
        RmpDeployError: the folder cannot be made or written; nothing is left behind.
    """
    return write_atomically(path, render(document))
