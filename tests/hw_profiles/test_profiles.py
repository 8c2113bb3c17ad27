"""The shipped profiles say what their sources say; a bad profile is one line that names the key."""

import math
import re

import pytest

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import LIMITS, TERMS, Figure, HardwareProfile, Limit, Price, Quantity, load, names
from rmp_deploy.ir.ops.loihi import PARAMETER_SPAN
from rmp_deploy.ir.reference_loihi import STATE_LIMIT

GOOD = """
name = "chip"
title = "a chip"
precision = "unstated"
[terms.ac]
value = 5
unit = "pJ"
scope = "per_term"
evidence = "measured"
source = "a paper, Table 1"
"""


def load_text(tmp_path, text):
    path = tmp_path / "chip.toml"
    path.write_text(text)
    return load(path)


def joules(profile):
    return {term: p.joule for term, p in profile.prices.items() if p.status == "priced"}


def test_names():
    assert names() == [
        "cmos22", "cmos45", "cmos45_fp16", "cmos45_int32", "cmos45_int8", "cmos7", "cpu", "darwin3", "gpu", "loihi1",
        "loihi1_sanafe", "loihi2", "odin", "reckon", "seneca", "speck", "spinnaker1", "spinnaker2", "tianjic",
        "truenorth", "xylo",
    ]  # fmt: skip


def test_cmos45():
    """Horowitz 2014, Fig. 1.1.9, fp32: add 0.9 pJ, multiply 3.7 pJ."""
    profile = load("cmos45")
    assert joules(profile) == {
        "mac": 4.6e-12, "ac": 0.9e-12, "bias_add": 0.9e-12, "residual_add": 0.9e-12, "pool_add": 0.9e-12,
        "neuron_multiply": 3.7e-12, "neuron_add": 0.9e-12,
    }  # fmt: skip
    price = profile.prices
    assert price["mac"].joule == pytest.approx(price["neuron_multiply"].joule + price["neuron_add"].joule)
    assert price["mac"].joule / price["ac"].joule == pytest.approx(5.1, abs=0.05)
    unknown = {term for term, p in price.items() if p.status == "unknown"}
    assert unknown == {
        "pool_or", "conversion", "neuron_compare", "reset", "spike", "weight_read", "state_read", "state_write",
    }  # fmt: skip
    assert all(p.figure.evidence == "estimated" for p in price.values() if p.figure)


def test_the_precisions_of_cmos45():
    """Horowitz 2014: an int8 accumulate of 0.03 pJ has an accumulator of 8 bits, and the profile says so."""
    found = {
        name: [load(name).prices[term].joule for term in ("mac", "ac", "neuron_multiply")] for name in names()
        if name.startswith("cmos45")
    }  # fmt: skip
    pj = {"cmos45": (4.6, 0.9, 3.7), "cmos45_fp16": (1.5, 0.4, 1.1), "cmos45_int8": (0.23, 0.03, 0.2)}
    pj["cmos45_int32"] = (3.2, 0.1, 3.1)
    assert found == {name: [value / 1e12 for value in values] for name, values in pj.items()}
    for name, (mac, ac, multiply) in pj.items():
        assert mac == pytest.approx(multiply + ac)
        profile = load(name)
        assert profile.precision == {"cmos45": "fp32"}.get(name, name.removeprefix("cmos45_"))
        assert set(profile.prices) == set(load("cmos45").prices)
        memory = [(m.bytes, m.access_bits, m.price.low, m.price.high) for m in profile.memory]
        assert memory == [(8192, 64, 1e-11, 1e-11), (32768, 64, 2e-11, 2e-11), (1 << 20, 64, 1e-10, 1e-10),
                          (None, 64, 1.3e-9, 2.6e-9)]  # fmt: skip
        assert profile.memory[3].price.joule is None
    assert "accumulator has 8 bits" in " ".join(load("cmos45_int8").notes)


def test_cmos22_and_cmos7():
    """What was only recalled of Jouppi 2021 (int8, fp16 and fp32 adds, int32 multiplies) has no number here."""
    yan = load("cmos22")
    terms = ("ac", "bias_add", "residual_add", "pool_add", "neuron_add", "neuron_compare", "reset")
    assert joules(yan) == dict.fromkeys(terms, 0.05448e-12)
    assert {name: p.joule for name, p in yan.uncounted.items()} == {
        "dense_move_of_a_bit": 0.25e-12, "sparse_move_of_a_bit": 3e-12,
    }  # fmt: skip
    jouppi = load("cmos7")
    adds = dict.fromkeys(("ac", "bias_add", "residual_add", "pool_add", "neuron_add"), 0.03e-12)
    assert joules(jouppi) == {"mac": 0.1e-12, **adds}
    assert jouppi.precision == "int8"
    assert jouppi.prices["neuron_multiply"].status == "unknown"
    assert [m.bytes for m in jouppi.memory] == [8192, 32768, 1 << 20, None, None, None]
    assert [m.price.low * 1e12 for m in jouppi.memory] == pytest.approx([7.5, 8.5, 14, 1300, 250, 350])
    assert [m.price.high * 1e12 for m in jouppi.memory] == pytest.approx([7.5, 8.5, 14, 1300, 450, 480])


def test_loihi1_sanafe_is_calibrated_and_never_called_measured():
    """SANA-FE 2.2.9, arch/loihi.yaml: three kinds of synapses make a range, since counts do not tell them apart."""
    profile = load("loihi1_sanafe")
    assert "calibrated" in profile.title
    ac = profile.prices["ac"]
    assert (ac.joule, ac.low, ac.high) == (None, 24e-12, 35.5e-12)
    assert {term: p.joule for term, p in profile.prices.items() if p.figure and term != "ac"} == {
        "neuron_active": 72.8e-12, "neuron_inactive": 51.2e-12, "spike": 69.3e-12,
    }  # fmt: skip
    assert {name: p.joule for name, p in profile.routing.items()} == {
        "message_out": 111e-12, "message_in": 0, "within_tile": 0, "hop_east_west": 3e-12, "hop_north_south": 4.2e-12,
    }  # fmt: skip
    figures = [p.figure for p in (*profile.prices.values(), *profile.routing.values()) if p.figure]
    assert {f.evidence for f in (*figures, *(b.time for b in profile.barrier))} == {"estimated", "derived"}
    assert {b.tiles: b.time.value for b in profile.barrier} == pytest.approx(
        {1: 6e-7, 2: 1e-6, 4: 1.4e-6, 29: 1.8e-6}, rel=1e-12
    )
    assert profile.limits == load("loihi1").limits  # the same chip
    assert profile.mesh == load("loihi1").mesh


@pytest.mark.parametrize(
    ("name", "scope", "evidence", "low", "high"),
    [
        ("truenorth", "all_in", "measured", 26, 26),
        ("odin", "all_in", "measured", 12.7, 12.7),
        ("darwin3", "per_term", "measured", 5.47, 5.47),
        ("tianjic", "per_term", "estimated", 1.54, 1.54),
        ("reckon", "per_term", "estimated", 5.3, 5.3),
        ("seneca", "per_term", "simulated", 2.8, 2.8),
        ("spinnaker1", "per_term", "estimated", 11_300, 26_600),
        ("spinnaker2", "per_term", "estimated", 10, 450),
        ("cpu", "per_term", "estimated", 8600, 8600),
        ("gpu", "per_term", "estimated", 300, 300),
    ],
)
def test_one_synaptic_operation(name, scope, evidence, low, high):
    """[pJ]; a chip of which nothing says what a multiply costs has no mac, and so no ANN twin."""
    profile = load(name)
    figure = profile.prices["ac"].figure
    assert (figure.scope, figure.evidence) == (scope, evidence)
    assert (figure.low * 1e12, figure.high * 1e12) == pytest.approx((low, high))
    assert (figure.joule is None) == (low != high)
    assert (profile.prices["mac"].joule is not None) == (name in ("cpu", "gpu"))


def test_neuron_updates_of_processors():
    """KerasSpiking 0.3.0: 26 nJ, 2.19 nJ, and on a CPU or GPU the price of an operation."""
    nj = {"spinnaker1": 26, "spinnaker2": 2.19, "cpu": 8.6, "gpu": 0.3}
    for name, value in nj.items():
        prices = load(name).prices
        assert prices["neuron_active"].joule == prices["neuron_inactive"].joule == value / 1e9


def test_keyword_spotting_as_measured():
    """Blouw 2018: (running - idle power) / inferences per second is the published energy, to its printed digits."""
    published = {"gpu": (22.86, 770.39, 0.0298), "cpu": (11.47, 1813.63, 0.0063), "loihi1": (0.081, 296, 0.00027)}
    for name, (watts, rate, joule) in published.items():
        task = {key: w.figure.value for key, w in load(name).whole_task.items()}
        dynamic = task["keyword_running_power"] - task["keyword_idle_power"]
        assert dynamic == pytest.approx(watts)
        assert task["keyword_time"] == pytest.approx(1 / rate, rel=1e-4)
        assert task["keyword_energy"] == pytest.approx(joule)
        assert dynamic * task["keyword_time"] == pytest.approx(joule, rel=0.015)  # two digits


@pytest.mark.parametrize("name", ["xylo", "speck"])
def test_whole_tasks_are_no_prices(name):
    profile = load(name)
    assert joules(profile) == {}
    assert profile.whole_task
    assert profile.limits["weight_bits"].value == 8


def test_loihi1():
    """Davies 2018, Table 2, and the chip's sizes."""
    profile = load("loihi1")
    assert joules(profile) == {"ac": 23.6e-12, "neuron_active": 81e-12, "neuron_inactive": 52e-12, "spike": 1.7e-12}
    assert {term for term, p in profile.prices.items() if p.status == "unknown"} == {
        "mac", "residual_add", "pool_add", "pool_or", "conversion",
    }  # fmt: skip
    assert all(p.figure.evidence == "simulated" for p in profile.prices.values() if p.figure)
    assert {name: p.joule for name, p in profile.uncounted.items()} == {"stdp_update": 120e-12}
    routing = profile.routing
    assert (routing["hop_east_west"].joule, routing["hop_north_south"].joule) == (3e-12, 4e-12)
    assert routing["within_tile"].included_in == ("spike",)  # 1.7 pJ, priced there: not twice
    assert (routing["message_out"].status, routing["message_in"].status) == ("unknown", "unknown")
    assert [profile.mesh[n].value for n in ("mesh_rows", "mesh_columns", "cores_per_tile")] == [4, 8, 4]
    assert math.prod(size.value for size in profile.mesh.values()) == profile.limits["cores"].value
    assert {name: q.value for name, q in profile.latency.items() if q.value} == pytest.approx({
        "ac": 3.5e-9, "neuron_active": 8.4e-9, "neuron_inactive": 5.3e-9, "within_tile": 2.1e-9,
        "hop_east_west": 4.1e-9, "hop_north_south": 6.5e-9,
    }, rel=1e-12, abs=0)  # fmt: skip
    assert {b.tiles: b.time.value for b in profile.barrier} == pytest.approx({1: 113e-9, 32: 465e-9}, rel=1e-12)
    assert profile.static["chip"].value == 0.104
    core = profile.static["core"]
    assert (core.value, core.low, core.high, core.evidence) == (None, 0, 0.82e-3, "derived")
    assert {name: limit.value for name, limit in profile.limits.items()} == {
        "cores": 128, "neurons_per_core": 1024, "input_axons_per_core": 4096, "output_axons_per_core": 4096,
        "synapse_memory_per_core": 131072, "synapses_per_core": 8 * 131072, "thresholds_per_core": 8, "weight_bits": 9,
        "delay_steps": 62, "decay_bits": 12, "threshold_bits": 17, "bias_bits": 13, "state_bits": 24,
        "graded_spike_bits": 0,
    }  # fmt: skip


def test_loihi2_has_limits_and_no_energy():
    profile = load("loihi2")
    assert {p.status for p in profile.prices.values()} == {"unknown"}
    assert {name: limit.value for name, limit in profile.limits.items()} == {
        "cores": 128, "neurons_per_core": 8192, "input_axons_per_core": None, "output_axons_per_core": None,
        "synapse_memory_per_core": None, "synapses_per_core": 937_500, "thresholds_per_core": None, "weight_bits": 8,
        "delay_steps": None, "decay_bits": 12, "threshold_bits": 17, "bias_bits": 13, "state_bits": 24,
        "graded_spike_bits": 32,
    }  # fmt: skip
    assert 128 * 937_500 == 120_000_000


def test_the_widths_are_those_of_our_integer_ops():
    """What a LoihiLIF can hold is what the profiles say that the chips hold."""
    for name in ("loihi1", "loihi2"):
        limits = load(name).limits
        for what, parameter in (("decay_bits", "du"), ("threshold_bits", "vth")):
            assert PARAMETER_SPAN[parameter][1] == 2 ** limits[what].value - 1
        assert PARAMETER_SPAN["bias_mant"] == (-(2 ** (limits["bias_bits"].value - 1)), 4095)
        assert 2 ** (limits["state_bits"].value - 1) == STATE_LIMIT


@pytest.mark.parametrize("name", names())
def test_every_shipped_entry_explains_itself(name):
    profile = load(name)
    assert profile.name == name
    assert profile.title
    assert profile.notes
    assert set(profile.prices) == set(TERMS)
    assert set(profile.limits) == set(LIMITS)
    for price in profile.prices.values():
        assert price.why != "not in the profile"
        assert price.why if price.figure is None else re.search(r"20\d\d|\d\.\d\.\d", price.figure.source)
    for part in (*profile.routing.values(), *profile.static.values(), *profile.latency.values()):
        assert part.low is not None or part.why
    for task in profile.whole_task.values():
        assert task.what and task.figure.evidence and task.figure.source
    assert (profile.precision == "unstated") == (profile.precision_source == "")
    if any(limit.value is not None for limit in profile.limits.values()):
        assert "not in the profile" not in {limit.why for limit in profile.limits.values()}
    for limit in profile.limits.values():
        assert limit.why if limit.value is None else limit.source and limit.evidence


def test_a_path_works_and_what_a_profile_leaves_out_is_unknown(tmp_path):
    profile = load_text(tmp_path, GOOD)
    assert joules(profile) == {"ac": 5e-12}
    assert profile.prices["mac"] == Price(why="not in the profile")
    assert profile.prices["mac"].joule is None
    assert (profile.limits["cores"].value, profile.limits["cores"].why) == (None, "not in the profile")
    assert load_text(tmp_path, GOOD + CORES).limits["cores"] == Limit(2, "core", "chip", "published", "s")
    profile = load_text(tmp_path, GOOD)
    assert load(str(tmp_path / "chip.toml")) == profile


@pytest.mark.parametrize(("unit", "joule"), [("J", 5), ("nJ", 5e-9), ("pJ", 5e-12), ("fJ", 5e-15)])
def test_units(tmp_path, unit, joule):
    assert load_text(tmp_path, GOOD.replace('"pJ"', f'"{unit}"')).prices["ac"].joule == pytest.approx(joule, rel=1e-15)


def test_a_true_zero_is_not_unknown(tmp_path):
    price = load_text(tmp_path, GOOD.replace("value = 5", "value = 0.0")).prices["ac"]
    assert (price.joule, price.status) == (0.0, "priced")


def test_ranges_and_the_optional_tables(tmp_path):
    extra = HOP.replace("value = 1", "min = 1\nmax = 2") + SRAM + CHIP + BARRIER + TASK
    rest = '[terms]\nunlisted = "not published"\n' + GOOD.partition("[terms.ac]")[1] + GOOD.partition("[terms.ac]")[2]
    profile = load_text(tmp_path, GOOD.partition("[terms.ac]")[0] + rest + extra)
    hop = profile.routing["hop_east_west"]
    assert (hop.joule, hop.low, hop.high, hop.status) == (None, 1e-12, 2e-12, "priced")
    assert profile.prices["mac"].why == "not published"
    assert profile.prices["ac"].joule == 5e-12
    (sram,) = profile.memory
    assert (sram.name, sram.bytes, sram.access_bits, sram.price.joule) == ("SRAM", 8192, 64, 1e-12)
    assert (profile.static["chip"].value, profile.static["chip"].unit) == (3e-3, "W")
    assert profile.static["core"] == Quantity(None, "W", why="not in the profile")
    (barrier,) = profile.barrier
    assert (barrier.tiles, barrier.time.value) == (4, 1.4e-6)
    task = profile.whole_task["word"]
    assert (task.what, task.figure.value, task.figure.unit) == ("a word", 6.6 / 1e6, "J")
    equal = load_text(tmp_path, GOOD.replace("value = 5", "min = 5\nmax = 5")).prices["ac"]
    assert equal.joule == 5e-12  # a range of one point is a point


CORES = '[limits.cores]\nvalue = 2\nunit = "core"\nscope = "chip"\nevidence = "published"\nsource = "s"\n'
HOP = '[routing.hop_east_west]\nvalue = 1\nunit = "pJ"\nscope = "per_term"\nevidence = "measured"\nsource = "s"\n'
SRAM = '[[memory]]\nname = "SRAM"\nbytes = 8192\naccess_bits = 64\n' + HOP.partition("\n")[2]
CHIP = '[static.chip]\nvalue = 3\nunit = "mW"\nevidence = "measured"\nsource = "s"\n'
BARRIER = '[[latency.barrier]]\ntiles = 4\nvalue = 1.4\nunit = "us"\nevidence = "simulated"\nsource = "s"\n'
TASK = '[whole_task.word]\nwhat = "a word"\nvalue = 6.6\nunit = "uJ"\nevidence = "measured"\nsource = "s"\n'
MAC_ALL_IN = '[terms.mac]\nvalue = 1\nunit = "pJ"\nscope = "all_in"\nevidence = "measured"\nsource = "s"\n'
BAD = {
    "unknown key": (GOOD + "price = 3\n", r"terms\.ac: unknown key 'price', allowed value, unit"),
    "unknown term": (
        GOOD + '[terms.gpu]\nvalue = "unknown"\nwhy = "w"\n',
        r"terms: unknown key 'gpu', allowed mac, ac",
    ),
    "unknown top key": ('colour = "red"\n' + GOOD, r"unknown key 'colour', allowed name, title, precision, terms"),
    "negative": (GOOD.replace("= 5", "= -1"), r"terms\.ac: value = -1 pJ, allowed 0\.\."),
    "nan": (GOOD.replace("= 5", "= nan"), r"value = nan pJ"),
    "infinite": (GOOD.replace("= 5", "= inf"), r"value = inf pJ"),
    "boolean": (GOOD.replace("= 5", "= true"), r"value = True pJ"),
    "text": (GOOD.replace("= 5", '= "5"'), r"value = '5' pJ, allowed .*unknown"),
    "huge": (GOOD.replace("= 5", "= 0x" + "f" * 9000), r"value = .{1,60} pJ"),
    "more digits than an int may have": (GOOD.replace("= 5", "= " + "9" * 9000), "not TOML"),
    "unknown unit": (GOOD.replace('"pJ"', '"kWh"'), r"unit = 'kWh', allowed one of J, mJ, uJ, nJ, pJ, fJ"),
    "unit is a list": (GOOD.replace('"pJ"', "[[]]"), r"unit = \[\[\]\], allowed one of J"),
    "unknown scope": (GOOD.replace('"per_term"', '"total"'), r"scope = 'total', allowed one of per_term, all_in"),
    "unknown evidence": (
        GOOD.replace('"measured"', '"rumour"'),
        r"evidence = 'rumour', allowed one of measured, simulated",
    ),
    "empty source": (GOOD.replace('"a paper, Table 1"', '" "'), r"source = ' ', allowed a text"),
    "unknown without why": (GOOD + '[terms.mac]\nvalue = "unknown"\n', r"terms\.mac: key 'why' is missing"),
    "unknown with a unit": (
        GOOD + '[terms.mac]\nvalue = "unknown"\nwhy = "w"\nunit = "pJ"\n',
        r"terms\.mac: unknown key 'unit', allowed value, why",
    ),
    "mixed scopes": (GOOD + MAC_ALL_IN, r"mac is all_in and ac is per_term, allowed one scope"),
    "two all-in figures": (GOOD.replace("per_term", "all_in") + MAC_ALL_IN, r"all_in terms = mac, ac, allowed 1"),
    "included in nothing": (GOOD + '[terms.mac]\nincluded_in = []\nwhy = "w"\n', r"included_in = \[\], allowed a list"),
    "included in a stranger": (GOOD + '[terms.mac]\nincluded_in = ["x"]\nwhy = "w"\n', r"included_in = \['x'\]"),
    "included in a list": (GOOD + '[terms.mac]\nincluded_in = [["ac"]]\nwhy = "w"\n', r"included_in = \[\['ac'\]\]"),
    "included in an unknown": (
        GOOD + '[terms.mac]\nincluded_in = ["spike"]\nwhy = "w"\n',
        r"terms\.mac\.included_in = \['spike'\], allowed terms with a figure",
    ),
    "included in itself": (GOOD + '[terms.mac]\nincluded_in = ["mac", "ac"]\nwhy = "w"\n', r"terms\.mac\.included_in"),
    "included and priced": (GOOD + 'included_in = ["mac"]\nwhy = "w"\n', r"terms\.ac: unknown key 'value'"),
    "term is a number": (
        'name = "c"\ntitle = "t"\nprecision = "int8"\nprecision_source = "s"\n[terms]\nac = 5\n',
        r"terms\.ac: value = 5, allowed a table",
    ),
    "no terms": ('name = "c"\ntitle = "t"\nprecision = "unstated"\n', r"key 'terms' is missing"),
    "no name": (GOOD.replace('name = "chip"', ""), r"key 'name' is missing"),
    "notes are a text": ('notes = "n"\n' + GOOD, r"notes = 'n', allowed a list"),
    "deep nesting": (GOOD.replace('name = "chip"', "name." + "a." * 2000 + "b = 1"), r"name = \{'a': "),
    "unknown limit": (GOOD + CORES.replace("cores", "wings"), r"limits: unknown key 'wings', allowed cores, neurons"),
    "limit unit": (GOOD + CORES.replace('"core"', '"pJ"'), r"limits\.cores: unit = 'pJ', allowed core"),
    "limit scope": (GOOD + CORES.replace("chip", "core"), r"limits\.cores: scope = 'core', allowed chip"),
    "limit evidence": (
        GOOD + CORES.replace("published", "rumour"),
        r"cores: evidence = 'rumour', allowed one of published, software, secondary, derived",
    ),
    "limit of 0": (GOOD + CORES.replace("2", "0"), r"cores: value = 0, allowed an integer >= 1"),
    "negative limit": (GOOD + CORES.replace("2", "-3"), r"cores: value = -3, allowed an integer >= 1"),
    "negative spike bits": (
        GOOD
        + CORES.replace("cores", "graded_spike_bits")
        .replace("core", "bit")
        .replace("chip", "spike")
        .replace("2", "-1"),
        r"graded_spike_bits: value = -1, allowed an integer >= 0",
    ),
    "more bits than a machine word": (
        GOOD + CORES.replace("cores", "state_bits").replace("core", "bit").replace("chip", "neuron").replace("2", "65"),
        r"state_bits: value = 65, allowed an integer >= 1 and <= 64",
    ),
    "limit with a fraction": (GOOD + CORES.replace("2", "2.5"), r"cores: value = 2\.5, allowed an integer"),
    "huge limit": (GOOD + CORES.replace("2", "0x" + "f" * 9000), r"cores: value = .{1,60}, allowed an integer"),
    "limit is a number": (GOOD + "[limits]\ncores = 2\n", r"limits\.cores: value = 2, allowed a table"),
    "unknown limit without why": (GOOD + '[limits.cores]\nvalue = "unknown"\n', r"limits\.cores: key 'why' is missing"),
    **{
        f"limit without {key}": (
            GOOD + "".join(x + "\n" for x in CORES.splitlines() if not x.startswith(key)),
            rf"limits\.cores: key '{key}' is missing",
        )
        for key in ("value", "unit", "scope", "evidence", "source")
    },
    "no precision": (GOOD.replace('precision = "unstated"', ""), r"key 'precision' is missing"),
    "precision of no kind": (
        GOOD.replace('"unstated"', '"float"\nprecision_source = "s"'),
        r"precision = 'float', allowed fp, bf or int and bits \(fp32, int8\), or unstated",
    ),
    "precision without a source": (GOOD.replace("unstated", "int8"), r"precision_source = '', allowed a text"),
    "min without max": (GOOD.replace("value = 5", "min = 5"), r"terms\.ac: key 'max' is missing"),
    "min, max and value": (GOOD + "min = 1\nmax = 2\n", r"terms\.ac: unknown key 'value', allowed min, max, unit"),
    "min above max": (GOOD.replace("value = 5", "min = 5\nmax = 4"), r"ac: min = 5 pJ, allowed at most max = 4 pJ"),
    "negative min": (GOOD.replace("value = 5", "min = -5\nmax = 4"), r"terms\.ac: min = -5 pJ, allowed 0\.\."),
    "infinite max": (GOOD.replace("value = 5", "min = 5\nmax = inf"), r"terms\.ac: max = inf pJ, allowed 0\.\."),
    "a hop beside all-in": (
        GOOD.replace("per_term", "all_in") + HOP,
        r"routing\.hop_east_west has a figure and ac is all_in, allowed none beside an all-in figure",
    ),
    "a fetch beside all-in": (
        GOOD.replace("per_term", "all_in") + SRAM,
        r"memory 'SRAM' has a figure and ac is all_in",
    ),
    "static power beside all-in": (GOOD.replace("per_term", "all_in") + CHIP, r"static\.chip has a figure and ac is"),
    "an all-in hop": (
        GOOD + HOP.replace("per_term", "all_in"),
        r"routing\.hop_east_west: scope = 'all_in', allowed per",
    ),
    "an unknown route": (GOOD + HOP.replace("east_west", "up"), r"routing: unknown key 'hop_up', allowed message_out"),
    "a hop in an unknown": (
        GOOD + '[routing.message_in]\nincluded_in = ["spike"]\nwhy = "w"\n',
        r"routing\.message_in\.included_in = \['spike'\], allowed terms with a figure",
    ),
    "half a row of tiles": (
        GOOD + CORES.replace("limits.cores", "routing.mesh_rows").replace("= 2", "= 2.5").replace('"core"', '"tile"'),
        r"routing\.mesh_rows: value = 2\.5, allowed an integer",
    ),
    "memory without a size": (GOOD + SRAM.replace("bytes = 8192\n", ""), r"memory\[0\]: key 'bytes' is missing"),
    "memory of no bytes": (GOOD + SRAM.replace("8192", "0"), r'bytes = 0, allowed an integer >= 1 .* or "off_chip"'),
    "memory is a table": (
        GOOD + SRAM.replace("[[memory]]", "[memory]"),
        r"memory: value = .* allowed an array of tables",
    ),
    "power in joules": (
        GOOD + CHIP.replace('"mW"', '"mJ"'),
        r"static\.chip: unit = 'mJ', allowed one of W, mW, uW, nW",
    ),
    "power of a wing": (GOOD + CHIP.replace("chip", "wing"), r"static: unknown key 'wing', allowed chip, core"),
    "a time in watts": (GOOD + BARRIER.replace('"us"', '"W"'), r"barrier\[0\]: unit = 'W', allowed one of s, ms, us"),
    "a barrier of no tiles": (
        GOOD + BARRIER.replace("tiles = 4", "tiles = 0"),
        r"barrier\[0\]: tiles = 0, allowed an int",
    ),
    "two barriers of one size": (
        GOOD + BARRIER + BARRIER,
        r"barriers of 4 and 4 tiles, allowed more tiles and no less",
    ),
    "a barrier that falls with the tiles": (
        GOOD + BARRIER + BARRIER.replace("tiles = 4", "tiles = 1").replace("value = ", "value = 9"),
        r"barriers of 1 and 4 tiles, allowed more tiles and no less time",
    ),
    "a mesh that no machine numbers": (
        GOOD
        + CORES.replace("limits.cores", "routing.mesh_rows").replace("= 2", "= 1048577").replace('"core"', '"tile"'),
        r"routing\.mesh_rows: value = 1048577, allowed an integer >= 1 and <= 1\.04858e\+06",
    ),
    "less than a number can be": (
        GOOD.replace("= 5", "= 1e-400"),
        r"number = '1e-400', allowed 0 or what is not rounded",
    ),
    "less than a joule can be": (
        GOOD.replace("= 5", "= 1e-320").replace('"pJ"', '"fJ"'),
        r"terms\.ac: value = 1e-320 fJ, allowed 0 or what is not rounded to it",
    ),
    "a task of nothing": (GOOD + TASK.replace('what = "a word"', ""), r"whole_task\.word: what = None, allowed a text"),
    "a task in bits": (GOOD + TASK.replace('"uJ"', '"bit"'), r"whole_task\.word: unit = 'bit', allowed one of J, mJ"),
    "unlisted without words": (GOOD + '[routing]\nunlisted = ""\n', r"routing: unlisted = '', allowed a text"),
    "a terminal's orders": ('notes = ["\\u001b[2J"]\n' + GOOD, r"notes = '\\x1b\[2J', allowed a text"),
    "strange name": (GOOD + '[uncounted."a\\nb"]\nvalue = "unknown"\nwhy = "w"\n', r"uncounted: name = 'a\\nb'"),
    "not TOML": ("name = = 3", r"not TOML \(.*\)"),
    **{
        f"{key} missing": (
            "\n".join(x for x in GOOD.splitlines() if not x.startswith(key)),
            rf"ac: key '{key}' is miss",
        )
        for key in ("value", "unit", "scope", "evidence", "source")
    },
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_profile_is_one_line(tmp_path, text, message):
    with pytest.raises(RmpDeployError, match=message) as info:
        load_text(tmp_path, text)
    said = str(info.value)
    assert said.startswith("profile ")
    assert "\n" not in said
    assert len(said) < 600


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(RmpDeployError, match=r"profile .*none\.toml: file = No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(RmpDeployError, match="file = Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["a\0b.toml", "a\nb.toml", "a\udcffb.toml"])
def test_a_path_that_no_file_can_have_is_one_line(tmp_path, name):
    with pytest.raises(RmpDeployError, match=r"profile .*: file = .*, allowed a readable TOML file") as info:
        load(tmp_path / name)
    assert str(info.value).isprintable()


def test_barriers_may_stay_as_they_are_and_stand_in_any_order(tmp_path):
    text = GOOD + BARRIER + BARRIER.replace("tiles = 4", "tiles = 1")
    assert [b.tiles for b in load_text(tmp_path, text).barrier] == [4, 1]


def test_not_text_and_too_large(tmp_path):
    path = tmp_path / "chip.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RmpDeployError, match="not TOML") as info:
        load(path)
    assert "\n" not in str(info.value)
    path.write_bytes(b"#" * (1 << 17))
    with pytest.raises(RmpDeployError, match="size > 65536 bytes"):
        load(path)


@pytest.mark.parametrize("name", ["loihi7", "", "toml"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(RmpDeployError, match=rf"profile '{name}': unknown name, allowed cmos22, cmos45, .* or a path"):
        load(name)


def test_a_profile_built_in_python_is_held_to_the_same_rules():
    figures = {"ac": Figure(1e-12, "per_term", "measured", "s"), "mac": Figure(1e-12, "all_in", "measured", "s")}
    with pytest.raises(RmpDeployError, match="allowed one scope"):
        HardwareProfile("p", "t", {term: Price(figure) for term, figure in figures.items()})
    with pytest.raises(RmpDeployError, match=r"low, high = 2e-12, 1e-12 J, allowed 0 <= low <= high"):
        Figure(None, "per_term", "measured", "s", 2e-12, 1e-12)
    with pytest.raises(RmpDeployError, match=r"low, high = nan, nan J, allowed"):
        Figure(None, "per_term", "measured", "s")
    with pytest.raises(RmpDeployError, match=r"low, high = -1e-12, -1e-12 J"):
        Figure(-1e-12, "per_term", "measured", "s")
    with pytest.raises(RmpDeployError, match=r"precision = 'double', allowed"):
        HardwareProfile("p", "t", {}, precision="double")
