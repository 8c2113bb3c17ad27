"""`energy`: counts at every step, ranges, conventions, the table and the page, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy import backends
from rmp_deploy.analysis import ledger
from rmp_deploy.analysis.conventions import CONVENTIONS
from rmp_deploy.cli import main
from rmp_deploy.hw_profiles import load as load_profile
from rmp_deploy.ir import onnx_io
from rmp_deploy.training import data

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NET, DIGITS = str(EXAMPLES / "digits.onnx"), str(EXAMPLES / "digits.npz")
RANGE = """name = "range"\ntitle = "a range"\nprecision = "fp32"\nprecision_source = "page 1"
[terms.ac]\nmin = 1.0\nmax = 3.0\nunit = "pJ"\nscope = "per_term"\nevidence = "measured"\nsource = "page 2"
"""


@pytest.fixture
def energy(capsys):
    """Run the command on the 60 digits; its exit code and what it printed (a dict with --json)."""

    def call(*args: str):
        code = main(["energy", NET, "--data", DIGITS, *args])
        out = capsys.readouterr().out
        return code, json.loads(out)["energy"] if "--json" in args else " ".join(out.split())

    return call


def test_the_command_says_what_the_public_function_says(energy):
    graph, samples = onnx_io.load(NET), data.load(DIGITS)

    def run(g):
        return backends.batches(g, samples.x[:], "onnxruntime", ("spikes", "readout"))

    whole = ledger.measure(graph, run, [load_profile("cmos45")], samples.y)
    code, found = energy("--profile", "cmos45", "--json")
    assert code == 0
    assert found["totals"] == whole.counts.totals
    assert [step["correct"] for step in found["at"]] == list(whole.accuracy.correct)
    assert found["profiles"][0]["joule_per_sample"] == whole.profiles[0].ledger.joule_per_sample
    assert [each["joule_per_sample"] for each in found["conventions"]] == [
        each.joule_per_sample for each in whole.conventions
    ]


def test_steps_spreads_and_samples_add_up(energy):
    found = energy("--profile", "cmos45", "--json")[1]
    per_sample = [energy("--profile", "cmos45", "--json", "--samples", str(n))[1]["totals"] for n in (1, 2)]
    assert found["at"][-1]["counts"] == found["totals"]
    assert found["profiles"][0]["at"][-1]["joule"] == pytest.approx(found["profiles"][0]["joule_per_sample"])
    for layer in found["layers"]:
        assert {term: sum(steps) for term, steps in layer["steps"].items()} == layer["counts"]
    two = energy("--profile", "cmos45", "--json", "--samples", "2")[1]["spreads"]["ac"]
    first, second = per_sample[0]["ac"], per_sample[1]["ac"] - per_sample[0]["ac"]
    assert (two["min"], two["max"]) == (min(first, second), max(first, second))
    assert two["mean"] == (first + second) / 2 and two["std"] == pytest.approx(abs(first - second) / 2)


def test_a_range_stays_a_range(energy, tmp_path):
    (tmp_path / "range.toml").write_text(RANGE)
    args = ("--profile", str(tmp_path / "range.toml"))
    (profile,) = energy(*args, "--json")[1]["profiles"]
    assert profile["joule_per_sample"] is None
    assert profile["high_per_sample"] == pytest.approx(3 * profile["low_per_sample"])
    low, high = (1e9 * profile[f"{end}_per_sample"] for end in ("low", "high"))
    told = energy(*args)[1]
    assert f"{low:#.3g}–{high:#.3g} nJ per image (estimate)".replace(".–", "–").replace(". nJ", " nJ") in told
    assert "1–3 pJ" in told


def test_compare_prints_every_convention_and_its_reasons(energy):
    found = energy("--profile", "cmos45", "--json")[1]
    plain, compared = energy("--profile", "cmos45")[1], energy("--profile", "cmos45", "--compare")[1]
    assert [each["name"] for each in found["conventions"]] == list(CONVENTIONS)
    for each in found["conventions"]:
        assert each["name"] in compared and "spikformer" not in plain
        for term in each["terms"]:
            assert all(difference["reason"] in compared for difference in term["differences"])
            total = sum(difference["count"] for difference in term["differences"])
            if term["count"] is not None:
                assert term["ours"] + total == pytest.approx(term["count"])


def test_accuracy_prints_what_each_step_would_have_answered(energy):
    found = energy("--profile", "cmos45", "--json")[1]
    told = energy("--profile", "cmos45", "--accuracy")[1]
    assert "Stopped after t steps" in told and "Stopped after" not in energy("--profile", "cmos45")[1]
    assert [step["t"] for step in found["at"]] == [1, 2, 3, 4]
    for step in found["at"]:
        assert f"{step['t']} {100 * step['accuracy']:.1f} %" in told


def test_without_labels_the_energies_are_there_and_the_accuracy_is_null(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=data.load(DIGITS).x[:3])
    args = ["energy", NET, "--data", str(tmp_path / "x.npz"), "--profile", "cmos45"]
    assert main([*args, "--json", "--report", str(tmp_path / "page.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "accuracy" not in found
    assert [step["accuracy"] for step in found["energy"]["at"]] == [None] * 4
    assert "not known without labels" in (tmp_path / "page.html").read_text()
    assert main([*args, "--accuracy"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "labels of data" in err[0] and "= none" in err[0]


def test_the_table_holds_the_numbers_of_the_document(energy, tmp_path):
    out = tmp_path / "energies.csv"
    found = energy("--profile", "cmos45", "--profile", "loihi1", "--csv", str(out), "--json")[1]
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    for profile in found["profiles"]:
        mine = [float(row["joule"]) for row in rows if row["name"] == profile["name"] and row["joule"]]
        assert sum(mine) == pytest.approx(profile["joule_per_sample"], rel=1e-12)
    assert {row["name"] for row in rows if row["by"] == "convention"} == set(CONVENTIONS)


BAD = [
    (["--profile", "loihi9"], "profile 'loihi9': unknown name"),
    (["--profile", "cmos45", "--csv", "energies.txt"], "suffix = '.txt', allowed .csv"),
    (["--profile", "cmos45", "--csv", "/proc/none/e.csv"], "cannot be written"),
    (["--profile", "cmos45", "--csv", "e.csv", "--report", "/proc/none/e.html"], "cannot be written"),
    (["--profile", "cmos45", "--csv", "folder.csv", "--report", "page.html"], "is a folder"),
    (["--profile", "cmos45", "--csv", "e.csv", "--report", "folder.html"], "is a folder"),
    (["--compare"], "required: --profile"),
]


@pytest.mark.parametrize(("args", "said"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_line_and_leaves_nothing(args, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("folder.csv", "folder.html"):
        (tmp_path / name).mkdir()
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main(["energy", NET, "--data", DIGITS, *args])
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and said in err
    assert sorted(tmp_path.rglob("*")) == before
