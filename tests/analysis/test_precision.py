"""How many bits integers take, at the edges of what so many bits hold."""

from __future__ import annotations

import numpy as np
import pytest

from rmp_deploy.analysis.precision import excess_errors, needed
from rmp_deploy.hw_profiles import HardwareProfile, Limit
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import LoihiLIF, LoihiLinear


def lif(**changes):
    return LoihiLIF(name="lif", inputs=("fc",), **{"du": 4095, "dv": 2048, "vth": 10, **changes})


def graph(message_bits):
    fc = LoihiLinear(name="fc", inputs=("x",), weight=np.array([[2, -4], [6, 8]]))
    return SpikingGraph("g", Input("x", (2,), "direct", message_bits), (fc, lif()), Readout("lif", "sum"), T=2)


@pytest.mark.parametrize(
    ("mantissas", "bits"),
    [([0], 0), ([1], 2), ([-1], 1), ([4095], 13), ([-4096], 13), ([-4096, 4095], 13), ([-4095], 13), ([-2049], 13),
     ([-2048], 12), ([2048], 13)],
)  # fmt: skip
def test_the_bits_of_a_bias_are_those_of_twos_complement(mantissas, bits):
    found = {limit: n for limit, _, n in needed(lif(bias_mant=np.array(mantissas)))}
    assert found["bias_bits"] == bits
    held = range(-(2**bits) // 2, 2**bits // 2) if bits else range(1)
    assert all(m in held for m in mantissas)


def test_integers_that_are_fed_in_are_graded_spikes():
    def errors(message_bits, limit):
        limits = {"graded_spike_bits": Limit(limit, "bit", "spike", "published", "s")}
        return [str(e) for e in excess_errors(graph(message_bits), HardwareProfile("small", "t", {}, limits=limits))]

    todo = "Use a profile with graded spikes of so many bits."
    assert errors(8, 0) == [f"Input 'x': message_bits = 8, allowed 0 [small]. {todo}"]
    assert errors(8, 7) == [f"Input 'x': message_bits = 8, allowed 7 [small]. {todo}"]
    assert errors(8, 8) == errors(0, 0) == errors(8, None) == []
