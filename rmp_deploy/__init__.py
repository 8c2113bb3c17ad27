"""rmp-deploy: spiking neural networks from PyTorch to Loihi, proven the same spike by spike.

Importing this imports neither torch nor Lava; converters and training are imported by module:
`rmp_deploy.converters.torch_to_ir`, `rmp_deploy.training.loop`.
"""

from rmp_deploy.analysis.counts import count, twin
from rmp_deploy.analysis.energy import price
from rmp_deploy.analysis.parity import climb, compare
from rmp_deploy.backends import run
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import load as load_profile
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.onnx_io import load, save
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.passes.fold_pool import fold_pool
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training.data import load as load_samples

__version__ = "0.1.0"
__all__ = [
    "RmpDeployError",
    "SpikingGraph",
    "Trace",
    "climb",
    "compare",
    "count",
    "fold_batchnorm",
    "fold_pool",
    "load",
    "load_profile",
    "load_samples",
    "price",
    "quantize",
    "run",
    "save",
    "twin",
]
