"""Which model stands in for Lava's own, by process: for a run configuration's `exception_proc_model_map`."""

from __future__ import annotations

from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.lif.process import LIFReset
from lava.proc.sparse.process import Sparse

from rmp_deploy.converters.lava.fast import neurons, synapses

FLOATING: dict[type, type] = {  # Lava's own LIFReset is fast enough here
    Dense: synapses.PyDenseFloatFast,
    Sparse: synapses.PySparseFloatFast,
    Conv: synapses.PyConvFloatFast,
}
FIXED: dict[type, type] = {
    Dense: synapses.PyDenseFixedFast,
    Sparse: synapses.PySparseFixedFast,
    Conv: synapses.PyConvFixedFast,
    LIFReset: neurons.PyLifResetFixedFast,
}
