"""Benchmarks by name: a table, then one JSON object as the last line.

    python benchmarks/run.py NAME [--quick]

Every benchmark alternates with its peer in one process, after a warm-up, and quotes medians and ratios: machines are
noisy, and only what ran side by side compares.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from fuzz_files import fuzz_files

WARM_UP = 6


def alternate(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds [s] of each contestant, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(WARM_UP + rounds):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            if i >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def infer_float(quick: bool) -> dict[str, object]:
    """The exported file on ONNX Runtime against the torch model in eval mode, batch 8, T = 4, same threads."""
    import onnxruntime as ort
    import torch

    from rmp_deploy import fold_batchnorm
    from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
    from rmp_deploy.ir.onnx_io import to_model
    from rmp_deploy.training.models import ConvNet

    torch.manual_seed(0)
    channels = (64, 128)
    model = ConvNet((1, 28, 28), channels=channels, hidden=256, T=4)
    with torch.no_grad():
        for _ in range(10):  # BatchNorm statistics, without which random weights leave the neurons silent
            model(torch.rand(16, 1, 28, 28))
    model.eval()
    graph = fold_batchnorm(to_graph(model, (1, 28, 28), "convnet"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = ort.InferenceSession(to_model(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((8, 1, 28, 28), dtype=np.float32)
    tensor = torch.from_numpy(x)

    def run_torch() -> np.ndarray:
        with torch.no_grad():
            return model(tensor).numpy()

    def run_onnx() -> np.ndarray:
        return session.run(["output"], {"input": x})[0]

    rates = {name: float(s.mean()) for name, s in trace_torch(model, x).spikes.items()}
    difference = float(np.abs(run_torch() - run_onnx()).max())
    seconds = alternate({"torch": run_torch, "onnxruntime": run_onnx}, 10 if quick else 60)
    return {
        "network": f"conv {channels} on 28x28, batch 8, T = 4",
        "firing_rate": rates,
        "seconds": seconds,
        "speedup": seconds["torch"] / seconds["onnxruntime"],
        "max_output_difference": difference,
    }


BENCHMARKS: dict[str, Callable[[bool], dict[str, object]]] = {"infer_float": infer_float, "fuzz_files": fuzz_files}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Benchmarks against peers, side by side in one process.")
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    args = parser.parse_args(argv)
    result = BENCHMARKS[args.name](args.quick)
    for key, value in result.items():
        print(f"{key:24} {value}")
    print(json.dumps({"benchmark": args.name, **result}))


if __name__ == "__main__":
    main()
