"""Export a trained run as one .onnx file, BatchNorm folded, golden samples inside."""

from __future__ import annotations

import argparse

from rmp_deploy.cli.common import check_output, console, print_json
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.training import data

GOLDEN_SAMPLES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a folder that `rmp-deploy train` wrote")
    parser.add_argument("-o", "--out", required=True, metavar="FILE.onnx", help="the file to write")


def run(args: argparse.Namespace) -> int:
    check_output(args.out, ".onnx")
    try:
        from rmp_deploy.converters.torch_to_ir import run_to_graph
        from rmp_deploy.training.encoders import encode_samples
    except ImportError as e:
        raise RmpDeployError(f"export: needs {e.name}. Run: pip install 'rmp-deploy[train]'.") from e
    graph, config = run_to_graph(args.run_folder)
    golden = data.load(config.data, image_size=config.image_size, T=config.model.T).x[:GOLDEN_SAMPLES]
    if config.model.encoding != "direct":
        golden = encode_samples(golden, config.model.T, config.model.encoding, config.seed)
    graph = fold_batchnorm(graph)
    path = onnx_io.save(graph, args.out, golden=golden)
    size = path.stat().st_size
    if args.json:
        print_json({"file": str(path), "bytes": size, "ops": [op.name for op in graph.ops], "T": graph.T})
    else:
        console().print(f"file: {path} ({size:,} bytes)")
    return 0
