"""Fine-tuning: better on what is held out, never worse, the same for the same seed; bits that quantization lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rmp_deploy.converters.ir_to_torch import IntegerNet
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import onnx_io, reference
from rmp_deploy.ir.ops import LoihiConv2d, LoihiLinear
from rmp_deploy.ir.ops.loihi import weight_step
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training import data
from rmp_deploy.training.data import Samples
from rmp_deploy.training.fine_tune import fine_tune

ROOT = Path(__file__).parents[2]


def blobs(n=200, labels=True):
    """Three classes that a linear layer tells apart."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, 3)).astype(np.float32) + 3 * np.eye(3, dtype=np.float32)[y]
    return Samples("blobs", x, y if labels else None, "made here")


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 3)


def test_the_best_epoch_is_kept():
    module = linear()
    told, steps = [], []
    result = fine_tune(module, blobs(), epochs=8, lr=0.1, on_epoch=told.append, on_step=steps.append)
    assert tuple(told) == result.epochs
    assert [e.epoch for e in result.epochs] == list(range(9))
    assert (result.trained, result.held_out) == (180, 20)
    losses = [e.held_out_loss for e in result.epochs]
    assert result.kept == int(np.argmin(losses))
    assert losses[result.kept] < 0.5 * losses[0]
    assert result.epochs[-1].loss < result.epochs[1].loss
    assert steps[-1] == 8
    same = linear()
    assert fine_tune(same, blobs(), epochs=8, lr=0.1) == result
    torch.testing.assert_close(same.weight, module.weight, rtol=0, atol=0)
    other = linear()
    assert fine_tune(other, blobs(), epochs=8, lr=0.1, seed=1) != result


def test_what_makes_it_worse_is_not_kept():
    module = linear()
    fine_tune(module, blobs(), epochs=20, lr=0.1)
    before = module.weight.detach().clone()
    result = fine_tune(module, blobs(), epochs=2, lr=100.0)
    assert result.kept == 0
    assert min(e.held_out_loss for e in result.epochs[1:]) > result.epochs[0].held_out_loss
    torch.testing.assert_close(module.weight.detach(), before, rtol=0, atol=0)


def test_no_epochs_leave_the_module_as_it_is():
    module = linear()
    result = fine_tune(module, blobs(), epochs=0)
    assert (result.kept, len(result.epochs)) == (0, 1)


def test_bad_samples_and_diverging_losses_are_one_line():
    cases = [
        (blobs(labels=False), 0.1, "data 'blobs': labels = none"),
        (blobs(9), 0.1, "samples = 9, allowed >= 10"),
        (Samples("b", blobs().x, blobs().y + 1, ""), 0.1, "data 'b': label = 3, allowed 0..2"),
        (
            Samples("b", blobs().x * np.float32(1e30), blobs().y, ""),
            1e30,
            "fine-tuning: loss = nan in epoch 0, step 1.",
        ),
    ]
    for samples, lr, said in cases:
        with pytest.raises(RmpDeployError) as e:
            fine_tune(linear(), samples, epochs=1, lr=lr)
        assert said in str(e.value)
        assert "\n" not in str(e.value)


OPTIONS = [
    ({"lr": float("nan")}, "lr = nan, allowed > 0 and at most 1e+30"),
    ({"lr": float("inf")}, "lr = inf, allowed > 0 and at most 1e+30"),
    ({"lr": 1e38}, "lr = 1e+38, allowed > 0 and at most 1e+30"),
    ({"lr": -1.0}, "lr = -1.0, allowed > 0"),
    ({"lr": 0}, "lr = 0, allowed > 0"),
    ({"lr": "0.1"}, "lr = '0.1', allowed > 0"),
    ({"batch": 0}, "batch = 0, allowed an integer, 1.."),
    ({"batch": 2.5}, "batch = 2.5, allowed an integer, 1.."),
    ({"epochs": -3}, "epochs = -3, allowed an integer, 0.."),
    ({"epochs": 2.5}, "epochs = 2.5, allowed an integer, 0.."),
    ({"epochs": True}, "epochs = True, allowed an integer, 0.."),
    ({"seed": -1}, "seed = -1, allowed an integer, 0.."),
    ({"seed": 2**70}, f"seed = {2**70}, allowed an integer, 0.."),
    ({"threads": 0}, "threads = 0, allowed an integer, 1.."),
]


@pytest.mark.parametrize(("option", "said"), OPTIONS, ids=[said for _, said in OPTIONS])
def test_an_option_that_cannot_be_is_one_line_and_changes_nothing(option, said):
    module = linear()
    before, threads = module.weight.detach().clone(), torch.get_num_threads()
    with pytest.raises(RmpDeployError) as e:
        fine_tune(module, blobs(), **{"epochs": 1, **option})
    assert str(e.value).startswith(f"fine-tuning: {said}")
    assert "\n" not in str(e.value)
    torch.testing.assert_close(module.weight.detach(), before, rtol=0, atol=0)
    assert torch.get_num_threads() == threads


X, Y = blobs().x, blobs().y
SAMPLES = [
    (X, Y - 1, "labels = -1..1, allowed integers >= 0"),
    (X, Y + 0.5, "labels = float64 (200,), allowed integers (200,)"),
    (X, Y[:5], "labels = int64 (5,), allowed integers (200,)"),
    (X, Y[:, None], "labels = int64 (200, 1), allowed integers (200,)"),
    (X[:, :2], Y, "sample shape = (2,), allowed what the network takes ("),
    (X.astype(str), Y, "samples: dtype = <U"),
    (np.where(np.isin(X, X.max()), np.nan, X), Y, "samples: NaN or infinite, allowed finite"),
    (X.astype(np.float64) * 1e300, Y, "samples: NaN or infinite, allowed finite"),
]


@pytest.mark.parametrize(("x", "y", "said"), SAMPLES, ids=[said for _, _, said in SAMPLES])
def test_samples_that_do_not_fit_are_one_line(x, y, said):
    with pytest.raises(RmpDeployError) as e:
        fine_tune(linear(), Samples("b", x, y, ""), epochs=1)
    assert said in str(e.value)
    assert str(e.value).startswith("data 'b'")
    assert "\n" not in str(e.value)


def test_samples_and_labels_of_other_number_types_are_the_same_samples():
    given, others = blobs(), Samples("b", X.astype(np.float64), Y.astype(np.uint8), "")
    assert fine_tune(linear(), others, epochs=2) == fine_tune(linear(), given, epochs=2)


def rounded(graph, bits):
    """The graph with its 8-bit weights rounded to the nearest that `bits` hold, and nothing else changed for it."""
    step = weight_step(bits, "mixed")

    def fewer(op):
        if not isinstance(op, LoihiLinear | LoihiConv2d):
            return op
        weight = np.clip(np.rint(op.weight / step) * step, -256, 256 - step)
        return replace(op, weight=weight.astype(int), num_weight_bits=bits)

    return replace(graph, ops=tuple(map(fewer, graph.ops)))


@pytest.mark.parametrize("input_coding", ["host", "graded"])
def test_two_bits_lose_points_and_fine_tuning_brings_them_back(input_coding):
    """The digits network with weights of -2, -1, 0 and 1 steps: all 360 test images, before and after."""
    graph = onnx_io.load(ROOT / "examples" / "digits.onnx")
    samples, test = data.load_splits("digits")
    made = quantize(graph, samples.x[:64], input_coding=input_coding)
    coarse = rounded(made.graph, bits=2)
    net = IntegerNet(coarse, made.float_graph)
    assert net.to_graph() == coarse
    result = fine_tune(net, samples.first(600), epochs=3)
    tuned = net.to_graph()
    trained, before, after = (accuracy(g, test) for g in (graph, coarse, tuned))
    assert trained > 0.98
    assert before < 0.90
    assert after > 0.93
    assert result.epochs[result.kept].held_out_loss < 0.5 * result.epochs[0].held_out_loss
    assert (net.trace(test.x).predictions() == reference.run(tuned, test.x).predictions()).all()


def accuracy(graph, samples):
    return float((reference.run(graph, samples.x).predictions() == samples.y).mean())
