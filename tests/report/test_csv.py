"""The table of energies: RFC 4180, and every number is the document's."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path

import pytest

from rmp_deploy.report import csv as table

DOCUMENT = json.loads(Path(__file__).with_name("document.json").read_text("utf-8"))


def parsed(document):
    return list(csv.DictReader(io.StringIO(table.render(document), newline=""), strict=True))


def number(field):
    return None if field == "" else float(field)


def test_every_number_parses_back():
    rows, energy = parsed(DOCUMENT), DOCUMENT["energy"]
    for profile in energy["profiles"]:
        mine = [row for row in rows if (row["by"], row["name"]) == ("profile", profile["name"])]
        terms = [*profile["rows"], *profile["included"], *profile["unpriced"]]
        assert len(mine) == len(terms) * len(energy["layers"])
        for row in mine:
            (layer,) = (each for each in energy["layers"] if each["layer"] == row["layer"])
            (priced,) = (each for each in profile["layers"] if each["layer"] == row["layer"])
            (term,) = (each for each in terms if each["term"] == row["term"])
            assert int(row["count"]) == layer["counts"][row["term"]]
            assert row["source"] == term.get("source", term.get("why"))
            if row["status"] == "priced":
                assert number(row["price_joule"]) == term["price_joule"]
                energies = (priced[key][row["term"]] for key in ("terms", "terms_low", "terms_high"))
                assert [number(row[key]) for key in ("joule", "low", "high")] == list(energies)
            else:
                assert row["joule"] == row["low"] == row["high"] == row["price_joule"] == ""
        assert sum(number(row["joule"]) or 0 for row in mine) == pytest.approx(profile["joule_per_sample"], rel=1e-12)
    for convention in energy["conventions"]:
        mine = [row for row in rows if (row["by"], row["name"]) == ("convention", convention["name"])]
        found = [(row["term"], number(row["count"]), number(row["price_joule"]), number(row["joule"])) for row in mine]
        assert found == [(t["term"], t["count"], t["price_joule"], t["joule"]) for t in convention["terms"]]


def test_quotes_commas_and_lines_survive():
    document = copy.deepcopy(DOCUMENT)
    row = document["energy"]["profiles"][0]["rows"][0]
    row["source"] = 'a "table", page 3; é'
    written = table.render(document)
    assert written.count("\r\n") == written.count("\n") == len(parsed(document)) + 1
    assert row["source"] in {found["source"] for found in parsed(document)}


def test_what_is_unknown_is_empty_and_a_range_has_no_point():
    document = copy.deepcopy(DOCUMENT)
    profile = document["energy"]["profiles"][0]
    profile["rows"][0] |= {"price_joule": None, "price_low": 1e-12, "price_high": 2e-12}
    term = profile["rows"][0]["term"]
    profile["layers"][0]["terms"][term] = None
    first = parsed(document)[0]
    assert (first["term"], first["price_joule"], first["joule"]) == (term, "", "")
    assert (float(first["price_low"]), float(first["price_high"])) == (1e-12, 2e-12)
