"""Costs that the shape of the hardware decides: hops over a mesh, memories of some size, power and time.

Estimates, from exact counts and published figures; docs/energy.md has the rules, and what each leaves out.
"""

from rmp_deploy.analysis.hardware.costs import HardwareCosts, hardware
from rmp_deploy.analysis.hardware.estimate import Estimate
from rmp_deploy.analysis.hardware.memory import MemoryCosts, MemoryUse
from rmp_deploy.analysis.hardware.routing import Routing, Traffic
from rmp_deploy.analysis.hardware.timing import Timing

__all__ = ["Estimate", "HardwareCosts", "MemoryCosts", "MemoryUse", "Routing", "Timing", "Traffic", "hardware"]
