"""lava-dl's network exchange files (.net, HDF5): CUBA neurons, dense, conv and flatten layers, both ways.

A .net file is integers only, and so is its graph. What lava-dl's own reader (lava/lib/dl/netx/hdf5.py, lava-dl 0.6.0)
would make of a file, `from_netx` makes of it, or it refuses the layer by name.
"""

from rmp_deploy.converters.netx.from_netx import from_netx
from rmp_deploy.converters.netx.to_netx import to_netx

__all__ = ["from_netx", "to_netx"]
