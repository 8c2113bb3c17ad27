"""A real browser lays the page out: it renders, in both themes, and never scrolls sideways."""

import copy
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from rmp_deploy.report import html

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# The page around measures: one frame per width, as wide as the screen it stands for.
MEASURE = """<!doctype html><meta charset="utf-8">%s<pre id="found"></pre><script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    return {width: root.clientWidth, content: root.scrollWidth, h1: page.querySelector("h1").textContent,
            clipped: [...page.querySelectorAll("svg.chart text")].filter(text => {
              const ink = text.getBoundingClientRect(), box = text.ownerSVGElement.getBoundingClientRect();
              return ink.left < box.left - 1 || ink.right > box.right + 1 || ink.bottom > box.bottom + 2;
            }).map(text => text.textContent),
            charts: [...page.querySelectorAll("svg.chart")].filter(c => c.checkVisibility())
                      .map(c => c.getBoundingClientRect().height),
            ground: frame.contentWindow.getComputedStyle(page.body).backgroundColor};
  });
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""
FRAME = '<iframe src="%s" style="width:%dpx;height:9000px;border:0"></iframe>'


def chromium(tmp_path, *arguments):
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()


def measure(tmp_path, documents, *arguments):
    """Lay every document out at 1280 and at 390 pixels."""
    frames = []
    for i, document in enumerate(documents):
        html.write(document, tmp_path / f"page{i}.html")
        frames += [FRAME % (f"page{i}.html", width) for width in (1280, 390)]
    around = tmp_path / "around.html"
    around.write_text(MEASURE % "".join(frames), "utf-8")
    flags = ("--allow-file-access-from-files", "--virtual-time-budget=10000", "--dump-dom")
    dom = chromium(tmp_path, *flags, *arguments, around.as_uri())
    return json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.fixture
def document():
    return json.loads(Path(__file__).with_name("document.json").read_text("utf-8"))


@pytest.fixture
def lengthy(document):
    """Names as long as module paths are, six rungs of many layers, many output classes."""
    long = copy.deepcopy(document)
    long["network"]["name"] = long["command"] = "features.stage3.block12." * 8
    for layers in (long["membranes"]["layers"], long["raster"]["layers"], long["energy"]["layers"]):
        for layer in layers:
            layer["layer"] = "features.stage3.block12.conv2.lif"
    for rung in long["parity"]["rungs"]:
        rung["to"], rung["layers"] = "quantized_reference_of_the_network", rung["layers"] * 6
    long["raster"]["output"] = [-i / 1000 for i in range(1000)]
    return long


def test_nothing_scrolls_sideways_or_is_cut_at_any_width(document, lengthy, tmp_path):
    found = measure(tmp_path, [document, lengthy])
    assert [page["width"] for page in found] == [1280, 390, 1280, 390]
    for page in found:
        assert page["content"] <= page["width"]
        assert page["clipped"] == []
        assert page["h1"].startswith("0 mismatching spikes in 3 hand-overs")
        assert page["charts"] and all(height > 100 for height in page["charts"])


def test_follows_the_preferred_theme(document, tmp_path):
    dark = measure(tmp_path, [document], "--blink-settings=preferredColorScheme=0")
    light = measure(tmp_path, [document], "--blink-settings=preferredColorScheme=1")
    assert {page["ground"] for page in dark} == {"rgb(18, 21, 23)"}
    assert {page["ground"] for page in light} == {"rgb(255, 255, 255)"}


def test_screenshot(document, tmp_path):
    html.write(document, tmp_path / "page.html")
    shot = tmp_path / "shot.png"
    chromium(tmp_path, "--window-size=1280,900", f"--screenshot={shot}", (tmp_path / "page.html").as_uri())
    assert shot.read_bytes()[:4] == b"\x89PNG" and shot.stat().st_size > 30_000
