"""`rmp-deploy profiles`: every limit with its unit, scope, evidence and source; unknown with its reason."""

from __future__ import annotations

import json
import re

import pytest

from rmp_deploy.cli import main
from rmp_deploy.hw_profiles import load, names


def test_the_list_shows_sizes_beside_energies(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["profiles"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert all(size in rows["loihi1"] for size in ("23.6 pJ", "128", "1,024"))
    assert all(size in rows["loihi2"] for size in ("128", "8,192"))
    assert all(words in rows["cmos45_int8"] for words in ("int8", "0.23 pJ", "0.03 pJ"))
    assert "10 to 450 pJ" in rows["spinnaker2"]
    assert set(names()) <= set(rows)


@pytest.mark.parametrize("width", ["80", "400"])
@pytest.mark.parametrize("name", names())
def test_one_profile_shows_all_of_its_figures(name, width, capsys, monkeypatch):
    """Each number stands in a row that ends in the number of its source; each unknown beside its reason."""
    monkeypatch.setenv("COLUMNS", width)
    assert main(["profiles", name]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= int(width)
    table, _, notes = out.partition("\n\n[1] ")
    words, sources = " ".join(table.split()), " ".join(f"[1] {notes}".split())
    profile = load(name)
    assert all(note in words for note in profile.notes)
    assert f"precision: {profile.precision}" in words
    figures = {n: price.figure or price for n, price in {**profile.prices, **profile.routing}.items()}
    for what, figure in {**figures, **profile.limits, **profile.mesh, **profile.static}.items():
        if getattr(figure, "source", ""):
            assert figure.source in sources
            assert re.search(rf" {what} .*{figure.evidence} +\[\d+\]", table)
        else:
            assert f"({figure.why})" in words
            assert re.search(rf"[ ,]{what}[,:]", words)
    for task in profile.whole_task.values():
        assert task.figure.source in sources
    assert main(["profiles", name, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["profiles"]
    assert found["precision"] == profile.precision
    for limit, value in profile.limits.items():
        keys = ("value", "unit", "scope", "evidence", "source", "why")
        assert found["limits"][limit] == {key: getattr(value, key) for key in keys}
    for term, price in profile.prices.items():
        if price.figure:
            assert [found["prices"][term]["figure"][key] for key in ("joule", "low", "high")] == [
                price.joule, price.low, price.high,
            ]  # fmt: skip


def test_ranges_and_parts_of_one_profile(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["profiles", "loihi1_sanafe"]) == 0
    out = capsys.readouterr().out
    for row in (
        r"ac +24 to 35.5 pJ +per_term +estimated",
        r"message_out +111 pJ",
        r"hop_north_south +4.2 pJ",
        r"mesh_columns +8 tiles +chip +software",
        r"barrier of 29 tiles +1.8 µs",
        r"ac +3.1 to 4.7 ns",
    ):
        assert re.search(row, out), row
    assert main(["profiles", "loihi1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"core +0 W to 820 µW +derived", out)
    assert re.search(r"stdp_update \(not counted\) +120 pJ", out)
    assert main(["profiles", "cmos45"]) == 0
    assert re.search(r"DRAM, 64 bits +1.3 to 2.6 nJ", capsys.readouterr().out)
    assert main(["profiles", "xylo"]) == 0
    assert re.search(r"one inference of keyword spotting, dynamic +6.6 µJ +measured", capsys.readouterr().out)


HEAD = 'name = "n"\ntitle = "t"\nprecision = "unstated"\n'
AC = '[terms.ac]\nvalue = 1\nunit = "pJ"\nscope = "per_term"\nevidence = "measured"\nsource = "s"\n'
BAD = {
    "no unit": (AC.replace('unit = "pJ"\n', ""), "terms.ac: key 'unit' is missing"),
    "negative": (AC.replace("= 1", "= -1"), "terms.ac: value = -1 pJ, allowed 0.."),
    "all_in and per_term": (
        AC + AC.replace("per_term", "all_in").replace("ac", "mac"),
        "mac is all_in and ac is per_term",
    ),
    "min above max": (AC.replace("value = 1", "min = 2\nmax = 1"), "terms.ac: min = 2 pJ, allowed at most max = 1 pJ"),
    "no evidence": (AC.replace('evidence = "measured"\n', ""), "terms.ac: key 'evidence' is missing"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("command", [["profiles"], ["energy", "none.onnx", "--data", "none.npz", "--profile"]])
def test_a_bad_profile_is_one_line_and_exit_code_2(text, message, command, tmp_path, capsys):
    path = tmp_path / "chip.toml"
    path.write_text(HEAD + text)
    assert main([*command, str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: profile {path}: ") or err.startswith("error: profile n: ")
    assert message in err
