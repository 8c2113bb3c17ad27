"""Mutated files: each is refused in one line, or is the network that it was.

Bytes are flipped, cut, repeated and spliced; fields of the model are given other, absurd or a great many values; half
of these files then get a checksum that fits, as somebody who means harm would give them. A file of another network with
a checksum that fits is no damaged file but another file: it must be, byte for byte, what `save` writes for what it
loads as.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, numpy_helper

from rmp_deploy import ir, load, save
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.onnx_io import external, load_golden, wire
from rmp_deploy.ir.onnx_io.functions import DOMAIN, DOMAIN_VERSION

ROOT = Path(__file__).parent.parent
LIMIT_S, LIMIT_MB = 5, 500
OUTCOMES = ("refused", "equal", "another", "wrong", "crashed")
INTS = (0, 1, -1, 2, 9, 127, 255, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
TEXTS = (
    "",
    "..",
    "../../etc/passwd",
    "/dev/zero",
    "\x1b[31m\nerror",
    "x" * 20_000,
    "input",
    "LIF",
    "ai.onnx.ml",
    "body",
)
JSON_VALUES = (
    0,
    1,
    -1,
    2,
    65_535,
    65_536,
    10**18,
    0.5,
    float("nan"),
    1e308,
    True,
    None,
    "",
    "last",
    [],
    {},
    [1],
    "\ud800",
)
BOMBS = (
    "[" * 100_000,
    '{"a":' * 50_000,
    "9" * 100_000,
    "[" + "0," * 300_000 + "0]",
    '{"T": 1e999}',
    "\x00",
    "null",
    "",
)


@dataclass
class Seed:
    """A good file, the graph in it, and the file beside it."""

    name: str
    model: bytes
    data: bytes | None
    graph: SpikingGraph


# -- seeds -----------------------------------------------------------------------------------------------------------


def every_op() -> SpikingGraph:
    """Grouped, dilated, pooled, residual, delayed, recurrent."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) * 2 / np.sqrt(np.prod(shape[1:]))

    o = ir.ops
    norm = {key: rng.uniform(0.5, 1.5, 4) for key in ("gamma", "beta", "mean", "var")}
    soft = {"reset": "soft", "v_subtract": rng.uniform(0.2, 0.6, (4, 1, 1))}
    ops = (
        o.Conv2d(name="conv", inputs=("x",), weight=weight(4, 1, 3, 3), groups=2, dilation=(2, 2), padding=(2, 2)),
        o.BatchNorm(name="norm", inputs=("conv",), eps=1e-5, **norm),
        o.LIF(name="lif", inputs=("norm",), decay=0.5, v_threshold=rng.uniform(0.2, 0.6, (4, 1, 1)), v_reset=-0.1),
        o.Delay(name="before", inputs=("again",), steps=1, shape=(4, 6, 6)),
        o.Conv2d(name="loop", inputs=("before",), weight=weight(4, 4, 1, 1), bias=weight(4, 1)[:, 0]),
        o.Add(name="sum", inputs=("lif", "loop"), **{}),
        o.CubaLIF(name="again", inputs=("sum",), decay=0.3, current_decay=0.5, v_threshold=0.4, **soft),
        o.Delay(name="late", inputs=("lif",), steps=3, shape=(4, 6, 6)),
        o.Concat(name="both", inputs=("again", "late")),
        o.MaxPool2d(name="or", inputs=("both",), kernel=(2, 2), stride=(2, 2)),
        o.SumPool2d(name="total", inputs=("or",), kernel=(2, 2), stride=(1, 1), padding=(1, 1)),
        o.AvgPool2d(name="mean", inputs=("total",), kernel=(2, 2), stride=(2, 2)),
        o.Flatten(name="flat", inputs=("mean",)),
        o.Linear(name="fc", inputs=("flat",), weight=weight(3, 32), bias=weight(3, 1)[:, 0]),
        o.LI(name="li", inputs=("fc",), decay=0.9),
    )
    return SpikingGraph(
        "every-op", Input("x", (2, 6, 6), "time_series"), ops, Readout("li", "last"), 5, 1e-3, {"a": "b"}
    )


def integers() -> SpikingGraph:
    """Loihi's ops between the host's real values, on graded and binary spikes."""
    rng = np.random.default_rng(2)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-60, 80, shape) * 2

    o = ir.ops
    neurons = {"du": 4095, "dv": 1024, "bias_mant": rng.integers(0, 90, (3, 1, 1)), "bias_exp": 4}
    ops = (
        o.Quantize(name="graded", inputs=("x",), scale=rng.uniform(2, 9, (2, 1, 1)), message_bits=3),
        o.LoihiConv2d(name="conv", inputs=("graded",), weight=weight(3, 2, 3, 3), padding=(1, 1)),
        o.LoihiLIF(name="lif", inputs=("conv",), vth=300, **neurons),
        o.Flatten(name="flat", inputs=("lif",)),
        o.LoihiLinear(name="fc", inputs=("flat",), weight=weight(4, 48), weight_exp=1),
        o.Dequantize(name="y", inputs=("fc",), scale=0.01, bias=rng.normal(size=4)),
    )
    return SpikingGraph("integers", Input("x", (2, 4, 4), "direct"), ops, Readout("y", "sum"), 6)


def seeds(folder: Path) -> list[Seed]:
    """The example, files of older versions, graphs of every op, and one with its weights beside the model."""
    paths = [ROOT / "examples" / "digits.onnx", *sorted((ROOT / "tests" / "data").glob("*.onnx"))]
    graph = every_op()
    x = np.random.default_rng(1).normal(size=(2, 5, 2, 6, 6)).astype(np.float32)
    paths.append(save(graph, folder / "every-op.onnx", golden=x))
    paths.append(save(replace(graph, T=3), folder / "plain.onnx"))
    real = np.random.default_rng(3).normal(size=(2, 2, 4, 4)).astype(np.float32)
    paths.append(save(integers(), folder / "integers.onnx", golden=real))
    inside, external.MAX_INSIDE = external.MAX_INSIDE, 0
    paths.append(save(graph, folder / "outside.onnx", golden=x))
    external.MAX_INSIDE = inside
    found = []
    for path in paths:
        data = path.with_name(f"{path.name}.data")
        found.append(Seed(path.stem, path.read_bytes(), data.read_bytes() if data.exists() else None, load(path)))
    return found


# -- mutations -------------------------------------------------------------------------------------------------------


def mutate_bytes(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at, n = rng.randrange(len(out) or 1), rng.randint(1, 64)
        kind = rng.randrange(8)
        if kind <= 1 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and out:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A))
        elif kind == 3:
            del out[at : at + n]
        elif kind == 4:
            out[at:at] = out[at : at + n]
        elif kind == 5:
            out[at : at + n] = b"\xff" * rng.randint(1, 10)
        elif kind == 6:
            start = rng.randrange(len(other))
            out[at : at + n] = other[start : start + rng.choice((n, 4096))]
        else:
            del out[at:]
    return bytes(out)


def messages(message: Message) -> list[Message]:
    """`message` and every message in it."""
    found = [message]
    for _, value in message.ListFields():
        for part in [value] if isinstance(value, Message) else list(value) if hasattr(value, "append") else []:
            if isinstance(part, Message):
                found += messages(part)
    return found


def other_value(field, old, rng: random.Random, model: ModelProto):
    if isinstance(old, bytes):
        return rng.choice(
            (b"", old[:-1], old + b"\0", b"\xff" * len(old), b"\xff\xfe", rng.randbytes(len(old)), old * 3)
        )
    if isinstance(old, str):
        names = [node.name for node in model.graph.node] + [node.op_type for node in model.graph.node]
        return rng.choice((*TEXTS, old + "x", old[:-1], rng.choice(names)))
    if isinstance(old, float):
        return rng.choice((float("nan"), float("inf"), 0.0, -old, 1e-45))
    return rng.choice((*INTS, old + 1, old - 1))


def mutate_field(message: Message, model: ModelProto, rng: random.Random) -> None:
    """One field of `message`: another value, gone, or a great many."""
    field, value = rng.choice(message.ListFields() or [(None, None)])
    if field is None:
        return
    if isinstance(value, str | bytes | int | float):
        if rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, other_value(field, value, rng, model))
    elif isinstance(value, Message):
        message.ClearField(field.name)
    else:
        at, kind = rng.randrange(len(value)), rng.randrange(5)
        if kind == 0:
            del value[at]
        elif kind == 1:
            value.append(value[at])
        elif kind == 2 and not isinstance(value[at], Message):
            value[at] = other_value(field, value[at], rng, model)
        elif kind == 3:
            size = value[at].ByteSize() if isinstance(value[at], Message) else len(str(value[at]))
            value.extend([value[at]] * min(rng.choice((10, 1_000, 20_000)), 2**20 // (size + 1)))
        else:
            content = list(value)
            rng.shuffle(content)
            del value[:]
            value.extend(content)


def mutate_json(model: ModelProto, rng: random.Random) -> None:
    """An entry of a property: another value; or a text that costs more than it is long."""
    if not model.metadata_props:
        return
    entry = rng.choice(model.metadata_props)
    if rng.random() < 0.2:
        entry.value = rng.choice(BOMBS)
        return
    try:
        record = json.loads(entry.value)
    except (ValueError, RecursionError):
        entry.value = rng.choice(TEXTS)
        return
    place = record
    while isinstance(place, dict) and place:
        key = rng.choice(sorted(place))
        if not isinstance(place[key], dict) or rng.random() < 0.3:
            place[key] = rng.choice(JSON_VALUES)
            break
        place = place[key]
    entry.value = json.dumps(record, sort_keys=True)


def nested(depth: int) -> bytes:
    """A field `graph` with a node with an attribute with a graph ..., which protobuf merges with the one before it."""

    def field(number: int, content: bytes) -> bytes:
        return wire.varint(number << 3 | 2) + wire.varint(len(content)) + content

    node = field(4, b"If")
    for _ in range(depth):
        node = field(4, b"If") + field(5, field(1, b"body") + field(6, field(1, node)))
    return field(7, field(1, node))


def mutate_tensor(model: ModelProto, rng: random.Random) -> None:
    """Absurd dims, types and places of one tensor."""
    tensors = [m for m in messages(model) if isinstance(m, TensorProto)]
    if not tensors:
        return
    tensor, kind = rng.choice(tensors), rng.randrange(7)
    if kind == 0:
        tensor.dims[:] = rng.choice(([2**40], [2**62, 4], [-1], [0], [], [1] * 40, [2**32, 2**32]))
    elif kind == 1:
        tensor.data_type = rng.choice(list(TensorProto.DataType.values()))
    elif kind == 2:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice((*TEXTS, "f.onnx", "f.onnx.data")))
        tensor.external_data.add(key="length", value=rng.choice(("0", "-1", "9" * 30, str(2**62))))
    elif kind == 3:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([0.5] * rng.choice((1, 100_000)))
    elif kind == 4 and tensor.raw_data:
        raw = bytearray(tensor.raw_data)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        tensor.raw_data = bytes(raw)
    elif kind == 5:
        tensor.string_data.extend([b"\xff"] * rng.choice((1, 10_000)))
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def share_weight(model: ModelProto, rng: random.Random) -> None:
    """A thousand nodes that read one weight, or weights that stand in one place: a little file, a lot of memory."""
    tensors = {m.name: m for m in messages(model) if isinstance(m, TensorProto)}
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.name == "body"]
    readers = [node for body in bodies for node in body.node if node.op_type in ("Gemm", "Conv")]
    if not readers:
        return
    reader = rng.choice(readers)
    weight = tensors.get(reader.input[1])
    if weight is not None and weight.data_location == TensorProto.DEFAULT:
        weight.CopyFrom(numpy_helper.from_array(np.zeros((512, 512, *[1] * (len(weight.dims) - 2)), "f4"), weight.name))
        del reader.input[2:]  # a bias that does not fit would end it early
        for i in range(1_000):
            copy = bodies[0].node.add()
            copy.CopyFrom(reader)
            copy.name = copy.output[0] = f"{reader.name}{i}"
    for tensor in tensors.values():
        for entry in tensor.external_data:
            entry.value = "0" if entry.key == "offset" else entry.value


def sign(model: ModelProto, data: bytes | None) -> None:
    """The checksum that docs/file_format.md describes."""
    for entry in model.metadata_props:
        if entry.key == "rmp_deploy.sha256":
            entry.value = "0" * 64
            content = model.SerializeToString(deterministic=True) + (data or b"")
            entry.value = hashlib.sha256(content).hexdigest()


def mutant(seed: Seed, others: list[Seed], rng: random.Random) -> tuple[bytes, bytes | None, bool]:
    """Bytes of a mutated file and of the file beside it, and whether it was signed."""
    raw, data, kind = seed.model, seed.data, rng.random()
    if data is not None and kind < 0.2:
        return raw, rng.choice((None, b"", mutate_bytes(data, raw, rng))), False
    if kind < 0.45:
        return mutate_bytes(raw, rng.choice(others).model, rng), data, False
    model = ModelProto()
    model.ParseFromString(raw)
    for _ in range(rng.randint(1, 2)):
        what = rng.random()
        if what < 0.5:
            mutate_field(rng.choice(messages(model)), model, rng)
        elif what < 0.55:
            share_weight(model, rng)
        elif what < 0.75:
            mutate_json(model, rng)
        else:
            mutate_tensor(model, rng)
    signed = rng.random() < 0.5
    if signed:
        sign(model, data)
    more = nested(rng.choice((1, 5, 25, 100, 1000))) if rng.random() < 0.03 else b""
    return model.SerializeToString(deterministic=True) + more, data, signed


# -- judgement -------------------------------------------------------------------------------------------------------


def judge(path: Path, seed: Seed, signed: bool) -> str:
    """One of `OUTCOMES`."""
    try:
        graph = load(path)
    except RmpDeployError as e:
        return "refused" if "\n" not in str(e) and str(e).startswith(f"file '{path}': ") else "crashed"
    golden = None
    with contextlib.suppress(RmpDeployError):
        golden = load_golden(path)
    if golden is not None:
        from rmp_deploy.backends.onnxruntime import run_file

        run_file(path, golden.x)
    if "domain1" in seed.name:  # its checksum covers the parameters; name, dt and provenance stand in no node
        graph = replace(graph, name=seed.graph.name, dt=seed.graph.dt, provenance=seed.graph.provenance)
    if graph == seed.graph:
        return "equal"
    return "another" if signed and is_what_save_writes(path, graph) else "wrong"


def is_what_save_writes(path: Path, graph: SpikingGraph) -> bool:
    """Apart from golden samples, which may lie: `verify --self` says so."""
    model, data = ModelProto(), path.with_name(f"{path.name}.data")
    model.ParseFromString(path.read_bytes())
    kept = [entry for entry in model.metadata_props if entry.key != "rmp_deploy.golden"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    next(o for o in model.opset_import if o.domain == DOMAIN).version = DOMAIN_VERSION
    sign(model, data.read_bytes() if data.exists() else None)
    wanted = model.SerializeToString(deterministic=True)
    with tempfile.TemporaryDirectory() as folder:
        inside, external.MAX_INSIDE = external.MAX_INSIDE, 0 if data.exists() else external.MAX_INSIDE
        try:
            return save(graph, Path(folder) / path.name).read_bytes() == wanted
        finally:
            external.MAX_INSIDE = inside


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(first: int, last: int) -> None:
    """Judge mutants `first`..`last` and print a line about each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_seeds = seeds(folder)
        for seed in all_seeds:  # what a good file takes, ONNX Runtime included, is the baseline
            place(folder, seed, seed.model, seed.data)
            if judge(folder / f"{seed.name}.onnx", seed, False) != "equal":
                raise RuntimeError(seed.name)
        baseline = megabytes()
        for i in range(first, last):
            rng = random.Random(i)
            seed = all_seeds[i % len(all_seeds)]
            try:
                model, data, signed = mutant(seed, all_seeds, rng)
            except (ValueError, TypeError):  # a value that protobuf does not take
                model, data, signed = mutate_bytes(seed.model, seed.model, rng), seed.data, False
            place(folder, seed, model, data)
            start, error = time.perf_counter(), ""
            try:
                outcome = judge(folder / f"{seed.name}.onnx", seed, signed)
            except Exception as e:
                outcome, error = "crashed", f"{type(e).__name__}: {e}"[:300]
            seconds = time.perf_counter() - start
            print(json.dumps([i, outcome, seconds, megabytes() - baseline, error]), flush=True)


def place(folder: Path, seed: Seed, model: bytes, data: bytes | None) -> None:
    (folder / f"{seed.name}.onnx").write_bytes(model)
    beside = folder / f"{seed.name}.onnx.data"
    if data is not None:
        beside.write_bytes(data)
    else:
        beside.unlink(missing_ok=True)


def fuzz_files(quick: bool) -> dict[str, object]:
    """10,000 mutated files (quick: 400), each loaded in a child process whose memory and time are watched."""
    files = 400 if quick else 10_000
    outcomes: Counter[str] = Counter()
    slowest, peak, bad, done = 0.0, 0.0, [], 0
    while done < files:
        command = [sys.executable, __file__, str(done), str(files)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            fd = process.stdout.fileno()
            pending, wait = b"", 60.0  # [s]; the first line waits for imports and seeds
            while select.select([fd], [], [], wait)[0] and (read := os.read(fd, 2**16)):
                wait = 2.0 * LIMIT_S
                *lines, pending = (pending + read).split(b"\n")
                for line in lines:
                    i, outcome, seconds, megabytes, error = json.loads(line)
                    outcomes[outcome] += 1
                    slowest, peak, done = max(slowest, seconds), max(peak, megabytes), i + 1
                    if outcome in ("wrong", "crashed") or seconds > LIMIT_S:
                        bad.append([i, outcome, round(seconds, 2), error])
            process.kill()  # nothing where it is through
        if wait == 60.0:
            raise RuntimeError("no mutant was judged")
        if done < files and process.returncode != 0:
            bad.append([done, "died or hung", process.returncode])
            outcomes["crashed"] += 1
            done += 1
    return {
        "files": files,
        **{name: outcomes[name] for name in OUTCOMES},
        "slowest_s": round(slowest, 3),
        "peak_mb": round(peak, 1),
        "bad": bad[:20],
    }


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]))
