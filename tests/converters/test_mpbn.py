"""MPBN folds into thresholds without one spike less or more: in float64, in float32, through the file and on Lava."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

import rmp_deploy
from rmp_deploy import backends
from rmp_deploy.analysis import parity
from rmp_deploy.converters.torch_mpbn import fold
from rmp_deploy.converters.torch_to_ir import to_graph, trace_torch
from rmp_deploy.errors import RmpDeployError
from rmp_deploy.ir import reference
from rmp_deploy.ir.ops import LIF, BatchNorm, Conv2d, Linear
from rmp_deploy.passes.fold_batchnorm import refusals
from rmp_deploy.passes.quantize import quantize
from rmp_deploy.training.models import BasicBlock, ConvNet, DirectEncoding, MeanOverTime, TimeDistributed, resnet20
from rmp_deploy.training.models.layers import classifier, conv_bn
from rmp_deploy.training.models.resnet import conv_shortcut
from rmp_deploy.training.mpbn import MPBNLIF

RECORD = ("spikes", "u", "v")
SILENT, LOUD = 1, 2  # channels whose gain is 0: one below the threshold, one above it


def drawn(layer: MPBNLIF, seed: int) -> MPBNLIF:
    """Gains of both signs, of 0 and of next to nothing; statistics far from 0 and 1."""
    g = torch.Generator().manual_seed(seed)
    c = layer.bn.num_features

    def random(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(c, generator=g)

    with torch.no_grad():
        layer.bn.weight.copy_(torch.where(random(0, 1) < 0.5, -1, 1) * random(0.3, 2.0))
        layer.bn.bias.copy_(random(-0.2, 0.6))
        layer.bn.running_mean.copy_(random(-0.5, 0.8))
        layer.bn.running_var.copy_(random(0.05, 1.5))
        layer.bn.weight[[SILENT, LOUD]] = 0.0
        layer.bn.bias[SILENT], layer.bn.bias[LOUD] = 0.1, 0.9
        layer.bn.weight[3] *= 1e-4
        layer.bn.bias[3] = 0.5
    return layer.eval()


def around(x: torch.Tensor, n: int) -> torch.Tensor:
    """The n numbers of the type on either side of each x, [2 n + 1, *x.shape]."""
    up, down = [x], [x]
    for _ in range(n):
        up.append(torch.nextafter(up[-1], torch.full_like(x, torch.inf)))
        down.append(torch.nextafter(down[-1], torch.full_like(x, -torch.inf)))
    return torch.stack([*reversed(down[1:]), *up])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(64,), (64, 5), (64, 2, 3)])
def test_the_threshold_is_the_boundary_of_the_float_comparison(dtype, shape):
    """Among the 40 numbers on either side of each threshold, where the formula is wrong for some channels."""
    wrong, formula_wrong = 0, 0
    for seed in range(8):
        threshold = 0.3 + 0.4 * torch.rand(shape[:1] + (1,) * (len(shape) - 1), generator=torch.Generator())
        layer = drawn(MPBNLIF(64, v_threshold=threshold if seed % 2 else 0.5), seed).to(dtype)
        folded = fold(layer, len(shape))
        scale, shift = (p.detach().view(folded.sign.shape) for p in layer.affine())
        formula = folded.sign * (layer.v_threshold - shift) / scale
        finite = torch.isfinite(formula)
        u = folded.sign * around(torch.where(finite, folded.v_threshold, 0), 40)
        with torch.no_grad():
            fires = layer.normalize(u) > layer.v_threshold
        assert fires.flatten(1)[:, ~finite.flatten()].any(0).sum() == 1  # of the two channels of gain 0
        wrong += ((folded.sign * u > folded.v_threshold) != fires).sum()
        formula_wrong += ((folded.sign * u > formula) != fires).sum()
    assert wrong == 0
    assert formula_wrong > 0


def test_the_boundary_is_that_of_the_layers_own_rounding():
    """By hand: with a gain of 2^-13 on a shift at the threshold, u moves m once it is half of the last bit of 0.5.

    ``fl(u 2^-13 + 0.5) > 0.5`` where ``u 2^-13`` exceeds half the distance 2^-24 (float64: 2^-53) to the next number;
    the half itself rounds to the even neighbour, which is 0.5.
    """
    layer = MPBNLIF(2).eval()
    layer.bn.eps = 0.0
    with torch.no_grad():
        layer.bn.weight.copy_(torch.tensor([2.0**-13, -(2.0**-13)]))
        layer.bn.bias.fill_(0.5)
    assert fold(layer, 1).v_threshold.tolist() == [2.0**-12] * 2
    assert fold(layer.double(), 1).v_threshold.tolist() == [2.0**-41] * 2
    assert fold(layer, 1).sign.tolist() == [1, -1]


def test_a_channel_without_gain_always_or_never_fires():
    layer = drawn(MPBNLIF(8), 0)
    largest = torch.finfo(torch.float32).max
    threshold = fold(layer, 1).v_threshold
    assert threshold[[SILENT, LOUD]].tolist() == [largest, -largest]
    with torch.no_grad():
        layer.bn.weight.mul_(1e-45)  # so little that shift decides
    assert set(fold(layer, 1).v_threshold.abs().tolist()) == {largest}


def spikes_of(model: nn.Module, kind: type, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The spikes [T, B, ...] of every layer of that type."""
    found: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _x, spikes, name=name: found.update({name: spikes}))
        for name, layer in model.named_modules()
        if isinstance(layer, kind)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


class Folded(nn.Module):
    """What `fold` says, as plain neurons: no BatchNorm, currents turned round where the sign is -1."""

    def __init__(self, layer: MPBNLIF, axes: int) -> None:
        super().__init__()
        self.layer, self.folded = layer, fold(layer, axes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer, sign, v, spikes = self.layer, self.folded.sign, 0.0, []
        for x_t in sign * x:
            u = x_t + layer.decay * v
            s = (u > self.folded.v_threshold).to(u.dtype)
            v = u - sign * layer.v_threshold * s if layer.reset == "soft" else u * (1 - s) + sign * layer.v_reset * s
            spikes.append(s)
        return torch.stack(spikes)


class Residual(nn.Module):
    """A stem, a block with an identity shortcut of spikes, one with a convolution, a hidden layer, a readout."""

    def __init__(self, reset: str, T: int = 6) -> None:
        super().__init__()

        def neuron(channels: int, axes: int = 3) -> MPBNLIF:
            decay = torch.linspace(0.2, 0.9, channels).reshape(-1, *(1,) * (axes - 1))
            return MPBNLIF(channels, decay, 0.5, -0.1 if reset == "hard" else 0.0, reset)

        self.encode, self.mean = DirectEncoding(T), MeanOverTime()
        self.stem = nn.Sequential(conv_bn(2, 8), neuron(8))
        self.same = BasicBlock(8, 8, 1, neuron, conv_shortcut)
        self.down = BasicBlock(8, 12, 2, neuron, conv_shortcut)
        self.hidden, self.spike = TimeDistributed(nn.Linear(12 * 16, 20)), neuron(20, 1)
        self.fc = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(self.same(self.stem(self.encode(x))))
        return self.mean(self.fc(self.spike(self.hidden(x.flatten(2)))))


def trained(model: nn.Module, shape: tuple[int, ...], seed: int, steps: int = 4) -> nn.Module:
    """MPBN gains drawn, then a few steps on random labels, which give every BatchNorm statistics of its own."""
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, MPBNLIF):
            drawn(layer, seed)
            layer.bn.reset_running_stats()
            layer.bn.momentum = 0.5
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(torch.rand(16, *shape)), torch.randint(0, 5, (16,))).backward()
        optimizer.step()
    return model.eval()


def networks(seed: int) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    g = torch.Generator().manual_seed(seed)
    decay = 0.3 + 0.6 * torch.rand(4, 1, 1, generator=g)
    return {
        "hard": (Residual("hard"), (2, 8, 8)),
        "soft": (Residual("soft"), (2, 8, 8)),
        "convnet": (ConvNet((2, 8, 8), 5, (4, 4), 16, 5, lambda c: MPBNLIF(c, decay if c == 4 else 0.5)), (2, 8, 8)),
        "resnet20": (resnet20(5, 3, MPBNLIF, 3, (4, 4, 6, 8)), (3, 16, 16)),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", networks(0))
def test_mpbn_fold_0_mismatching_spikes_in_float64(kind, seed):
    model, shape = networks(seed)[kind]
    trained(model, shape, seed).double()
    x = torch.rand(12, *shape, dtype=torch.float64)

    wanted = spikes_of(model, MPBNLIF, x)
    for name, spikes in wanted.items():
        model.set_submodule(name, Folded(model.get_submodule(name), spikes.dim() - 2))
    found = spikes_of(model, Folded, x)
    assert sum(spikes.numel() for spikes in wanted.values()) > 10_000
    assert 0.05 < torch.cat([spikes.flatten() for spikes in wanted.values()]).mean() < 0.8
    assert sum(int((found[name] != spikes).sum()) for name, spikes in wanted.items()) == 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", networks(0))
def test_through_the_file_every_spike_is_torchs(kind, seed, tmp_path):
    """float32 in torch and ONNX Runtime, float64 in the reference."""
    model, shape = networks(seed)[kind]
    trained(model, shape, seed)
    x = np.random.default_rng(seed).random((12, *shape), dtype=np.float32)
    graph = to_graph(model, shape)
    folded = rmp_deploy.fold_batchnorm(graph)
    assert graph.of_type(BatchNorm)
    assert not folded.of_type(BatchNorm)
    rmp_deploy.save(folded, tmp_path / "net.onnx")
    loaded = rmp_deploy.load(tmp_path / "net.onnx")
    assert loaded == folded
    wanted = trace_torch(model, x, "direct")
    total = 0
    for found in (
        reference.run(graph, x, RECORD),
        reference.run(loaded, x, RECORD),
        backends.run(loaded, x, "onnxruntime", RECORD),
    ):
        for name, spikes in wanted.spikes.items():
            np.testing.assert_array_equal(found.spikes[name], spikes)
            np.testing.assert_allclose(found.u[name], wanted.u[name], atol=2e-5)
            np.testing.assert_allclose(found.v[name], wanted.v[name], atol=2e-5)
            total += spikes.size
    assert total > 10_000
    (rung,) = parity.climb(loaded, x, [wanted, reference.run(loaded, x, RECORD)], graph)
    assert rung.holds


def test_an_identity_shortcut_of_spikes_becomes_a_synapse_of_the_sign():
    model = trained(Residual("hard"), (2, 8, 8), 0)
    folded = rmp_deploy.fold_batchnorm(to_graph(model, (2, 8, 8)))
    shortcut = folded.by_name["same.add_identity"]
    sign = np.sign(model.same.lif2.bn.weight.detach().numpy())
    assert isinstance(shortcut, Conv2d)
    assert (shortcut.inputs, shortcut.bias) == (("stem.1",), None)
    np.testing.assert_array_equal(shortcut.weight.ravel(), np.where(sign < 0, -1, 1))
    reset = folded.by_name["same.lif2"].v_reset.ravel()
    np.testing.assert_array_equal(reset, np.where(sign < 0, np.float32(0.1), np.float32(-0.1)))


def test_without_a_negative_gain_the_weights_stay_as_they_are():
    model = nn.Sequential(nn.Linear(6, 8, bias=False), drawn(MPBNLIF(8), 0), MeanOverTime())
    with torch.no_grad():
        model[1].bn.weight.abs_()
    graph = to_graph(model, (6,), T=3)
    assert [type(op) for op in graph.ops] == [Linear, LIF]
    with torch.no_grad():
        model[1].bn.weight.neg_()
    turned = rmp_deploy.fold_batchnorm(to_graph(model, (6,), T=3))
    linear = turned.of_type(Linear)[0]
    assert linear.bias is None
    np.testing.assert_array_equal(
        linear.weight[4:], -graph.of_type(Linear)[0].weight[4:]
    )  # those before have no gain left to turn
    assert not np.signbit(turned.of_type(LIF)[0].v_reset).any()


class Shared(nn.Module):
    """Two layers of neurons read the current of one synapse."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.mean = nn.Linear(6, 8), MeanOverTime()
        self.a, self.b = drawn(MPBNLIF(8), 0), drawn(MPBNLIF(8), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        current = self.fc(x)
        return self.mean(self.a(current) + self.b(current))


def test_a_current_that_others_read_keeps_its_sign_and_is_named():
    torch.manual_seed(0)
    model = Shared()
    graph = rmp_deploy.fold_batchnorm(to_graph(model, (6,), T=4))
    assert [op.name for op in graph.of_type(BatchNorm)] == ["a.bn", "b.bn"]
    for name, (op, error) in zip("ab", refusals(graph), strict=True):
        assert op.name == f"{name}.bn"
        assert f"BatchNorm '{name}.bn': readers of 'fc' = ['a.bn', 'b.bn']; reader = LIF '{name}'" in str(error)
    x = np.random.default_rng(0).normal(0, 1, (8, 4, 6)).astype(np.float32)
    wanted = trace_torch(model, x, "time_series")
    for found in (reference.run(graph, x, RECORD), backends.run(graph, x, "onnxruntime", RECORD)):
        for name, spikes in wanted.spikes.items():
            np.testing.assert_array_equal(found.spikes[name], spikes)


def spoilt() -> MPBNLIF:
    layer = MPBNLIF(8)
    layer.bn.running_var[3] = torch.nan
    return layer


def firing_at(value: float) -> MPBNLIF:
    layer = MPBNLIF(8, v_threshold=torch.full((8,), 0.5))
    assert isinstance(layer.v_threshold, torch.Tensor)
    layer.v_threshold[3] = value
    return layer


TWICE = MPBNLIF(8)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((MPBNLIF(5),), "MPBNLIF '1': input shape = (8,), allowed (5, ...). Match the channels."),
        ((spoilt(),), "MPBNLIF '1': scale of bn holds NaN or infinite values, allowed finite numbers."),
        ((firing_at(torch.nan),), "MPBNLIF '1': v_threshold holds NaN or infinite values, allowed finite numbers."),
        ((firing_at(torch.inf),), "MPBNLIF '1': v_threshold holds NaN or infinite values"),
        ((firing_at(-torch.inf),), "MPBNLIF '1': v_threshold holds NaN or infinite values"),
        ((TWICE, TWICE), "MPBNLIF '1': called twice, allowed once: it has one state."),
        ((TimeDistributed(MPBNLIF(8)),), "MPBNLIF '1': inside a container that applies it step by step"),
    ],
)
def test_what_cannot_be_folded_is_one_line(layers, said):
    with pytest.raises(RmpDeployError) as e:
        to_graph(nn.Sequential(nn.Linear(6, 8), *layers, MeanOverTime()), (6,), T=2)
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_channels_that_never_fire_are_refused_by_quantize_in_one_line():
    torch.manual_seed(0)
    layers = [MPBNLIF(8), MPBNLIF(8)]
    with torch.no_grad():
        layers[1].bn.weight[0] = 0.0
    graph = to_graph(nn.Sequential(nn.Linear(6, 8), layers[0], nn.Linear(8, 8), layers[1], MeanOverTime()), (6,), T=2)
    x = np.random.default_rng(0).normal(0, 1, (4, 2, 6)).astype(np.float32)
    with pytest.raises(RmpDeployError) as e:
        quantize(rmp_deploy.fold_batchnorm(graph), x)
    assert str(e.value).startswith("LIF '3': v_threshold = 0.5")
    assert "..3.40282e+38, allowed a ratio of at most 1e+30 (float32)" in str(e.value)


@pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")
def test_lava_gives_every_spike_of_a_residual_network():
    torch.manual_seed(0)
    model = nn.Sequential(
        DirectEncoding(4),
        conv_bn(2, 6),
        MPBNLIF(6),
        BasicBlock(6, 6, 1, MPBNLIF, conv_shortcut),
        classifier(6, 5),
        MeanOverTime(),
    )
    trained(model, (2, 6, 6), 0)
    graph = rmp_deploy.fold_batchnorm(to_graph(model, (2, 6, 6)))
    x = np.random.default_rng(0).random((3, 2, 6, 6), dtype=np.float32)
    wanted, found = trace_torch(model, x, "direct"), backends.run(graph, x, "lava", ("spikes", "v"))
    for name, spikes in wanted.spikes.items():
        assert 0.05 < spikes.mean() < 0.95
        np.testing.assert_array_equal(found.spikes[name], spikes)
    assert parity.compare(graph, x, wanted, found).holds
