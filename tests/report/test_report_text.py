"""The terminal form: compact, exact where it counts, never wider than the terminal."""

import copy
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rmp_deploy.report import text
from rmp_deploy.report.energy import compute_line, energy

DOCUMENT = json.loads(Path(__file__).with_name("document.json").read_text("utf-8"))


@pytest.fixture
def document():
    return copy.deepcopy(DOCUMENT)


def shown(renderable, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


def rendered(document, width=80, tables=()):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    text.render(document, console, tables)
    return console.file.getvalue()


def unwrapped(output):
    return " ".join(output.split())


def test_a_verdict_line_per_rung(document):
    lines = rendered(document).splitlines()
    assert "torch -> reference: 0 mismatching spikes of 320,000 compared" in lines
    assert "reference -> onnxruntime: 0 mismatching spikes of 320,000 compared" in lines
    assert "onnxruntime -> lava: 0 mismatching spikes of 320,000 compared" in lines


def test_headline(document):
    told = unwrapped(rendered(document))
    assert told.startswith("0 mismatching spikes in 3 hand-overs, 99.4 % accuracy, 465 nJ per image (estimate)")
    assert told.endswith(text.ESTIMATE)


def test_fits_80_columns(document):
    told = rendered(document, tables=("compare", "accuracy"))
    assert max(len(line) for line in told.splitlines()) <= 80


def test_the_chip_and_the_break_even_of_a_profile_that_knows_them(document):
    cmos, loihi = document["energy"]["profiles"]
    told = unwrapped(rendered(document))
    rate, bound = cmos["break_even"]["network"]["rate"], cmos["break_even"]["network"]["dense"]["value"]
    assert f"its dense MACs: at {100 * bound:.1f} % (this run: {100 * rate:.1f} % spikes per input and step)" in told
    assert loihi["break_even"]["network"]["dense"]["value"] is None  # the host's multiplies have no price
    assert told.count("break-even with the ANN twin, its dense MACs") == 1
    routing, (timing,) = loihi["hardware"]["routing"], loihi["hardware"]["timings"]
    assert f"on {routing['cores']} cores, 1 tile, 1 chip; over all samples {routing['counts']['message_out']:,}" in told
    assert f"energy-delay product, {timing['name']} {1e9 * timing['energy_delay']['value']:.1f} nJ s" in told
    assert all(f"left out: {what} ({why})" in told for what, why in loihi["hardware"]["left_out"].items())


@pytest.mark.parametrize(
    ("spikes", "low", "high", "said"),
    [(1.0, 2.0, 2.0, "holds"), (3.0, 2.0, 4.0, "may hold"), (5.0, 2.0, 4.0, "does not hold")],
)
def test_the_line_of_computation(spikes, low, high, said):
    line = {"spikes": spikes, "gamma": 0.5, "limit": {"value": None, "low": low, "high": high, "why": ""}}
    assert f" {said} (Yan 2024" in compute_line(line)
    assert compute_line(line | {"spikes": None}) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1e-9, 1e-9, "1.00 nJ"), (1e-9, 2.5e-9, "1.00–2.50 nJ"), (9e-10, 2e-6, "<0.001–2.00 µJ"), (0.0, 2e-9, "0–2.00 nJ"),
     (None, None, "–")],
)  # fmt: skip
def test_span(low, high, expected):
    assert text.span(low, high) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.9e-12, 0.9e-12, "0.9 pJ"), (1e-12, 3e-12, "1–3 pJ"), (5e-10, 2e-9, "500 pJ–2 nJ"), (None, None, "–")],
)
def test_price_span(low, high, expected):
    assert text.price_span(low, high) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.737, 0.737, "0.74"), (0.5, 2.0, "0.50–2.00"), (0.5, None, ">= 0.50"), (None, None, "–")],
)
def test_ratio(low, high, expected):
    assert text.ratio(low, high) == expected


def test_failing_parity(document):
    rung = document["parity"]["rungs"][1]
    rung["holds"] = document["parity"]["holds"] = False
    first = {"sample": 0, "step": 2, "neuron": [17], "from": 1, "to": 0, "u": 0.61, "v_threshold": 0.5}
    rung["layers"][2] |= {"mismatches": 1, "first": {**first, "distance": 0.11}}
    told = unwrapped(shown(text.parity(document["parity"])))
    assert "reference -> onnxruntime: 1 mismatching spike of 320,000 compared, DOES NOT HOLD" in told
    place = "sample 0, step 2, neuron (17): reference 1, onnxruntime 0; u = 0.61, threshold 0.5, distance 0.11"
    assert f"first at lif3: {place}" in told
    assert "1 mismatching spike in 1 of 3 hand-overs" in unwrapped(rendered(document))


def test_ties_are_explained(document):
    document["parity"]["rungs"][0]["layers"][0] |= {"mismatches": 5, "ties": 2}
    told = unwrapped(shown(text.parity(document["parity"])))
    expected = "5 mismatching spikes of 320,000 compared, explained by 2 ties within float rounding of the threshold"
    assert f"torch -> reference: {expected}" in told
    assert text.headline(document)[1] == "all explained by float rounding"


def test_energy_has_counts_prices_and_sources(document):
    section = document["energy"]
    told = unwrapped(shown(energy(section)))
    for layer in section["layers"]:
        assert all(f"{layer['counts'][term]:,}" in told for term in ("mac", "ac", "spike"))
    for profile in section["profiles"]:
        for row in profile["rows"]:
            assert f"{text.price(row['price_joule'])} {text.joule(row['joule'])}" in told
            assert row["source"] in told
        for kind in ("included", "unpriced"):
            for term in profile[kind]:
                assert f"{kind} ({term['why']})" in told and f"{term['term']} {text.count(term['count'])}" in told


@pytest.mark.parametrize("absent", ["accuracy", "parity", "training", "energy"])
def test_missing_sections_are_left_out(document, absent):
    document[absent] = None
    told = rendered(document)
    del document[absent]
    assert rendered(document) == told != rendered(DOCUMENT)


def test_nothing_to_say():
    assert rendered({"schema": "rmp-deploy.report/2", "version": "0.1.0", "command": "rmp-deploy"}) == ""


def test_names_are_neither_markup_nor_control(document):
    for rung in document["parity"]["rungs"]:
        rung["layers"][0]["layer"] = "[red]lif\x1b[2J[/red]"
    document["accuracy"] = document["energy"] = document["training"] = None
    told = rendered(document, width=120)
    assert "[red]lif\ufffd[2J[/red]" in told and "\x1b" not in told


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.0 k"), (999_949, "1.00 M"), (1_234_567, "1.23 M"), (None, "–")],
)
def test_count(value, expected):
    assert text.count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4.6e-12, "4.60 pJ"), (1.2e-7, "120 nJ"), (9.996e-10, "1.00 nJ"), (2e-4, "200 µJ"), (0, "0 J"), (None, "–")],
)
def test_joule(value, expected):
    assert text.joule(value) == expected


def test_joule_in_the_unit_of_another():
    assert text.joule(9.99e-10, like=1.65e-7) == "0.999 nJ"
    assert text.joule(1e-13, like=1.65e-7) == "<0.001 nJ"


@pytest.mark.parametrize(
    ("value", "expected"), [(0.9e-12, "0.9 pJ"), (23.6e-12, "23.6 pJ"), (7e-15, "0.007 pJ"), (8.6e-9, "8.6 nJ")]
)
def test_price_adds_no_digits(value, expected):
    assert text.price(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(2.44e-7, "2.44e-7"), (0.5, "0.5"), (0.0, "0"), (None, "–")])
def test_number(value, expected):
    assert text.number(value) == expected


def test_a_rung_that_fails_without_a_spike_says_why(document):
    """Equal spikes, other potentials and another readout: no neuron to name, so the layer and the readout are."""
    rung = document["parity"]["rungs"][0]
    document["parity"]["holds"] = rung["holds"] = rung["output_holds"] = False
    rung["max_output_error"] = 0.25
    rung["layers"][1].update(holds=False, v_holds=False)
    told = unwrapped(rendered(document))
    assert told.startswith("potentials or readouts differ in 1 of 3 hand-overs")
    assert "readout differs by 0.25, DOES NOT HOLD" in told
    assert "potentials of lif2 differ by more than float rounding explains" in told


def test_what_quantization_cost_stands_between_the_two_networks_and_is_no_rung(document):
    both = text_of_two_networks(document)
    told = unwrapped(rendered(both))
    assert told.startswith("0 mismatching spikes in 4 hand-overs")
    loss = "quantization (a loss, not judged): 1,234 of 320,000 spikes differ, 49 of 50 predictions the same"
    first, second = "onnxruntime -> lava: 0 mismatching", "integer: reference -> lava: 0 mismatching"
    assert told.index(first) < told.index(f"{loss}, accuracy 99.4 % -> 98.0 %") < told.index(second)
    assert "of 320,000 compared, bit for bit but for lif1 (float, on the host)" in told
    assert "self-check of the quantized file on its 4 golden samples: the spike counts are the expected ones" in told
    rows = [line.split() for line in rendered(both).splitlines()]
    at = next(i for i, row in enumerate(rows) if row[:3] == ["quantization", "(a", "loss)"] and row[-1] == "–")
    assert rows[at + 1] == ["lif2", "102,400", "1,234", "–", "–"]
    assert max(len(line) for line in rendered(both).splitlines()) <= 80


def text_of_two_networks(document):
    """The document with an integer rung, whose first layer is on the host, and what lies before it."""
    section = document["parity"]
    rung = {**copy.deepcopy(section["rungs"][0]), "from": "reference", "to": "lava", "arithmetic": "integer"}
    for layer, exact in zip(rung["layers"], (False, True, True), strict=True):
        layer["exact"] = exact
    section["rungs"].append(rung)
    layers = [
        {"layer": each["layer"], "compared": each["compared"], "mismatches": 0, "agreement": 1.0}
        for each in rung["layers"]
    ]
    layers[1] |= {"mismatches": 1234, "agreement": 1 - 1234 / 102_400}
    section["quantization"] = {
        "file": "int.onnx", "compared": 320_000, "mismatches": 1234, "same_predictions": 49,
        "accuracy": {"float": document["accuracy"], "integer": {"correct": 49, "samples": 50, "value": 0.98}},
        "layers": layers, "self_check": section["self_check"],
    }  # fmt: skip
    return document


def test_a_potential_that_differs_is_named_with_its_neuron_and_step(document):
    rung = text_of_two_networks(document)["parity"]["rungs"][-1]
    first_v = {
        "sample": 1,
        "step": 2,
        "neuron": [3, 4, 5],
        "from": -50752.0,
        "to": -50880.0,
        "v": -50752.0,
        "tolerance": 0.0,
    }
    rung["layers"][1] |= {"holds": False, "v_holds": False, "first_v": first_v}
    rung["holds"] = document["parity"]["holds"] = False
    told = unwrapped(rendered(document))
    place = "sample 1, step 2, neuron (3, 4, 5): reference -50752, lava -50880; the spikes give -50752"
    assert f"potentials of lif2 differ first at {place}" in told
    assert "float rounding explains" not in told


def test_how_samples_reach_loihi_is_said(document):
    document["network"]["input_coding"] = "host"
    assert "input of digits-convnet: host-encoded: the first synapses" in unwrapped(rendered(document))
    document["quantized_network"] = document["network"] | {"name": "int", "input_coding": "graded"}
    document["network"]["input_coding"] = None
    told = unwrapped(rendered(document))
    assert "input of int: graded spikes" in told
    assert "host-encoded" not in told
