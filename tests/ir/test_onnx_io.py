"""The file: a valid ONNX model that stock ONNX Runtime runs, that comes back equal, and that refuses what it is not."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io, reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.onnx_io.functions import DOMAIN, DOMAIN_VERSION


@pytest.fixture
def saved(tmp_path, convnet, images):
    graph = convnet(norms=True)
    return graph, onnx_io.save(graph, tmp_path / "net.onnx", golden=images(3))


def edited(path, edit):
    """Rewrite the file after `edit(model)`, as somebody else's tool would."""
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def scan_body(model):
    (scan,) = [n for n in model.graph.node if n.op_type == "Scan"]
    return next(a.g for a in scan.attribute if a.name == "body")


def test_the_file_is_a_valid_model_without_custom_operators(saved):
    _, path = saved
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain: o.version for o in model.opset_import} == {"": 21, DOMAIN: DOMAIN_VERSION}
    functions = {f.name for f in model.functions}
    nodes = list(model.graph.node) + list(scan_body(model).node)
    assert all(n.domain == "" or n.op_type in functions for n in nodes)
    assert all(n.domain == "" for f in model.functions for n in f.node)
    lif = next(n for n in scan_body(model).node if n.name == "lif1")
    assert {a.name for a in lif.attribute} == {"decay", "v_threshold", "v_reset"}


def test_stock_onnx_runtime_runs_it_and_the_golden_samples_check_it(saved):
    graph, path = saved
    golden = onnx_io.load_golden(path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"input": golden.x}), strict=True))
    expected = reference.run(graph, golden.x, ("spikes",))
    for name, spikes in expected.spikes.items():
        assert 0.02 < spikes.mean() < 0.98  # a check on silent neurons would check nothing
        assert found[f"spike_count/{name}"].tolist() == golden.spike_count[name]
        assert golden.spike_count[name] == spikes.reshape(3, -1).sum(1).tolist()
    np.testing.assert_allclose(found["output"], expected.output, atol=1e-5)


@pytest.mark.parametrize("encoding", ["direct", "time_series"])
@pytest.mark.parametrize("rule", ["mean", "sum", "last"])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_saved_and_loaded_is_the_same_graph(tmp_path, convnet, encoding, rule, reset):
    base = convnet(norms=True)
    after_a_spike = {"reset": reset, **({"v_reset": -0.25} if reset == "hard" else {"v_subtract": 0.125})}
    graph = SpikingGraph(
        "g",
        Input("x", (2, 8, 8), encoding),
        tuple(replace(op, **after_a_spike) if op.kind == "LIF" else op for op in base.ops),
        Readout("fc", rule),
        T=3,
        dt=1e-4,
        provenance={"who": 'a "quoted" näme'},
    )
    path = onnx_io.save(graph, tmp_path / "g.onnx")
    assert onnx_io.load(path) == graph
    assert onnx_io.load_golden(path) is None


def test_the_same_graph_gives_the_same_bytes(tmp_path, convnet, images):
    a, b = (onnx_io.save(convnet(), tmp_path / f"{i}.onnx", golden=images(2)).read_bytes() for i in "ab")
    assert a == b


def drop_domain(model):
    kept = [o for o in model.opset_import if o.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def newer_domain(model):
    next(o for o in model.opset_import if o.domain == DOMAIN).version = DOMAIN_VERSION + 1


def nan_weight(model):
    weight = next(i for i in scan_body(model).initializer if i.name == "fc/weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((5, 24), np.nan, np.float32), "fc/weight"))


def other_op(model):
    next(n for n in scan_body(model).node if n.name == "fc").op_type = "Softmax"


def looser_threshold(model):
    """The function's Greater becomes GreaterOrEqual: the same nodes, another neuron."""
    lif = next(f for f in model.functions if f.name == "LIF")
    next(n for n in lif.node if n.op_type == "Greater").op_type = "GreaterOrEqual"


def swapped_readout(model):
    next(n for n in model.graph.node if n.op_type == "ReduceMean").op_type = "ReduceSum"


def more_steps(model):
    next(i for i in model.graph.initializer if i.name == "time/T").CopyFrom(
        numpy_helper.from_array(np.array([9], np.int64), "time/T")
    )


def lost_weight(model):
    step = scan_body(model)
    kept = [i for i in step.initializer if i.name != "fc/weight"]
    del step.initializer[:]
    step.initializer.extend(kept)


def huge_dims(model):
    weight = next(i for i in scan_body(model).initializer if i.name == "fc/weight")
    weight.dims[0] = 2**40


def external_weight(model):
    weight = next(i for i in scan_body(model).initializer if i.name == "fc/weight")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    weight.ClearField("raw_data")


def flipped_bit(model):
    """A finite weight becomes another finite weight."""
    weight = next(i for i in scan_body(model).initializer if i.name == "fc/weight")
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]


def flipped_threshold(model):
    lif = next(n for n in scan_body(model).node if n.name == "lif1")
    threshold = next(a.t for a in lif.attribute if a.name == "v_threshold")
    threshold.raw_data = bytes([threshold.raw_data[0] ^ 1]) + threshold.raw_data[1:]


def broken_header(model):
    next(p for p in model.metadata_props if p.key == "rmp_deploy.graph").value = "{"


def wrong_header(model):
    header = next(p for p in model.metadata_props if p.key == "rmp_deploy.graph")
    header.value = json.dumps({**json.loads(header.value), "T": "four"})


def set_header(**entries):
    def edit(model):
        header = next(p for p in model.metadata_props if p.key == "rmp_deploy.graph")
        header.value = json.dumps({**json.loads(header.value), **entries})

    return edit


def nested_header(model):
    next(p for p in model.metadata_props if p.key == "rmp_deploy.graph").value = "[" * 200_000


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (drop_domain, "without spiking ops"),
        (newer_domain, f"version = {DOMAIN_VERSION + 1}, allowed 1..{DOMAIN_VERSION}"),
        (nan_weight, "Linear 'fc': weight holds 120 NaN or infinite values"),
        (other_op, "node 'fc': op = Softmax"),
        (looser_threshold, "function 'LIF' is not what its spiking graph gives"),
        (swapped_readout, "is not what its spiking graph gives"),
        (more_steps, "constant 'time/T'"),
        (lost_weight, "malformed"),
        (huge_dims, "malformed"),
        (external_weight, "weights in several places"),
        (flipped_bit, "its content does not match its checksum"),
        (flipped_threshold, "its content does not match its checksum"),
        (broken_header, "malformed"),
        (wrong_header, "malformed"),
        (nested_header, "malformed"),
        (set_header(T=4.0), "malformed"),
        (set_header(T=True), "malformed"),
        (set_header(T=5), "is not what its spiking graph gives"),
        (set_header(dt="soon"), "malformed"),
        (set_header(provenance=[1, 2]), "malformed"),
        (set_header(provenance={"a": {}}), "malformed"),
        (set_header(readout={"value": "fc"}), "malformed"),
        (set_header(readout={"value": "fc", "rule": "max"}), "readout = 'max'"),
        (set_header(input={"name": "x", "shape": [2, 8, 8.0], "encoding": "direct"}), "malformed"),
    ],
)
def test_a_file_that_something_else_changed_is_refused_in_one_line(saved, edit, said):
    path = edited(saved[1], edit)
    with pytest.raises(RmpDeployError) as e:
        onnx_io.load(path)
    assert said in str(e.value)
    assert str(e.value).count(str(path)) == 1
    assert "\n" not in str(e.value)


def set_golden(**entries):
    def edit(model):
        golden = next(p for p in model.metadata_props if p.key == "rmp_deploy.golden")
        golden.value = json.dumps({**json.loads(golden.value), **entries})

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        set_golden(shape=[3, 1, 8, 8]),
        set_golden(shape=[1, 6, 8, 8]),
        set_golden(x="?"),
        set_golden(spike_count={}),
        set_golden(spike_count={"lif1": [1, 2, 3], "lif9": [1, 2, 3]}),
        set_golden(spike_count={"lif1": [1], "lif2": [1]}),
        set_golden(spike_count="many"),
    ],
)
def test_golden_samples_that_do_not_fit_are_refused(saved, edit):
    path = edited(saved[1], edit)
    with pytest.raises(RmpDeployError, match="golden") as e:
        onnx_io.load_golden(path)
    assert "\n" not in str(e.value)


def test_truncated_missing_empty_and_foreign_files_are_refused(saved, tmp_path):
    whole = saved[1].read_bytes()
    weight = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    plain = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [weight], [weight]))
    cases = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not a model",
        "relu": plain.SerializeToString(),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(RmpDeployError, match=name):
            onnx_io.load(path)
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(RmpDeployError, match="cannot be read"):
            onnx_io.load(path)


def test_mutated_bytes_never_crash_and_never_load_as_another_network(saved):
    """Flip, cut and repeat bytes: the file is refused in one line, or it still is that network."""
    graph, path = saved
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(raw)))
            kind = rng.integers(3)
            if kind == 0:
                raw[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del raw[at : at + int(rng.integers(1, 64))]
            else:
                raw[at:at] = raw[at : at + int(rng.integers(1, 64))]
        path.write_bytes(bytes(raw))
        try:
            loaded = onnx_io.load(path)
        except RmpDeployError as e:
            assert "\n" not in str(e)
            continue
        assert loaded.ops == graph.ops
        assert (loaded.T, loaded.input, loaded.readout) == (graph.T, graph.input, graph.readout)


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path, convnet):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(RmpDeployError, match="cannot be written"):
        onnx_io.save(convnet(), blocked / "net.onnx")
    assert list(tmp_path.iterdir()) == [blocked]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path, convnet, monkeypatch):
    real, link = tmp_path / "real" / "net.onnx", tmp_path / "link.onnx"
    real.parent.mkdir()
    link.symlink_to(real)
    for most, files in ((10**6, {"net.onnx"}), (1000, {"net.onnx", "net.onnx.data"})):
        monkeypatch.setattr("rmp_deploy.ir.onnx_io.external.MAX_INSIDE", most)
        graph = convnet(seed=most)
        assert onnx_io.save(graph, link) == link
        assert link.is_symlink()
        assert {p.name for p in real.parent.iterdir()} == files
        assert onnx_io.load(link) == onnx_io.load(real) == graph
    assert {p.name for p in tmp_path.iterdir()} == {"real", "link.onnx"}


def test_what_is_no_regular_file_stays_what_it_is(tmp_path, convnet):
    pipe, folder, loop, to_null = (tmp_path / name for name in ("pipe", "folder", "loop", "null"))
    os.mkfifo(pipe)
    folder.mkdir()
    loop.symlink_to(loop)
    to_null.symlink_to(os.devnull)
    before = {p: p.lstat().st_ino for p in tmp_path.iterdir()}
    for path in (pipe, folder, loop, to_null, f"{tmp_path}/new/", f"{folder}/", "a\0b"):
        with pytest.raises(RmpDeployError, match="cannot be written"):
            onnx_io.save(convnet(), path)
    assert {p: p.lstat().st_ino for p in tmp_path.iterdir()} == before
