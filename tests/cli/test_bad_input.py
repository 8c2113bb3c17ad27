"""Bad input to every command: one line on stderr, exit code 2, nothing left behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rmp_deploy.cli import main
from rmp_deploy.ir import onnx_io

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NET, DIGITS = str(EXAMPLES / "digits.onnx"), str(EXAMPLES / "digits.npz")


@pytest.fixture
def folder(tmp_path):
    """A folder of files that are wrong in one way each."""
    whole = Path(NET).read_bytes()
    (tmp_path / "truncated.onnx").write_bytes(whole[: len(whole) // 3])
    onnx_io.save(onnx_io.load(NET), tmp_path / "plain.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    relu = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [info], [info])
    onnx.save(helper.make_model(relu), tmp_path / "relu.onnx")
    model = onnx.load(NET)
    body = next(a.g for n in model.graph.node if n.op_type == "Scan" for a in n.attribute if a.name == "body")
    weight = next(i for i in body.initializer if i.name == "fc2/weight")
    broken = numpy_helper.to_array(weight).copy()
    broken[0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    onnx.save(model, tmp_path / "nan.onnx")
    np.savez(tmp_path / "wrong_shape.npz", x=np.zeros((2, 3, 8, 8)))
    np.savez(tmp_path / "nan.npz", x=np.full((2, 1, 8, 8), np.nan))
    np.savez(tmp_path / "labels.npz", x=np.zeros((2, 1, 8, 8)), y=np.zeros(3, int))
    images = np.zeros((2, 1, 8, 8))
    np.savez(tmp_path / "negative_label.npz", x=images, y=np.array([-1, 3]))
    np.savez(tmp_path / "eleventh_class.npz", x=images, y=np.array([10, 3]))
    np.savez(tmp_path / "huge.npz", x=np.full((2, 1, 8, 8), 1e300))
    np.save(tmp_path / "array.npy", images)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez_compressed(tmp_path / "corrupt.npz", x=np.random.default_rng(0).random((9, 1, 8, 8)))
    raw = bytearray((tmp_path / "corrupt.npz").read_bytes())
    raw[200:400] = bytes(200)
    (tmp_path / "corrupt.npz").write_bytes(raw)
    (tmp_path / "few.toml").write_text(f'data = "{tmp_path}/eleventh_class.npz"\n')
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "bad.toml").write_text("epoch = 3\n")
    (tmp_path / "negative.toml").write_text(
        'name = "n"\ntitle = "t"\nprecision = "unstated"\n[terms.ac]\nvalue = -1\nunit = "pJ"\nscope = "per_term"\n'
        'evidence = "measured"\nsource = "s"\n'
    )
    (tmp_path / "occupied").write_text("a file where a folder should be")
    return tmp_path


CASES = [
    (["simulate", "{}/truncated.onnx", "--data", DIGITS], "truncated.onnx"),
    (["verify", "{}/truncated.onnx", "--data", DIGITS], "truncated.onnx"),
    (["energy", "{}/truncated.onnx", "--data", DIGITS, "--profile", "cmos45"], "truncated.onnx"),
    (["simulate", "{}/relu.onnx", "--data", DIGITS], "without spiking ops"),
    (["simulate", "{}/missing.onnx", "--data", DIGITS], "cannot be read (No such file or directory)"),
    (["simulate", "{}", "--data", DIGITS], "cannot be read (Is a directory)"),
    (["verify", "{}/nan.onnx", "--data", DIGITS], "Linear 'fc2': weight holds 1 NaN or infinite value"),
    (["verify", NET], "neither --data nor --self"),
    (["verify", NET, "--self", "--data", DIGITS, "--samples", "3"], "--data, --samples given, allowed FILE alone"),
    (["verify", NET, "--self", "--run", "run", "--backend", "lava"], "--backend, --run given"),
    (["verify", "{}/plain.onnx", "--self"], "golden samples = 0, allowed >= 1"),
    (["verify", "{}/truncated.onnx", "--self"], "truncated.onnx"),
    (["simulate", "{}/pipe.onnx", "--data", DIGITS], "not a regular file"),
    (["simulate", NET, "--data", "{}/wrong_shape.npz"], "shape = (2, 3, 8, 8), allowed (N, 1, 8, 8)"),
    (["verify", NET, "--data", "{}/wrong_shape.npz"], "shape = (2, 3, 8, 8)"),
    (["energy", NET, "--data", "{}/wrong_shape.npz", "--profile", "cmos45"], "shape = (2, 3, 8, 8)"),
    (["simulate", NET, "--data", "{}/nan.npz"], "NaN"),
    (["simulate", NET, "--data", "{}/labels.npz"], "y = int64 (3,)"),
    (["simulate", NET, "--data", "{}/text.npz"], "not a readable .npz"),
    (["simulate", NET, "--data", "cifar"], "data 'cifar': unknown, allowed digits"),
    (["simulate", NET, "--data", DIGITS, "--samples", "0"], "samples = 0, allowed 1..60"),
    (["simulate", NET, "--data", DIGITS, "--samples", "61"], "samples = 61, allowed 1..60"),
    (["simulate", NET, "--data", DIGITS, "--samples", "many"], "invalid int value: 'many'"),
    (["simulate", NET, "--data", DIGITS, "--backend", "brian"], "invalid choice: 'brian'"),
    (["simulate", NET, "--data", DIGITS, "--record", "spikes"], "--record and --out go together"),
    (["simulate", NET, "--data", DIGITS, "--record", "w", "--out", "{}/t.npz"], "--record = 'w'"),
    (["simulate", NET, "--data", DIGITS, "--backend", "lava", "--record", "u", "--out", "{}/t.npz"], "record = 'u'"),
    (["simulate", NET, "--data", DIGITS, "--record", "v", "--out", "{}/occupied/t.npz"], "cannot be written"),
    (["energy", NET, "--data", DIGITS, "--profile", "loihi9"], "profile 'loihi9': unknown name, allowed cmos22"),
    (["energy", NET, "--data", DIGITS, "--profile", "{}/negative.toml"], "-1"),
    (["energy", NET, "--data", DIGITS, "--profile", "cmos45", "--report", "{}/occupied/r.html"], "written"),
    (["energy", NET, "--data", DIGITS, "--profile", "cmos45", "--report", "/proc/none/r.html"], "written"),
    (["profiles", "nobody"], "profile 'nobody'"),
    (["train", "{}/bad.toml", "--out", "{}/run"], "key 'epoch' is unknown. Did you mean 'epochs'?"),
    (["train", "{}/none.toml", "--out", "{}/run"], "cannot be read"),
    (["train", "--preset", "vgg", "--out", "{}/run"], "preset 'vgg'"),
    (["train", "--out", "{}/run"], "required"),
    (["train", "--preset", "digits-convnet", "--out", "{}/occupied/run"], "cannot be written (Not a directory)"),
    (["demo", "--out", "{}/occupied"], "cannot be written (Not a directory)"),
    (["export", "{}", "-o", "{}/net.onnx"], "config.json cannot be read"),
    (["export", "{}", "-o", "{}/net.pt"], "suffix = '.pt', allowed .onnx"),
    (["simulate", NET, "--data", DIGITS, "--record", "v", "--out", "{}/trace.txt"], "suffix = '.txt', allowed .npz"),
    (["energy", NET, "--data", DIGITS, "--profile", "cmos45", "--report", "{}/net.onnx"], "allowed .html"),
    (["simulate", NET, "--data", "{}/negative_label.npz"], "labels = -1..3, allowed 0.."),
    (["simulate", NET, "--data", "{}/eleventh_class.npz"], "largest = 10, allowed 0..9"),
    (["energy", NET, "--data", "{}/eleventh_class.npz", "--profile", "cmos45"], "labels: 10, allowed 0..9"),
    (["simulate", NET, "--data", "{}/array.npz"], "not a readable .npz"),
    (["simulate", NET, "--data", "{}/corrupt.npz"], "not a readable .npz"),
    (["simulate", NET, "--data", "{}/huge.npz"], "more than float32 holds"),
    (["train", "{}/few.toml", "--out", "{}/run"], "samples = 2, allowed >= 10"),
    (["verify", NET, "--data", DIGITS, "--run", "{}/nowhere"], "config.json cannot be read"),
    (["demo", "--seed", "-1", "--out", "{}/demo"], "seed = -1"),
    (["demo", "--samples", "361", "--out", "{}/demo"], "samples = 361, allowed 1..360"),
    (["nonsense"], "invalid choice: 'nonsense'"),
    ([], "required: COMMAND"),
]


@pytest.mark.parametrize(("args", "said"), CASES, ids=lambda v: " ".join(v)[-60:] if isinstance(v, list) else "")
def test_one_line_exit_code_2_and_nothing_left(folder, capsys, monkeypatch, args, said):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    try:
        code = main([a.replace("{}", str(folder)) for a in args])
    except SystemExit as e:  # argparse's own way out
        code = e.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "args",
    [
        ["simulate", NET, "--data", DIGITS, "--record", "spikes,v", "--out", "trace.npz"],
        ["energy", NET, "--data", DIGITS, "--profile", "cmos45", "--report", "report.html"],
    ],
)
def test_a_disk_that_fills_up_leaves_nothing(tmp_path, args):
    """The file-size limit of the process makes the write fail half-way, as a full disk does."""
    limit = 4096

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "rmp_deploy.cli", *args]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=fill, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written (File too large)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_names_are_text_and_not_markup(tmp_path, capsys):
    """Rich reads [bold] and [/x] as markup: a path printed is the path written."""
    out = tmp_path / "[bold]t[/x].npz"
    assert main(["simulate", NET, "--data", DIGITS, "--samples", "2", "--record", "spikes", "--out", str(out)]) == 0
    assert f"trace: {out}" in capsys.readouterr().out
    assert out.exists()


@pytest.mark.parametrize("args", [["doctor", "--json"], ["profiles"], ["simulate", NET, "--data", DIGITS]])
def test_an_output_that_nobody_reads_or_that_is_full(args):
    command = " ".join([sys.executable, "-m", "rmp_deploy.cli", *args])
    closed = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"], capture_output=True, text=True, check=False
    )
    assert closed.stderr == ""
    assert closed.returncode in (0, 1)  # 0 where it was faster than `true`
    full = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, check=False)
    assert full.returncode == 2
    assert (
        full.stderr == "error: standard output: cannot be written (No space left on device). Redirect it elsewhere.\n"
    )
