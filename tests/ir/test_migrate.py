"""Files of older domain versions: they load for ever, as the network that they were."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from rmp_deploy.backends import onnxruntime
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io, reference
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, CubaLIF, LoihiLIF, Quantize

DATA = Path(__file__).parents[1] / "data"  # written by the versions that their names say
OLD = sorted(DATA.glob("*-domain*.onnx"))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_an_old_file_gives_the_spikes_that_it_was_saved_with(path, tmp_path):
    graph, golden = onnx_io.load(path), onnx_io.load_golden(path)
    again = onnx_io.load(onnx_io.save(graph, tmp_path / "now.onnx", golden.x))
    assert again == graph
    for run in (reference.run(graph, golden.x, ("spikes",)), onnxruntime.run(again, golden.x, ("spikes",))):
        counts = {name: s.reshape(len(golden.x), -1).sum(axis=1).tolist() for name, s in run.spikes.items()}
        assert counts == golden.spike_count
        assert min(sum(n) for n in counts.values()) > 0


def test_version_1_neurons_keep_their_reset():
    neurons = {op.name: op for op in onnx_io.load(DATA / "every-neuron-domain1.onnx").of_type(LIF)}
    assert {name: (type(op), op.reset) for name, op in neurons.items()} == {
        "hard": (LIF, "hard"),
        "soft": (LIF, "soft"),
        "cuba_soft": (CubaLIF, "soft"),
        "cuba_hard": (CubaLIF, "hard"),
    }
    np.testing.assert_array_equal(neurons["hard"].v_reset, np.float32(-0.25))
    np.testing.assert_array_equal(neurons["soft"].subtracted, neurons["soft"].v_threshold)


def test_a_file_of_version_2_runs_as_it_stands():
    """Only the number has changed since: a runtime is given the file itself, its weights beside it or not."""
    for name in ("every-op-domain2", "beside-domain2"):
        path = DATA / f"{name}.onnx"
        assert onnx_io.load_runnable(path)[1] == str(path)
        golden = onnx_io.load_golden(path)
        found = onnxruntime.run_file(path, golden.x)
        assert {k: found[f"spike_count/{k}"].tolist() for k in golden.spike_count} == golden.spike_count


def _scan_body(model: onnx.ModelProto) -> onnx.GraphProto:
    return next(a.g for n in model.graph.node if n.op_type == "Scan" for a in n.attribute if a.name == "body")


def _another_function(model):
    function = next(f for f in model.functions if f.name == "LIF")
    next(n for n in function.node if n.op_type == "Greater").op_type = "GreaterOrEqual"


def _another_weight(model):
    weight = next(i for i in model.graph.initializer if i.name == "fc/weight")
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[0] += 1
    weight.raw_data = values.tobytes()


def _another_reset(model):
    neuron = next(n for n in _scan_body(model).node if n.name == "soft")
    next(a for a in neuron.attribute if a.name == "reset").s = b"hard"


def _both_versions(model):
    neuron = next(n for n in _scan_body(model).node if n.name == "soft")
    neuron.op_type = "LIFSoftReset"


def _version(model, version):
    next(o for o in model.opset_import if o.domain == "rmp_deploy").version = version


def _signed(model, path):
    """With a checksum that fits, which is no secret."""
    checksum = next(p for p in model.metadata_props if p.key == "rmp_deploy.sha256")
    checksum.value = "0" * 64
    checksum.value = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def test_version_2_has_no_boundary_ops(tmp_path):
    ops = (
        Quantize(name="q", inputs=("x",), scale=4.0, message_bits=3),
        LoihiLIF(name="lif", inputs=("q",), du=4095, dv=0, vth=2),
    )
    graph = SpikingGraph("g", Input("x", (3,), "direct"), ops, Readout("lif", "sum"), 2)
    model = onnx.load(onnx_io.save(graph, tmp_path / "now.onnx"))
    _version(model, 2)
    with pytest.raises(RmpDeployError, match="node 'q': Quantize in version 2"):
        onnx_io.load(_signed(model, tmp_path / "older.onnx"))


def test_a_version_2_file_that_something_else_changed_is_refused(tmp_path):
    for edit, said in ((_another_weight_of_2, "checksum"), (_another_function, "function 'LIF' is not what")):
        model = onnx.load(DATA / "every-op-domain2.onnx")
        edit(model)
        (tmp_path / "changed.onnx").write_bytes(model.SerializeToString(deterministic=True))
        with pytest.raises(RmpDeployError, match=said):
            onnx_io.load(tmp_path / "changed.onnx")


def _another_weight_of_2(model):
    weight = next(i for i in _scan_body(model).initializer if i.name == "conv/weight")
    weight.raw_data = bytes(4) + weight.raw_data[4:]


@pytest.mark.parametrize("edit", [_another_function, _another_weight, _another_reset, _both_versions])
def test_an_old_file_that_something_else_changed_is_refused(edit, tmp_path):
    model = onnx.load(DATA / "every-neuron-domain1.onnx")
    edit(model)
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(RmpDeployError, match="xport it again"):
        onnx_io.load(tmp_path / "changed.onnx")
