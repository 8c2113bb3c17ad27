"""`rmp-deploy convert`: the files it makes, and every kind of bad input in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import rmp_deploy
from rmp_deploy.cli import convert, main
from rmp_deploy.converters.netx import from_netx
from rmp_deploy.converters.nir import RULES, from_nir

ROOT = Path(__file__).parent.parent.parent
NET = str(ROOT / "examples" / "digits.onnx")
TINY = str(ROOT / "tests" / "data" / "netx" / "tiny.net")
LIF = str(ROOT / "tests" / "data" / "nir_paper_lif" / "lif_norse.nir")


def test_onnx_to_nir_and_back_is_the_same_network(tmp_path, capsys):
    there, back = str(tmp_path / "net.nir"), str(tmp_path / "net.onnx")
    assert main(["convert", NET, there, "--dt", "1e-3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    original = rmp_deploy.load(NET)
    assert said == {
        "file": there,
        "bytes": Path(there).stat().st_size,
        "ops": [op.name for op in original.ops],
        "T": original.T,
        "dt": original.dt,
    }
    assert main(["convert", there, back, "--dt", "1e-3"]) == 0
    assert capsys.readouterr().out.startswith(f"file: {back} (")
    again = rmp_deploy.load(back)
    assert again.ops == original.ops
    assert (again.input, again.readout, again.T) == (original.input, original.readout, original.T)
    assert again.provenance == original.provenance


def test_a_foreign_nir_file_with_what_it_does_not_say(tmp_path):
    out = tmp_path / "lif.onnx"
    options = ["--dt", "1e-4", "--steps", "1000", "--rule", "exponential", "--readout", "sum", "--encoding", "direct"]
    assert main(["convert", LIF, str(out), *options]) == 0
    assert rmp_deploy.load(out) == from_nir(LIF, 1e-4, "exponential", 1000, "sum", "direct")


def test_a_net_file_becomes_onnx_and_comes_back(tmp_path, capsys):
    there, back = str(tmp_path / "tiny.onnx"), str(tmp_path / "tiny.net")
    assert main(["convert", str(ROOT / "tests/data/netx/tiny.net"), there, "--steps", "15", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["T"] == 15
    assert main(["convert", there, back]) == 0
    graph, again = rmp_deploy.load(there), from_netx(back)
    assert (again.ops, again.T, again.input) == (graph.ops, graph.T, graph.input)


def test_the_rules_are_those_of_the_converter():
    assert tuple(RULES) == convert.NIR_RULES


@pytest.fixture
def folder(tmp_path):
    """Files that are wrong in one way each."""
    (tmp_path / "text.nir").write_text("not HDF5")
    (tmp_path / "truncated.nir").write_bytes(Path(LIF).read_bytes()[:9000])
    shutil.copy(LIF, tmp_path / "fast.nir")
    with h5py.File(tmp_path / "fast.nir", "r+") as file:
        file["node/nodes/1/tau"][:] = np.float32(1e-5)
    (tmp_path / "occupied").write_text("a file where a folder should be")
    return tmp_path


GOOD = ["--dt", "1e-4", "--steps", "10"]
CASES = [
    ([LIF, "{}/a.onnx"], "NIR: dt = none, allowed > 0 [s]"),
    ([LIF, "{}/a.onnx", "--dt", "1e-4"], "NIR graph: T = none, allowed 1 or more"),
    ([LIF, "{}/a.onnx", "--dt", "0", "--steps", "10"], "NIR: dt = 0.0, allowed > 0 [s]"),
    ([LIF, "{}/a.onnx", "--dt", "nan", "--steps", "10"], "NIR: dt = nan, allowed > 0 [s]"),
    ([LIF, "{}/a.onnx", "--dt", "1e-4", "--steps", "0"], "T = 0, allowed 1..65535"),
    ([LIF, "{}/a.onnx", *GOOD, "--rule", "midpoint"], "invalid choice: 'midpoint'"),
    ([LIF, "{}/a.onnx", *GOOD, "--readout", "max"], "invalid choice: 'max'"),
    (["{}/fast.nir", "{}/a.onnx", *GOOD], "fast.nir': LIF '1': tau = 1e-05 s, allowed dt = 0.0001 s or more"),
    (["{}/text.nir", "{}/a.onnx", *GOOD], "text.nir': not an HDF5 file, or truncated"),
    (["{}/truncated.nir", "{}/a.onnx", *GOOD], "truncated.nir': "),
    (["{}/none.nir", "{}/a.onnx", *GOOD], "cannot be read (No such file or directory)"),
    ([LIF, "{}/occupied/a.onnx", *GOOD], "cannot be written (Not a directory)"),
    ([LIF, "{}/a.pt", *GOOD], "a.pt': suffix = '.pt', allowed .net or .nir or .onnx"),
    (["{}/a.pt", "{}/a.onnx", *GOOD], "a.pt': suffix = '.pt', allowed .net or .nir or .onnx"),
    ([LIF, "{}/a.nir", *GOOD], "a.nir': the format of"),
    ([NET, "{}/a.nir"], "NIR: dt = none"),
    ([NET, "{}/a.nir", *GOOD], "convert: --steps with an .onnx file, which says it itself"),
    (["{}/text.nir", "{}/a.net", *GOOD], "text.nir': not an HDF5 file"),
    ([NET, "{}/a.net"], "allowed LoihiLinear, LoihiConv2d, LoihiLIF, Flatten [.net]"),
    ([TINY, "{}/a.onnx", "--dt", "1e-4"], "convert: --dt without a .nir file, which alone needs it. Leave it out."),
    ([TINY, "{}/a.onnx", "--rule", "euler"], "convert: --rule without a .nir file, which alone needs it"),
    ([NET, "{}/a.net", "--dt", "1e-4"], "convert: --dt without a .nir file"),
    ([NET, "{}/a.net", "--rule", "exponential"], "convert: --rule without a .nir file"),
    ([TINY, "{}/a.onnx", "--encoding", "direct"], "convert: --encoding with a .net file, which has none"),
    ([TINY, "{}/a.nir", *GOOD], "LoihiLIF 'lif0': NIR has no such node"),
    ([LIF], "required: OUT"),
]


@pytest.mark.parametrize(("args", "said"), CASES, ids=[said[-40:] for _, said in CASES])
def test_one_line_exit_code_2_and_nothing_left(folder, capsys, monkeypatch, args, said):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    try:
        code = main(["convert", *(a.replace("{}", str(folder)) for a in args)])
    except SystemExit as e:  # argparse's own way out
        code = e.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert said in err
    assert sorted(folder.rglob("*")) == before


def test_without_nir_the_command_says_what_to_install(tmp_path):
    """Both ways; and the command line itself starts without it."""
    code = (
        "import sys; sys.modules['nir'] = None\n"
        "from rmp_deploy.cli import main\n"
        f"sys.exit(main(['convert', {LIF!r}, {str(tmp_path / 'a.onnx')!r}, '--dt', '1', '--steps', '2']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: convert: needs nir. Run: pip install 'rmp-deploy[nir]'.\n"
