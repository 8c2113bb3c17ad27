"""The spiking ops, one frozen dataclass each: parameters, invariants, shape inference.

Shapes leave out time and batch: a value has shape ``(N,)`` or ``(C, H, W)`` and is stepped T times for B samples.
An op's value carries the op's name. What an op computes is defined by `rmp_deploy.ir.reference`.
"""

from rmp_deploy.ir.ops.base import Array, IntArray, Op, Pair, Shape
from rmp_deploy.ir.ops.boundary import Dequantize, Quantize
from rmp_deploy.ir.ops.loihi import LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.ir.ops.neurons import LI, LIF, CubaLIF, Reset, SpikingNeuron
from rmp_deploy.ir.ops.pools import AvgPool2d, MaxPool2d, SumPool2d
from rmp_deploy.ir.ops.structure import Add, BatchNorm, Concat, Delay, Flatten
from rmp_deploy.ir.ops.synapses import Conv1d, Conv2d, Linear

__all__ = [
    "LI",
    "LIF",
    "Add",
    "Array",
    "AvgPool2d",
    "BatchNorm",
    "Concat",
    "Conv1d",
    "Conv2d",
    "CubaLIF",
    "Delay",
    "Dequantize",
    "Flatten",
    "IntArray",
    "Linear",
    "LoihiConv2d",
    "LoihiLIF",
    "LoihiLinear",
    "MaxPool2d",
    "Op",
    "Pair",
    "Quantize",
    "Reset",
    "Shape",
    "SpikingNeuron",
    "SumPool2d",
]
