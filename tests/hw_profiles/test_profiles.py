"""The shipped profiles say what their sources say; a bad profile is one line that names the key."""

import pytest

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles import LIMITS, TERMS, Figure, HardwareProfile, Limit, Price, load, names
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
    assert names() == ["cmos45", "loihi1", "loihi2"]


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


def test_loihi1():
    """Davies 2018, Table 2, and the chip's sizes."""
    profile = load("loihi1")
    assert joules(profile) == {"ac": 23.6e-12, "neuron_active": 81e-12, "neuron_inactive": 52e-12, "spike": 1.7e-12}
    assert {term for term, p in profile.prices.items() if p.status == "unknown"} == {
        "mac", "residual_add", "pool_add", "pool_or", "conversion",
    }  # fmt: skip
    assert all(p.figure.evidence == "simulated" for p in profile.prices.values() if p.figure)
    assert {name: p.joule for name, p in profile.uncounted.items()} == {"stdp_update": 120e-12}
    assert (profile.routing["hop_east_west"].joule, profile.routing["hop_north_south"].joule) == (3e-12, 4e-12)
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
        assert price.why if price.figure is None else "doi" in price.figure.source
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


CORES = '[limits.cores]\nvalue = 2\nunit = "core"\nscope = "chip"\nevidence = "published"\nsource = "s"\n'
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
    with pytest.raises(
        RmpDeployError, match=rf"profile '{name}': unknown name, allowed cmos45, loihi1, loihi2 or a path"
    ):
        load(name)


def test_a_profile_built_in_python_is_held_to_the_same_rules():
    figures = {"ac": Figure(1e-12, "per_term", "measured", "s"), "mac": Figure(1e-12, "all_in", "measured", "s")}
    with pytest.raises(RmpDeployError, match="allowed one scope"):
        HardwareProfile("p", "t", {term: Price(figure) for term, figure in figures.items()})
