"""The page says what the document says, to people, to screen readers and to nobody on the network."""

import base64
import copy
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.report import html, svg

DOCUMENT = json.loads(Path(__file__).with_name("document.json").read_text("utf-8"))
SECTIONS = ("network", "data", "accuracy", "training", "parity", "energy", "membranes", "raster")
VOID = {"meta", "br", "img", "link", "input", "hr", "col"}
FIRST = {
    "sample": 3, "step": 1, "neuron": [4, 2, 7], "from": 0, "to": 1,
    "u": 0.49999997, "v_threshold": 0.5, "distance": 2.98e-8, "tolerance": 1.3e-6,
}  # fmt: skip


class Page(HTMLParser):
    """Everything that the tests ask of a page; fails on a tag that does not close what was opened last."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.words).replace("\u202f", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> after {self.open}"
        self.words.append(" " if tag in ("td", "th", "p", "li", "small") else "")

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def document():
    return copy.deepcopy(DOCUMENT)


@pytest.fixture
def failing(document):
    """The last rung diverges in its second layer."""
    rung = document["parity"]["rungs"][-1]
    document["parity"]["holds"] = rung["holds"] = False
    rung["layers"][1] |= {"mismatches": 7, "first": FIRST}
    return document


def page(document):
    return Page(html.render(document))


def test_numbers(document):
    """Every count, price and energy of the document stands in the page exactly, whatever its short form is."""
    shown = page(document)
    in_order = [float(a["value"]) for a in shown.all("data")]
    exact = set(in_order)
    energy = document["energy"]
    for layer in energy["layers"]:
        assert {layer["counts"][term] for term in ("mac", "ac", "spike")} <= exact
    assert {energy["twin"]["macs"], energy["twin"]["macs_with_padding"]} <= exact
    for layer in energy["layers"]:  # the folded table has every term
        assert all(f"{n:,}" in shown.text for n in layer["counts"].values())
    for profile in energy["profiles"]:
        assert {profile["joule_per_sample"], profile["synaptic_joule_per_sample"]} <= exact
        assert {layer["joule"] for layer in profile["layers"]} <= exact
        assert {step["joule"] for step in profile["at"]} <= exact
        assert {twin["joule"] for twin in profile["twins"] if twin["joule"] is not None} <= exact
        timings = profile["hardware"]["timings"]
        assert {each[key]["low"] for each in timings for key in ("step", "energy")} - {None} <= exact
        for row in profile["rows"]:
            lines = [in_order[i - 1 : i + 2] for i, value in enumerate(in_order) if value == row["price_joule"]]
            assert [row["count"], row["price_joule"], row["joule"]] in lines
            assert row["source"] in shown.text and row["evidence"] in shown.text
        for kind in ("included", "unpriced"):
            assert {term["count"] for term in profile[kind]} <= exact
            assert all(term["why"] in shown.text for term in profile[kind])
        assert all(note in shown.text for note in profile["notes"])
    for rung in document["parity"]["rungs"]:
        for layer in rung["layers"]:
            assert {layer["compared"], layer["max_v_error"]} <= exact
    for layer in document["membranes"]["layers"]:
        assert {arm["quantization_error"] for arm in layer["arms"]} <= exact
    assert document["accuracy"]["value"] in exact and document["network"]["parameters"] in exact


def test_a_range_is_shown_with_both_ends_and_a_pale_rest(document):
    """A layer whose ac costs 1 to 3 pJ: no point anywhere, both ends in its number, the rest of its bar pale."""
    profile = document["energy"]["profiles"][0]
    layer = profile["layers"][1]
    layer |= {"joule": None, "low": 1e-7, "high": 3e-7, "terms": layer["terms"] | {"ac": None}}
    layer["terms_low"]["ac"], layer["terms_high"]["ac"] = 1e-7, 3e-7
    profile |= {"joule_per_sample": None, "low_per_sample": 1e-7, "high_per_sample": 3e-7, "joule": None}
    shown, source = page(document), html.render(document)
    assert "100–300 nJ per image (estimate)" in shown.text
    assert 'data-low="1e-07" data-high="3e-07" title="1e-07 to 3e-07 J: ' in source
    assert '<rect class="upto"' in source and "pale is the rest of the range" in shown.text


def test_why_a_count_of_a_convention_is_unknown_stands_in_its_place(document):
    term = document["energy"]["conventions"][0]["terms"][0]
    term |= {"count": None, "joule": None, "differences": [], "why": "events of this layer were not recorded"}
    document["energy"]["conventions"][0]["joule_per_sample"] = None
    assert "events of this layer were not recorded" in page(document).text


@pytest.mark.parametrize(("low", "high", "log"), [(1e-9, 9e-9, False), (1e-9, 5e-3, True), (0.0, 4e-9, False)])
def test_the_axis_of_conventions_is_logarithmic_where_they_span_more_than_a_decade(document, low, high, log):
    energy = document["energy"]
    energy["profiles"] = energy["profiles"][:1]
    energy["profiles"][0] |= {"low_per_sample": low, "high_per_sample": low}
    energy["conventions"] = energy["conventions"][:1]
    energy["conventions"][0]["joule_per_sample"] = high
    assert ("on a logarithmic scale" in page(document).text) == log
    marks = re.findall(r'<circle class="\w+" cx="([\d.]+)%"', html.render(document))
    assert len(marks) == 2 and all(0 <= float(mark) <= 100 for mark in marks)


def test_headline(document):
    shown = page(document)
    assert "0 mismatching spikes in 3 hand-overs" in shown.text
    assert "99.4 % accuracy, 465 nJ per image (estimate)" in shown.text
    assert "Estimate, not a measurement." in shown.text
    assert "the same layers in one dense pass cost less" in shown.text  # ratio 0.73: nothing is hidden
    assert "rmp-deploy demo --seed 7" in shown.text
    assert "self-check of the file on its 4 golden samples" in shown.text.lower()


def test_failing_parity_names_the_first_divergence(failing):
    shown = page(failing)
    place = "sample 3, step 1, neuron (4, 2, 7): onnxruntime 0, lava 1; u = 0.49999997, threshold 0.5, distance 2.98e-8"
    assert f"First divergence in lif2: {place}" in shown.text
    assert shown.text.count(place) == 2  # the callout and the table
    assert "7 mismatching spikes in 1 of 3 hand-overs" in shown.text
    assert "✗ 7 mismatching spikes: does not hold" in shown.text
    assert "explained by" not in shown.text
    assert "spike by spike." not in shown.text.split("Parity:")[0]


def test_ties_are_no_failure_and_no_secret(document):
    document["parity"]["rungs"][0]["layers"][0] |= {"mismatches": 3, "ties": 1, "first": FIRST}
    shown = page(document)
    assert "3 mismatching spikes in 3 hand-overs all explained by float rounding" in shown.text.replace(",", "")
    assert "explained by 1 tie within float rounding of the threshold" in shown.text
    assert "✗" not in shown.text


def test_failing_self_check(document):
    check = document["parity"]["self_check"]
    document["parity"]["holds"] = check["holds"] = False
    check["layers"]["lif2"]["found"][0] += 1
    shown = page(document)
    assert "other spike counts in lif2" in shown.text and "but the file fails its self-check" in shown.text


def test_well_formed_and_accessible(document):
    source = html.render(document)
    shown = Page(source)
    ids = [a["id"] for _, a in shown.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attrs in shown.tags:
        assert {*attrs.get("aria-labelledby", "").split(), *attrs.get("aria-describedby", "").split()} <= set(ids)
    assert {a["href"][1:] for a in shown.all("a") if a["href"].startswith("#")} <= set(ids)
    assert len(shown.all("table")) == len(shown.all("caption"))
    assert all("scope" in a for a in shown.all("th"))
    assert all(a["alt"] for a in shown.all("img"))
    assert shown.all("html")[0]["lang"] == "en" and len(shown.all("h1")) == 1
    pictures = re.findall(r"<svg.*?</svg>", source, re.DOTALL)
    assert len(pictures) > 20
    for picture in pictures:
        root = ET.fromstring(picture)
        if root.get("aria-hidden") != "true":
            assert root.get("role") == "img"
            assert root.find("{*}title").text
            assert root.get("class") in ("stack", "scale") or root.find("{*}desc").text


def test_loads_nothing(document):
    source = html.render(document)
    shown = Page(source)
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in source  # this script and no other
    assert "script-src" not in html.render(document | {"energy": None})  # no page without switches has one
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in shown.tags}
    for tag, attrs in shown.tags:
        assert attrs.get("src", "data:").startswith("data:")
        if not attrs.get("href", "#").startswith("#"):
            assert tag == "a" and attrs["href"].startswith("https://doi.org/10.")
        assert not any(name.startswith("on") for name in attrs)
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in source


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(document, theme):
    """WCAG 2 AA: 4.5 for text on the page and on the tinted boxes, in both themes."""
    blocks = re.findall(r":root \{(.*?)\}", html.render(document), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[theme == "dark"]))
    for text in ("ink", "muted", "spiking", "dense"):
        for ground in ("page", "soft"):
            light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_names_are_escaped(document):
    """Names come from files that anyone may have written."""
    evil = "<script>alert('x')</script>&\"]]>\x1b[31m\ud800"

    def spoil(value):
        if isinstance(value, str):
            return value + evil
        if isinstance(value, list):
            return [spoil(v) for v in value]
        if isinstance(value, dict):  # keys of the document stay, names that are keys are spoilt
            named = {"counts", "totals", "terms", "terms_low", "terms_high", "spreads", "steps", "provenance"}
            return {
                k: {spoil(n): spoil(v) for n, v in inner.items()}
                if k in named and isinstance(inner, dict)
                else spoil(inner)
                for k, inner in value.items()
            }
        return value

    source = html.render(spoil(document))
    shown = Page(source)
    assert shown.all("script") == [{}] and source.count("</script>") == 1
    assert "lif1<script>alert('x')</script>" in shown.text
    assert "\x1b" not in source and source.encode()
    for picture in re.findall(r"<svg.*?</svg>", source, re.DOTALL):
        ET.fromstring(picture)


@pytest.mark.parametrize("absent", [*SECTIONS, None])
def test_missing_sections_are_left_out(document, absent):
    gone = SECTIONS if absent is None else (absent,)
    for section in gone:
        del document[section]
    shown = page(document)
    ids = {a.get("id") for _, a in shown.tags}
    assert not ids & (set(gone) - {"membranes"})  # the arms of the training stand in the same section
    assert "reproduce" in ids
    assert page(document | dict.fromkeys(gone)).text == shown.text  # null is absent


def test_what_may_be_null(document):
    for rung in document["parity"]["rungs"]:
        rung["max_output_error"] = rung["seconds"] = rung["layers"][0]["max_v_error"] = None
    document["parity"]["self_check"] = document["training"]["rmp_loss"] = document["energy"]["twin"] = None
    document["raster"] |= {"input": None, "label": None}
    document["network"]["file"] = None
    assert "None" not in page(document).text


def test_profile_without_prices_and_all_in(document):
    bare, all_in = document["energy"]["profiles"]
    sums = [f"{which}{end}_per_sample" for which in ("synaptic_", "twin_") for end in ("joule", "low", "high")]
    sums += ["ratio", "ratio_low", "ratio_high"]
    all_in |= dict.fromkeys(sums)
    bare |= dict.fromkeys([*sums, "joule_per_sample", "low_per_sample", "high_per_sample"])
    layer = dict.fromkeys(("joule", "low", "high")) | {"terms": {}, "terms_low": {}, "terms_high": {}}
    bare |= {"rows": [], "layers": [{"layer": "conv1", **layer}]}
    all_in["rows"][0]["scope"] = "all_in"
    shown = page(document)
    assert "No term of this profile has a published price." in shown.text
    assert "part of an all-in figure" in shown.text and "all-in simulated" in shown.text
    assert "8.05 µJ per image (estimate)" in shown.text  # the headline quotes the profile that has prices
    document["energy"] |= {"profiles": [bare], "conventions": []}
    assert "per image (estimate)" not in page(document).text


def test_stack_shares_the_scale():
    root = ET.fromstring(svg.stack([("a", 1.0, "one"), ("b", 2.0, ""), ("c", 0.0, "")], 4.0, "bar"))
    bars = [(r.get("x"), r.get("width")) for r in root.iterfind("{*}rect")]
    assert bars == [("0.000%", "25.000%"), ("25.000%", "50.000%")]


def test_raster_draws_every_spike_and_bounds_large_layers():
    few = svg.raster("k", {"layer": "l", "neurons": 10, "spikes": [[0, 0], [1, 9], [1, 3]]}, 2)
    assert len(re.findall(r"h[\d.]+", ET.fromstring(few).find("{*}path[@class='spikes']").get("d"))) == 3
    assert [t.text for t in ET.fromstring(few).iterfind("{*}text[@class='mark']")] == ["1", "2"]
    many = svg.raster("k", {"layer": "l", "neurons": 10**6, "spikes": [[0, i] for i in range(0, 10**6, 7)]}, 1)
    assert len(many) < 20_000


def test_outputs_of_many_classes():
    root = ET.fromstring(svg.outputs("k", [i / 1000 for i in range(1000)], 999, 3))
    texts = [t.text for t in root.iterfind("{*}text")]
    assert "999" in texts and "0.003 = label" in texts
    assert len(list(root.iterfind("{*}rect"))) == 11


def test_histogram_marks_threshold_and_spike_values(document):
    layer = document["membranes"]["layers"][0]
    texts = [t.text for t in ET.fromstring(svg.histogram("k", layer)).iterfind("{*}text")]
    assert {"threshold 0.5", "0", "1", "≤ -2", "≥ 2"} <= set(texts)
    layer |= {"edges": [e * 6400 for e in layer["edges"]], "v_threshold": 3200}
    texts = [t.text for t in ET.fromstring(svg.histogram("k", layer)).iterfind("{*}text")]
    assert "threshold 3200" in texts and "1" not in texts  # 0 and 1 would be one pixel


def test_picture_is_the_input():
    png = base64.b64decode(svg.picture([[0.0, 1.0, 2.0], [0.5, -1.0, 1.0]]).partition(",")[2])
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and png[16:24] == bytes([0, 0, 0, 3, 0, 0, 0, 2])
    start = png.index(b"IDAT") + 4
    assert zlib.decompress(png[start : png.index(b"IEND") - 8]) == bytes([0, 0, 255, 255, 0, 128, 0, 255])


def test_write(document, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    html.write(document, path)
    assert path.read_text("utf-8") == html.render(document)
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_nothing(document, tmp_path, monkeypatch):
    with pytest.raises(RmpDeployError, match=r"nowhere/report.html.*No such file or directory") as caught:
        html.write(document, "/proc/nowhere/report.html")
    assert "\n" not in str(caught.value)
    with pytest.raises(RmpDeployError, match="is a folder"):
        html.write(document, tmp_path)
    with pytest.raises(RmpDeployError):
        html.write(document, "/")
    with pytest.raises(RmpDeployError, match="null byte"):
        html.write(document, tmp_path / "a\0b")
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RmpDeployError, match="No space left on device"):
        html.write(document, path)
    with pytest.raises(RmpDeployError, match="No space left on device"):
        html.write(document, tmp_path / "new" / "folder" / "report.html")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_quantization_cost_stands_between_the_two_networks(document):
    section = document["parity"]
    rung = {**copy.deepcopy(section["rungs"][-1]), "arithmetic": "integer"}
    for layer in rung["layers"]:
        layer["exact"] = layer["layer"] != "lif1"
    first_v = {"sample": 1, "step": 2, "neuron": [7], "from": 64.0, "to": 128.0, "v": 64.0, "tolerance": 0.0}
    broken = copy.deepcopy(rung) | {"holds": False}
    broken["layers"][1] |= {"holds": False, "v_holds": False, "first_v": first_v}
    section["rungs"] += [rung, broken]
    layers = [{"layer": "lif2", "compared": 102_400, "mismatches": 1234, "agreement": 0.988}]
    section["quantization"] = {
        "file": "int.onnx", "compared": 102_400, "mismatches": 1234, "same_predictions": 49, "accuracy": None,
        "layers": layers, "self_check": section["self_check"],
    }  # fmt: skip
    shown = page(document)
    assert shown.text.count("a loss, not a proof") == 1
    assert (
        "Quantization (a loss, not judged): 1,234 of 102,400 spikes differ, 49 of 50 predictions the same."
        in shown.text
    )
    assert "98.8 % agree" in shown.text
    assert "bit for bit but for lif1 (float, on the host)" in shown.text
    assert "of the quantized file on its 4 golden samples" in shown.text
    assert (
        "Potentials of lif2 differ first at sample 1, step 2, neuron (7): onnxruntime 64, lava 128; the spikes give 64."
        in shown.text
    )
