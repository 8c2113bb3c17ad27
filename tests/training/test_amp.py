"""Mixed precision on the CPU: synapses in bfloat16, membrane potentials in float32, the trained network in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rmp_deploy import fold_batchnorm, load, save
from rmp_deploy.analysis.parity import climb
from rmp_deploy.backends import run
from rmp_deploy.converters.torch_to_ir import run_to_graph, trace_torch
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training import data
from rmp_deploy.training.amp import autocast, float32_potentials
from rmp_deploy.training.config import ModelConfig, TrainConfig
from rmp_deploy.training.loop import Folder, load_run, train
from rmp_deploy.training.models import ConvNet
from rmp_deploy.training.neurons import neurons
from rmp_deploy.training.not_finite import first_not_finite

CONFIG = TrainConfig(epochs=3, batch=128, amp=True, model=ModelConfig(channels=(4, 8), hidden=16, T=2))
CPU = torch.device("cpu")
BACKENDS = ("reference", "onnxruntime")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("amp") / "run"
    return train(CONFIG, folder=Folder(folder), device="cpu"), folder


def test_it_trains_and_all_stays_finite(trained):
    result, _ = trained
    losses = [m.loss for m in result.metrics]
    assert losses[-1] < 0.8 * losses[0]
    assert result.metrics[-1].test_accuracy > 0.6
    for name, tensor in result.model.state_dict().items():
        assert torch.isfinite(tensor).all(), name
        assert tensor.dtype in (torch.float32, torch.int64), name


def test_synapses_are_in_half_precision_and_potentials_are_not():
    torch.manual_seed(0)
    model = ConvNet()
    x = torch.rand(8, 1, 8, 8)
    with autocast(CPU, enabled=True), float32_potentials(model):
        seen = []
        hook = model.conv2.layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
        model(x)
        hook.remove()
        assert seen == [torch.bfloat16]
        half = {name: layer.u for name, layer in neurons(model).items()}
    assert {u.dtype for u in half.values()} == {torch.float32}
    model(x)
    assert not torch.equal(half["lif2"], model.lif2.u)  # near to float32, and not the same: bfloat16 was there
    assert (half["lif2"] - model.lif2.u).abs().mean() < 0.1 * model.lif2.u.abs().mean()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_first_layer_that_is_not_finite_is_that_of_half_precision():
    """3.4e38 is a float32 and beyond bfloat16, whose largest value is 3.39e38: what overflows there is found there."""
    torch.manual_seed(0)
    model = ConvNet().eval()
    torch.nn.init.zeros_(model.conv1.layer.weight)
    with torch.no_grad():
        model.conv1.layer.weight[3, 0, 1, 1] = 3.4e38
    x = torch.ones(2, 1, 8, 8)
    assert first_not_finite(model, x) is None
    with autocast(CPU, enabled=True), float32_potentials(model):
        assert first_not_finite(model, x) == "outputs of layer 'conv1.layer'"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_run_in_half_precision_that_diverges_names_its_layer():
    with pytest.raises(RmpDeployError, match=r"loss = nan in epoch 0, step 1; first: outputs of layer '\w+\.layer'"):
        train(replace(CONFIG, lr=1e38), device="cpu")


def test_what_it_trained_is_deployed_in_float32_spike_by_spike(trained, tmp_path):
    _, folder = trained
    graph, config = run_to_graph(folder)
    assert config.amp
    x = data.load("digits").x[:20]
    file = save(fold_batchnorm(graph), tmp_path / "net.onnx", golden=x[:4])
    deployed = load(file)
    _, model = load_run(folder)
    traces = [trace_torch(model, x, "direct"), *(run(deployed, x, backend, ("spikes", "v")) for backend in BACKENDS)]
    rungs = climb(deployed, x, traces, graph)
    assert [r.holds for r in rungs] == [True, True]
    assert sum(layer.mismatches for r in rungs for layer in r.layers) == 0
    assert np.isfinite(traces[0].output).all()


def test_without_it_nothing_changes(trained):
    plain = train(TrainConfig(epochs=1, batch=128, model=CONFIG.model), device="cpu")
    assert plain.metrics[0].loss != trained[0].metrics[0].loss
    assert plain.metrics[0].loss == pytest.approx(trained[0].metrics[0].loss, rel=0.05)
