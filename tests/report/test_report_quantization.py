"""What `quantize` says below its tables: everything that costs spikes and that no table shows."""

from __future__ import annotations

import numpy as np

from rmp_deploy.cli import main
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LIF, Linear
from rmp_deploy.passes.quantize import quantize


def test_a_threshold_that_rounding_moves_by_more_than_a_hundredth_is_named(tmp_path, capsys):
    """Weights far above the threshold: the largest potential leaves the threshold a few units of the chip."""
    rng, ops, value = np.random.default_rng(0), [], "x"
    for k, v_threshold in enumerate((0.5, 0.5, 1e-3)):
        ops.append(Linear(name=f"fc{k}", inputs=(value,), weight=rng.normal(size=(6, 6))))
        ops.append(LIF(name=f"lif{k}", inputs=(f"fc{k}",), decay=0.5, v_threshold=v_threshold))
        value = f"lif{k}"
    graph = SpikingGraph("g", Input("x", (6,), "direct"), tuple(ops), Readout(value, "sum"), T=4)
    x = rng.normal(size=(8, 6)).astype(np.float32)
    fine, coarse = (layer.neuron for layer in quantize(graph, x).layers)
    assert abs(fine.threshold_error) < 0.01 < abs(coarse.threshold_error)

    net, data, out = (str(tmp_path / name) for name in ("net.onnx", "x.npz", "net.int.onnx"))
    onnx_io.save(graph, net)
    np.savez(data, x=x)
    assert main(["quantize", net, "--profile", "loihi2", "--data", data, "-o", out]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "threshold is off" in line]
    error = 100 * coarse.threshold_error
    assert notes == [f"lif2: the threshold is off by {error:+.1f} % (vth = {coarse.vth} is a whole number)"]
