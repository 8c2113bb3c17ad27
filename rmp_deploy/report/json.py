"""The report document: one JSON object from what the analysis found; text and HTML render it. No arithmetic here.

docs/report_schema.md describes every key. A section that a command did not compute is absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rmp_deploy.analysis.agreement import Agreement, input_coding
from rmp_deploy.analysis.membranes import Histogram
from rmp_deploy.analysis.parity import Divergence, PotentialDivergence, Rung
from rmp_deploy.ir.graph import SpikingGraph, describe
from rmp_deploy.ir.ops import LIF
from rmp_deploy.ir.trace import Trace
from rmp_deploy.report.ledger import energy

__all__ = [
    "SCHEMA", "Section", "accuracy", "data", "document", "energy", "finite", "membranes", "network", "parity",
    "quantization", "raster", "rungs", "training",
]  # fmt: skip
SCHEMA = "rmp-deploy.report/2"
Section = dict[str, Any]


def document(version: str, command: str, **sections: Section | None) -> Section:
    """The whole document; sections that are None are left out."""
    given = {name: section for name, section in sections.items() if section is not None}
    return {"schema": SCHEMA, "version": version, "command": command, **given}


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: null for numbers that float32 could not hold, infinite ones and NaN."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def network(graph: SpikingGraph, file: str | None) -> Section:
    """What was run."""
    weights = [getattr(op, key, None) for op in graph.ops for key in ("weight", "bias")]
    return {
        "name": graph.name,
        "T": graph.T,
        "dt": graph.dt,
        "encoding": graph.input.encoding,
        "input_coding": input_coding(graph),
        "readout": f"{graph.readout.rule} of {graph.readout.value} over T steps",
        "input_shape": list(graph.input.shape),
        "file": file,
        "parameters": sum(w.size for w in weights if w is not None),
        "provenance": dict(graph.provenance),
        "ops": [
            {"name": op.name, "kind": op.kind, "shape": list(graph.shapes[op.name]), "description": describe(op)}
            for op in graph.ops
        ],
    }


def data(name: str, samples: int, source: str) -> Section:
    return {"name": name, "samples": samples, "source": source}


def accuracy(correct: int, samples: int) -> Section:
    return {"correct": correct, "samples": samples, "value": correct / samples}


def parity(
    rungs: Sequence[Section], samples: int, self_check: Section | None, quantization: Section | None = None
) -> Section:
    """The ladder of one network, or of two and what lies between them; `self_check`: FILE's own golden samples."""
    checks = [self_check, None if quantization is None else quantization["self_check"]]
    return {
        "samples": samples,
        "holds": all(rung["holds"] for rung in rungs) and all(check["holds"] for check in checks if check is not None),
        "self_check": self_check,
        "quantization": quantization,
        "rungs": list(rungs),
    }


def rungs(found: Sequence[Rung], seconds: Mapping[str, float], integer: bool) -> list[Section]:
    """The rungs of one network; `seconds` [s] that each backend took."""
    return [
        {
            "from": rung.source,
            "to": rung.target,
            "arithmetic": "integer" if integer else "float",
            "holds": rung.holds,
            "compared": rung.compared,
            "mismatches": rung.mismatches,
            "seconds": seconds[rung.target],
            "output_holds": rung.output_holds,
            "max_output_error": rung.max_output_error,
            "layers": [
                {
                    **asdict(layer),
                    "first": None if layer.first is None else _divergence(layer.first, "spike_"),
                    "first_v": None if layer.first_v is None else _divergence(layer.first_v, "v_"),
                }
                for layer in rung.layers
            ],
        }
        for rung in found
    ]


def quantization(file: str, cost: Agreement, correct: tuple[int, int] | None, self_check: Section | None) -> Section:
    """What quantization cost; `correct` predictions of the float and of the integer network, where there are labels."""
    counts = ("compared", "mismatches")
    return {
        "file": file,
        **{key: getattr(cost, key) for key in counts},
        "same_predictions": cost.same_predictions,
        "accuracy": None
        if correct is None
        else {key: accuracy(n, cost.samples) for key, n in zip(("float", "integer"), correct, strict=True)},
        "layers": [{**asdict(layer), "agreement": layer.agreement} for layer in cost.layers],
        "self_check": self_check,
    }


def membranes(graph: SpikingGraph, arms: Mapping[str, Mapping[str, Histogram]]) -> Section:
    """Histograms per layer of each arm (arm name -> layer -> histogram); all arms share the bins."""
    return {
        "layers": [
            {
                "layer": op.name,
                "v_threshold": float(op.v_threshold.mean()),
                "edges": list(next(iter(arms.values()))[op.name].edges),
                "arms": [
                    {
                        "name": name,
                        "density": list(layers[op.name].density),
                        "quantization_error": layers[op.name].quantization_error,
                    }
                    for name, layers in arms.items()
                ],
            }
            for op in graph.of_type(LIF)
        ]
    }


def raster(graph: SpikingGraph, trace: Trace, sample: int, x: Any, label: int | None) -> Section:
    """Spikes of one sample: [step, neuron] pairs per layer, beside its input and the readout."""
    image = x[0] if graph.input.encoding == "direct" and x.ndim == 3 and x.shape[0] == 1 else None
    return {
        "sample": sample,
        "label": label,
        "prediction": int(trace.predictions()[sample]),
        "T": graph.T,
        "input": None if image is None else image.tolist(),
        "output": trace.output[sample].tolist(),
        "layers": [
            {"layer": name, "neurons": int(spikes[0, 0].size), "spikes": _events(spikes[sample])}
            for name, spikes in trace.spikes.items()
        ],
    }


def training(config: Mapping[str, Any], seconds: float, arms: Iterable[tuple[str, float, float]]) -> Section:
    """One line per trained arm: name, test accuracy, quantization error."""
    return {
        "epochs": config["epochs"],
        "seed": config["seed"],
        "seconds": seconds,
        "rmp_loss": dict(config["rmp_loss"]),
        "arms": [{"name": n, "accuracy": accuracy, "quantization_error": error} for n, accuracy, error in arms],
    }


def _divergence(first: Divergence | PotentialDivergence, sides: str) -> Section:
    """`sides`: how the fields of the two traces begin."""
    found = asdict(first)
    found["from"], found["to"] = found.pop(f"{sides}from"), found.pop(f"{sides}to")
    return {**found, "neuron": list(first.neuron)}


def _events(spikes: Any) -> list[list[int]]:
    events: list[list[int]] = [
        [step, int(neuron)] for step in range(len(spikes)) for neuron in spikes[step].ravel().nonzero()[0]
    ]
    return events
