"""`verify` climbs from torch to Loihi's integers, says what quantization cost, and names what differs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from rmp_deploy import backends
from rmp_deploy.cli import main, verify
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.digest import QUANTIZED_FROM, digest
from rmp_deploy.ir.ops import LIF, BatchNorm, LoihiConv2d
from rmp_deploy.passes.quantize import quantize

RECORD = ("spikes", "v")
ORT = ("--backend", "onnxruntime")


@pytest.fixture
def files(tmp_path, convnet, quantized, images):
    """A float network, its integer form and labelled samples."""
    graph = convnet()
    x = images(12)
    onnx_io.save(graph, tmp_path / "net.onnx", golden=x[:2])
    made_of = {QUANTIZED_FROM: digest(graph)}
    onnx_io.save(replace(quantized(graph), provenance=made_of), tmp_path / "int.onnx", golden=x[:2])
    labels = backends.run(graph, x, "reference").predictions()
    labels[0] = (labels[0] + 1) % 5
    np.savez(tmp_path / "x.npz", x=x, y=labels)
    return tmp_path


@pytest.fixture
def call(files, capsys):
    """Run verify in the files' folder: exit code, and what it printed (a dict with --json)."""

    def run(*args: str):
        data = () if "--self" in args else ("--data", f"{files}/x.npz")
        code = main(["verify", *(f"{files}/{a}" if a.endswith(".onnx") else a for a in args), *data])
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in args else out or err

    return run


def words(text: str) -> str:
    return " ".join(text.split())


def test_both_networks_and_what_lies_between_them(call, files):
    code, found = call("net.onnx", "--quantized", "int.onnx", *ORT, "--json")
    assert code == 0
    section = found["parity"]
    rungs = [(r["arithmetic"], r["from"], r["to"], r["holds"], r["mismatches"]) for r in section["rungs"]]
    assert rungs == [
        ("float", "reference", "onnxruntime", True, 0),
        ("integer", "reference", "onnxruntime", True, 0),
    ]
    host, loihi = section["rungs"][1]["layers"]
    assert (host["layer"], host["exact"], loihi["layer"], loihi["exact"]) == ("lif1", False, "lif2", True)
    assert loihi["max_v_error"] == 0
    assert found["quantized_network"]["name"] == "convnet-int"
    assert [found[key]["input_coding"] for key in ("network", "quantized_network")] == [None, "host"]

    graphs = [onnx_io.load(files / name) for name in ("net.onnx", "int.onnx")]
    samples = np.load(files / "x.npz")
    a, b = (backends.run(graph, samples["x"], "reference", RECORD) for graph in graphs)
    cost = section["quantization"]
    differ = {name: int((a.spikes[name] != b.spikes[name]).sum()) for name in a.spikes}
    assert differ["lif1"] == 0 < differ["lif2"]
    assert {layer["layer"]: layer["mismatches"] for layer in cost["layers"]} == differ
    assert cost["layers"][1]["agreement"] == 1 - differ["lif2"] / a.spikes["lif2"].size
    assert cost["same_predictions"] == (a.predictions() == b.predictions()).sum()
    right = {key: int((t.predictions() == samples["y"]).sum()) for key, t in (("float", a), ("integer", b))}
    assert {key: each["correct"] for key, each in cost["accuracy"].items()} == right
    assert found["accuracy"]["correct"] == right["integer"]
    assert cost["self_check"]["holds"]

    page = files / "report.html"
    assert call("net.onnx", "--quantized", "int.onnx", *ORT, "--report", str(page))[0] == 0
    assert f"{cost['mismatches']} of {cost['compared']:,} spikes differ" in page.read_text()


def test_the_table_says_which_part_is_no_proof(call):
    code, text = call("net.onnx", "--quantized", "int.onnx", *ORT)
    told = words(text)
    assert code == 0
    assert "reference -> onnxruntime: 0 mismatching spikes of 16,896 compared" in told
    exact = "integer: reference -> onnxruntime: 0 mismatching spikes of 16,896 compared"
    assert f"{exact}, bit for bit but for lif1 (float, on the host)" in told
    assert "quantization (a loss, not judged): " in told
    assert "of 16,896 spikes differ" in told
    assert "accuracy 91.7 % -> 91.7 %" in told
    assert "self-check of the quantized file on its 2 golden samples: the spike counts are the expected ones" in told


def test_the_whole_ladder_to_lava_in_both_arithmetics(call):
    pytest.importorskip("lava", reason="Lava is an optional extra")
    code, found = call("net.onnx", "--quantized", "int.onnx", "--json")
    assert code == 0
    rungs = found["parity"]["rungs"]
    hand_over = [("reference", "onnxruntime"), ("onnxruntime", "lava")]
    assert [(r["from"], r["to"]) for r in rungs] == 2 * hand_over
    assert all(r["holds"] and r["mismatches"] == 0 for r in rungs)
    loihi = [layer for r in rungs for layer in r["layers"] if layer["exact"]]
    assert [(layer["layer"], layer["max_v_error"]) for layer in loihi] == [("lif2", 0), ("lif2", 0)]
    code, found = call("int.onnx", "--backend", "lava_fast", "--backend", "lava", "--json")
    assert code == 0
    assert [(r["from"], r["to"]) for r in found["parity"]["rungs"]] == [
        ("reference", "lava_fast"),
        ("lava_fast", "lava"),
    ]


def test_an_integer_file_alone(call):
    code, found = call("int.onnx", *ORT, "--json")
    assert code == 0
    assert [r["arithmetic"] for r in found["parity"]["rungs"]] == ["integer"]
    assert found["parity"]["quantization"] is None
    assert call("int.onnx", "--self")[0] == 0


@pytest.mark.parametrize("part", [1, 9_000])
def test_samples_that_climb_part_by_part_give_the_same_table(call, monkeypatch, part):
    def section():
        found = call("net.onnx", "--quantized", "int.onnx", *ORT, "--json")[1]["parity"]
        for rung in found["rungs"]:
            del rung["seconds"], rung["max_output_error"]  # sums of a batch round as the batch is
        return found

    whole = section()
    monkeypatch.setattr(verify, "PART", part)
    parts = section()
    for a, b in zip(whole["rungs"], parts["rungs"], strict=True):
        for x, y in zip(a["layers"], b["layers"], strict=True):
            assert x.pop("max_v_error") == pytest.approx(y.pop("max_v_error"), abs=1e-6)
    assert parts == whole


def flip_bit(graph, layer="conv2", index=(3, 1, 2, 2), bit=7):
    """The graph with one bit of one weight turned over."""
    weight = graph.by_name[layer].weight.copy()
    weight[index] ^= 1 << bit
    return replace(graph, ops=tuple(replace(op, weight=weight) if op.name == layer else op for op in graph.ops))


def test_a_backend_that_loses_one_bit_of_one_weight_is_named_with_neuron_and_step(call, files, monkeypatch):
    graph = onnx_io.load(files / "int.onnx")
    assert isinstance(graph.by_name["conv2"], LoihiConv2d)
    run = backends.BACKENDS["onnxruntime"]
    monkeypatch.setitem(backends.BACKENDS, "onnxruntime", lambda g, x, r: run(flip_bit(graph), x, r))
    code, found = call("int.onnx", *ORT, "--json")
    assert code == 1
    (rung,) = found["parity"]["rungs"]
    host, loihi = rung["layers"]
    assert host["holds"]
    assert not loihi["holds"]
    x = np.load(files / "x.npz")["x"]
    right = backends.run(graph, x, "reference", ("spikes", "v", "u"))
    wrong = backends.run(flip_bit(graph), x, "reference", RECORD)
    first, first_v = loihi["first"], loihi["first_v"]
    differs = np.argwhere(right.spikes["lif2"] != wrong.spikes["lif2"])
    assert first["step"] == differs[:, 1].min()
    assert first["neuron"][0] == 3  # the output channel of the weight
    place = (first["sample"], first["step"], *first["neuron"])
    assert (first["from"], first["to"]) == (right.spikes["lif2"][place], wrong.spikes["lif2"][place])
    assert (first["u"], first["tolerance"], first["cause"]) == (right.u["lif2"][place], 0, "wrong")
    place = (first_v["sample"], first_v["step"], *first_v["neuron"])
    assert (first_v["from"], first_v["to"]) == (right.v["lif2"][place], wrong.v["lif2"][place])
    assert abs(first_v["from"] - first_v["to"]) >= 64 * 128  # the bit, in units of the state
    told = words(call("int.onnx", *ORT)[1])
    assert "integer: reference -> onnxruntime" in told
    assert "DOES NOT HOLD" in told
    assert "first at lif2: sample " in told
    assert "potentials of lif2 differ first at sample " in told
    assert "float rounding explains" not in told


def test_one_bit_that_changes_no_spike_is_found_in_the_potentials(call, files, monkeypatch):
    graph = onnx_io.load(files / "int.onnx")
    x = np.load(files / "x.npz")["x"][:1]
    right = backends.run(graph, x, "reference", RECORD)
    for index in np.ndindex(graph.by_name["conv2"].weight.shape):
        quiet = flip_bit(graph, index=index, bit=1)
        wrong = backends.run(quiet, x, "reference", RECORD)
        if (right.spikes["lif2"] == wrong.spikes["lif2"]).all() and (right.v["lif2"] != wrong.v["lif2"]).any():
            break
    run = backends.BACKENDS["onnxruntime"]
    monkeypatch.setitem(backends.BACKENDS, "onnxruntime", lambda _g, x, r: run(quiet, x, r))
    code, found = call("int.onnx", *ORT, "--samples", "1", "--json")
    layer = found["parity"]["rungs"][0]["layers"][1]
    assert code == 1
    assert layer["mismatches"] == 0
    assert 0 < abs(layer["first_v"]["from"] - layer["first_v"]["to"]) <= layer["max_v_error"]


def test_one_bit_of_the_file_is_found_when_it_is_loaded(call, files):
    raw = bytearray((files / "int.onnx").read_bytes())
    weight = onnx_io.load(files / "int.onnx").by_name["conv2"].weight
    model = onnx.load(files / "int.onnx")
    body = next(a.g for n in model.graph.node if n.op_type == "Scan" for a in n.attribute if a.name == "body")
    stored = next(i.raw_data for i in body.initializer if i.name == "conv2/weight")
    assert len(stored) == weight.size
    raw[raw.index(stored) + 5] ^= 1
    (files / "int.onnx").write_bytes(raw)
    code, text = call("net.onnx", "--quantized", "int.onnx", *ORT)
    assert code == 2
    assert text.startswith("error: file ")
    assert text.count("\n") == 1


def renamed(graph):
    ops = (replace(op, name="lif9") if op.name == "lif2" else op for op in graph.ops)
    return replace(graph, ops=tuple(replace(op, inputs=("lif9",)) if op.inputs == ("lif2",) else op for op in ops))


def narrower(graph):
    by_name, keep = graph.by_name, slice(0, 3)
    conv = replace(by_name["conv2"], weight=by_name["conv2"].weight[keep])
    lif = replace(by_name["lif2"], vth=by_name["lif2"].vth[keep], bias_mant=by_name["lif2"].bias_mant[keep])
    fc = replace(by_name["fc"], weight=by_name["fc"].weight[:, : 3 * 16])
    changed = {"conv2": conv, "lif2": lif, "fc": fc}
    return replace(graph, ops=tuple(changed.get(op.name, op) for op in graph.ops))


def fewer_classes(graph):
    *ops, fc, output = graph.ops
    return replace(graph, ops=(*ops, replace(fc, weight=fc.weight[:4]), replace(output, bias=output.bias[:4])))


OTHERS = {
    "T": (
        lambda g: replace(g, T=7),
        "quantized graph 'convnet-int': T = 7, allowed 4 as in the float graph 'convnet'.",
    ),
    "names": (
        renamed,
        "quantized graph 'convnet-int': neurons 'lif2' = none, allowed (6, 4, 4) as in the float graph 'convnet'.",
    ),
    "shapes": (
        narrower,
        "quantized graph 'convnet-int': neurons 'lif2' = (3, 4, 4), allowed (6, 4, 4) as in the float graph 'convnet'.",
    ),
    "readout": (
        lambda g: replace(g, readout=replace(g.readout, rule="sum")),
        "quantized graph 'convnet-int': readout = sum of 'fc', allowed mean of 'fc' as in the float graph 'convnet'.",
    ),
    "readout value": (
        lambda g: replace(g, readout=replace(g.readout, value="lif1")),
        "quantized graph 'convnet-int': readout = mean of 'lif1', allowed mean of 'fc' as in the float graph "
        "'convnet'.",
    ),
    "outputs": (
        fewer_classes,
        "quantized graph 'convnet-int': outputs = 4, allowed 5 as in the float graph 'convnet'.",
    ),
    "message_bits": (
        lambda g: replace(g, input=replace(g.input, message_bits=4)),
        "quantized graph 'convnet-int': message_bits = 4, allowed None as in the float graph 'convnet'.",
    ),
    "hand-made": (
        lambda g: replace(g, provenance={}),
        "quantized graph 'convnet-int': quantized from = not stated, allowed sha256 'DIGEST', the float graph "
        "'convnet' with its parameters.",
    ),
    "provenance": (
        lambda g: replace(g, provenance={QUANTIZED_FROM: "a line\nand another"}),
        "quantized graph 'convnet-int': quantized from = sha256 'a line\\nand a', allowed sha256 'DIGEST', the float "
        "graph 'convnet' with its parameters.",
    ),
    "arithmetic": (None, "quantized graph 'convnet': ops = real values, allowed Loihi's integers."),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_integer_file_of_another_network_is_refused(call, files, convnet, case):
    change, message = OTHERS[case]
    other = convnet() if change is None else change(onnx_io.load(files / "int.onnx"))
    onnx_io.save(other, files / "other.onnx")
    code, text = call("net.onnx", "--quantized", "other.onnx", *ORT)
    message = message.replace("DIGEST", digest(convnet())[:12])
    assert (code, text) == (2, f"error: {message} Give a float file and the file quantized from it.\n")


def test_an_integer_file_of_a_network_with_other_weights_is_refused(call, files, convnet, images):
    graph = convnet()
    weight = graph.by_name["conv2"].weight.copy()
    weight[3, 1, 2, 2] = np.nextafter(weight[3, 1, 2, 2], np.float32(np.inf))  # the least that another training changes
    ops = (replace(op, weight=weight) if op.name == "conv2" else op for op in graph.ops)
    other = replace(graph, ops=tuple(ops), provenance={"made by": "another"})
    for made_of, result in ((graph, 0), (other, 2)):
        onnx_io.save(quantize(made_of, images(4)).graph, files / "other.onnx")
        code, text = call("net.onnx", "--quantized", "other.onnx", *ORT, "--samples", "2")
        assert code == result
    assert f"quantized from = sha256 '{digest(other)[:12]}', allowed sha256 '{digest(graph)[:12]}'" in text
    assert text.count("\n") == 1


def test_both_files_may_have_been_saved_again_since(call, files, images):
    """Under another name, with dt, golden samples and a word of where they came from."""
    for name in ("net.onnx", "int.onnx"):
        graph = onnx_io.load(files / name)
        again = replace(graph, name="again", dt=1e-3, provenance={**graph.provenance, "saved by": "someone"})
        onnx_io.save(again, files / name, golden=images(1))
    assert call("net.onnx", "--quantized", "int.onnx", *ORT, "--samples", "2")[0] == 0


def test_the_readout_of_a_network_with_a_batchnorm_behind_it(call, files, convnet, images):
    graph = convnet()
    norm = BatchNorm(name="bn", inputs=("fc",), gamma=np.full(5, 1.5), beta=np.ones(5), mean=np.zeros(5),
                     var=np.ones(5), eps=1e-5)  # fmt: skip
    graph = replace(graph, ops=(*graph.ops, norm), readout=replace(graph.readout, value="bn"))
    onnx_io.save(graph, files / "net.onnx")
    onnx_io.save(quantize(graph, images(4)).graph, files / "int.onnx")
    assert call("net.onnx", "--quantized", "int.onnx", *ORT, "--samples", "2")[0] == 0


def test_what_does_not_go_together_is_one_line(call):
    code, text = call("int.onnx", "--quantized", "int.onnx", *ORT)
    assert (code, text.split(" Give")[0]) == (
        2,
        "error: float graph 'convnet-int': ops = Loihi's integers, allowed real values.",
    )
    code, text = call("int.onnx", "--run", "runs/digits")
    assert code == 2
    assert "Give the float file, and this one as --quantized." in text
    code, text = call("net.onnx", "--self", "--quantized", "int.onnx")
    assert code == 2
    assert "--quantized given, allowed FILE alone" in text


def test_a_tie_on_the_host_is_explained_and_what_follows_from_it_too(call, files, monkeypatch):
    """A host neuron within rounding of its threshold: the float rule there, none behind it."""
    graph = onnx_io.load(files / "int.onnx")
    x = np.load(files / "x.npz")["x"]
    u = backends.run(graph, x, "reference", ("u",)).u["lif1"]
    index = (0, 0, 1, 2, 3)
    threshold = np.broadcast_to(graph.by_name["lif1"].v_threshold, u.shape[2:]).copy()

    def at(value):
        t = threshold.copy()
        t[index[2:]] = value
        ops = (replace(op, v_threshold=t) if isinstance(op, LIF) else op for op in graph.ops)
        return replace(graph, ops=tuple(ops))

    tied = at(np.nextafter(np.float32(u[index]), np.float32(-np.inf)))
    onnx_io.save(tied, files / "int.onnx")
    above = at(np.nextafter(np.float32(u[index]), np.float32(np.inf)))  # a runtime that rounds u the other way
    run = backends.BACKENDS["reference"]

    def other_way(_graph, parts, record):
        return ((x, replace(trace, backend="onnxruntime")) for x, trace in run(above, parts, record))

    monkeypatch.setitem(backends.BACKENDS, "onnxruntime", other_way)
    code, found = call("int.onnx", *ORT, "--json")
    (rung,) = found["parity"]["rungs"]
    assert code == 0
    host, loihi = rung["layers"]
    assert host["ties"] >= 1
    assert host["first"]["cause"] == "tie"
    assert loihi["ties"] == 0
    if loihi["mismatches"]:
        assert loihi["first"]["cause"] == "inherited"


def test_what_float32_cannot_hold_is_null_in_json_and_named_in_words(call, files, images):
    """Samples of 1e38 overflow ONNX Runtime's float32, not the reference's float64."""
    np.savez(files / "x.npz", x=images(2) * np.float32(1e38))
    code, found = call("net.onnx", *ORT, "--json")
    (rung,) = found["parity"]["rungs"]
    assert code == 1
    assert rung["layers"][0]["max_v_error"] is None
    assert not rung["layers"][0]["v_holds"]
    first = rung["layers"][0]["first_v"]
    assert (first["to"] is None, abs(first["from"]) > np.finfo(np.float32).max) == (True, True)
    page = files / "report.html"
    code, text = call("net.onnx", *ORT, "--report", str(page))
    assert code == 1
    assert "onnxruntime overflow; the spikes give " in words(text)
    assert all("overflow" in shown and "inf" not in shown.split() for shown in (text, page.read_text()))
