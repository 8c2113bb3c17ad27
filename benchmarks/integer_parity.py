"""Our integer reference against lava-nc's own process models, bit for bit, on random layers.

A case is one parameter set: one neuron stepped 20 times, or one synapse layer. Parameters, states and inputs are drawn
with their extremes. Lava's models are called in this process, without its runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rmp_deploy.converters.lava.compat import import_lava
from rmp_deploy.converters.lava.synapse import flipped
from rmp_deploy.ir import reference_loihi
from rmp_deploy.ir.ops import LoihiConv2d, LoihiLIF, LoihiLinear
from rmp_deploy.ir.ops.loihi import PARAMETER_SPAN, WEIGHT_SPAN, stored_weight

STEPS = 20
STATE = 2**23


class Port:
    """A port of a model that runs without a runtime: gives `value`, keeps what is sent."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def recv(self) -> Any:
        return self.value

    def send(self, value: Any) -> None:
        self.value = value


def extremes(rng: np.random.Generator, low: int, high: int, n: int) -> np.ndarray:
    """Integers in low..high, [n]: a third near 0, a third anywhere, a third at the ends."""
    near = np.clip(rng.integers(-4, 5, n), low, high)
    ends = rng.choice(np.array([low, low + (low < high), high - (low < high), high]), n)
    return np.choose(rng.integers(3, size=n), [near, rng.integers(low, high + 1, n), ends])


def lif(rng: np.random.Generator, cases: int) -> int:
    """Neurons whose spikes, v, current or v before the reset differ anywhere in 20 steps."""
    from lava.proc.lif.models import PyLifModelBitAcc

    parameters = {name: extremes(rng, low, high, cases) for name, (low, high) in PARAMETER_SPAN.items()}
    ours = LoihiLIF(name="lif", inputs=("x",), **parameters)
    theirs = PyLifModelBitAcc({})
    for name, value in parameters.items():
        setattr(theirs, name, value.astype({"bias_mant": np.int16, "bias_exp": np.int16}.get(name, np.int64)))
    i, v = extremes(rng, 1 - STATE, STATE, cases), extremes(rng, 1 - STATE, STATE - 1, cases)
    theirs.u, theirs.v = i.astype(np.int32), v.astype(np.int32)
    theirs.scale_bias()
    theirs.scale_threshold()
    size = 2 ** rng.integers(0, 24, cases)  # of a neuron's input: small ones decay and fire, large ones wrap
    wrong = np.zeros(cases, np.bool_)
    for _ in range(STEPS):
        x = rng.integers(1 - size, size)
        spikes, v, i, u = reference_loihi.loihi_lif(ours, x, v, i)
        theirs.subthr_dynamics(x.astype(np.int32))
        wrong |= theirs.v != u
        fired = theirs.spiking_activation()
        theirs.reset_voltage(fired)
        wrong |= (spikes != fired) | (theirs.v != v) | (theirs.u != i)
    return int(wrong.sum())


def random_weight(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Weights that Lava may have to clip and truncate, with their options."""
    mode = str(rng.choice(list(WEIGHT_SPAN)))
    low, high = WEIGHT_SPAN[mode]
    weight = extremes(rng, low - 50 * (low < 0), high + 50 * (high > 0), int(np.prod(shape))).reshape(shape)
    return weight, {"num_weight_bits": int(rng.integers(1, 9)), "sign_mode": mode}


def dense(rng: np.random.Generator) -> bool:
    """One layer on spikes or on graded spikes: does it differ?"""
    from lava.proc.dense.models import PyDenseModelBitAcc
    from lava.utils.weightutils import SignMode

    n_out, n_in = rng.integers(1, 12, 2)
    raw, options = random_weight(rng, n_out, n_in)
    exp, bits = int(rng.integers(-8, 8)), int(rng.integers(0, 9))
    x = rng.integers(0, 2, n_in) if bits == 0 else extremes(rng, 1 - 2**bits, 2**bits - 1, n_in)
    weight = stored_weight(raw, **options)
    ours = LoihiLinear(name="fc", inputs=("x",), weight=weight, weight_exp=exp, **options)
    theirs = PyDenseModelBitAcc({**options, "weight_exp": exp, "sign_mode": SignMode[options["sign_mode"].upper()]})
    theirs.weights, theirs.num_message_bits = raw.astype(np.int32), np.array([bits])
    theirs.s_in, theirs.a_out, theirs.a_buff = Port(x), Port(), np.zeros(n_out, np.int32)
    theirs.run_spk()
    return bool((reference_loihi.loihi_linear(ours, x[None])[0] != theirs.a_buff).any())


def conv(rng: np.random.Generator) -> bool:
    """One layer of random geometry; Lava's Conv has no exponent, so it gets the shifted weights: does it differ?"""
    from lava.proc.conv.models import PyConvModelFixed

    groups = int(rng.integers(1, 3))
    c_in, c_out = groups * rng.integers(1, 3, 2)
    kernel = rng.integers(1, 4, 2)
    shape = (int(c_in), *(int(n) for n in rng.integers(5, 9, 2)))
    pairs = {"stride": (1, 3), "padding": (0, 3), "dilation": (1, 3)}
    geometry = {name: tuple(int(n) for n in rng.integers(*span, 2)) for name, span in pairs.items()}
    raw, options = random_weight(rng, int(c_out), int(c_in) // groups, *(int(k) for k in kernel))
    weight, exp = stored_weight(raw, **options), int(rng.integers(-8, 8))
    if exp < 0:  # what the sum's shift would drop must be 0
        weight = stored_weight(weight >> -exp << -exp, **options)
        exp = exp if not (weight & ((1 << -exp) - 1)).any() else 0
    ours = LoihiConv2d(name="conv", inputs=("x",), weight=weight, weight_exp=exp, groups=groups, **geometry, **options)
    bits = int(rng.integers(0, 5))
    x = rng.integers(0, 2, shape) if bits == 0 else extremes(rng, 1 - 2**bits, 2**bits - 1, int(np.prod(shape)))
    theirs = PyConvModelFixed({})
    theirs.weight = flipped(weight << exp if exp > 0 else weight >> -exp).astype(np.int32)
    theirs.kernel_size = np.array(kernel[::-1])
    theirs.stride, theirs.padding, theirs.dilation = (np.array(geometry[name][::-1]) for name in pairs)
    theirs.groups, theirs.num_message_bits = np.array([groups]), np.array([bits])
    theirs.s_in, theirs.a_out, theirs.a_buf = Port(x.reshape(shape).T), Port(), np.zeros(1, np.int32)
    theirs.run_spk()
    return bool((reference_loihi.loihi_conv2d(ours, x.reshape(1, *shape))[0] != theirs.a_buf.T).any())


def integer_parity(quick: bool) -> dict[str, object]:
    """100,000 cases (2,000 with `quick`): how many differ from lava-nc's fixed-point models."""
    import_lava()
    share = 20 if not quick else 1000
    rng = np.random.default_rng(0)
    cases = {"neurons": 1_400_000 // share, "dense": 560_000 // share, "conv": 40_000 // share}
    differ = {
        "neurons": lif(rng, cases["neurons"]),
        "dense": sum(dense(rng) for _ in range(cases["dense"])),
        "conv": sum(conv(rng) for _ in range(cases["conv"])),
    }
    return {"cases": cases, "total_cases": sum(cases.values()), "differ": differ, "mismatches": sum(differ.values())}
