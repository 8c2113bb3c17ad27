"""The page in a real browser: its switches by mouse and keyboard, its numbers, and all of it without a script."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from rmp_deploy.report import html

DOCUMENT = json.loads(Path(__file__).with_name("document.json").read_text("utf-8"))
SHOWN = "[...document.querySelectorAll('[data-panel=%s]')].filter(p => p.checkVisibility()).map(p => p.id)"


@pytest.fixture
def page(tmp_path):
    return html.write(DOCUMENT, tmp_path / "page.html")


def shown(tab, group):
    return tab.ask(SHOWN % group)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_lays_out_in_both_themes_without_a_complaint(tab, page, width, theme):
    tab.open(page, width, theme)
    assert tab.complaints == []
    assert [url for url in tab.requested if not url.startswith("data:")] == [page.as_uri()]
    assert tab.ask("document.documentElement.scrollWidth") <= width
    ground = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 23)"}
    assert tab.ask("getComputedStyle(document.body).backgroundColor") == ground[theme]
    for i in range(len(DOCUMENT["energy"]["profiles"])):  # what is hidden at first must fit as well
        tab.ask(f"document.querySelector('[value=profile-{i + 1}]').click()")
        assert tab.ask("document.documentElement.scrollWidth") <= width
    for i in range(len(DOCUMENT["energy"]["conventions"])):
        tab.ask(f"document.querySelector('[value=convention-{i + 1}]').click()")
        assert tab.ask("document.documentElement.scrollWidth") <= width


def test_switches_by_mouse(tab, page):
    tab.open(page)
    assert shown(tab, "profile") == ["profile-1"] and shown(tab, "convention") == ["convention-1"]
    tab.click("label:has([value=profile-2])")
    assert shown(tab, "profile") == ["profile-2"] and shown(tab, "convention") == ["convention-1"]
    tab.click("label:has([value=convention-3])")
    assert shown(tab, "profile") == ["profile-2"] and shown(tab, "convention") == ["convention-3"]
    assert tab.complaints == []


def test_switches_by_keyboard_and_the_focus_is_seen(tab, page):
    tab.open(page)
    tab.ask("document.querySelector('a[href=\"#profile-2\"]').focus()")
    for _ in range(20):  # the numbers with a source lie between the link and the switch
        tab.press("Tab")
        if tab.ask("document.activeElement.type") == "radio":
            break
    assert tab.ask("document.activeElement.value") == "profile-1"
    assert tab.ask("getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
    tab.press("ArrowRight")
    assert tab.ask("document.activeElement.value") == "profile-2"
    assert shown(tab, "profile") == ["profile-2"]
    tab.press("ArrowRight")  # round again
    assert shown(tab, "profile") == ["profile-1"]


def test_a_link_to_a_hidden_panel_shows_it(tab, page):
    tab.open(page)
    tab.click("a[href='#profile-2']")
    assert shown(tab, "profile") == ["profile-2"]
    assert tab.ask("document.querySelector('[value=profile-2]').checked")
    tab.click("a[href='#convention-6']")
    assert shown(tab, "convention") == ["convention-6"]


def test_everything_is_there_without_a_script(tab, page):
    tab.open(page, script=False)
    energy = DOCUMENT["energy"]
    assert shown(tab, "profile") == [f"profile-{i + 1}" for i in range(len(energy["profiles"]))]
    assert shown(tab, "convention") == [f"convention-{i + 1}" for i in range(len(energy["conventions"]))]
    assert tab.ask("[...document.querySelectorAll('.switch')].filter(s => s.checkVisibility()).length") == 0


def test_prints_every_panel(tab, page):
    tab.open(page)
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert len(shown(tab, "profile")) == 2
    tab.send("Emulation.setEmulatedMedia", media="")


def test_numbers_are_those_of_the_document(tab, page):
    """What the browser parsed: energies by layer, by step and by convention, and each count of a convention's terms."""
    tab.open(page)
    energy = DOCUMENT["energy"]
    for i, profile in enumerate(energy["profiles"], 1):
        lows = tab.ask(
            f"[...document.querySelectorAll('#profile-{i} .src')].map(d => [+d.dataset.low, +d.dataset.high])"
        )
        wanted = [[each["low"], each["high"]] for each in (*profile["layers"], *profile["at"])]
        assert all(pair in lows for pair in wanted)
        steps = f"#profile-{i} .beside tbody tr"
        rows = tab.ask(f"[...document.querySelectorAll('{steps}')].map(r => +r.querySelector('data').value)")
        assert rows == [step["accuracy"] for step in energy["at"]]
    for i, convention in enumerate(energy["conventions"], 1):
        terms = f"[...document.querySelectorAll('#convention-{i} tbody tr')]"
        counts = tab.ask(terms + ".map(r => +r.cells[1].querySelector('data').value)")
        assert counts == [term["count"] for term in convention["terms"]]
        reasons = tab.ask(terms + ".map(r => r.cells[3].textContent)")
        for term, told in zip(convention["terms"], reasons, strict=True):
            assert all(difference["reason"] in told for difference in term["differences"])


def test_every_energy_names_its_source_on_hover_and_focus(tab, page):
    tab.open(page)
    titles = tab.ask("[...document.querySelectorAll('#energy .src')].map(d => d.title)")
    assert len(titles) > 30
    assert all(": " in title and len(title.split(": ", 1)[1]) > 10 for title in titles)
    assert any("Horowitz 2014" in title for title in titles) and any("Davies 2018" in title for title in titles)
    tab.ask("document.querySelector('#profile-1 .src').focus()")
    bar = "getComputedStyle(document.querySelector('#profile-1 .src'), '::after')"
    assert tab.ask(bar + ".position") == "fixed" and "Horowitz 2014" in tab.ask(bar + ".content")
    inside = tab.ask("[...document.querySelectorAll('#energy .src')].every(d => d.tabIndex === 0)")
    assert inside


def test_every_number_of_the_chip_and_of_break_even_names_its_source(tab, page):
    tab.open(page)
    energy = DOCUMENT["energy"]
    for i, profile in enumerate(energy["profiles"], 1):
        titles = tab.ask(
            f"[...document.querySelectorAll('#profile-{i} h4 ~ ul .src, #profile-{i} h4 ~ p .src')].map(d => d.title)"
        )
        known = [
            profile["break_even"]["network"][key]["low"] is not None for key in ("dense", "effective", "quantized")
        ]
        prices = {row["source"] for row in profile["rows"] if row["term"] in ("mac", "ac")}
        assert len(titles) >= sum(known)
        assert all(any(source in title for source in prices) for title in titles[: sum(known)])
    chip = next(i for i, p in enumerate(energy["profiles"], 1) if p["hardware"]["timings"][0]["energy"]["low"])
    hardware = energy["profiles"][chip - 1]["hardware"]
    assert any("Davies 2018" in source for source in hardware["operations"]["sources"])
    titles = tab.ask(f"[...document.querySelectorAll('#profile-{chip} tbody th + td.n .src')].map(d => d.title)")
    for each in (hardware["operations"], hardware["timings"][0]["energy"]):
        assert each["sources"]
        assert any(all(source in title for source in each["sources"]) for title in titles)


def test_labels_of_the_axis_stand_apart_on_a_phone(tab, page):
    tab.open(page, 360)
    boxes = tab.ask("[...document.querySelectorAll('th .scale text')].map(t => [t.getBoundingClientRect().left,"
                    " t.getBoundingClientRect().right])")  # fmt: skip
    assert len(boxes) >= 3
    assert all(left[1] < right[0] for left, right in itertools.pairwise(boxes))


def test_controls_have_names_and_panels_have_headings(tab, page):
    """As the browser's accessibility tree has them."""
    tab.open(page)
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    by_role = {}
    for node in nodes:
        by_role.setdefault(node.get("role", {}).get("value"), []).append(node.get("name", {}).get("value"))
    radios = by_role["radio"]
    names = [each["name"] for kind in ("profiles", "conventions") for each in DOCUMENT["energy"][kind]]
    assert radios == names
    assert {"Profile", "Convention"} <= set(by_role["group"])
    assert all(by_role["image"]) and all(by_role["region"])
