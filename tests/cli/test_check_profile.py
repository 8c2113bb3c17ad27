"""`rmp-deploy check FILE --profile P`: what the chip checks find, in both forms, with the exit code that follows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rmp_deploy.analysis.chip_checks import checks
from rmp_deploy.cli import main
from rmp_deploy.hw_profiles import load
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Linear

NET = str(Path(__file__).parent.parent.parent / "examples" / "digits.onnx")
GIVEN = "warning (input): Conv2d 'conv1': input = real values, allowed spikes"


def wide(tmp_path, n):
    """One neuron of n inputs, of spikes."""
    ops = (
        Linear(name="fc", inputs=("x",), weight=np.full((1, n), 0.3)),
        LIF(name="lif", inputs=("fc",), decay=0.5, v_threshold=1.0),
    )
    g = SpikingGraph("wide", Input("x", (n,), "time_series", 0), ops, Readout("lif", "sum"), T=2)
    return str(onnx_io.save(g, tmp_path / "wide.onnx"))


def test_findings_of_every_profile_and_what_none_could_check(capsys):
    assert main(["check", NET, "--profile", "loihi1", "--profile", "loihi2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.startswith(GIVEN) for line in out] == [True, True, False, False, False]
    unknown = "input_axons_per_core, output_axons_per_core, synapse_memory_per_core, thresholds_per_core, delay_steps"
    assert out[3:] == [f"loihi2: not checked, since unknown: {unknown}", "2 warnings"]
    assert main(["check", NET, "--profile", "loihi2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["not_checked"] == {"loihi2": unknown.split(", ")}
    assert [f["message"] for f in report["findings"]] == [
        f.message for check in checks(load("loihi2")) for f in check(onnx_io.load(NET))
    ]


def test_an_error_of_a_chip_is_exit_code_1(tmp_path, capsys):
    """4096 inputs fit a core of Loihi 1, one more does not; how it is with Loihi 2, nobody has published."""
    assert main(["check", wide(tmp_path, 4096), "--profile", "loihi1"]) == 0
    path = wide(tmp_path, 4097)
    assert main(["check", path]) == 0
    assert main(["check", path, "--profile", "loihi2"]) == 0
    capsys.readouterr()
    assert main(["check", path, "--profile", "loihi1"]) == 1
    out = capsys.readouterr().out
    assert "error (fit): LIF 'lif': input axons of one neuron = 4097, allowed 4096 per core [loihi1]." in out
    assert out.endswith("\n1 error, 1 warning\n")  # the sum of 4097 weights could also leave 24 bits
    assert main(["check", path, "--profile", "loihi1", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["ok"]


def test_a_profile_that_is_no_chip_adds_nothing(capsys):
    assert main(["check", NET, "--profile", "cmos45"]) == 0
    assert "\n0 warnings\n" in capsys.readouterr().out


HEAD = 'name = "c"\ntitle = "t"\nprecision = "unstated"\n[terms]\n'
CORES = '[limits.cores]\nvalue = 1\nunit = "core"\nscope = "chip"\nevidence = "published"\n'
BAD = {
    'name = "c"\n': "key 'title' is missing",
    HEAD + CORES.replace("1", "-1") + 'source = "s"\n': "limits.cores: value = -1, allowed an integer >= 1",
    HEAD + "[limits.wings]\nvalue = 2\n": "limits: unknown key 'wings'",
    HEAD + CORES: "limits.cores: key 'source' is missing",
}


@pytest.mark.parametrize("command", ["check", "map"])
@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=BAD.values())
def test_a_bad_profile_is_one_line(tmp_path, capsys, command, text, said):
    path = tmp_path / "chip.toml"
    path.write_text(text)
    assert main([command, NET, "--profile", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_an_unknown_profile_is_one_line(capsys):
    assert main(["check", NET, "--profile", "loihi3"]) == 2
    assert "profile 'loihi3': unknown name, allowed cmos22, cmos45, " in capsys.readouterr().err
