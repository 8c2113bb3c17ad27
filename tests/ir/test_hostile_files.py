"""Files that somebody made to do harm: refused in one line, in time and memory that follow their size."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from rmp_deploy import backends
from rmp_deploy.backends.onnxruntime import run_file
from rmp_deploy.cli import main
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import MAX_VALUES, Input, Readout, SpikingGraph
from rmp_deploy.ir.onnx_io import properties, wire
from rmp_deploy.ir.ops import LIF, Conv2d, Delay, Flatten, Linear, SumPool2d

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path, convnet, images):
    return onnx_io.save(convnet(), tmp_path / "net.onnx", golden=images(2))


def parsed(path):
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def step(model):
    return next(a.g for n in model.graph.node if n.op_type == "Scan" for a in n.attribute if a.name == "body")


def entry(model, key):
    return next(p for p in model.metadata_props if p.key == f"rmp_deploy.{key}")


def sign(model):
    """The checksum that docs/file_format.md describes: not a secret."""
    checksum = entry(model, "sha256")
    checksum.value = "0" * 64
    checksum.value = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def header(**changes):
    def edit(model):
        text = entry(model, "graph")
        text.value = json.dumps({**json.loads(text.value), **changes}, sort_keys=True)

    return edit


def refused(path, said):
    for read in (onnx_io.load, onnx_io.load_golden):
        with pytest.raises(RmpDeployError) as e:
            read(path)
        message = str(e.value)
        assert said in message
        assert message.startswith(f"file '{path}': ")
        assert len(message) < len(str(path)) + 450
        assert message.isprintable()


# -- the model -------------------------------------------------------------------------------------------------------


def threshold_from_another_file(model):
    """onnx.numpy_helper.to_array would read it."""
    neuron = next(n for n in step(model).node if n.name == "lif1")
    tensor = next(a.t for a in neuron.attribute if a.name == "v_threshold")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/dev/zero")


def text_tensor(model):
    weight = step(model).initializer[0]
    weight.ClearField("raw_data")
    weight.data_type = TensorProto.STRING
    weight.string_data.extend([b"\xff"] * 72)


def sparse_weight(model):
    weight = step(model).initializer[0]
    model.graph.sparse_initializer.add(dims=[2**40]).values.CopyFrom(weight)


def float_list(model):
    weight = step(model).initializer[0]
    count = len(weight.raw_data) // 4
    weight.ClearField("raw_data")
    weight.float_data.extend([0.5] * count)


def no_dims(model):
    del step(model).initializer[0].dims[:]


def overflowing_dims(model):
    step(model).initializer[0].dims[:] = [2**32, 2**32]


def two_of_a_name(model):
    step(model).initializer.append(step(model).initializer[0])


def shared_weight(model):
    """One megabyte in the file, a hundred in memory."""
    body = step(model)
    fc = next(n for n in body.node if n.name == "fc")
    weight = next(i for i in body.initializer if i.name == "fc/weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros((512, 512), np.float32), weight.name))
    for i in range(100):
        copy = body.node.add()
        copy.CopyFrom(fc)
        copy.name = copy.output[0] = f"fc{i}"


def unread_weight(model):
    step(model).initializer.append(TensorProto(name="more", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4)))


def cycle(model):
    nodes = {n.name: n for n in step(model).node}
    nodes["conv1"].input[0] = "lif2"


def escape_codes(model):
    node = next(n for n in step(model).node if n.name == "fc")
    node.op_type = "\x1b[2J\nerror: all is well" + "x" * 10_000


def endless_series(model):
    """Expand of a kilobyte to a terabyte."""
    constant = next(i for i in model.graph.initializer if i.name == "time/T")
    constant.raw_data = np.array([2**40], np.int64).tobytes()
    header(T=2**40)(model)


def nested_attributes(model):
    attribute = onnx.AttributeProto(name="body", type=onnx.AttributeProto.GRAPH)
    for _ in range(15):
        outer = onnx.AttributeProto(name="body", type=onnx.AttributeProto.GRAPH)
        outer.g.node.append(onnx.NodeProto(op_type="If", attribute=[attribute]))
        attribute = outer
    model.graph.node[0].attribute.append(attribute)


def training_info(model):
    model.training_info.add().algorithm.name = "x"


def second_golden(model):
    model.metadata_props.add(key="rmp_deploy.golden", value="{}")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (threshold_from_another_file, "malformed"),
        (text_tensor, "malformed"),
        (sparse_weight, "its bytes are not what its spiking graph gives"),
        (float_list, "not an ONNX model, or truncated (TensorProto.float_data with wire type 2)"),
        (no_dims, "malformed"),
        (overflowing_dims, "with dims [4294967296, 4294967296]"),
        (two_of_a_name, "weight 'conv1/weight' is not what its spiking graph gives"),
        (shared_weight, "weight 'fc/weight': reads = 101, allowed 1"),
        (unread_weight, "weight 'more': reads = 0, allowed 1"),
        (cycle, "Conv2d 'conv1': input = 'lif2', allowed a value made before it"),
        (escape_codes, "op = \ufffd[2J error: all is well"),
        (endless_series, "T = 1099511627776, allowed 1..65535"),
        (nested_attributes, "messages nested more than 32 deep"),
        (training_info, "its bytes are not what its spiking graph gives"),
        (second_golden, "does not match its checksum"),
        (header(dt=1e-3), "does not match its checksum"),
        (header(provenance={"by": "another"}), "does not match its checksum"),
        (header(T=10**400), "malformed"),
        (header(dt=float("nan")), "malformed"),
        (header(provenance={"a": "\ud800"}), "malformed"),
        (header(input={"name": "x", "shape": [2, 2**40, 2**40], "encoding": "direct"}), "input shape"),
        (header(extra=[0] * 300_000), "more than 262,144 values"),
        (lambda m: setattr(m.graph, "name", "another"), "does not match its checksum"),
        (lambda m: setattr(m, "doc_string", "x"), "its bytes are not what its spiking graph gives"),
        (lambda m: setattr(m, "ir_version", 11), "its bytes are not what its spiking graph gives"),
    ],
)
def test_a_model_that_means_harm_is_refused(file, edit, said):
    model = parsed(file)
    edit(model)
    file.write_bytes(model.SerializeToString(deterministic=True))
    refused(file, said)


@pytest.mark.parametrize("edit", [sparse_weight, training_info, second_golden])
def test_a_checksum_that_fits_does_not_make_another_structure_right(file, edit):
    model = parsed(file)
    edit(model)
    sign(model)
    file.write_bytes(model.SerializeToString(deterministic=True))
    refused(file, "does not match its checksum")


def field(number, content, wire_type=2):
    length = wire.varint(len(content)) if wire_type == 2 else b""
    return wire.varint(number << 3 | wire_type) + length + content


def deep(depth):
    node = field(4, b"If")
    for _ in range(depth):
        node = field(4, b"If") + field(5, field(1, b"body") + field(6, field(1, node)))
    return field(7, field(1, node))


MORE = {
    "nested": (deep(10_000), "messages nested more than 32 deep"),
    "a million nodes": (field(7, field(1, b"") * 1_000_000), "more than 131,072 fields"),
    "a million operator sets": (field(8, b"") * 1_000_000, "more than 131,072 fields"),
    "a name that is not UTF-8": (field(7, field(2, b"\xff\xfe")), "allowed text"),
    "unknown field": (field(99, b"?"), "ModelProto with an unknown field 99"),
    "group": (field(7, b"", 3), "with wire type 3"),
    "endless number": (field(7, b"\xff" * 11), "a number of more than 64 bits"),
    "length beyond the file": (b"\x3a\xff\xff\xff\xff\x0f", "a field longer than what holds it"),
    "doc string": (field(6, b"x"), "its bytes are not what its spiking graph gives"),
    "long doc string": (field(6, b"x" * 2**27), "more than 67,108,864 bytes besides the weights"),
}


@pytest.mark.parametrize("what", MORE)
def test_bytes_that_no_writer_gives_are_refused(file, what):
    more, said = MORE[what]
    file.write_bytes(file.read_bytes() + more)
    refused(file, said)


def test_the_same_model_in_other_bytes_is_refused(file):
    """A length of two bytes where one would do: protobuf reads the same, and only one file is the file."""
    raw = file.read_bytes()
    tail = parsed(file).opset_import[0].SerializeToString()
    short, long = field(8, tail), b"\x42" + bytes([len(tail) | 0x80, 0]) + tail
    assert raw.count(short) == 1
    file.write_bytes(raw.replace(short, long))
    assert parsed(file) == onnx.ModelProto.FromString(raw)
    refused(file, "its bytes are not what its spiking graph gives")


def test_a_pool_of_more_channels_than_memory_is_refused(tmp_path):
    """The pool's ones follow the header's channels: they are compared with the file's before they are made."""
    pool = SumPool2d(name="pool", inputs=("x",), kernel=(2, 2), stride=(2, 2))
    ops = (pool, LIF(name="lif", inputs=("pool",), decay=0.5, v_threshold=1.0))
    graph = SpikingGraph("g", Input("x", (1, 2, 2), "direct"), ops, Readout("lif", "sum"), T=1)
    path = onnx_io.save(graph, tmp_path / "g.onnx")
    model = parsed(path)
    channels = MAX_VALUES // 4
    header(input={"name": "x", "shape": [channels, 2, 2], "encoding": "direct", "message_bits": None})(model)
    path.write_bytes(model.SerializeToString())
    refused(path, "is not what its spiking graph gives")


@pytest.mark.parametrize("kind", [Flatten, Delay])
def test_long_chains_are_read_in_linear_time(tmp_path, kind):
    """1,500 ops in a row; quadratic look-ups made minutes of it. Delays stand in reverse: each reads the next."""
    n, shape = 1_500, {"shape": (1,)} if kind is Delay else {}
    ops = [LIF(name="lif", inputs=("x",), decay=0.5, v_threshold=0.5)]
    if kind is Flatten:
        ops += [Flatten(name=f"op{i}", inputs=(f"op{i - 1}" if i else "lif",)) for i in range(n)]
    else:
        ops = [Delay(name=f"op{i}", inputs=(f"op{i + 1}" if i < n - 1 else "lif",), steps=1, **shape) for i in range(n)]
        ops += [LIF(name="lif", inputs=("x",), decay=0.5, v_threshold=0.5)]
    graph = SpikingGraph("g", Input("x", (1,), "direct"), tuple(ops), Readout("lif", "sum"), T=1)
    assert graph.is_spikes("op0")
    assert onnx_io.load(onnx_io.save(graph, tmp_path / "g.onnx")) == graph


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        (
            (Conv2d(name="c", inputs=("x",), weight=np.ones((1, 1, 3, 3)), padding=(10**6, 10**6)),),
            "Conv2d 'c': values",
        ),
        (
            (
                Conv2d(
                    name="c", inputs=("x",), weight=np.ones((1, 1, 3, 3)), dilation=(10**6,) * 2, padding=(10**6,) * 2
                ),
            ),
            "Conv2d 'c': values",
        ),
        ((Delay(name="c", inputs=("x",), steps=4096, shape=(1, 400, 400)),), "Delay 'c': values = 655360000"),
    ],
)
def test_values_that_no_machine_holds_are_refused(ops, said):
    lif = LIF(name="lif", inputs=("c",), decay=0.5, v_threshold=1.0)
    size = (1, 400, 400) if isinstance(ops[0], Delay) else (1, 8, 8)
    with pytest.raises(RmpDeployError, match="Use a smaller map") as e:
        SpikingGraph("g", Input("x", size, "direct"), (*ops, lif), Readout("lif", "sum"), T=1)
    assert said in str(e.value)


# -- golden samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**40, 2, 8, 8]},
        {"shape": [-1, 2, 8, 8]},
        {"shape": [2.0, 2, 8, 8]},
        {"x": "AAAA"},
        {"x": "!" * 1000},
        {"x": 7},
        {"spike_count": {"lif1": [1e400, 1], "lif2": [1, 1]}},
        {"spike_count": {"lif1": ["1", "1"], "lif2": [1, 1]}},
        {"spike_count": {"lif1": [1, 1]}},
        {"more": 1},
    ],
)
def test_golden_samples_that_mean_harm_are_refused(file, change):
    """The graph is right, and its file's checksum fits: only its golden record is wrong."""
    model = parsed(file)
    golden = entry(model, "golden")
    golden.value = json.dumps({**json.loads(golden.value), **change}, sort_keys=True)
    sign(model)
    file.write_bytes(model.SerializeToString(deterministic=True))
    onnx_io.load(file)
    with pytest.raises(RmpDeployError, match="golden") as e:
        onnx_io.load_golden(file)
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * 200_000,
        '"' * 3_000_000,
        '\\"' * 1_000_000,
        '{"x":' * 60_000,
        "9" * 300_000,
        "[" + "0," * 300_000 + "0]",
        "",
    ],
)
def test_a_property_that_costs_more_than_it_is_long_is_refused(file, bomb):
    for key in ("golden", "graph"):
        model = parsed(file)
        entry(model, key).value = bomb
        sign(model)
        changed = file.with_name(f"{key}.onnx")
        changed.write_bytes(model.SerializeToString(deterministic=True))
        with pytest.raises(RmpDeployError, match="malformed"):
            onnx_io.load_golden(changed)


def test_the_self_check_takes_as_many_samples_at_a_time_as_fit(file, monkeypatch, capsys):
    values = "rmp_deploy.cli.golden.MAX_VALUES"
    answers = []
    for limit in (2**26, 6_000):  # both samples together; one at a time
        monkeypatch.setattr(values, limit)
        assert main(["verify", str(file), "--self", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["self_check"])
    assert answers[0] == answers[1]
    assert answers[0]["layers"]["lif1"]["found"] == onnx_io.load_golden(file).spike_count["lif1"]
    monkeypatch.setattr(values, 100)
    assert main(["verify", str(file), "--self"]) == 2
    assert "values to check = " in capsys.readouterr().err


def test_a_few_bytes_that_ask_for_terabytes_are_refused(tmp_path, capsys):
    """65,535 steps of 4,096 neurons: they are counted before anything runs."""
    name, n = "lif", 2**12
    weight = np.zeros((n, 1), np.float32)
    ops = (
        Linear(name="fc", inputs=("x",), weight=weight),
        LIF(name=name, inputs=("fc",), decay=0.5, v_threshold=1.0),
    )
    graph = SpikingGraph("g", Input("x", (1,), "direct"), ops, Readout(name, "sum"), T=1)
    path = onnx_io.save(graph, tmp_path / "g.onnx", golden=np.zeros((1, 1)))
    golden = entry(parsed(path), "golden").value
    path = onnx_io.save(replace(graph, T=65_535), path)
    model = parsed(path)
    checksum = model.metadata_props.pop()
    model.metadata_props.add(key="rmp_deploy.golden", value=golden)
    model.metadata_props.append(checksum)
    sign(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    assert main(["verify", str(path), "--self"]) == 2
    error = capsys.readouterr().err
    assert f"values to check = {1 + 2 * n + 65_535 * (1 + 2 * n):,}, allowed 67,108,864 a sample" in error
    assert error.count("\n") == 1


def test_memory_that_runs_out_is_one_line(file, monkeypatch, capsys):
    def no_memory(args):
        np.empty(2**57, np.float64)

    monkeypatch.setattr("rmp_deploy.cli.check.run", no_memory)
    assert main(["check", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: not enough memory (Unable to allocate 1.00 EiB")
    assert error.count("\n") == 1


# -- what is not written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "name = '', allowed text"),
        ({"name": "\ud800"}, "allowed text"),
        ({"provenance": {"seed": 0}}, "seed = 0, allowed text"),
        ({"provenance": {"by": "\ud800"}}, "allowed text"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, convnet, changes, said):
    with pytest.raises(RmpDeployError, match="Give it as a str") as e:
        onnx_io.save(replace(convnet(), **changes), tmp_path / "net.onnx")
    assert said in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_more_golden_samples_than_a_file_holds_are_not_written(tmp_path, convnet, images, monkeypatch):
    monkeypatch.setattr(wire, "MAX_REST", 50_000)  # bytes, in place of 64 MiB
    with pytest.raises(RmpDeployError, match="Save fewer ops, golden samples"):
        onnx_io.save(convnet(), tmp_path / "net.onnx", golden=images(80))
    assert list(tmp_path.iterdir()) == []


def test_more_values_in_a_property_than_a_reader_takes_are_not_written(tmp_path, convnet, images, monkeypatch):
    monkeypatch.setattr(properties, "MAX_JSON", 100)  # in place of 262,144
    path = tmp_path / "net.onnx"
    many = {str(i): "x" for i in range(101)}
    for graph, samples in ((convnet(), images(60)), (replace(convnet(), provenance=many), None)):
        with pytest.raises(RmpDeployError, match="would have more than 100 values in a property"):
            onnx_io.save(graph, path, golden=samples)
        assert list(tmp_path.iterdir()) == []
    log = {"log": 'a,[{,"\\' * 1000}  # text, and no values
    assert onnx_io.load(onnx_io.save(replace(convnet(), provenance=log), path)).provenance == log


def test_golden_samples_beyond_float32_are_not_written(tmp_path, convnet, images):
    with pytest.raises(RmpDeployError, match="inf"):
        onnx_io.save(convnet(), tmp_path / "net.onnx", golden=images(1).astype(np.float64) + 1e39)
    assert list(tmp_path.iterdir()) == []


# -- bytes and memory ------------------------------------------------------------------------------------------------


def test_the_streamed_bytes_are_those_of_protobuf(file, convnet):
    for graph in (onnx_io.load(ROOT / "examples" / "digits.onnx"), convnet(norms=True)):
        model = onnx_io.to_model(graph, ("spikes", "v"))
        assert onnx_io.to_bytes(graph, ("spikes", "v")) == model.SerializeToString(deterministic=True)
        assert all(tensor.raw_data for tensor in step(model).initializer)
    assert file.read_bytes() == parsed(file).SerializeToString(deterministic=True)
    with file.open("rb") as opened:
        rest, spans = wire.split(opened, file.stat().st_size)
    light, body = ModelProto.FromString(rest), step(parsed(file))
    assert [not tensor.raw_data for tensor in step(light).initializer] == [True] * len(spans)
    raw = file.read_bytes()
    assert [raw[s.offset : s.offset + s.length] for s in spans] == [t.raw_data for t in body.initializer]


SAVE = """
import sys
import numpy as np
from rmp_deploy import save
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Conv2d

rng = np.random.default_rng(0)
weight = rng.normal(size=(4, 2, 3, 3)).astype(np.float32)
{build}
graph = SpikingGraph("g", Input("x", {shape}, "direct"), (conv, lif), Readout("lif", "mean"), {T}, 1e-3, {provenance})
save(graph, sys.argv[1], golden=np.ones((2, 2, 6, 6)))
"""
WAYS = (
    {
        "build": 'conv = Conv2d(name="c", inputs=("x",), weight=weight, stride=(2, 1), padding=(1, 1))\n'
        'lif = LIF(name="lif", inputs=("c",), decay=0.5, v_threshold=0.25)',
        "shape": "(2, 6, 6)",
        "T": "3",
        "provenance": '{"a": "1", "b": "2"}',
    },
    {
        "build": 'weight = np.asfortranarray(weight.astype(">f8"))\n'
        'conv = Conv2d(name="c", inputs=["x"], weight=weight, stride=np.array([2, 1]), padding=[np.int64(1)] * 2)\n'
        'lif = LIF(name="lif", inputs=["c"], decay=np.float64(0.5), v_threshold=np.float16(0.25), v_reset=0)',
        "shape": "tuple(np.array([2, 6, 6]))",
        "T": "np.int32(3)",
        "provenance": 'dict([("b", "2"), ("a", "1")])',
    },
)


def test_the_same_graph_gives_the_same_bytes_however_and_wherever_it_is_made(tmp_path):
    files = []
    for seed, way in (("0", WAYS[0]), ("1", WAYS[0]), ("2", WAYS[1])):
        code = SAVE.format(**way)
        files.append(tmp_path / f"{seed}.onnx")
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code, str(files[-1])], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


MEMORY = """
import sys
import numpy as np
from rmp_deploy import load, save
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Linear

def megabytes(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) / 1024

before = megabytes("VmRSS")
if sys.argv[2] == "save":
    ops, value = [], "x"
    for i in range(12):
        ops.append(Linear(name=f"fc{i}", inputs=(value,), weight=np.full((1024, 1024), i / 7, np.float32)))
        ops.append(LIF(name=f"lif{i}", inputs=(f"fc{i}",), decay=0.5, v_threshold=0.5))
        value = f"lif{i}"
    save(SpikingGraph("g", Input("x", (1024,), "direct"), tuple(ops), Readout(value, "mean"), 2), sys.argv[1])
else:
    graph = load(sys.argv[1])
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_saving_and_loading_hold_the_weights_once(tmp_path):
    """48 MB of weights; the graph's own are the once."""
    for what in ("save", "load"):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / "net.onnx"), what]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert 48 < float(done.stdout) < 2 * 48, what


# -- weights beside the model ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path, convnet, images, monkeypatch):
    """A file and its data, as for weights of more than 2 GiB."""
    monkeypatch.setattr("rmp_deploy.ir.onnx_io.external.MAX_INSIDE", 1000)
    folder = tmp_path / "pair"
    graph = convnet(norms=True)
    path = onnx_io.save(graph, folder / "net.onnx", golden=images(3))
    return graph, path, folder / "net.onnx.data"


def test_a_pair_comes_back_equal_and_stock_onnx_runtime_runs_it(pair, images):
    graph, path, data = pair
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.onnx", "net.onnx.data"]
    onnx.checker.check_model(path, full_check=True)
    tensors = step(parsed(path)).initializer
    entries = [{e.key: e.value for e in tensor.external_data} for tensor in tensors]
    assert all(tensor.data_location == TensorProto.EXTERNAL and not tensor.raw_data for tensor in tensors)
    assert {e["location"] for e in entries} == {"net.onnx.data"}
    assert all(int(e["offset"]) % 4096 == 0 for e in entries)
    raw = data.read_bytes()
    weights = {
        f"{op.name}/{key}": getattr(op, key) for op in graph.ops for key in ("weight", "bias") if hasattr(op, key)
    }
    for tensor, e in zip(tensors, entries, strict=True):
        if tensor.name in weights:
            start = int(e["offset"])
            assert raw[start : start + int(e["length"])] == weights[tensor.name].tobytes()
    assert onnx_io.load(path) == graph
    golden = onnx_io.load_golden(path)
    found = run_file(path, golden.x)
    assert {name: found[f"spike_count/{name}"].tolist() for name in golden.spike_count} == golden.spike_count
    inside = onnx.load(path)  # with its data: the same weights as in one file
    assert [t.raw_data for t in step(inside).initializer] == [
        t.raw_data for t in step(onnx.ModelProto.FromString(whole_bytes(graph))).initializer
    ]


def whole_bytes(graph):
    from rmp_deploy.ir.onnx_io import model

    light, weights = model.to_skeleton(graph)
    return b"".join(wire.pieces(wire.join(light, iter(weights.values()))))


def test_a_pair_may_move_and_its_model_be_renamed(pair, tmp_path):
    graph, path, data = pair
    (tmp_path / "else").mkdir()
    data.rename(tmp_path / "else" / data.name)
    assert onnx_io.load(path.rename(tmp_path / "else" / "renamed.onnx")) == graph


def relocated(path, location):
    model = parsed(path)
    for tensor in step(model).initializer:
        next(e for e in tensor.external_data if e.key == "location").value = location
    path.write_bytes(model.SerializeToString(deterministic=True))


def test_data_that_is_missing_or_elsewhere_is_refused(pair, tmp_path):
    _, path, data = pair
    good, content = path.read_bytes(), data.read_bytes()
    data.rename(tmp_path / "net.onnx.data")
    refused(path, "its weights are in 'net.onnx.data', which is not beside it. Copy both files.")
    for location in (f"../{data.name}", str(tmp_path / data.name), "", ".", "..", "a\\b", "c:d", "x/../net.onnx.data"):
        relocated(path, location)
        refused(path, "allowed a file beside the model")
    path.write_bytes(good)
    data.symlink_to(tmp_path / data.name)
    refused(path, "which leads out of the folder")
    data.unlink()
    os.mkfifo(data)
    refused(path, "not a regular file")
    data.unlink()
    data.write_bytes(content)
    (path.parent / "link").symlink_to(data.name)
    onnx_io.load(path)
    relocated(path, "net.onnx")
    refused(path, "file")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw[:-1], "its bytes are not"),
        (lambda raw: raw[:5000], "ends beyond its file"),
        (lambda raw: raw + b"\0", "its bytes are not"),
        (lambda raw: raw[:3] + bytes([raw[3] ^ 1]) + raw[4:], "does not match its checksum"),
        (lambda raw: raw[:400] + b"\1" + raw[401:], "its bytes are not"),  # between two arrays
        (lambda raw: b"", "ends beyond its file"),
    ],
)
def test_data_that_changed_is_refused(pair, change, said):
    _, path, data = pair
    data.write_bytes(change(data.read_bytes()))
    refused(path, said)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("offset", "1"),
        ("offset", "-4096"),
        ("length", str(2**62)),
        ("length", "9" * 40),
        ("offset", "٣"),
        ("length", ""),
    ],
)
def test_offsets_and_lengths_beyond_the_data_are_refused(pair, key, value):
    _, path, _ = pair
    model = parsed(path)
    next(e for e in step(model).initializer[0].external_data if e.key == key).value = value
    path.write_bytes(model.SerializeToString(deterministic=True))
    refused(path, "Export it again")


def test_data_that_two_weights_share_is_refused(pair):
    """A kilobyte of data that a thousand weights read would be a megabyte."""
    _, path, _ = pair
    model = parsed(path)
    second = step(model).initializer[1]
    next(e for e in second.external_data if e.key == "offset").value = "0"
    path.write_bytes(model.SerializeToString(deterministic=True))
    refused(path, f"tensor '{second.name}' at 0, allowed 4096")


def test_a_pair_that_cannot_be_written_leaves_what_was_there(pair, convnet):
    _, path, data = pair
    before = {p: p.read_bytes() for p in path.parent.iterdir()}
    assert set(before) == {path, data}
    other = path.parent / "other.onnx"
    other.mkdir()  # the data can be written, the model cannot
    with pytest.raises(RmpDeployError, match="cannot be written"):
        onnx_io.save(convnet(seed=1), other)
    other.rmdir()
    assert {p: p.read_bytes() for p in path.parent.iterdir()} == before
    onnx_io.save(convnet(seed=1), path)
    assert onnx_io.load(path) == convnet(seed=1)
    assert {p.name for p in path.parent.iterdir()} == {"net.onnx", "net.onnx.data"}


def test_data_that_a_renamed_model_needs_is_left_by_a_smaller_network(pair, convnet, monkeypatch):
    graph, path, data = pair
    renamed, content = path.rename(path.with_name("renamed.onnx")), data.read_bytes()
    monkeypatch.setattr("rmp_deploy.ir.onnx_io.external.MAX_INSIDE", 2**31)
    assert onnx_io.load(onnx_io.save(convnet(), path)) == convnet()
    assert data.read_bytes() == content
    assert onnx_io.load(renamed) == graph


def test_every_backend_and_the_self_check_take_a_pair(pair, images):
    graph, path, _ = pair
    x = images(4)
    exact, found = (backends.run(graph, x, name, ("spikes", "v")) for name in ("reference", "onnxruntime"))
    for name, spikes in exact.spikes.items():
        np.testing.assert_array_equal(found.spikes[name], spikes)
        np.testing.assert_allclose(found.v[name], exact.v[name], atol=1e-5)
    assert main(["verify", str(path), "--self"]) == 0


def test_more_weights_than_protobuf_holds_are_refused_where_no_file_is(pair):
    with pytest.raises(RmpDeployError, match="Save it and run the file"):
        onnx_io.to_model(pair[0])


# -- the fuzzer ------------------------------------------------------------------------------------------------------


def test_mutated_files_are_refused_or_are_what_they_were():
    """A few hundred of the mutants of `python benchmarks/run.py fuzz_files`."""
    command = [sys.executable, "benchmarks/run.py", "fuzz_files", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bad"] == []
    assert found["refused"] + found["equal"] + found["another"] == found["files"] >= 300
    assert found["refused"] > 0.8 * found["files"]
    assert found["peak_mb"] < 500
