"""Pictures of graphs: everything is in them, nothing covers anything, and they are safe and the same every time."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph, describe, to_text
from rmp_deploy.ir.ops import LI, LIF, Add, AvgPool2d, Concat, Conv2d, Delay, Flatten, Linear
from rmp_deploy.report import draw
from rmp_deploy.report.draw import graphviz, layered, svg
from rmp_deploy.report.draw.diagram import SIZES, Arrow, Box, Diagram, diagram, text_width

NET = str(Path(__file__).parent.parent.parent / "examples" / "digits.onnx")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="no Graphviz on PATH")
SVG = "{http://www.w3.org/2000/svg}"


def lif(name, source):
    return LIF(name=name, inputs=(source,), decay=0.25, v_threshold=0.5)


def conv(name, source, c_in, c_out, kernel=3, stride=1):
    weight = np.zeros((c_out, c_in, kernel, kernel))
    return Conv2d(name=name, inputs=(source,), weight=weight, stride=(stride,) * 2, padding=(kernel // 2,) * 2)


def linear(name, source, n_in, n_out):
    return Linear(name=name, inputs=(source,), weight=np.ones((n_out, n_in)))


def resnet19(name="resnet19"):
    """Eight residual blocks in three stages, as ResNet-19 of the SNN papers, thin."""
    ops = [conv("conv1", "x", 3, 4), lif("lif1", "conv1")]
    value, c = "lif1", 4
    for stage, (c_out, blocks) in enumerate([(4, 3), (8, 3), (16, 2)], start=1):
        for i in range(blocks):
            b, stride = f"layer{stage}.{i}", 1 + (stage > 1 and i == 0)
            ops += [conv(f"{b}.conv1", value, c, c_out, stride=stride), lif(f"{b}.lif1", f"{b}.conv1")]
            ops += [conv(f"{b}.conv2", f"{b}.lif1", c_out, c_out)]
            shortcut = value
            if stride > 1:
                shortcut = f"{b}.down"
                ops.append(conv(shortcut, value, c, c_out, kernel=1, stride=stride))
            ops += [Add(name=f"{b}.add", inputs=(f"{b}.conv2", shortcut)), lif(f"{b}.lif2", f"{b}.add")]
            value, c = f"{b}.lif2", c_out
    ops += [
        AvgPool2d(name="pool", inputs=(value,), kernel=(8, 8), stride=(8, 8)),
        Flatten(name="flatten", inputs=("pool",)),
        linear("fc1", "flatten", 16, 12),
        lif("lif_fc", "fc1"),
        linear("fc2", "lif_fc", 12, 10),
    ]
    return SpikingGraph(name, Input("x", (3, 32, 32), "direct"), tuple(ops), Readout("fc2", "mean"), 4)


def recurrent():
    ops = (
        linear("w", "x", 3, 4),
        Delay(name="before", inputs=("lif",), steps=1, shape=(4,)),
        linear("back", "before", 4, 4),
        Add(name="current", inputs=("w", "back")),
        lif("lif", "current"),
        Delay(name="late", inputs=("lif",), steps=3, shape=(4,)),
        Concat(name="both", inputs=("lif", "late")),
        linear("out", "both", 8, 2),
        LI(name="v", inputs=("out",), decay=0.9),
    )
    return SpikingGraph("recurrent", Input("x", (3,), "time_series"), ops, Readout("v", "last"), 8, 1e-3)


def row_of_sums(n):
    """Every op reads the one before and the input: its arrows grow with its length."""
    ops = tuple(Add(name=f"a{i}", inputs=(f"a{i - 1}" if i else "x", "x")) for i in range(n))
    return SpikingGraph("row", Input("x", (2,), "direct"), (*ops, lif("lif", f"a{n - 1}")), Readout("lif", "sum"), 2)


def random_diagram(seed):
    """Boxes of any size with up to three inputs from before, and now and then one from after."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    boxes = [Box(f"b{i}", "neuron", ("w" * int(rng.integers(1, 30)),) * int(rng.integers(1, 5))) for i in range(n)]
    arrows = []
    for i in range(1, n):
        for _ in range(int(rng.integers(0, 4))):
            arrows.append(Arrow(f"b{rng.integers(i)}", f"b{i}", "(" + "8" * int(rng.integers(1, 12)) + ")", False))
        if rng.random() < 0.15:
            arrows.append(Arrow(f"b{rng.integers(i, n)}", f"b{i}", "(1,)", True))
    return Diagram("random", "", tuple(boxes), tuple(arrows))


def rectangles(drawn, layout):
    """[left, top, right, bottom] of every box, then of every label."""
    boxes = [(*layout.boxes[b.name], b.width, b.height) for b in drawn.boxes]
    labels = [(*at, text_width(a.label, SIZES[1]), SIZES[1]) for a, at in zip(drawn.arrows, layout.labels, strict=True)]
    return [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in boxes + labels]


def overlapping(rects):
    return [
        (a, b)
        for a, b in itertools.combinations(rects, 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > 0.01 and min(a[3], b[3]) - max(a[1], b[1]) > 0.01
    ]


DIAGRAMS = {
    "resnet19": lambda: diagram(resnet19()),
    "recurrent": lambda: diagram(recurrent()),
    **{f"random{seed}": lambda seed=seed: random_diagram(seed) for seed in range(25)},
}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_our_layout_covers_nothing_and_points_down(name):
    drawn = DIAGRAMS[name]()
    layout = layered.lay_out(drawn)
    assert overlapping(rectangles(drawn, layout)) == []
    size = {box.name: box for box in drawn.boxes}
    for arrow, curve in zip(drawn.arrows, layout.curves, strict=True):
        assert len(curve) % 3 == 1
        (x0, y0), (x1, y1) = curve[0], curve[-1]
        source, target = layout.boxes[arrow.source], layout.boxes[arrow.target]
        assert (x0, y0) == pytest.approx((source[0], source[1] + size[arrow.source].height / 2))
        assert (x1, y1) == pytest.approx((target[0], target[1] - size[arrow.target].height / 2))
        if not arrow.recurrent:
            assert y0 < y1
            assert all(a[1] <= b[1] + 1e-6 for a, b in itertools.pairwise(curve))  # monotone: never back up


def test_branches_stand_side_by_side_and_a_recurrent_edge_comes_back_up():
    layout = layered.lay_out(diagram(resnet19()))
    main, short = layout.boxes["layer2.0.conv1"], layout.boxes["layer2.0.down"]
    assert main[1] == short[1]
    assert abs(main[0] - short[0]) > 100
    drawn = diagram(recurrent())
    (back,) = (i for i, a in enumerate(drawn.arrows) if a.recurrent)
    assert (drawn.arrows[back].source, drawn.arrows[back].target) == ("lif", "before")
    curve = layered.lay_out(drawn).curves[back]
    assert curve[-1][1] < curve[0][1]
    assert max(y for _, y in curve) > curve[0][1]  # it leaves below its source


@needs_dot
@pytest.mark.parametrize("make", [resnet19, recurrent])
def test_graphviz_lays_out_the_same_boxes_and_arrows(make):
    drawn = diagram(make())
    layout = graphviz.lay_out_by_dot(drawn)
    assert layout.boxes.keys() == {box.name for box in drawn.boxes}
    assert overlapping(rectangles(drawn, layout)[: len(drawn.boxes)]) == []
    size = {box.name: box for box in drawn.boxes}
    for arrow, curve in zip(drawn.arrows, layout.curves, strict=True):
        for end, name in ((curve[0], arrow.source), (curve[-1], arrow.target)):
            x, y = layout.boxes[name]
            assert abs(end[0] - x) <= size[name].width / 2 + 3
            assert abs(end[1] - y) <= size[name].height / 2 + 3


@needs_dot
def test_graphviz_keeps_two_arrows_between_the_same_boxes():
    boxes = (Box("a", "synapse", ("a",)), Box("b", "structure", ("b",)))
    drawn = Diagram("twice", "", boxes, (Arrow("a", "b", "(1,)", False),) * 2)
    assert len(set(graphviz.lay_out_by_dot(drawn).curves)) == 2


def test_the_picture_holds_every_op_with_kind_parameters_and_shape():
    graph = recurrent()
    drawn = diagram(graph)
    root = ET.fromstring(svg.write(drawn, layered.lay_out(drawn)))
    assert root.find(f"{SVG}title").text == "recurrent: T = 8, dt = 0.001 s"
    assert root.find(f"{SVG}desc").text == to_text(graph).rstrip()
    groups = {g.find(f"{SVG}title").text: g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None}
    assert list(groups) == ["x", *(op.name for op in graph.ops), "output"]
    for op in graph.ops:
        name, kind, *words = (t.text for t in groups[op.name].iter(f"{SVG}text"))
        assert (name, kind) == (op.name, f"{op.kind} → {graph.shapes[op.name]}")
        assert " ".join(words) == describe(op)
    css = {name: g.find(f"{SVG}rect").get("class").split()[1] for name, g in groups.items()}
    assert [css[n] for n in ("x", "w", "before", "lif", "v", "output")] == [
        "input", "synapse", "structure", "neuron", "neuron", "output",
    ]  # fmt: skip
    assert [t.text for t in groups["x"].iter(f"{SVG}text")] == ["x", "input (3,)", "time_series: one value a step"]
    assert [t.text for t in groups["output"].iter(f"{SVG}text")] == ["output", "last over 8 steps"]
    labels = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "label"]
    assert labels == [str(graph.shapes[i]) for op in graph.ops for i in op.inputs] + ["(2,)"]


@pytest.mark.parametrize(
    "name", ['</title><script>alert("x")</script>&', 'a\\"; b -> c; //', "nul\0bell\x07\nline", "ü" * 300]
)
def test_a_hostile_name_is_text(name):
    graph = resnet19(name)
    drawn = diagram(graph)
    text = svg.write(drawn, layered.lay_out(drawn))
    root = ET.fromstring(text)
    assert not list(root.iter(f"{SVG}script"))
    assert root.find(f"{SVG}title").text.endswith(": T = 4")
    if shutil.which("dot"):
        assert graphviz.lay_out_by_dot(drawn) is not None


def test_the_file_is_self_contained_and_follows_the_theme():
    text, _ = draw.to_svg(recurrent())
    assert text.startswith("<svg ")
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|href|<script|<image|<!DOCTYPE", text)
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"url\(([^)]*)\)", text) == [
        "#back" if a.recurrent else "#head" for a in diagram(recurrent()).arrows
    ]


def test_the_same_graph_gives_the_same_bytes_in_every_process():
    """Python orders sets of strings and objects differently in each process; the picture must not."""
    code = "import rmp_deploy.report.draw as d, rmp_deploy, sys; print(*d.to_svg(rmp_deploy.load(sys.argv[1])))"
    environment = {"PATH": "", "PYTHONIOENCODING": "utf-8"}
    found = {
        subprocess.run([sys.executable, "-c", code, NET], env={**environment, "PYTHONHASHSEED": seed},
                       capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert found.pop().decode().endswith("rmp-deploy\n")


def test_the_command_writes_both_forms(tmp_path, capsys, monkeypatch):
    graph = onnx_io.load(NET)
    picture, dot = tmp_path / "net.svg", tmp_path / "net.dot"
    assert main(["draw", NET, "-o", str(picture), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"file": str(picture), "ops": 10, "layout": "dot" if shutil.which("dot") else "rmp-deploy"}
    assert picture.read_text("utf-8") == draw.to_svg(graph)[0]
    assert main(["draw", NET, "-o", str(dot)]) == 0
    assert capsys.readouterr().out == f"picture: {dot} (10 ops)\n"
    assert dot.read_text("utf-8") == draw.to_dot(graph)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["draw", NET, "-o", str(picture)]) == 0
    assert capsys.readouterr().out == f"picture: {picture} (10 ops, laid out by rmp-deploy)\n"
    assert main(["draw", NET, "-o", str(tmp_path / "net.png")]) == 2
    assert "suffix = '.png', allowed .svg or .dot" in capsys.readouterr().err


@needs_dot
def test_what_would_take_dot_minutes_is_laid_out_by_ourselves():
    assert draw.to_svg(row_of_sums(20))[1] == "dot"
    assert layered.bends(diagram(row_of_sums(60))) == 3662
    assert draw.to_svg(row_of_sums(60))[1] == "rmp-deploy"  # dot: 33 s


def test_what_nobody_could_see_is_refused_before_the_layout():
    """One sum of 60,000 inputs, 182 KB: its DOT text can be written, its picture would hold as many arrows."""
    ops = (Add(name="sum", inputs=("x",) * 60_000), lif("lif", "sum"))
    graph = SpikingGraph("many", Input("x", (2,), "direct"), ops, Readout("lif", "sum"), 2)
    with pytest.raises(RmpDeployError) as e:
        draw.to_svg(graph)
    assert str(e.value) == (
        "Diagram 'many: T = 2': bends of its arrows = 60002, allowed at most 10000 in a picture. Write it as .dot."
    )
    assert draw.to_dot(graph).count(" -> ") == 60_002


def test_a_dot_that_does_not_work_is_as_good_as_none(tmp_path, monkeypatch):
    """Graphviz without its plug-ins says 'Format: "json0" not recognized' and exits with 1."""
    broken = tmp_path / "dot"
    broken.write_text("#!/bin/sh\necho 'Format: \"json0\" not recognized.' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert draw.to_svg(recurrent())[1] == "rmp-deploy"


MEASURE = """<!doctype html><meta charset="utf-8">%s<pre id="found"></pre><script>
const outside = [...document.querySelectorAll("g > rect")].flatMap(rect => {
  const box = rect.getBoundingClientRect();
  return [...rect.parentElement.querySelectorAll("text")].filter(text => {
    const ink = text.getBoundingClientRect();
    return rect.classList.contains("box") &&
      (ink.left < box.left || ink.right > box.right || ink.top < box.top - 1 || ink.bottom > box.bottom + 1);
  }).map(text => text.textContent);
});
document.getElementById("found").textContent = JSON.stringify(outside);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")
def test_words_fit_their_boxes_in_a_browser(tmp_path):
    drawn = diagram(resnet19())
    (tmp_path / "page.html").write_text(MEASURE % svg.write(drawn, layered.lay_out(drawn)), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    assert json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1])) == []
