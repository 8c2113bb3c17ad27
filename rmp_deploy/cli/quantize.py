"""Quantize a file to Loihi's integers, with the loss of every layer measured."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from rmp_deploy.analysis.precision import REMEDY, excess_errors
from rmp_deploy.cli.common import (
    add_data,
    add_file,
    batches,
    check_output,
    check_samples,
    console,
    correct,
    load_data,
    print_json,
    progress,
)
from rmp_deploy.cli.fine_tune import fine_tuned, load_splits
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.files import target_of
from rmp_deploy.hw_profiles import HardwareProfile
from rmp_deploy.hw_profiles import load as load_profile
from rmp_deploy.ir import onnx_io
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.ops import Quantize
from rmp_deploy.ir.ops.loihi import WEIGHT_BITS
from rmp_deploy.passes.quantize import INPUT_CODINGS, LayerResult, Quantized, quantize
from rmp_deploy.passes.quantize.network import MESSAGE_BITS
from rmp_deploy.report.json import Section
from rmp_deploy.report.quantization import render
from rmp_deploy.training.data import Samples

SAMPLES = 256
CALIBRATION = 64  # of them, the first
CALIBRATION_VALUES = 2**26  # spikes that all layers send then at most: of large networks fewer samples do
GOLDEN_SAMPLES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_file(parser)
    parser.add_argument("--profile", required=True, metavar="P", help="a name or a .toml: limits that must hold")
    add_data(parser, at_most=SAMPLES)
    parser.add_argument(
        "--weight-bits",
        nargs="+",
        default=[str(WEIGHT_BITS)],
        metavar="BITS",
        help=f"of all weights, or synapse=bits ... (others have {WEIGHT_BITS})",
    )
    parser.add_argument("--input", choices=INPUT_CODINGS, default="host", help="who encodes real samples")
    tune = "train the integers on the data's training split for so many epochs; accuracy is of the other split"
    parser.add_argument("--fine-tune", type=int, metavar="EPOCHS", help=tune)
    parser.add_argument("-o", "--out", required=True, metavar="FILE.onnx", help="the file to write")


def run(args: argparse.Namespace) -> int:
    check_output(args.out, ".onnx")
    if target_of(args.out) == Path(os.path.realpath(args.file)):
        what = f"--out = '{args.out}', allowed another file than the float one"
        raise RmpDeployError(f"quantize: {what}. Give it a name of its own.")
    profile, weight_bits = load_profile(args.profile), _weight_bits(args.weight_bits)
    _check_options(profile, weight_bits, args.input)
    graph = onnx_io.load(args.file)
    _check_limits(graph, profile)  # what is fed in
    train, samples = (None, load_data(args, graph)) if args.fine_tune is None else load_splits(args, graph)
    check_samples(graph, samples)
    calibration = samples.x if train is None else train.x  # none that accuracy is reported of, where there are others
    values = graph.T * sum(math.prod(graph.shapes[op.name]) for op in graph.spiking)
    n = max(1, min(CALIBRATION, CALIBRATION_VALUES // values))
    with progress() as bar:
        task = bar.add_task("quantize", total=None)

        def show(done: Sequence[LayerResult], layers: int) -> None:
            bar.update(task, completed=len(done), total=layers)

        found = quantize(graph, calibration[:n], weight_bits, args.input, show, _message_bits(profile))
    _check_limits(found.graph, profile)
    graphs, tuning = {"float": graph, "integer": found.graph}, None
    if train is not None:
        graphs["fine_tuned"], tuning = fine_tuned(found, train, args.fine_tune)
        _check_limits(graphs["fine_tuned"], profile)
    accuracy, integer = _accuracy(graphs, samples), graphs.get("fine_tuned", found.graph)
    path = onnx_io.save(integer, args.out, golden=samples.x[:GOLDEN_SAMPLES])
    section = {**_section(found, profile, accuracy, path), "fine_tuning": tuning}
    if args.json:
        print_json(section)
    else:
        render(section, Console(highlight=False, markup=False, emoji=False))
        console().print(f"file: {path} ({section['bytes']:,} bytes)")
    return 0


def _weight_bits(given: Sequence[str]) -> int | dict[str, int]:
    """``8``, or ``conv1=6 fc1=4``."""
    pairs = [text.rpartition("=") for text in given]
    if not all(bits.isdecimal() and len(bits) < 3 for _, _, bits in pairs):
        wrong = next(
            text for text, (_, _, bits) in zip(given, pairs, strict=True) if not (bits.isdecimal() and len(bits) < 3)
        )
        raise RmpDeployError(f"quantize: --weight-bits = '{wrong}', allowed BITS or synapse=BITS. Correct it.")
    if len(pairs) == 1 and not pairs[0][1]:
        return int(pairs[0][2])
    names = [name for name, _, _ in pairs]
    if "" in names or len(set(names)) < len(names):
        what = f"--weight-bits = '{' '.join(given)}'"
        raise RmpDeployError(f"quantize: {what}, allowed one BITS, or synapse=BITS once per synapse. Correct it.")
    return {name: int(bits) for name, _, bits in pairs}


def _check_options(profile: HardwareProfile, weight_bits: int | dict[str, int], coding: str) -> None:
    """Refuse, before the work, what the profile cannot have."""
    most = weight_bits if isinstance(weight_bits, int) else max(weight_bits.values())
    allowed = profile.limits["weight_bits"].value
    if allowed is not None and most > allowed:
        what = f"--weight-bits = {most}, allowed {allowed} [{profile.name}]"
        raise RmpDeployError(f"quantize: {what}. {REMEDY['weight_bits']}.")
    if coding == "graded" and profile.limits["graded_spike_bits"].value == 0:
        what = f"--input = graded, allowed host: graded_spike_bits = 0 [{profile.name}]"
        raise RmpDeployError(f"quantize: {what}. {REMEDY['graded_spike_bits']}.")


def _message_bits(profile: HardwareProfile) -> int:
    """Of a graded input, at most."""
    allowed = profile.limits["graded_spike_bits"].value
    return min(MESSAGE_BITS, int(allowed)) if allowed else MESSAGE_BITS  # 0: nothing is graded, `_check_options`


def _check_limits(graph: SpikingGraph, profile: HardwareProfile) -> None:
    """Raise what the network has more of than the profile has."""
    for error in excess_errors(graph, profile):
        raise error


def _accuracy(graphs: dict[str, SpikingGraph], samples: Samples) -> Section | None:
    """How many of the samples each network gets right, on ONNX Runtime; None without labels."""
    if samples.y is None:
        return None
    right: dict[str, float] = {}
    for name, graph in graphs.items():
        hits, done = 0, 0
        for x, trace in batches(graph, samples.x, "onnxruntime", ()):
            hits += correct(trace, samples.y[done : done + len(x)]) or 0
            done += len(x)
        right[name] = hits / done
    return {"samples": len(samples.x), **right}


def _section(found: Quantized, profile: HardwareProfile, accuracy: Section | None, path: Path) -> Section:
    layers = []
    for layer in found.layers:
        section = asdict(layer)
        if layer.neuron is not None:
            section["neuron"] |= {
                "agreement": layer.neuron.agreement,
                "forced_agreement": layer.neuron.forced_agreement,
            }
        layers.append(section)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "profile": profile.name,
        "unknown_limits": [limit for limit in REMEDY if profile.limits[limit].value is None],
        "input_coding": found.input_coding,
        "message_bits": next((op.message_bits for op in found.graph.of_type(Quantize)), None),
        "calibration_samples": found.samples,
        "accuracy": accuracy,
        "layers": layers,
    }
