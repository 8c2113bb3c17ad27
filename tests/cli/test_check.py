"""`rmp-deploy check`: what it says of a wrong file is what loading it raises, word for word, for every validator."""

from __future__ import annotations

import ast
import json
import traceback
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rmp_deploy import backends
from rmp_deploy.analysis.checks import lava_depth
from rmp_deploy.cli import main
from rmp_deploy.cli.check import ALL, lava
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import graph as graph_module
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Linear,
    MaxPool2d,
    SumPool2d,
)
from rmp_deploy.passes.fold_pool import fold_pool

ROOT = Path(__file__).parent.parent.parent
NET = str(ROOT / "examples" / "digits.onnx")


def whole():
    """A valid graph of every kind of op, each of which a case below spoils."""
    norm = {k: np.ones(4) for k in ("gamma", "beta", "mean", "var")}
    square = {"kernel": (2, 2), "stride": (2, 2)}
    fire = {"decay": 0.5, "v_threshold": 1.0}
    ops = (
        Conv2d(name="conv", inputs=("x",), weight=np.ones((4, 1, 3, 3)), bias=np.ones(4), padding=(1, 1), groups=2),
        BatchNorm(name="bn", inputs=("conv",), eps=1e-5, **norm),
        LIF(name="lif", inputs=("bn",), **fire),
        MaxPool2d(name="or", inputs=("lif",), **square),
        SumPool2d(name="sum", inputs=("lif",), **square),
        Add(name="both", inputs=("or", "sum")),
        AvgPool2d(name="pool", inputs=("both",), kernel=(3, 3), stride=(3, 3)),
        Flatten(name="flat", inputs=("pool",)),
        Linear(name="fc", inputs=("flat",), weight=np.ones((3, 4)), bias=np.ones(3)),
        Delay(name="before", inputs=("cuba",), steps=1, shape=(3,)),
        Add(name="recurrent", inputs=("fc", "before")),
        CubaLIF(name="cuba", inputs=("recurrent",), current_decay=0.5, reset="soft", **fire),
        Concat(name="cat", inputs=("cuba", "fc")),
        LI(name="li", inputs=("cat",), decay=0.9),
    )
    return SpikingGraph("whole", Input("x", (2, 6, 6), "direct"), ops, Readout("li", "mean"), T=3)


def body(model):
    (scan,) = (n for n in model.graph.node if n.op_type == "Scan")
    return next(a.g for a in scan.attribute if a.name == "body")


def node(model, name):
    return next(n for n in body(model).node if n.name == name)


def header(**entries):
    def edit(model):
        record = next(p for p in model.metadata_props if p.key == "rmp_deploy.graph")
        known = json.loads(record.value)
        for key, value in entries.items():
            known[key] = {**known[key], **value} if isinstance(value, dict) else value
        record.value = json.dumps(known, sort_keys=True)

    return edit


def attribute(name, key, value):
    """Set one attribute of a node; an array is a tensor, as neurons keep their parameters."""

    def edit(model):
        n = node(model, name)
        kept = [a for a in n.attribute if a.name != key]
        made = numpy_helper.from_array(np.array(value, np.float32), key) if isinstance(value, np.ndarray) else value
        del n.attribute[:]
        n.attribute.extend([*kept, helper.make_attribute(key, made)])

    return edit


def tensor(name, value):
    def edit(model):
        stored = next(i for i in body(model).initializer if i.name == name)
        stored.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), name))

    return edit


def inputs(name, *values):
    def edit(model):
        n = node(model, name)
        del n.input[:]
        n.input.extend(values)

    return edit


def renamed(name, to):
    return lambda model: setattr(node(model, name), "name", to)


def waiting(*dims):
    """The state of the Delay, which tells its steps and shape: [B, steps, *shape]."""

    def edit(model):
        (state,) = (i for i in body(model).input if i.name == "before/waiting_prev")
        state.CopyFrom(helper.make_tensor_value_info(state.name, onnx.TensorProto.FLOAT, ["B", *dims]))

    return edit


def flattened(*names):
    """These nodes become Flatten."""

    def edit(model):
        for name in names:
            n = node(model, name)
            n.CopyFrom(helper.make_node("Flatten", [n.input[0]], [n.output[0]], name=name, axis=1))

    return edit


half = np.full((), 0.5)
WRONG = [
    (header(T=0), "T = 0, allowed 1..65535"),
    (header(dt=-0.5), "dt = -0.5, allowed > 0 [s]"),
    (header(input={"encoding": "rate"}), "encoding = 'rate'"),
    (header(readout={"rule": "max"}), "readout = 'max'"),
    (header(readout={"value": "nobody"}), "readout value = 'nobody'"),
    (header(input={"shape": []}), "input shape = (), allowed sizes >= 1"),
    (header(input={"name": "a/b"}), "name = 'a/b', allowed letters"),
    (flattened("lif", "cuba"), "LIF ops = 0"),
    (renamed("fc", "conv"), "Linear 'conv': name is used twice"),
    (renamed("fc", ""), "name = ''"),
    (inputs("fc", "li", "fc/weight", "fc/bias"), "Linear 'fc': input = 'li', allowed a value made before it"),
    (inputs("or", "bn"), "MaxPool2d 'or': input = 'bn', allowed spikes"),
    (inputs("both", "or"), "Add 'both': inputs = 1, allowed 2 or more"),
    (tensor("fc/weight", np.full((3, 4), np.nan)), "Linear 'fc': weight holds 12 NaN or infinite values"),
    (attribute("lif", "decay", np.zeros(0)), "LIF 'lif': decay.shape = (0,), allowed sizes >= 1"),
    (attribute("lif", "decay", np.full((), 1.5)), "LIF 'lif': decay = 1.5..1.5, allowed 0..1"),
    (attribute("lif", "v_threshold", np.ones(5)), "v_threshold.shape = (5,), allowed what broadcasts to (4, 6, 6)"),
    (attribute("lif", "v_subtract", half), "v_subtract with reset = 'hard'"),
    (attribute("cuba", "v_reset", half), "v_reset with reset = 'soft'"),
    (tensor("fc/weight", np.ones(3)), "weight.ndim = 1, allowed 2 (N_out, N_in)"),
    (tensor("fc/bias", np.ones(2)), "bias.shape = (2,), allowed (3,)"),
    (tensor("fc/weight", np.ones((3, 5))), "Linear 'fc': input shape = (4,), allowed (5,)"),
    (tensor("conv/weight", np.ones((4, 1, 3))), "weight.ndim = 3, allowed 4 (C_out, C_in/groups, KH, KW)"),
    (attribute("conv", "strides", [0, 1]), "Conv2d 'conv': stride = (0, 1)"),
    (attribute("conv", "group", 3), "groups = 3, allowed a divisor of C_out = 4"),
    (tensor("conv/weight", np.ones((4, 2, 3, 3))), "input shape = (2, 6, 6), allowed (4, H, W)"),
    (tensor("conv/weight", np.ones((4, 1, 9, 9))), "input map = (6, 6), allowed at least (9, 9)"),
    (attribute("pool", "kernel_shape", [0, 3]), "AvgPool2d 'pool': kernel = (0, 3)"),
    (attribute("pool", "pads", [2, 2, 2, 2]), "padding = (2, 2), allowed at most half of kernel = (3, 3)"),
    (attribute("pool", "kernel_shape", [4, 4]), "input map = (3, 3), allowed at least kernel = (4, 4)"),
    (inputs("pool", "before"), "AvgPool2d 'pool': input = 'before', allowed a value made before it"),
    (inputs("sum", "x", "sum/ones"), "Add 'both': input shapes = [(4, 3, 3), (2, 3, 3)], allowed equal ones"),
    (inputs("cat", "cuba", "conv"), "Concat 'cat': input shapes = [(3,), (4, 6, 6)], allowed equal maps"),
    (tensor("bn/beta", np.ones(3)), "parameter shapes = [(3,), (4,)], allowed one (C,)"),
    (tensor("bn/var", -np.ones(4)), "var + eps"),
    (inputs("bn", "x", *(f"bn/{k}" for k in ("gamma", "beta", "mean", "var"))), "allowed (4, ...)"),
    (waiting(5000, 3), "Delay 'before': steps = 5000, allowed 1..4096"),
    (waiting(1, 0), "Delay 'before': shape = (0,), allowed sizes >= 1"),
    (flattened("both"), "AvgPool2d 'pool': input shape = (36,), allowed (C, H, W)"),
    (inputs("cuba", "flat", "cuba/v_prev", "cuba/i_prev"), "Delay 'before': input shape = (4,), allowed shape = (3,)"),
    (header(input={"message_bits": 99}), "message_bits = 99"),
    (waiting(4096, 10**9), "Delay 'before': "),
]  # fmt: skip


def spoiled(tmp_path, edit):
    path = onnx_io.save(whole(), tmp_path / "net.onnx")
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.parametrize(("edit", "said"), WRONG, ids=[said[:50] for _, said in WRONG])
def test_the_finding_is_what_loading_raises(tmp_path, capsys, edit, said):
    path = spoiled(tmp_path, edit)
    with pytest.raises(RmpDeployError) as e:
        onnx_io.load(path)
    assert said in str(e.value)
    assert main(["check", path, "--json"]) == 1
    finding = {"check": "load", "severity": "error", "op": None, "message": str(e.value)}
    report = json.loads(capsys.readouterr().out)
    assert report == {"file": path, "ok": False, "synaptic_depth": None, "findings": [finding]}
    assert main(["check", path]) == 1
    assert capsys.readouterr().out == f"error (load): {e.value}\n"


def calls(path):
    """Line spans of the calls that refuse something, by their enclosing function."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and function.name not in ("_check", "check"):
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                    if name in ("_check", "check", "op_error", "_check_span"):
                        yield call.lineno, call.end_lineno


# Only construction in Python can give a reset of a third kind: a file has one node type for each. The others check the
# parameters of the integer ops.
ELSEWHERE = {"reset = ", "_integers", "_check_span"}
VALIDATORS = ("graph.py", "ops/base.py", "ops/neurons.py", "ops/pools.py", "ops/structure.py", "ops/synapses.py")


def refusals(path):
    """Lines of the calls that refuse something, and their text."""
    lines = path.read_text().splitlines()
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and function.name not in {"_check", "check", *ELSEWHERE}:
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                    text = " ".join(lines[call.lineno - 1 : call.end_lineno])
                    if name in ("_check", "check", "op_error") and not any(words in text for words in ELSEWHERE):
                        yield range(call.lineno, call.end_lineno + 1), text


def test_the_cases_reach_every_validator_of_the_float_ops(tmp_path):
    """Every call in `ir` that can refuse an op or a graph stands in the traceback of one of the cases."""
    reached = set()
    for edit, _ in WRONG:
        with pytest.raises(RmpDeployError) as e:
            onnx_io.load(spoiled(tmp_path, edit))
        error = e.value
        while error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            reached |= {(Path(frame.filename), frame.lineno) for frame in frames}
            error = error.__cause__
    ir = Path(graph_module.__file__).parent
    missed = [
        f"{name}: {text.strip()}"
        for name in VALIDATORS
        for lines, text in refusals(ir / name)
        if not any((ir / name, line) in reached for line in lines)
    ]
    assert missed == []


def test_warnings_are_what_the_passes_and_lava_raise(tmp_path, capsys):
    """Every line of an unfit network; the exit code stays 0, and the backend's own refusal is among them."""
    g = whole()
    path = str(onnx_io.save(g, tmp_path / "net.onnx"))
    assert main(["check", path, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["findings"] == [asdict(f) for check in ALL for f in check(g)]
    messages = [f["message"] for f in report["findings"]]
    with pytest.raises(RmpDeployError) as e:
        backends.run(g, np.zeros((1, 2, 6, 6), np.float32), "lava")
    assert str(e.value) in messages
    said = {(f["check"], f["op"]) for f in report["findings"]}
    assert {("fold", "bn"), ("lava", "bn"), ("lava", "cuba"), ("lava", "sum")} <= said
    assert main(["check", path]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[: len(messages)] == [f"warning ({f['check']}): {f['message']}" for f in report["findings"]]
    assert out[len(messages) :] == [
        "whole: 14 ops, T = 3, 2 synapses deep",  # not on Lava
        f"{len(messages)} warnings",
    ]


@pytest.mark.parametrize(
    "change",
    [{"reset": "soft"}, {"v_reset": np.full((), -0.5)}, {"inputs": ("pool1",)}],
    ids=["soft", "v_reset", "no synapse"],
)
def test_each_refusal_of_lava_is_found_before_the_run(convnet, change):
    g = convnet(pools="inputs" in change)
    ops = tuple(replace(op, **change) if op.name == "lif2" and "inputs" not in change else op for op in g.ops)
    if "inputs" in change:  # a neuron that reads a pool: neither folds nor runs there
        ops = (*g.ops, LIF(name="extra", inputs=("pool1",), decay=0.5, v_threshold=1.0))
    g = replace(g, ops=ops)
    with pytest.raises(RmpDeployError) as e:
        backends.run(g, np.zeros((1, 2, 8, 8), np.float32), "lava")
    assert str(e.value) in [f.message for check in ALL for f in check(g)]


def test_thousands_of_ops_in_a_row_are_one_walk_for_each_check():
    """A walk for every op would take minutes: Flattens in a row that neurons read, and as many that lead nowhere."""
    n = 5_000

    def row(name):
        sources = ("x", *(f"{name}{i}" for i in range(n - 1)))
        return tuple(Flatten(name=f"{name}{i}", inputs=(source,)) for i, source in enumerate(sources))

    lif = LIF(name="lif", inputs=(f"read{n - 1}",), decay=0.5, v_threshold=1.0)
    g = SpikingGraph("row", Input("x", (2,), "direct"), (*row("read"), *row("aside"), lif), Readout("lif", "sum"), 2)
    found = [f for check in ALL for f in check(g)]
    assert [f.op for f in found if f.check == "dead-end"] == [f"aside{i}" for i in range(n)]
    assert "aside7': readers = ['aside8'], allowed" in found[7].message
    assert [f.message for f in found if f.check != "dead-end"] == []


def test_what_lava_has_not_says_where_the_network_runs():
    said = {f.op: f.message for f in lava(whole())}
    assert said["sum"].endswith(
        "[lava]. Before a Conv2d or Linear, make it an AvgPool2d, multiply their weights by the window's size and "
        "apply passes.fold_pool; elsewhere use the backend reference or onnxruntime."
    )


def test_what_is_said_of_a_sum_pool_makes_it_run_on_lava():
    """The network with the advised change gives the spikes of the one without."""
    rng = np.random.default_rng(0)
    pool = {"name": "pool", "inputs": ("lif",), "kernel": (2, 2), "stride": (2, 2)}
    weight = rng.normal(0, 0.3, (3, 4)).astype(np.float32)

    def network(pooled, weight):
        ops = (
            Conv2d(name="conv", inputs=("x",), weight=np.ones((1, 1, 1, 1))),
            LIF(name="lif", inputs=("conv",), decay=0.5, v_threshold=0.5),
            pooled,
            Flatten(name="flat", inputs=("pool",)),
            Linear(name="fc", inputs=("flat",), weight=weight),
            LIF(name="out", inputs=("fc",), decay=0.5, v_threshold=0.3),
        )
        return SpikingGraph("pool", Input("x", (1, 4, 4), "direct"), ops, Readout("out", "sum"), T=5)

    counted, averaged = network(SumPool2d(**pool), weight), network(AvgPool2d(**pool), weight * 4)
    assert [f.op for f in lava(counted)] == ["pool"]
    assert list(lava(averaged)) == []
    x = rng.random((20, 1, 4, 4)).astype(np.float32)
    spikes = [backends.run(g, x, "reference", ("spikes",)).spikes["out"] for g in (counted, fold_pool(averaged))]
    assert spikes[0].any()
    np.testing.assert_array_equal(*spikes)


def test_a_norm_left_in_the_file_is_named(convnet):
    found = {(f.check, f.op) for check in ALL for f in check(convnet(norms=True))}
    assert {("fold", "bn1"), ("fold", "bn2"), ("lava", "bn1"), ("lava", "bn2")} <= found


def test_exit_codes(tmp_path, capsys):
    assert main(["check", NET]) == 0
    assert capsys.readouterr().out.endswith("\n0 warnings\n")
    (tmp_path / "half.onnx").write_bytes(Path(NET).read_bytes()[:5000])
    assert main(["check", str(tmp_path / "half.onnx")]) == 1
    assert "error (load): file" in capsys.readouterr().out
    for path in (tmp_path / "none.onnx", tmp_path):
        assert main(["check", str(path)]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert "cannot be read" in err


def test_the_depth_that_is_printed_is_what_a_run_on_lava_takes(capsys):
    assert main(["check", NET]) == 0
    assert "T = 4, 4 synapses deep (on Lava 4 N + 4 steps for N samples)" in capsys.readouterr().out
    assert main(["check", NET, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["synaptic_depth"] == lava_depth(onnx_io.load(NET)) == 4
