"""What lava-dl's netx makes of the integer weights in a file, and how our synapses hold the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.ir.ops.loihi import WEIGHT_SPAN, SignMode, stored_weight

I64 = npt.NDArray[np.int64]
LAYOUTS: tuple[tuple[SignMode, int], ...] = (  # sign mode, shift to the left that weight_exp takes back
    ("mixed", 0),
    ("excitatory", 0),
    ("inhibitory", 0),
    ("mixed", 1),
)


def to_synapse(weight: I64) -> dict[str, Any] | None:
    """Parameters of a LoihiLinear or LoihiConv2d that computes with `weight`; None where 8 bits do not hold it."""
    for mode, shift in LAYOUTS:
        shifted = weight << shift
        if (stored_weight(shifted, 8, mode) == shifted).all():
            return {"weight": shifted, "weight_exp": -shift, "sign_mode": mode}
    return None


def of_synapse(weight: npt.NDArray[Any], weight_exp: int) -> I64 | None:
    """The weight without its exponent; None where that is no integer."""
    wide = weight.astype(np.int64)
    if weight_exp >= 0:
        return wide << weight_exp
    return None if (wide & ((1 << -weight_exp) - 1)).any() else wide >> -weight_exp


def in_dense(weight: I64) -> I64 | None:
    """What Lava's Dense computes with when netx gives it `weight`, in the file's units; None where netx fails.

    netx shifts the weights up as far as 8 bits go, counts the bits that they need, and takes the shift back with
    weight_exp; Lava then clips and truncates (lava-dl 0.6.0, lava/lib/dl/netx/utils.py:77-154, without its sign mode:
    lava/lib/dl/netx/blocks/process.py does not pass it on; lava/utils/weightutils.py).
    """
    low, high = int(weight.min()), int(weight.max())
    if low == high == 0:
        return None  # it divides by the largest weight
    if (high > 254 and low < 0) or (low < -256 and high > 0):
        weight = np.clip(weight, -256, 254)
        low, high = int(weight.min()), int(weight.max())
    signed = low < 0 <= high
    positive, negative = (255 / high if high > 0 else np.inf), (256 / -low if low < 0 else np.inf)
    if signed:
        positive, negative = (127 / high if high > 0 else np.inf), 128 / -low
    scale = min(positive, negative)
    shift = int(np.floor(np.log2(scale))) + signed
    if shift < 0:
        return None
    common = next(n for n in range(8, -1, -1) if not (weight % 2**n).any())
    bits = 8 - shift - (common - signed)
    shifted = weight << shift
    mode: SignMode = "excitatory" if low >= 0 else "inhibitory" if high <= 0 else "mixed"
    dropped = 8 - bits + (mode == "mixed")
    if dropped < 0:
        return None  # Lava shifts by a negative number
    magnitude = np.clip(-shifted if mode == "inhibitory" else shifted, *_span(mode))
    kept = magnitude >> dropped << dropped
    return (-kept if mode == "inhibitory" else kept) >> shift


def _span(mode: SignMode) -> tuple[int, int]:
    return WEIGHT_SPAN["mixed"] if mode == "mixed" else WEIGHT_SPAN["excitatory"]
