"""Files of older domain versions: they load for ever, as the network that they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from rmp_deploy.backends import onnxruntime
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io, reference
from rmp_deploy.ir.ops import LIF, CubaLIF

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


@pytest.mark.parametrize("edit", [_another_function, _another_weight, _another_reset, _both_versions])
def test_an_old_file_that_something_else_changed_is_refused(edit, tmp_path):
    model = onnx.load(DATA / "every-neuron-domain1.onnx")
    edit(model)
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(RmpDeployError, match="xport it again"):
        onnx_io.load(tmp_path / "changed.onnx")
