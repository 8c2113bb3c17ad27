"""docs/report_schema.md names every key of a real document, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCUMENT = json.loads(Path(__file__).with_name("document.json").read_text("utf-8"))
PAGE = (Path(__file__).parent.parent.parent / "docs" / "report_schema.md").read_text("utf-8")
# objects whose keys are names: of terms, of messages, of what was left out
MAPS = {"terms", "totals", "spreads", "counts", "steps", "activity", "terms_low", "terms_high", "left_out"}


def paths(value, path=""):
    """Every key of the document by its path: a list is [], an object whose keys are names is {}."""
    if isinstance(value, list):
        for each in value:
            if isinstance(each, dict):
                yield from paths(each, path)
    elif isinstance(value, dict):
        for key, inner in value.items():
            named = isinstance(inner, dict) and key in MAPS
            listed = isinstance(inner, list) and any(isinstance(each, dict) for each in inner)
            here = f"{path}.{key}" + "{}" * named + "[]" * listed
            yield here.lstrip(".")
            yield from (each for each in inner.values() for each in paths(each, here)) if named else paths(inner, here)


def documented():
    """The first cells of the table of `energy`; a key that begins with a dot stands beside the first of its row."""
    section = PAGE.partition("## `energy`")[2].partition("## CSV")[0]
    for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", cell)
        yield first
        yield from (first.rpartition(".")[0] + other for other in others if other.startswith("."))
        yield from (other for other in others if not other.startswith("."))


def test_every_key_of_the_energies_is_documented_and_no_other():
    found, written = set(paths(DOCUMENT["energy"])), list(documented())
    found -= {each for each in found if f"{each}[]" in found}  # a list that is empty here and not there
    assert len(written) == len(set(written))
    assert found - set(written) == set()
    # null in this run, so that what is inside cannot be seen
    unseen = {each for each in set(written) - found if not each.startswith("relays.")}
    assert unseen == set()


def test_the_other_sections_name_their_keys():
    assert f"`{DOCUMENT['schema']}`" in PAGE
    words = set(re.findall(r"`([^`]+)`", PAGE))
    for section in set(DOCUMENT) - {"energy"}:
        assert section in words
        if isinstance(DOCUMENT[section], dict):
            assert set(DOCUMENT[section]) <= words, section
