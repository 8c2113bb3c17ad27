"""The profile of docs/profiles.md, as a user would save it: read, priced, shown."""

import json
from pathlib import Path

import pytest

from rmp_deploy.analysis.counts import Counts, LayerCounts, Twin, TwinLayer
from rmp_deploy.analysis.energy import price
from rmp_deploy.cli import main
from rmp_deploy.hw_profiles import TERMS, load, names

PAGE = Path(__file__).parents[2] / "docs" / "profiles.md"


@pytest.fixture
def path(tmp_path):
    text = PAGE.read_text()
    block = text[text.index("Save this as") : text.index("Only `name`")]
    toml = "\n".join(line[4:] for line in block.splitlines() if line.startswith("    ") or not line)
    (tmp_path / "my_chip.toml").write_text(toml)
    return tmp_path / "my_chip.toml"


def test_every_key_of_the_page_is_read(path):
    profile = load(path)
    assert (profile.name, profile.precision, profile.precision_source) == ("my_chip", "int8", "data sheet, page 3")
    known = {term: (p.low, p.high) for term, p in profile.prices.items() if p.figure}
    assert known == {"ac": (5e-12, 5e-12), "neuron_active": (20e-12, 35e-12)}
    assert profile.prices["mac"].why == "not published"
    assert profile.routing["hop_east_west"].joule == 2e-12
    assert (profile.mesh["mesh_rows"].value, profile.mesh["mesh_columns"].value) == (8, None)
    assert [(m.bytes, m.access_bits, m.price.joule) for m in profile.memory] == [(65536, 64, 12e-12)]
    assert (profile.static["chip"].value, profile.static["core"].value) == (0.04, None)
    assert profile.latency["ac"].value == 3e-9
    assert [(b.tiles, b.time.value) for b in profile.barrier] == [(1, 1e-7)]
    assert profile.whole_task["keyword"].what == "one inference of keyword spotting"
    assert (profile.limits["cores"].value, profile.limits["input_axons_per_core"].why) == (64, "not published")


def test_it_prices_a_run(path):
    """10 accumulates and 4 updates: 50 pJ + 4 * (20 to 35) pJ; what it does not know is listed."""
    terms = {**dict.fromkeys(TERMS, 0), "ac": 10, "weight_read": 10, "neuron_active": 4, "spike": 2}
    counts = Counts(1, 3, (LayerCounts("fc", "lif", "spikes", terms, 0),))
    ledger = price(counts, Twin((TwinLayer("fc", 100, 100),)), load(path))
    assert (ledger.joule, ledger.low, ledger.high) == (None, pytest.approx(130e-12), pytest.approx(190e-12))
    assert ledger.synaptic_joule_per_sample == pytest.approx(50e-12)
    assert [(u.term, u.count, u.why) for u in ledger.unpriced] == [("spike", 2, "not published")]
    assert [i.term for i in ledger.included] == ["weight_read"]
    assert (ledger.twin_joule_per_sample, ledger.twin_why) == (None, "not published")


def test_the_command_shows_it(path, capsys):
    assert main(["profiles", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(
        words in out for words in ("my_chip: My chip, 28 nm", "precision: int8", "20 to 35 pJ", "40 mW", "6.6 µJ")
    )
    assert main(["profiles", str(path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["profiles"]
    assert found["prices"]["neuron_active"]["figure"]["high"] == 35e-12


def test_the_page_lists_every_profile_that_ships():
    table = PAGE.read_text().partition("| name |")[2].partition("Unknown is not 0")[0]
    assert (
        sorted(name for row in table.splitlines()[2:] for name in row.split("|")[1:2] for name in name.split("`")[1::2])
        == names()
    )
