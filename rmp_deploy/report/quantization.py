"""What quantization did, for the terminal: the answer first, a row per synapse, a row per layer of neurons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmp_deploy.report.text import CODINGS, MISSING, fixed, number, percent, plural, printable

Section = dict[str, Any]

NOTED = 0.01  # a rounding error of a threshold beyond it deserves a word


def headline(section: Section) -> str:
    """``accuracy 98.6 % in floats, 98.6 % in integers, 99.6 % of spikes agree``"""
    neurons = [layer["neuron"] for layer in section["layers"] if layer["neuron"] is not None]
    parts = []
    if scored := section["accuracy"]:
        both = f"{percent(scored['float'])} in floats, {percent(scored['integer'])} in integers"
        both += f", {percent(scored['fine_tuned'])} fine-tuned" if "fine_tuned" in scored else ""
        parts.append(f"accuracy {both} ({plural(scored['samples'], 'sample')})")
    if neurons:
        same = 1 - sum(n["mismatches"] for n in neurons) / sum(n["compared"] for n in neurons)
        parts.append(f"{percent(same)} of spikes agree")
    return ", ".join(parts) or "quantized"


def render(section: Section, console: Console) -> None:
    """Print the headline, both tables, and what deserves a word."""
    section = printable(section)
    console.print(Text(headline(section), "bold"), soft_wrap=True)
    bits = f" ({section['message_bits']} bits)" if section["message_bits"] else ""
    console.print(Text(f"input: {CODINGS[section['input_coding']]}{bits}"), soft_wrap=True)
    console.print(f"\nWeights: {plural(sum(1 for _ in _synapses(section)), 'synapse')}")
    console.print(_weights(section))
    console.print(f"Neurons: {plural(section['calibration_samples'], 'calibration sample')}")
    console.print(_neurons(section))
    for note in _notes(section):
        console.print(Text(note), soft_wrap=True)


def _weights(section: Section) -> Table:
    table = _table(("synapse",), ("bits", "exponent", "signs", "clipped", "rms error", "relative"))
    for synapse in _synapses(section):
        bits, exponent, clipped = (f"{synapse[key]:,}" for key in ("weight_bits", "weight_exp", "clipped"))
        errors = (number(synapse["rms_error"]), _small(synapse["relative_error"]))
        table.add_row(*(Text(c) for c in (synapse["name"], bits, exponent, synapse["sign_mode"], clipped, *errors)))
    return table


def _neurons(section: Section) -> Table:
    columns = ("scale", "vth", "firing rate", "integer", "agree alone", "agree")
    table = _table(("layer",), columns)
    for layer in section["layers"]:
        cells = [layer["name"], number(layer["scale"], 5)]
        if (neuron := layer["neuron"]) is not None:
            cells += [f"{neuron['vth']:,}", percent(neuron["rate_float"]), percent(neuron["rate"])]
            cells += [_small(neuron["forced_agreement"]), _small(neuron["agreement"])]
        else:
            cells += ["readout", MISSING, MISSING, MISSING, f"error {_small(layer['output_error'])}"]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _notes(section: Section) -> Iterator[str]:
    if tuning := section["fine_tuning"]:
        first, kept = tuning["epochs"][0], tuning["epochs"][tuning["kept"]]
        losses = f"loss {number(first['held_out_loss'])} before, {number(kept['held_out_loss'])} after"
        held_out = f"{plural(tuning['held_out'], 'sample')} held out"
        yield f"fine-tuned on {tuning['trained']:,}, {held_out}: {losses}; the tables show the layers before it"
    yield "agree alone: the layer gets the float network's spikes; agree: the whole network runs in integers"
    for layer in section["layers"]:
        neuron = layer["neuron"]
        if neuron is None:
            continue
        for what, said in (("wraps", "currents wrapped"), ("saturations", "potentials saturated")):
            if neuron[what]:
                yield f"{layer['name']}: {neuron[what]:,} {said} at 24 bits"
        if abs(error := neuron["threshold_error"]) > NOTED:
            why = f"(vth = {neuron['vth']:,} is a whole number)"
            yield f"{layer['name']}: the threshold is off by {100 * error:+.1f} % {why}"
        if neuron["decay_error"] > 0:
            yield f"{layer['name']}: a decay is off by {number(neuron['decay_error'])} (it is k/4096 on the chip)"
        if neuron["bias_shift"] > 0:
            yield f"{layer['name']}: biases moved by up to {fixed(neuron['bias_shift'])} of the threshold"
    if section["unknown_limits"]:
        yield f"unknown to profile {section['profile']}, not checked: {', '.join(section['unknown_limits'])}"


def _synapses(section: Section) -> Iterator[Section]:
    for layer in section["layers"]:
        yield from layer["synapses"]


def _small(value: float | None) -> str:
    """A part of one in percent, with the digits that a loss of a thousandth needs."""
    return MISSING if value is None else f"{100 * value:.2f} %"


def _table(words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in words:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right")
    return table
