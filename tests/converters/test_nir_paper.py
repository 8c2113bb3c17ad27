"""The LIF neuron of NIR's paper: which rule reproduces which simulator's recorded trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rmp_deploy import backends
from rmp_deploy.converters.nir import from_nir

DATA = Path(__file__).parent.parent / "data" / "nir_paper_lif"
DT, T, FIRST_SPIKE = 1e-4, 1000, 460


def recorded(tool: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input spikes, voltage, output spikes, [T] each."""
    x, v, spikes = np.loadtxt(DATA / f"lif_{tool}.csv", delimiter=",").T
    return x, v, spikes > 0


def ours(rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Output spikes and voltage after the reset, [T] each."""
    graph = from_nir(DATA / "lif_norse.nir", DT, rule, T=T)
    x = recorded("norse")[0].reshape(1, T, 1)
    trace = backends.run(graph, x, "reference", ("spikes", "v"))
    return trace.spikes["1"][0, :, 0], trace.v["1"][0, :, 0]


# tool, rule, steps that it is late, its volts in ours, largest difference in volts (threshold: 0.1)
REPRODUCED = [
    ("norse", "euler", 0, 1.0, 1e-7),
    # Lava's Dense sends what it computed in the step before; in float64 with float32 parameters, as our reference
    ("lava_cpu_float", "euler", 1, 1.0, 0.0),
    # its script divides the threshold by the gain dt / tau = 0.04 instead of multiplying the weight with it
    ("snntorch", "euler", 0, 0.04, 1e-7),
]


@pytest.mark.parametrize(("tool", "rule", "late", "volt", "tolerance"), REPRODUCED)
def test_the_rule_reproduces_the_tool(tool, rule, late, volt, tolerance):
    _, v, spikes = recorded(tool)
    our_spikes, our_v = ours(rule)
    assert np.flatnonzero(spikes).tolist() == [FIRST_SPIKE + late, 510 + late, 710 + late, 760 + late]
    assert np.array_equal(our_spikes[: T - late], spikes[late:])
    assert np.abs(our_v[: T - late] - volt * v[late:]).max() <= tolerance


def test_the_closed_form_is_the_exponential_rule_up_to_its_other_reset():
    """The script of the closed form subtracts the threshold, between two steps; NIR, and we, reset to v_reset."""
    _, v, spikes = recorded("exact")
    our_spikes, our_v = ours("exponential")
    assert np.array_equal(our_spikes, spikes)
    assert np.abs(our_v - v)[:FIRST_SPIKE].max() < 1e-8
    assert 0.006 < np.abs(our_v - v).max() < 0.0063
    euler_v = ours("euler")[1]
    assert 0.0009 < np.abs(euler_v - v)[:FIRST_SPIKE].max() < 0.001


def test_lava_in_fixed_point_is_euler_with_its_roundings():
    """dt / tau = 0.04 becomes 163 / 4096 and weight 10, the threshold 0.1 becomes 25 * 2^6 = 1600, a step late."""
    _, v, spikes = recorded("lava_cpu_fixed")
    our_spikes, our_v = ours("euler")
    assert np.array_equal(our_spikes[:-1], spikes[1:])
    assert 0.0008 < np.abs(our_v[:-1] - v[1:] * 0.1 / 1600).max() < 0.0009


def test_the_other_rule_reproduces_no_euler_trace():
    _, v, spikes = recorded("norse")
    our_spikes, our_v = ours("exponential")
    assert np.array_equal(our_spikes, spikes)  # on this input
    assert np.abs(our_v - v).max() > 1e-3


def test_the_recorded_input_is_the_papers():
    gaps = [6, 15, 4, 3, 0, 2, 1, 2, 0, 1, *[0] * 10, 13, *[0] * 11, 5, 0, 14]
    beats = [s for gap in gaps for s in [*[0] * gap, 1]][:100]
    for tool in ("exact", "lava_cpu_fixed", "lava_cpu_float", "norse", "snntorch"):
        assert recorded(tool)[0].reshape(100, 10).T.tolist() == [beats, *[[0] * 100] * 9]
