"""The energies of a report document as a table for spreadsheets and data frames: RFC 4180, UTF-8, one row a figure.

Energies are joule per sample and counts are totals over all samples, as in the document; conventions count per sample
and as a whole network, so that their rows name no layer.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from rmp_deploy.report.text import Section, printable

COLUMNS = (
    "by", "name", "layer", "term", "count", "per", "price_joule", "price_low", "price_high", "joule", "low", "high",
    "status", "scope", "evidence", "source",
)  # fmt: skip


def render(document: dict[str, Any]) -> str:
    """One row per profile, layer and term, and per convention and term; lines end in CR LF.

    `status`: priced, included (other figures hold it) or unpriced; `source` says of these why. What is null in the
    document is an empty field.
    """
    written = io.StringIO()
    writer = csv.DictWriter(written, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows(printable(document["energy"])))
    return written.getvalue()


def rows(energy: Section) -> Iterator[Section]:
    for profile in energy["profiles"]:
        yield from _profile(profile, energy["layers"])
    for convention in energy["conventions"]:
        yield from _convention(convention)


def _profile(profile: Section, layers: list[Section]) -> Iterator[Section]:
    for layer, priced in zip(layers, profile["layers"], strict=True):
        head = {"by": "profile", "name": profile["name"], "layer": layer["layer"], "per": "run"}
        for row in profile["rows"]:
            term = row["term"]
            yield {
                **head,
                "term": term,
                "count": layer["counts"][term],
                **{key: row[key] for key in ("price_joule", "price_low", "price_high", "scope", "evidence", "source")},
                "joule": priced["terms"][term],
                "low": priced["terms_low"][term],
                "high": priced["terms_high"][term],
                "status": "priced",
            }
        for status in ("included", "unpriced"):
            for row in profile[status]:
                term = row["term"]
                yield {**head, "term": term, "count": layer["counts"][term], "status": status, "source": row["why"]}


def _convention(convention: Section) -> Iterator[Section]:
    for term in convention["terms"]:
        yield {
            "by": "convention",
            "name": convention["name"],
            "term": term["term"],
            "count": term["count"],
            "per": "sample",
            "price_joule": term["price_joule"],
            "joule": term["joule"],
            "status": "unpriced" if term["joule"] is None else "priced",
            "source": term["why"] or convention["source"],
        }
