"""`rmp-deploy profiles`: every limit with its unit, scope, evidence and source; unknown with its reason."""

from __future__ import annotations

import json

import pytest

from rmp_deploy.cli import main
from rmp_deploy.hw_profiles import load, names


def test_the_list_shows_sizes_beside_energies(capsys):
    assert main(["profiles"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert all(size in rows["loihi1"] for size in ("23.6 pJ", "128", "1,024"))
    assert all(size in rows["loihi2"] for size in ("128", "8,192"))


@pytest.mark.parametrize("name", names())
def test_one_profile_shows_all_of_its_limits(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["profiles", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["profiles", name, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["profiles"]
    for limit, figure in load(name).limits.items():
        (line,) = [x for x in lines if x.split()[:1] == [limit]]
        shown = (figure.scope, figure.evidence, figure.source) if figure.value is not None else ("unknown", figure.why)
        assert all(words in line for words in shown)
        keys = ("value", "unit", "scope", "evidence", "source", "why")
        assert found["limits"][limit] == {key: getattr(figure, key) for key in keys}
