"""Checks against a chip: a case for each, and what a finding says can happen does happen for some input."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rmp_deploy.analysis.bounds import largest_u, reaches
from rmp_deploy.analysis.checks import silent_neurons
from rmp_deploy.analysis.chip_checks import CHIP_CHECKS, checks, unknown_limits
from rmp_deploy.analysis.utilization import utilization
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import HardwareProfile, Limit, load
from rmp_deploy.ir import reference, reference_loihi
from rmp_deploy.ir.graph import Input, Readout, SpikingGraph
from rmp_deploy.ir.ops import (
    LI,
    LIF,
    Add,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Linear,
    LoihiConv2d,
    LoihiLIF,
    LoihiLinear,
    Quantize,
)
from rmp_deploy.passes.quantize import quantize

LOIHI1, LOIHI2 = load("loihi1"), load("loihi2")


def chip(**limits):
    """A profile that knows these limits alone."""
    return HardwareProfile(
        "small", "t", {}, limits={n: Limit(v, "u", "core", "published", "s") for n, v in limits.items()}
    )


def found(graph, profile):
    return [finding for check in checks(profile) for finding in check(graph)]


def said(graph, profile, check):
    return [f.message for f in found(graph, profile) if f.check == check]


def lif(name, source, **changes):
    return LIF(name=name, inputs=(source,), **{"decay": 0.5, "v_threshold": 0.7, **changes})


def linear(name, source, weight, bias=None):
    return Linear(name=name, inputs=(source,), weight=np.array(weight, np.float32), bias=bias)


def loihi_linear(name, source, weight, **changes):
    return LoihiLinear(name=name, inputs=(source,), weight=np.array(weight, np.int32), **changes)


def loihi_lif(name, source, du=4095, dv=2048, vth=100, **changes):
    return LoihiLIF(
        name=name, inputs=(source,), du=np.int32(du), dv=np.int32(dv), vth=np.asarray(vth, np.int32), **changes
    )


def graph(*ops, shape=(2,), bits=0, T=3, readout=None):
    return SpikingGraph("g", Input("x", shape, "time_series", bits), ops, Readout(readout or ops[-1].name, "sum"), T)


def floats(weight=((0.3, 0.4), (0.31, -0.2)), T=3, **neuron):
    """Two copied spikes, then neurons under test."""
    copy = linear("copy", "x", [[0.9, 0.0], [0.0, 0.9]]), lif("in", "copy", decay=0.0)
    return graph(*copy, linear("fc", "in", weight), lif("out", "fc", **neuron), T=T)


def integers(weight=((20, 40), (20, -60)), T=3, exp=0, **neuron):
    return graph(loihi_linear("fc", "x", weight, weight_exp=exp), loihi_lif("out", "fc", **neuron), T=T)


def test_a_network_that_fits_has_no_finding_on_either_chip():
    for g in (floats(), integers()):
        for profile in (LOIHI1, LOIHI2):
            assert found(g, profile) == []


def test_a_profile_without_limits_checks_nothing():
    assert checks(load("cmos45")) == ()
    assert unknown_limits(LOIHI1) == []
    assert "input_axons_per_core" in unknown_limits(LOIHI2)


ONES = np.ones((256, 1, 1, 1), np.int32)
CASES = {
    "quantize": (floats(reset="soft"), LOIHI1, "error", "LIF 'out': reset = 'soft', allowed 'hard'"),
    "quantize: v_reset": (floats(v_reset=-0.5), LOIHI1, "error", "LIF 'out': v_reset = -0.5, allowed 0"),
    "quantize: threshold": (floats(v_threshold=-1.0), LOIHI1, "error", "LIF 'out': v_threshold = -1, allowed > 0"),
    "quantize: integrator": (
        replace(floats(), ops=(*floats().ops, LI(name="li", inputs=("fc",), decay=0.9))),
        LOIHI1,
        "error",
        "LI 'li': op = LI",
    ),
    "input": (
        replace(floats(), input=Input("x", (2,), "direct")),
        LOIHI1,
        "warning",
        "Linear 'copy': input = real values, allowed spikes [loihi1]. quantize leaves it and its neurons on the host.",
    ),
    "graded": (
        graph(loihi_linear("fc", "x", [[2, 4]]), loihi_lif("out", "fc"), bits=4),
        LOIHI1,
        "error",
        "LoihiLinear 'fc': input 'x' of 4 message_bits, allowed 0 [loihi1]",
    ),
    "graded: behind Quantize and Flatten": (
        SpikingGraph(
            "g",
            Input("x", (2, 1, 1), "direct"),
            (
                Flatten(name="flat", inputs=("x",)),
                Quantize(name="q", inputs=("flat",), scale=np.float32(9), message_bits=8),
                loihi_linear("fc", "q", [[2, 4]]),
                loihi_lif("out", "fc"),
            ),
            Readout("out", "sum"),
            3,
        ),
        chip(graded_spike_bits=7),
        "error",
        "LoihiLinear 'fc': input 'q' of 8 message_bits, allowed 7 [small]",
    ),
    "weights": (
        integers(),
        chip(weight_bits=4),
        "error",
        "LoihiLinear 'fc': num_weight_bits = 8, allowed 1..4 [small]",
    ),
    "weights: outlier": (
        floats([[0.001, 0.4], [0.002, 20.0]], v_threshold=0.55),
        LOIHI2,
        "warning",
        "Linear 'fc': 2 of 4 weights round to 0 in 8 bits beside the largest, 20, allowed at most 10% [loihi2]",
    ),
    "decay": (
        floats(decay=0.9),
        LOIHI1,
        "warning",
        "LIF 'out': decay = 0.9, allowed k/4096 [loihi1]. quantize takes 3686/4096 = 0.899902.",
    ),
    "decay: current": (
        graph(
            linear("fc", "x", np.eye(2)),
            CubaLIF(name="out", inputs=("fc",), current_decay=0.3, decay=0.5, v_threshold=0.7),
        ),
        LOIHI1,
        "warning",
        "CubaLIF 'out': current_decay = 0.3, allowed k/4096 [loihi1]. quantize takes 1229/4096 = 0.300049.",
    ),
    "decay: register": (
        integers([[254, 254]], dv=4096, vth=300),
        LOIHI1,
        "warning",
        "LoihiLIF 'out': dv = 4096, allowed 0..4095 [loihi1]",
    ),
    "decay: kept for ever": (integers(du=-1), LOIHI1, "warning", "LoihiLIF 'out': du = -1, allowed 0..4095 [loihi1]"),
    "registers": (
        integers(vth=5000),
        chip(threshold_bits=12),
        "error",
        "LoihiLIF 'out': vth = 5000..5000, allowed 0..4095 [small]",
    ),
    "registers: bias": (
        integers(bias_mant=np.int32(-200)),
        chip(bias_bits=8),
        "error",
        "LoihiLIF 'out': bias_mant = -200..-200, allowed -128..127 [small]",
    ),
    "registers: decay": (
        integers(du=4095, dv=2050),
        chip(decay_bits=10),
        "error",
        "LoihiLIF 'out': dv = 2050, allowed multiples of 4 [small]",
    ),
    "thresholds": (
        graph(loihi_linear("fc", "x", np.full((9, 2), 20)), loihi_lif("out", "fc", vth=np.arange(9))),
        LOIHI1,
        "warning",
        "LoihiLIF 'out': 9 different vth, allowed 8 per core [loihi1]",
    ),
    "wrap": (
        integers([[254, 254]], exp=7, T=3, du=2047),
        chip(state_bits=23),
        "warning",
        f"LoihiLIF 'out': largest possible current = {508 * 128 * 64 * 1.75:.0f}, allowed {2**22}",
    ),
    "wrap: floats": (
        floats([[0.001, -300.0], [0.001, -300.0]], T=600, decay=1.0),
        LOIHI1,
        "warning",
        f"LIF 'out': largest possible current or negative potential = {255 * 600} in units of 8-bit weights, allowed",
    ),
    "saturation": (
        integers([[-254, -254]], exp=7, dv=0, T=3),
        LOIHI1,
        "warning",
        f"LoihiLIF 'out': lowest possible potential = {-508 * 128 * 64 * 3}, allowed {1 - 2**23}, where it saturates",
    ),
    "equality": (
        floats([[0.25, 0.5], [0.25, 0.25]], decay=1.0, v_threshold=1.0),
        LOIHI1,
        "warning",
        "LIF 'out': v_threshold = 1 is a sum of its weights, multiples of 0.25",
    ),
    "equality: fires at it": (
        floats(v_threshold=np.nextafter(np.float32(0.3), np.float32(0))),
        LOIHI1,
        "warning",
        "LIF 'out': v_threshold = 0.299999982, the float below 0.3: it fires at >= 0.3, allowed u > vth [loihi1]",
    ),
    "delay": (
        graph(
            loihi_linear("fc", "x", np.eye(2) * 2),
            Delay(name="late", inputs=("out",), steps=64, shape=(2,)),
            loihi_linear("own", "late", np.eye(2) * 2),
            Add(name="both", inputs=("fc", "own")),
            loihi_lif("out", "both"),
        ),
        LOIHI1,
        "error",
        "Delay 'late': steps that its spikes wait = 63, allowed 0..62 [loihi1]",
    ),
    "groups": (
        graph(
            LoihiConv2d(name="c", inputs=("x",), weight=ONES, sign_mode="excitatory", groups=256),
            loihi_lif("out", "c"),
            shape=(256, 1, 1),
        ),
        LOIHI1,
        "warning",
        "LoihiConv2d 'c': groups = 256, allowed 1..127, beyond which Conv of lava-nc 0.10.0 gives zeros",
    ),
    "fit": (
        integers(),
        chip(input_axons_per_core=1),
        "error",
        "LoihiLIF 'out': input axons of one neuron = 2, allowed 1 per core [small]",
    ),
    "chips": (
        integers(),
        chip(neurons_per_core=1, cores=1),
        "warning",
        "SpikingGraph 'g': cores = 2 on 2 chips, allowed 1 on one [small]",
    ),
    "relays": (
        graph(
            loihi_linear("fc", "x", np.eye(2) * 2),
            loihi_lif("s", "fc"),
            loihi_linear("fc2", "s", np.eye(2) * 2),
            loihi_lif("s2", "fc2"),
            loihi_linear("fc3", "s2", np.eye(2) * 2),
            loihi_linear("short", "s", np.eye(2) * 2),
            Add(name="add", inputs=("fc3", "short")),
            loihi_lif("out", "add"),
        ),
        LOIHI1,
        "warning",
        "SpikingGraph 'g': relays = 2 of 8 neurons",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_trap_is_found_and_named(case):
    g, profile, severity, message = CASES[case]
    check = case.partition(":")[0]
    (one,) = [f for f in found(g, profile) if f.check == check]
    assert one.severity == severity
    assert one.message.startswith(message)
    assert "\n" not in one.message
    assert (one.op is None) == message.startswith("SpikingGraph")


def test_every_check_has_a_case():
    reached = set()
    for g, profile, *_ in CASES.values():
        reached |= {check for check in CHIP_CHECKS if list(check(profile, g))}
    assert reached == set(CHIP_CHECKS)


@pytest.mark.parametrize("bits", [1, 64])
def test_every_width_that_a_profile_can_state_is_checked(bits):
    """Registers as wide as a machine word, and weights of one bit, of which the smaller half rounds to 0."""
    profile = chip(**{f"{name}_bits": bits for name in ("weight", "decay", "threshold", "bias", "state")})
    for g in (floats(decay=0.3), integers(bias_mant=np.int32(-200))):
        assert {f.check for f in found(g, profile)} <= {"weights", "decay", "registers", "wrap", "saturation"}
    wide = floats([[0.001, 0.4], [0.002, 20.0]], v_threshold=0.55)
    lost = {1: "3 of 4 weights round to 0 in 1 bits", 64: "2 of 4 weights round to 0 in 8 bits"}[bits]
    assert lost in "".join(said(wide, profile, "weights"))


def test_a_chip_of_whose_cores_nothing_is_known_has_no_finding_about_them():
    """What is unknown is not checked: it is listed instead, and `map`, which needs it, refuses."""
    profile = chip(weight_bits=8, cores=1)
    assert found(integers(), profile) == []
    assert "neurons_per_core" in unknown_limits(profile)
    with pytest.raises(RmpDeployError, match="limits of a core = none"):
        utilization(integers(), profile)


def test_the_step_of_a_synapse_is_not_delayed():
    """A recurrent edge of one step needs no delay on the chip, one of two steps does."""

    def loop(steps):
        return graph(
            loihi_linear("fc", "x", np.eye(2) * 2),
            Delay(name="before", inputs=("out",), steps=steps, shape=(2,)),
            loihi_linear("own", "before", np.eye(2) * 2),
            Add(name="both", inputs=("fc", "own")),
            loihi_lif("out", "both"),
        )

    assert found(loop(1), chip(delay_steps=0)) == []
    assert len(said(loop(2), chip(delay_steps=0), "delay")) == 1
    assert said(loop(2), chip(delay_steps=1), "delay") == []


def test_what_is_delayed_alike_waits_for_nothing():
    """All of a chain behind a Delay is late: its spikes have nothing to wait for. Beside a way without one, they do."""
    late = Delay(name="late", inputs=("s",), steps=5, shape=(2,))
    ops = (
        loihi_linear("fc", "x", np.eye(2) * 2),
        loihi_lif("s", "fc"),
        late,
        loihi_linear("fc2", "late", np.eye(2) * 2),
        loihi_lif("out", "fc2"),
    )
    assert said(graph(*ops), chip(delay_steps=1), "delay") == []
    side = loihi_linear("side", "s", np.eye(2) * 2), Add(name="both", inputs=("fc2", "side")), loihi_lif("out", "both")
    (message,) = said(graph(*ops[:4], *side), chip(delay_steps=4), "delay")
    assert message.startswith("Delay 'late': steps that its spikes wait = 5, allowed 0..4 [small]")


def test_what_is_said_of_quantize_is_what_it_raises():
    for case in (c for c in CASES if c.startswith("quantize")):
        g = CASES[case][0]
        with pytest.raises(RmpDeployError) as e:
            quantize(g, np.zeros((1, g.T, *g.input.shape)))
        assert said(g, LOIHI1, "quantize") == [str(e.value)]


def test_a_register_that_forgets_small_potentials_anyway_is_no_finding():
    """Up to 4095, dv = 4095 leaves nothing of v, as dv = 4096 does: relays are such neurons."""
    v = np.arange(-4095, 4096)
    assert not reference_loihi._decayed(v, 4095).any()
    assert reference_loihi._decayed(np.array([4096]), 4095).tolist() == [1]
    assert said(integers([[20, 20]], dv=4096), LOIHI1, "decay") == []
    assert len(said(integers([[200, 200]], dv=4096), LOIHI1, "decay")) == 1


def test_the_wrap_that_is_found_happens():
    """Excitatory synapses, and yet a current that turns negative; 24 bits hold what two steps bring."""
    g = integers([[254, 254]], exp=7, T=2, du=-1, dv=4096, vth=131_071)
    assert 508 * 128 * 64 * 2 < 2**23 < 508 * 128 * 64 * 3
    assert said(g, LOIHI2, "wrap") == []
    assert reference.run(g, np.ones((1, 2, 2)), ("u",)).u["out"].max() == 508 * 128 * 64 * 2
    g = replace(g, T=3)
    (finding,) = said(g, LOIHI2, "wrap")
    assert f"largest possible current = {508 * 128 * 64 * 3}" in finding
    assert reference.run(g, np.ones((1, 3, 2)), ("u",)).u["out"].min() == 508 * 128 * 64 * 3 - 2**24


def test_saturation_from_above_changes_no_spike():
    """It stops at 2^23 - 1, above the largest threshold that there is."""
    assert 131_071 << 6 < 2**23 - 1
    g = integers([[254, 254]], exp=7, dv=0, T=3, vth=131_071)
    assert said(g, LOIHI1, "saturation") == []


def random_integers(seed):
    """A random integer network of two layers, and every 0/1 input of T steps."""
    rng = np.random.default_rng(seed)
    bias = {"bias_mant": rng.integers(-300, 300, 2), "bias_exp": np.int32(rng.integers(0, 6))}
    T = int(rng.integers(2, 4))

    def layer(name, source):
        weight = 2 * rng.integers(-60, 60, (2, 2))
        exp = int(rng.integers(-2, 3))
        neuron = {
            "du": int(rng.choice([-1, 1000, 4095])),
            "dv": int(rng.integers(0, 4097)),
            "vth": rng.integers(0, 90, 2),
        }
        return loihi_linear(f"{name}_in", source, weight, weight_exp=exp), loihi_lif(
            name, f"{name}_in", **neuron, **bias
        )

    g = graph(*layer("first", "x"), *layer("second", "first"), T=T)
    return g, np.array(list(itertools.product([0.0, 1.0], repeat=2 * T))).reshape(-1, T, 2)


@pytest.mark.parametrize("seed", range(40))
def test_the_bounds_of_integer_networks_hold_for_every_input(seed):
    g, every = random_integers(seed)
    trace = reference.run(g, every, ("u", "spikes"))
    for op, reach in reaches(g):
        u = trace.u[op.name]
        assert (u.min(axis=(0, 1)) >= reach.u[0]).all()
        assert (u.max(axis=(0, 1)) <= reach.u[1]).all()
    for finding in silent_neurons(g):
        silent = largest_u(g)[finding.op] <= g.by_name[finding.op].threshold
        assert not trace.spikes[finding.op][..., silent].any()


def test_a_current_that_wraps_once_and_stays_out_of_24_bits_makes_its_neuron_fire():
    """Above 3 * 2^23 it is still above every threshold, though it has wrapped: not a silent neuron."""
    g = graph(
        loihi_linear("fc", "x", np.full((1, 2000), 254)),
        loihi_lif("out", "fc", dv=4096, vth=131_071, bias_mant=np.int32(-4096), bias_exp=np.int32(7)),
        shape=(2000,),
    )
    x = np.zeros((1, 3, 2000))
    x[..., :1800] = 1
    trace = reference.run(g, x, ("u", "spikes"))
    assert trace.spikes["out"].all()
    assert list(silent_neurons(g)) == []
    assert trace.u["out"].max() <= largest_u(g)["out"]


def test_the_current_that_wraps_at_the_lowest_of_24_bits_is_no_silent_neuron():
    """-2^23 is the one that turns to +2^23."""
    g = graph(loihi_linear("fc", "x", np.full((1, 512), -256)), loihi_lif("out", "fc", vth=131_071), shape=(512,))
    assert reference.run(g, np.ones((1, 3, 512)), ("spikes",)).spikes["out"].all()
    assert list(silent_neurons(g)) == []


@pytest.mark.parametrize("seed", range(40))
def test_the_bounds_hold_for_currents_that_wrap_in_24_and_32_bits(seed):
    """Graded inputs and weights so large that currents leave 24 bits at a step and, where they are kept, int32."""
    rng = np.random.default_rng(seed)
    T, size = 12, int(rng.choice([1, 6, 127]))
    weight = 2 * rng.integers(-1 if seed % 2 else 0, 128, (3, 2))
    neuron = {"du": int(rng.choice([-1, 1000, 4095])), "dv": int(rng.integers(0, 4097)), "vth": 131_071}
    bias = {"bias_mant": np.int32(rng.choice([-4096, 4095])), "bias_exp": np.int32(7)}
    ops = loihi_linear("fc", "x", weight, weight_exp=7), loihi_lif("out", "fc", **neuron, **bias)
    g = graph(*ops, bits=7, T=T)
    x = rng.choice([-size, 0, size], (300, T, 2))
    x[:3] = np.array([-size, size, 0])[:, None, None]
    u = reference.run(g, x, ("u",)).u["out"]
    ((_, reach),) = reaches(g)
    assert (u.min(axis=(0, 1)) >= reach.u[0]).all()
    assert (u.max(axis=(0, 1)) <= reach.u[1]).all()


def test_the_bounds_of_one_integer_layer_are_reached():
    """Without decay and bias, by the input that each neuron wants."""
    g = integers([[20, 40], [20, -60]], dv=0, T=3, vth=131_071)
    ((_, reach),) = reaches(g)
    np.testing.assert_allclose(reach.u, [[0, -60 * 64 * 3], [60 * 64 * 3, 20 * 64 * 3]], rtol=1e-11)
    shifted = integers([[20, 40], [20, -60]], exp=-3, dv=4096, T=3)
    ((_, reach),) = reaches(shifted)
    assert reach.u.tolist() == [[0, -8 * 64], [7 * 64, 2 * 64]]  # floor(-60 / 8) = -8, floor(60 / 8) = 7
    graded = graph(loihi_linear("fc", "x", [[20, -40]]), loihi_lif("out", "fc", dv=4096), bits=3)
    ((_, reach),) = reaches(graded)
    assert reach.current.ravel().tolist() == [-60 * 7 * 64, 60 * 7 * 64]


def test_silent_integer_neurons_are_named():
    g = integers([[20, 40], [20, -60]], dv=4096, vth=np.array([60, 19]))
    (finding,) = silent_neurons(g)
    assert finding.message.startswith(
        "LoihiLIF 'out': 1 of 2 neurons never fire; largest possible u of neuron (0,) = 3840, allowed > vth << 6 = 3840"
    )


def test_host_layers_have_no_findings_but_that():
    """A soft decay, thresholds and weights of the first layer stay real-valued: nothing rounds there."""
    ops = (
        Conv2d(name="c", inputs=("x",), weight=np.array([[[[0.001]]], [[[9.0]]]], np.float32)),
        lif("s", "c", decay=0.9),
        linear("fc", "flat", [[0.3, 0.4]]),
        lif("out", "fc"),
    )
    flat = Flatten(name="flat", inputs=("s",))
    g = SpikingGraph("g", Input("x", (1, 1, 1), "direct"), (*ops[:2], flat, *ops[2:]), Readout("out", "sum"), 2)
    assert {f.check for f in found(g, LOIHI1)} == {"input"}
