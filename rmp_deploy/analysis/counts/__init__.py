"""Exact integer counts, per layer, of what a spiking network did: taken from spikes that really happened.

A synapse is a position of the kernel that meets a pixel, whatever its weight: a weight that is 0 still counts. What
one step costs follows from what a layer reads:

    spikes          0 or 1: one accumulate (AC) per synapse that a 1 reaches, nothing where it is 0
    graded spikes   integers (a quantized input, a sum of spikes): one multiply-accumulate (MAC) per synapse that a
                    message reaches; a 0 is not sent
    real values     one MAC per synapse and step, zeros included: the hardware cannot skip what it does not know

Counts add up: over samples, and over the shards of a data set.
"""

from rmp_deploy.analysis.counts.count import Counter, check, count
from rmp_deploy.analysis.counts.fan_out import fan_out
from rmp_deploy.analysis.counts.table import ACTIVITY, Counts, InputKind, LayerCounts, Spread
from rmp_deploy.analysis.counts.twin import Twin, TwinLayer, twin

__all__ = [
    "ACTIVITY",
    "Counter",
    "Counts",
    "InputKind",
    "LayerCounts",
    "Spread",
    "Twin",
    "TwinLayer",
    "check",
    "count",
    "fan_out",
    "twin",
]
