"""What Loihi's integers cost in accuracy: digits and Fashion-MNIST, trained with and without RMP-Loss.

The networks are examples/{digits,fashion}.onnx and benchmarks/networks/*_no_rmp.onnx; the quantizer sees training
images alone. All run on ONNX Runtime, whose integers tests/parity/test_quantized_real.py holds equal to Lava's.

    python benchmarks/run.py quantize_accuracy --data FOLDER

FOLDER holds Fashion-MNIST as IDX files. Without it the 500 test images of tests/data/fashion_mnist stand in: the
quantizer then sees the last 100 of them, and the first 400 are scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rmp_deploy import load
from rmp_deploy.backends import batches
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.ir.trace import Trace
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import data
from rmp_deploy.training.data import Samples

ROOT = Path(__file__).parent.parent
NETWORKS = {  # data set, training -> file
    ("digits", "RMP-Loss"): ROOT / "examples" / "digits.onnx",
    ("digits", "without"): ROOT / "benchmarks" / "networks" / "digits_no_rmp.onnx",
    ("fashion", "RMP-Loss"): ROOT / "examples" / "fashion.onnx",
    ("fashion", "without"): ROOT / "benchmarks" / "networks" / "fashion_no_rmp.onnx",
}
BITS = (8, 6, 4)
CODINGS = ("host", "graded")
CALIBRATION = 100  # images
COMPARED = 1000  # images at most whose spikes are compared


def quantize_accuracy(quick: bool, folder: str | None = None) -> dict[str, object]:
    """Accuracy [%] in floats and in integers of 8, 6 and 4 bits (quick: 8), and the part of spikes that agree [%].

    `points` is the accuracy over that in floats. Agreement is over all steps and neurons of the layers for up to 1,000
    images, each network running on its own.
    """
    samples = {
        "digits": (data.load("digits", "train").first(CALIBRATION), data.load("digits")),
        "fashion": fashion(folder),
    }
    cases = [(bits, coding) for bits in BITS[: 1 if quick else None] for coding in CODINGS]
    table: dict[str, dict[str, dict[str, float]]] = {}
    print("network            weights  input   accuracy  points  spikes that agree  in the worst layer")
    for (name, training), path in NETWORKS.items():
        calibration, test = samples[name]
        graph, network = load(path), f"{name}, {training}"
        in_floats = accuracy(graph, test)
        table[network] = {"float": {"accuracy": in_floats}}
        print(f"{network:18} float    real   {in_floats:7.2f} %")
        for bits, coding in cases:
            integers = quantize(graph, calibration.x, weight_bits=bits, input_coding=coding).graph
            percent, agreement = accuracy(integers, test), agreeing(graph, integers, test)
            row = {"accuracy": percent, "points": percent - in_floats, **agreement}
            table[network][f"{bits} bits, {coding}"] = {key: round(value, 3) for key, value in row.items()}
            print(
                f"{network:18} {bits} bits   {coding:6} {percent:7.2f} %  {percent - in_floats:+6.2f}"
                f"  {agreement['all layers']:15.2f} %  {agreement['worst layer']:16.2f} %"
            )
    eight = [row["points"] for rows in table.values() for key, row in rows.items() if key.startswith("8 bits")]
    return {
        "samples": {name: len(test.x) for name, (_, test) in samples.items()},
        "table": table,
        "worst_points_8_bits": min(eight),
    }


def fashion(folder: str | None) -> tuple[Samples, Samples]:
    """Images for the quantizer, and images to score."""
    if folder:
        return data.load(folder, "train").first(CALIBRATION), data.load(folder)
    few = data.load(str(ROOT / "tests" / "data" / "fashion_mnist"))
    return Samples(few.name, few.x[-CALIBRATION:], None, few.source), few.first(len(few.x) - CALIBRATION)


def accuracy(graph: SpikingGraph, samples: Samples) -> float:
    """Percent of the samples whose largest readout is their label."""
    predictions = np.concatenate([trace.predictions() for _, trace in batches(graph, samples.x, "onnxruntime")])
    return 100 * float((predictions == samples.y).mean())


def agreeing(graph: SpikingGraph, integers: SpikingGraph, samples: Samples) -> dict[str, float]:
    """Percent of the spikes of layers of one name that are the same in both networks."""
    same: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    few = samples.first(min(COMPARED, len(samples.x)))
    for ours, theirs in zip(traces(graph, few), traces(integers, few), strict=True):
        for layer in ours.spikes:
            same[layer] += int((ours.spikes[layer] == theirs.spikes[layer]).sum())
            compared[layer] += ours.spikes[layer].size
    return {
        "all layers": 100 * same.total() / compared.total(),
        "worst layer": 100 * min(same[layer] / compared[layer] for layer in compared),
    }


def traces(graph: SpikingGraph, samples: Samples) -> Iterator[Trace]:
    """The trace of one batch of samples after the other, spikes included."""
    return (trace for _, trace in batches(graph, samples.x, "onnxruntime", ("spikes",)))
