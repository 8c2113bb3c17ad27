"""Files that somebody else made, or broke: one line, no traceback, no memory taken on their word."""

from __future__ import annotations

import json

import h5py
import nir
import numpy as np
import pytest

from rmp_deploy.converters.nir import from_nir, to_nir
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Linear

DT = 1e-3


@pytest.fixture
def path(tmp_path):
    """A good file, for a test to break."""
    ops = (
        Linear(name="fc", inputs=("x",), weight=np.eye(3), bias=np.ones(3)),
        LIF(name="lif", inputs=("fc",), decay=0.5, v_threshold=0.5),
    )
    return to_nir(SpikingGraph("g", Input("x", (3,), "direct"), ops, Readout("lif", "mean"), 5, DT), tmp_path / "n.nir")


def refusal(path) -> str:
    with pytest.raises(RmpDeployError) as e:
        from_nir(path, DT)
    assert "\n" not in str(e.value)
    assert str(e.value).startswith(f"file '{path}': ")
    return str(e.value)


def replace(file: h5py.File, name: str, value: object) -> None:
    if name in file:
        del file[name]
    file[name] = value


def drop(name):
    return lambda file: file.__delitem__(name)


def become(name, value):
    return lambda file: replace(file, name, value)


def soft_link(file):
    replace(file, "node/nodes/fc/weight", h5py.SoftLink("/node/nodes/lif/tau"))


def external_link(file):
    replace(file, "node/nodes/fc/weight", h5py.ExternalLink("/etc/passwd", "/x"))


def loop(file):
    file["node/nodes/lif/again"] = file["node/nodes"]


def nested(file):
    group = file["node/nodes/lif"].create_group("metadata")
    for _ in range(100):
        group = group.create_group("g")


def many(file):
    group = file["node/nodes/lif"].create_group("metadata")
    group.create_dataset("huge", shape=(2**20, 2**20), dtype="f8", chunks=(1, 1024))  # nothing is stored


def elsewhere(file):
    del file["node/nodes/fc/weight"]
    file["node/nodes/fc"].create_dataset("weight", (3, 3), "f4", external=[("/etc/passwd", 0, 36)])


def huge_input(file):
    del file["node/nodes/fc"]
    replace(file, "node/nodes/x/shape", np.array([10**6, 10**6]))
    for name in ("tau", "r", "v_leak", "v_threshold", "v_reset"):
        replace(file, f"node/nodes/lif/{name}", 1.0)
    replace(file, "node/edges", np.array([[b"x", b"lif"], [b"lif", b"output"]], object))


def recorded(**entries):
    """Change entries of the metadata that `to_nir` wrote."""

    def edit(file):
        given = json.loads(file["node/metadata/rmp_deploy"][()])
        replace(file, "node/metadata/rmp_deploy", json.dumps({**given, **entries}))

    return edit


def delayed(delay):
    def edit(file):
        del file["node/nodes/fc"]
        group = file["node/nodes"].create_group("fc")
        group["type"], group["delay"] = "Delay", np.full(3, delay)

    return edit


def named_like_a_gain(file):
    """The input is called as the op that a neuron without a synapse before it would get."""
    del file["node/nodes/fc"]
    file.move("node/nodes/x", "node/nodes/lif.gain")
    replace(file, "node/edges", np.array([[b"lif.gain", b"lif"], [b"lif", b"output"]], object))
    replace(file, "node/nodes/lif/r", np.full(3, 8.0))


BROKEN = [
    (drop("node"), "HDF5 without a NIR graph"),
    (drop("node/type"), "HDF5 without a NIR graph"),
    (become("node/type", "LIF"), "HDF5 without a NIR graph"),
    (become("node", 3), "HDF5 without a NIR graph"),
    (drop("node/edges"), "malformed (AssertionError: "),
    (drop("node/nodes"), "malformed (AssertionError: "),
    (become("node/edges", np.zeros((3, 2))), "malformed (TypeError: Unexpected non-string type"),
    (become("node/edges", 3), "malformed (TypeError: "),
    (become("node/nodes/lif/type", "Izhikevich"), "node 'node/nodes/lif': type = 'Izhikevich', allowed Affine,"),
    (drop("node/nodes/lif/type"), "node 'node/nodes/lif': type = ''"),
    (become("node/nodes/lif", 3), "malformed ("),
    (drop("node/nodes/lif/tau"), "malformed (TypeError: "),
    (become("node/nodes/lif/colour", "red"), "malformed (TypeError: "),
    (become("node/nodes/lif/tau", "slow"), "malformed (AttributeError: "),
    (become("node/nodes/lif/tau", np.zeros(2)), "malformed (AssertionError: All parameters must have the same shape"),
    (become("node/nodes/fc/bias", np.array([b"a", b"b", b"c"])), "Affine 'fc': bias: |S1 (3,), allowed numbers"),
    (become("node/nodes/fc/bias", np.full(3, np.nan)), "Affine 'fc': bias holds NaN"),
    (become("node/nodes/x/shape", "three"), "Input 'x': shape = ['three'], allowed whole numbers"),
    (become("node/nodes/x/shape", np.array([-3])), "Input 'x': shape = (-3,)"),
    (become("node/nodes/x/shape", np.array([np.nan])), "Input 'x': shape = [nan], allowed whole numbers"),
    (become("node/metadata/rmp_deploy", "{"), "its metadata 'rmp_deploy' is malformed"),
    (become("node/metadata/rmp_deploy", "[1]"), "its metadata 'rmp_deploy' is malformed"),
    (become("node/metadata/rmp_deploy", '{"T": "many"}'), "its metadata 'rmp_deploy' is malformed"),
    (become("node/metadata/rmp_deploy", '{"speed": 3}'), "its metadata 'rmp_deploy' is malformed"),
    (become("node/nodes/x/shape", np.array([np.inf])), "Input 'x': shape = [inf], allowed whole numbers"),
    (become("node/nodes/x/shape", np.full((2, 2), 0.5)), "Input 'x': shape = [0.5, 0.5, 0.5, 0.5], allowed whole"),
    (delayed(1e308), "Delay 'fc': delay = 1e+308..1e+308 s, allowed one multiple of dt = 0.001 s"),
    (delayed(1e290), "Delay 'fc': steps = 1"),
    (delayed(np.inf), "Delay 'fc': delay holds NaN or infinite values"),
    (recorded(names={"lif": "x"}), "metadata 'rmp_deploy': values named 'x' = 2, allowed 1"),
    (recorded(names={"lif": "fc"}), "metadata 'rmp_deploy': values named 'fc' = 2, allowed 1"),
    (recorded(names={"lif": "a", "fc": "a"}), "metadata 'rmp_deploy': values named 'a' = 2, allowed 1"),
    (recorded(names={"lif": "input"}), "name = 'input', allowed letters"),
    (recorded(name="\ud800"), "its metadata 'rmp_deploy' is malformed"),
    (recorded(provenance={"by": "\ud800"}), "its metadata 'rmp_deploy' is malformed"),
    (named_like_a_gain, "BatchNorm 'lif.gain': name is used twice"),
    (become("node/metadata/rmp_deploy", 3), "its metadata 'rmp_deploy' is malformed"),
    (soft_link, "'node/nodes/fc/weight' is a link to elsewhere"),
    (external_link, "'node/nodes/fc/weight' is a link to elsewhere"),
    (elsewhere, "'node/nodes/fc/weight' keeps its values in another file"),
    (loop, "nested groups = 33, allowed 32"),
    (nested, "nested groups = 33, allowed 32"),
    (many, "bytes of values = 8796093022"),
    (huge_input, "Input 'x': shape = (1000000, 1000000)"),
]


@pytest.mark.parametrize(("damage", "said"), BROKEN, ids=[f"{i}-{said[:30]}" for i, (_, said) in enumerate(BROKEN)])
def test_a_broken_file_is_one_line(path, damage, said):
    with h5py.File(path, "r+") as file:
        damage(file)
    assert said in refusal(path)


def test_what_is_no_file_at_all(tmp_path, path):
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "none.nir")
    assert "cannot be read (Is a directory)" in refusal(tmp_path)
    (tmp_path / "text.nir").write_text("not HDF5")
    assert "not an HDF5 file, or truncated" in refusal(tmp_path / "text.nir")
    (tmp_path / "empty.nir").write_bytes(b"")
    assert "not an HDF5 file, or truncated" in refusal(tmp_path / "empty.nir")
    whole = path.read_bytes()
    for part in (2, 3, 8):
        path.write_bytes(whole[: len(whole) // part])
        assert "truncated" in refusal(path) or "malformed" in refusal(path)


def test_a_flipped_byte_of_a_weight_is_another_network_or_one_line(path):
    """HDF5 has no checksum here: a flip may give another valid network, but never a traceback."""
    with h5py.File(path, "r") as file:
        chunk = file["node/nodes/fc/weight"].id.get_chunk_info(0)
    whole = path.read_bytes()
    refused = 0
    for at in range(chunk.byte_offset, chunk.byte_offset + chunk.size):
        flipped = bytearray(whole)
        flipped[at] ^= 0x40
        path.write_bytes(flipped)
        try:
            from_nir(path, DT)
        except RmpDeployError as e:
            refused += 1
            assert "malformed (OSError: " in str(e)
            assert "\n" not in str(e)
    assert refused > chunk.size // 2


def test_a_name_that_hdf5_does_not_take(tmp_path):
    ops = (LIF(name=".", inputs=("x",), decay=0.5, v_threshold=0.5),)
    graph = SpikingGraph("g", Input("x", (3,), "direct"), ops, Readout(".", "mean"), 5, DT)
    with pytest.raises(RmpDeployError, match=r"cannot be made .* Rename the op"):
        to_nir(graph, tmp_path / "net.nir")
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_no_longer_fits_changes_nothing_but_names(path):
    """Somebody removed and renamed nodes and kept the metadata."""
    network = nir.read(path)
    network.nodes["first"] = network.nodes.pop("fc")
    network.edges = [(a.replace("fc", "first"), b.replace("fc", "first")) for a, b in network.edges]
    graph, renamed = from_nir(path, DT), from_nir(network, DT)
    assert [op.name for op in renamed.ops] == ["first", "lif"]
    assert np.array_equal(renamed.by_name["first"].weight, graph.by_name["fc"].weight)
    assert renamed.by_name["lif"].decay == graph.by_name["lif"].decay
