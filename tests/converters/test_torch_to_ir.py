"""torch -> SpikingGraph: the same spikes, module paths as names, and a refusal that names what cannot be carried."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.ops import BatchNorm
from rmp_deploy.passes.fold_batchnorm import fold_batchnorm
from rmp_deploy.training.models import ConvNet, DirectEncoding, MeanOverTime, TimeDistributed
from rmp_deploy.training.neurons import LIF


def warmed_up(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Give the BatchNorms statistics of their own, so that folding them changes numbers."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.3, 0.2)
    with torch.no_grad():
        for _ in range(20):
            model.train()(torch.rand(16, *shape))
    return model.eval()


class OwnModel(nn.Module):
    """A stranger's module: its own forward, nested containers, soft reset, per-channel thresholds, options of conv."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = DirectEncoding(3)
        self.stem = TimeDistributed(
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(2, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1), groups=2),
                    norm=nn.BatchNorm2d(6, eps=0.1, affine=False),
                )
            )
        )
        self.spike = LIF(0.5, torch.linspace(0.2, 0.8, 6).reshape(6, 1, 1), reset="soft")
        layers = {"flat": nn.Flatten(), "fc": nn.Linear(6 * 8 * 4, 3)}
        self.head = nn.ModuleDict({name: TimeDistributed(layer) for name, layer in layers.items()})
        self.mean = MeanOverTime()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.spike(self.stem(self.encode(x)))
        return self.mean(self.head["fc"](self.head["flat"](x)))


@pytest.mark.parametrize(("build", "shape"), [(ConvNet, (1, 8, 8)), (OwnModel, (2, 8, 8))])
def test_the_graph_gives_torchs_spikes_before_and_after_folding(build, shape):
    model = warmed_up(build(), shape)
    x = np.random.default_rng(0).random((8, *shape), dtype=np.float32)
    graph = to_graph(model, shape)
    wanted = trace_torch(model, x, graph.input.encoding)
    assert graph.of_type(BatchNorm)
    for g in (graph, fold_batchnorm(graph)):
        found = reference.run(g, x, ("spikes", "u", "v"))
        assert list(found.spikes) == list(wanted.spikes)
        for name, spikes in wanted.spikes.items():
            assert 0.01 < spikes.mean() < 0.99
            np.testing.assert_array_equal(found.spikes[name], spikes)
            np.testing.assert_allclose(found.u[name], wanted.u[name], atol=1e-5)
            np.testing.assert_allclose(found.v[name], wanted.v[name], atol=1e-5)
        np.testing.assert_allclose(found.output, wanted.output, atol=1e-5)


def test_names_are_module_paths():
    names = [op.name for op in to_graph(OwnModel(), (2, 8, 8)).ops]
    assert names == ["stem.conv", "stem.norm", "spike", "head.flat", "head.fc"]


def test_a_model_without_encoder_takes_a_time_series():
    model = nn.Sequential(TimeDistributed(nn.Linear(4, 3)), LIF(), TimeDistributed(nn.Linear(3, 2)), MeanOverTime())
    graph = to_graph(model, (4,), T=5)
    assert (graph.T, graph.input.encoding) == (5, "time_series")
    x = np.random.default_rng(0).integers(0, 2, (6, 5, 4)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x).transpose(0, 1)).numpy()
    np.testing.assert_allclose(reference.run(graph, x).output, wanted, atol=1e-6)
    traced = trace_torch(model, x, graph.input.encoding)
    np.testing.assert_array_equal(traced.output, wanted)
    np.testing.assert_array_equal(traced.spikes["1"], reference.run(graph, x, ("spikes",)).spikes["1"])


def net(*layers):
    return nn.Sequential(DirectEncoding(2), *layers, MeanOverTime())


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.lif, self.mean = DirectEncoding(2), LIF(), MeanOverTime()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(torch.relu(self.lif(self.encode(x))))


class ReturnsTooEarly(Functional):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.lif(self.encode(x))
        self.mean(spikes)
        return spikes


class NamedArgument(Functional):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(self.lif(x=self.encode(x)))


def hooked() -> nn.Module:
    model = net(TimeDistributed(nn.Linear(8, 8)), LIF())
    model[1].layer.register_forward_hook(lambda _m, _x, y: 2 * y)
    return model


class DataDependent(Functional):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(self.lif(self.encode(x))) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (net(TimeDistributed(nn.MaxPool2d(2)), LIF()), "MaxPool2d '1': input = 'x', allowed spikes"),
        (net(TimeDistributed(nn.Softmax(1)), LIF()), "Softmax '1': no such op in the IR"),
        (net(nn.BatchNorm2d(1), LIF()), "BatchNorm2d '1': outside of a container that applies it step by step"),
        (net(TimeDistributed(nn.Conv2d(1, 2, 2, padding="same")), LIF()), "Conv2d '1': padding = 'same' with kernel"),
        (net(TimeDistributed(nn.Conv2d(1, 2, 3, padding_mode="reflect")), LIF()), "padding_mode = 'reflect'"),
        (net(LIF(), TimeDistributed(nn.AvgPool2d(2, ceil_mode=True))), "AvgPool2d '2': ceil_mode = True"),
        (net(LIF(), TimeDistributed(nn.AvgPool2d(2, padding=1, count_include_pad=False))), "count_include_pad = False"),
        (net(LIF(), TimeDistributed(nn.MaxPool2d(2, return_indices=True))), "return_indices = True, allowed False"),
        (net(LIF(), TimeDistributed(nn.AvgPool2d(2, divisor_override=3))), "divisor_override = 3"),
        (net(TimeDistributed(nn.BatchNorm2d(1, track_running_stats=False)), LIF()), "track_running_stats = False"),
        (net(LIF(), TimeDistributed(nn.Flatten(0))), "dims = 0..-1"),
        (net(LIF(), DirectEncoding(2)), "DirectEncoding '2': not the first layer"),
        (nn.Sequential(DirectEncoding(2), LIF()), "readout = none"),
        (nn.Sequential(DirectEncoding(2), LIF(), MeanOverTime(), nn.Linear(1, 1)), "a layer after the readout"),
        (nn.Sequential(LIF(), MeanOverTime()), "T given nowhere"),
        (net(TimeDistributed(nn.Sequential(nn.Flatten(), LIF()))), "LIF '1.1': inside a container"),
        (
            net(TimeDistributed(nn.Flatten()), nn.Linear(64, 2, dtype=torch.float64), LIF()),
            "weight.dtype = torch.float64",
        ),
        (hooked(), "Linear '1.layer': has a forward hook"),
        (ReturnsTooEarly(), "ReturnsTooEarly: readout = none"),
        (NamedArgument(), "LIF 'lif': called with named arguments"),
        (Functional(), "Functional: function 'relu' has no op in the IR"),
        (DataDependent(), "DataDependent: cannot be traced"),
    ],
)
def test_what_the_ir_cannot_carry_is_named(model, said):
    with pytest.raises(RmpDeployError) as e:
        to_graph(model, (1, 8, 8))
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_tracing_leaves_the_model_as_it_was():
    model = ConvNet().train()
    model.conv1.eval()  # frozen
    before = {name: module.training for name, module in model.named_modules()}
    trace_torch(model, np.zeros((2, 1, 8, 8), np.float32), "direct")
    assert {name: module.training for name, module in model.named_modules()} == before
    with pytest.raises(RmpDeployError, match="encoding = 'rate', allowed direct or time_series"):
        trace_torch(model, np.zeros((2, 1, 8, 8), np.float32), "rate")
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("shape", "steps"), [(8, 4), ((8.0,), 4), ((8,), "4"), ((8,), 4.0), ((8,), True)])
def test_steps_and_sizes_are_whole_numbers(shape, steps):
    with pytest.raises(RmpDeployError, match="whole number"):
        to_graph(nn.Sequential(nn.Linear(8, 8), LIF(), MeanOverTime()), shape, T=steps)
