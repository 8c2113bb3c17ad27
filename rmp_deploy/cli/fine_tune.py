"""`quantize --fine-tune`: train an integer network on, with the integers that it runs with."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

from rmp_deploy.cli.common import check_samples, first_samples, progress
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir.graph import SpikingGraph
from rmp_deploy.passes.quantize import Quantized
from rmp_deploy.report.json import Section
from rmp_deploy.training import data

MAX_EPOCHS = 1000


def load_splits(args: argparse.Namespace, graph: SpikingGraph) -> tuple[data.Samples, data.Samples]:
    """What to train on, and what `--samples` asks for of the split that is not trained on.

    Raises:
        RmpDeployError: too many or too few epochs, no labels, no two splits, or torch is not installed.
    """
    if not 1 <= args.fine_tune <= MAX_EPOCHS:
        raise RmpDeployError(f"quantize: --fine-tune = {args.fine_tune}, allowed 1..{MAX_EPOCHS} epochs. Correct it.")
    try:
        import rmp_deploy.converters.ir_to_torch  # noqa: F401
    except ImportError as e:
        raise RmpDeployError(f"quantize: --fine-tune needs {e.name}. Run: pip install 'rmp-deploy[train]'.") from e
    train, held_out = data.load_splits(args.data, image_size=args.image_size, T=graph.T)
    if train.y is None:
        raise RmpDeployError(f"data '{train.name}': labels = none, allowed one per sample. Add y to fine-tune.")
    return train, first_samples(args, held_out)


def fine_tuned(found: Quantized, samples: data.Samples, epochs: int) -> tuple[SpikingGraph, Section]:
    """The integer graph after `epochs` on `samples`, its provenance saying so, and what the report tells of it."""
    from rmp_deploy.converters.ir_to_torch import IntegerNet
    from rmp_deploy.training.fine_tune import fine_tune

    check_samples(found.graph, samples)
    net = IntegerNet(found.graph, found.float_graph)
    with progress() as bar:
        task = bar.add_task("fine-tune", total=epochs)
        done = fine_tune(net, samples, epochs, on_step=lambda epoch: bar.update(task, completed=epoch))
    graph = net.to_graph()
    told = f"{done.kept} epoch{'s' * (done.kept != 1)} in integers on {done.trained} samples of {samples.name}"
    section = {"kept": done.kept, "trained": done.trained, "held_out": done.held_out}
    return (
        replace(graph, provenance={**graph.provenance, "fine-tuned": told}),
        {**section, "epochs": [asdict(epoch) for epoch in done.epochs]},
    )
