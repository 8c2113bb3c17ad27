"""`rmp-deploy map`: the table, the JSON and the picture say the same; what does not fit is one line and exit code 1."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rmp_deploy.cli import main
from rmp_deploy.hw_profiles import LIMITS
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Conv2d

NET = str(Path(__file__).parent.parent.parent / "examples" / "digits.onnx")
LIMIT = '[limits.{}]\nvalue = {}\nunit = "{}"\nscope = "{}"\nevidence = "published"\nsource = "s"\n'


@pytest.fixture
def chip(tmp_path):
    """A profile of a small chip, by the limits that are given."""

    def write(**limits):
        text = 'name = "small"\ntitle = "a chip"\nprecision = "unstated"\n[terms]\n'
        text += "".join(
            LIMIT.format(name, value, LIMITS[name].unit, LIMITS[name].scope) for name, value in limits.items()
        )
        path = tmp_path / "small.toml"
        path.write_text(text)
        return str(path)

    return write


def test_the_example_fits(capsys):
    """The second convolution with its pool folded, then 512 x 64 and 64 x 10 synapses."""
    assert main(["map", NET, "--profile", "loihi1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digits-convnet on loihi1: fits, 4 of 128 cores\n")
    assert "on the host: conv1, lif1" in out
    assert "real-valued weights count as 8 bits each" in out
    assert main(["map", NET, "--profile", "loihi1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["layers"]
    assert [(row["layer"], row["cores"], row["neurons"], row["n_synapses"]) for row in rows] == [
        ("lif2", 2, 512, 204_800),
        ("lif3", 1, 64, 512 * 64),
        ("fc2", 1, 10, 64 * 10),
    ]
    assert rows[0]["use"]["synapse_memory_per_core"] == {
        "largest": 102_400,
        "limit": 131_072,
        "share": 102_400 / 131_072,
    }
    assert found["cores"] == sum(row["cores"] for row in rows)
    assert found["memory_bytes"] == sum(row["memory_bytes"] for row in rows) == 204_800 + 512 * 64 + 640
    assert (found["fits"], found["chips"], found["errors"], found["unknown"]) == (True, 1, [], {})


def test_unknown_limits_are_named_with_what_is_needed(capsys):
    assert main(["map", NET, "--profile", "loihi2"]) == 0
    out = capsys.readouterr().out
    assert "fits as far as is known, 3 of 128 cores" in out
    assert "not checked: input_axons_per_core (not published); the fullest core needs 1,024" in out
    main(["map", NET, "--profile", "loihi2", "--json"])
    use = json.loads(capsys.readouterr().out)["layers"][0]["use"]["input_axons_per_core"]
    assert use == {"largest": 1024, "limit": None, "share": None}


def test_more_cores_than_a_chip_has_take_more_chips(chip, capsys):
    assert main(["map", NET, "--profile", chip(cores=4, neurons_per_core=50)]) == 0
    assert "on 4 chips: 14 cores, 4 on each chip" in capsys.readouterr().out  # 512 / 50, 64 / 50, 10 / 50: 11 + 2 + 1


def test_what_does_not_fit_is_one_line_each(chip, capsys):
    path = chip(cores=128, neurons_per_core=1024, input_axons_per_core=399)
    assert main(["map", NET, "--profile", path, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"]
    assert [(e["layer"], e["value"], e["allowed"]) for e in found["excesses"]] == [
        ("lif2", 576, 399),
        ("lif3", 512, 399),
    ]
    assert found["errors"][1].startswith(
        "LIF 'lif3': input axons of one neuron = 512, allowed 399 per core [small]. Use "
    )
    assert main(["map", NET, "--profile", path]) == 1
    out = capsys.readouterr().out
    assert "does not fit: 2 layers of 3 cannot be cut small enough" in out
    assert [f"error: {line}" for line in found["errors"]] == [x for x in out.splitlines() if x.startswith("error")]


def test_the_picture_shows_every_core(tmp_path, capsys):
    path = tmp_path / "map.svg"
    assert main(["map", NET, "--profile", "loihi1", "--picture", str(path)]) == 0
    assert f"picture: {path}" in capsys.readouterr().out
    root = ET.fromstring(path.read_text())
    space = "{http://www.w3.org/2000/svg}"
    titles = [t.text for t in root.iter(f"{space}title")]
    assert titles[0] == "digits-convnet on loihi1: fits, 4 of 128 cores"
    assert titles[1:] == ["core 0: lif2, 78 %", "core 1: lif2, 78 %", "core 2: lif3, 25 %", "core 3: fc2, 2 %"]
    unused = [r for r in root.iter(f"{space}rect") if r.get("class") == "core unused"]
    assert len(unused) == 124
    words = [t.text for t in root.iter(f"{space}text")]
    assert "1 lif2: 32x4x4 in blocks of 32x2x4, 2 cores, fullest 78 %" in words
    assert "http" not in path.read_text().replace("http://www.w3.org/2000/svg", "")


def test_of_a_chip_of_millions_of_cores_the_picture_shows_the_rows_in_use(tmp_path, chip, capsys):
    path = tmp_path / "map.svg"
    profile = chip(neurons_per_core=64, cores=20_000_000)
    assert main(["map", NET, "--profile", profile, "--picture", str(path)]) == 0
    assert "10 of 20000000 cores" in capsys.readouterr().out
    root = ET.fromstring(path.read_text())
    space = "{http://www.w3.org/2000/svg}"
    classes = [r.get("class") for r in root.iter(f"{space}rect")]
    assert (classes.count("core"), classes.count("core unused")) == (10, 6)
    words = [t.text for t in root.iter(f"{space}text")]
    assert "chip 1, of 20,000,000 cores: the rows in use" in words


BAD = [
    (["--profile", "loihi9"], "profile 'loihi9': unknown name"),
    (["--profile", "cmos45"], "profile 'cmos45': limits of a core = none, allowed one or more of neurons_per_core"),
    (["--profile", "loihi1", "--picture", "map.png"], "suffix = '.png', allowed .svg"),
]


@pytest.mark.parametrize(("args", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_one_line(args, said, capsys):
    assert main(["map", NET, *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_picture_of_too_many_cores_is_refused_and_nothing_is_written(tmp_path, chip, capsys):
    ops = (
        Conv2d(name="conv", inputs=("x",), weight=np.ones((256, 1, 1, 1))),
        LIF(name="lif", inputs=("conv",), decay=0.5, v_threshold=1.0),
    )
    g = SpikingGraph("wide", Input("x", (1, 16, 16), "time_series", 0), ops, Readout("lif", "sum"), T=1)
    file = str(onnx_io.save(g, tmp_path / "net.onnx"))
    args = ["map", file, "--profile", chip(neurons_per_core=1), "--picture", str(tmp_path / "map.svg")]
    assert main(args) == 2
    assert "cores = 65536, allowed at most 32768" in capsys.readouterr().err
    assert not (tmp_path / "map.svg").exists()
    assert main(args[:4]) == 0
