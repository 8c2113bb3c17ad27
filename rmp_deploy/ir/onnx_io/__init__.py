"""A SpikingGraph as a valid ONNX model and back; nothing outside this folder imports onnx.

Spiking ops are model-local functions of the domain `rmp_deploy` whose bodies are standard ONNX ops; the step graph is
the body of one `Scan` over time. Any ONNX runtime executes the file; it holds no pickle and no custom operator.

Inputs: `input` float32 [B, *shape] (direct) or [B, T, *shape] (time_series). Outputs: `output` float32 [B, K], the
readout, and `spike_count/<neuron op>` int64 [B], so that the golden samples in the file can check any copy of it.
"""

from rmp_deploy.ir.onnx_io.model import to_bytes, to_model
from rmp_deploy.ir.onnx_io.properties import Golden
from rmp_deploy.ir.onnx_io.reader import load, load_golden, load_runnable
from rmp_deploy.ir.onnx_io.writer import runnable, save

__all__ = ["Golden", "load", "load_golden", "load_runnable", "runnable", "save", "to_bytes", "to_model"]
