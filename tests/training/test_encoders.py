"""Encoders: what they draw, when they fire, and that they agree with the libraries that others use."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.encoders import ENCODERS, encode


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    """Values in 0..1, both ends among them."""
    x = torch.rand(shape, generator=seeded(seed))
    x.view(-1)[:2] = torch.tensor([0.0, 1.0])
    return x


def test_direct_shows_the_same_values_at_every_step():
    x = images(2, 3, 4, 4)
    np.testing.assert_array_equal(encode(x, 3, "direct", seeded()), np.stack([x] * 3))


def test_a_time_series_goes_time_first_and_its_length_is_checked():
    x = images(2, 5, 3)
    np.testing.assert_array_equal(encode(x, 5, "time_series", seeded()), x.numpy().swapaxes(0, 1))
    for wrong in (x, images(2, 5)):
        with pytest.raises(RmpDeployError, match=r"samples \(5.*\), allowed \(4, ...\) of T = 4"):
            encode(wrong, 4, "time_series", seeded())


def test_poisson_spikes_have_the_mean_and_the_variance_of_bernoulli_draws():
    T = 20_000
    p = torch.tensor([[0.0, 0.03, 0.25, 0.5, 0.9, 1.0]])
    s = encode(p, T, "poisson", seeded(3)).double()
    assert s.shape == (T, 1, 6)
    assert set(s.unique().tolist()) == {0.0, 1.0}
    five_sigma = 5 * torch.sqrt(p * (1 - p) / T)
    assert ((s.mean(0) - p).abs() <= five_sigma).all()  # so that 0 never fires and 1 always does
    correlation = ((s[1:] - p) * (s[:-1] - p)).mean(0)  # steps do not know of each other
    assert (correlation.abs() <= 5 * p * (1 - p) / math.sqrt(T)).all()


def test_poisson_spikes_come_from_the_generator_alone():
    x = images(4, 3, 5, 5)
    torch.manual_seed(1)
    first = encode(x, 6, "poisson", seeded(7))
    torch.manual_seed(2)
    np.testing.assert_array_equal(encode(x, 6, "poisson", seeded(7)), first)
    assert not torch.equal(encode(x, 6, "poisson", seeded(8)), first)
    generator = seeded(7)
    encode(x, 6, "poisson", generator)
    assert not torch.equal(encode(x, 6, "poisson", generator), first)  # the next batch is another draw


def test_poisson_has_the_rates_of_snntorch():
    spikegen = pytest.importorskip("snntorch.spikegen")
    x, T = images(1, 200), 4_000
    torch.manual_seed(0)
    theirs, ours = spikegen.rate(x, num_steps=T).mean(0), encode(x, T, "poisson", seeded()).mean(0)
    sigma = torch.sqrt(2 * x * (1 - x) / T)
    assert ((ours - theirs).abs() <= 5 * sigma + 1e-6).all()


def test_time_to_first_spike_by_hand():
    x = torch.tensor([[1.0, 0.75, 0.5, 0.26, 1e-6, 0.0]])
    s = encode(x, 5, "ttfs", seeded())[:, 0]
    np.testing.assert_array_equal(s.argmax(0)[:5], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(s.sum(0), [1, 1, 1, 1, 1, 0])  # 0 never fires
    np.testing.assert_array_equal(encode(x, 1, "ttfs", seeded())[0, 0], [1, 1, 1, 1, 1, 0])
    halves = torch.tensor([[0.125, 0.375, 0.625, 0.875]])  # round(3.5), round(2.5), ... to even
    np.testing.assert_array_equal(encode(halves, 5, "ttfs", seeded()).argmax(0)[0], [4, 2, 2, 0])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="SpikingJelly 2.0.0 needs Python 3.11")
@pytest.mark.parametrize("T", [2, 4, 10, 37])
def test_time_to_first_spike_is_spikingjellys_latency_but_for_zeros(T):
    encoding = pytest.importorskip("spikingjelly.activation_based.encoding")
    x = images(3, 2, 20, 20)
    encoder = encoding.LatencyEncoder(T, enc_function="linear", step_mode="s")
    theirs = torch.stack([encoder(x) for _ in range(T)])
    ours = encode(x, T, "ttfs", seeded())
    np.testing.assert_array_equal(ours[:, x > 0], theirs[:, x > 0])
    assert theirs[T - 1, x == 0].all() and not ours[:, x == 0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_fires_once_and_draws_with_the_same_probability(dtype):
    x = images(1, 400).to(dtype)
    s = encode(x, 4099, "ttfs", seeded())
    assert s.dtype == dtype
    assert torch.equal(s, encode(x.float(), 4099, "ttfs", seeded()).to(dtype))
    assert torch.equal(s.float().sum(0), (x > 0).float())
    x = torch.full((1, 100), 1e-4).to(dtype)  # in half precision draws are 0 more often than this
    assert torch.equal(encode(x, 1000, "poisson", seeded()).float(), encode(x.float(), 1000, "poisson", seeded()))


def test_every_encoding_keeps_type_and_shape():
    for name in ENCODERS:
        x = images(2, 4, 3, 2) if name == "time_series" else images(2, 3, 2)
        for dtype in (torch.float32, torch.float64):
            made = encode(x.to(dtype), 4, name, seeded())
            assert (made.shape, made.dtype) == ((4, 2, 3, 2), dtype)


@pytest.mark.parametrize("encoding", ["poisson", "ttfs"])
def test_values_outside_0_to_1_are_refused_by_name_and_not_clipped(encoding):
    for value, said in ((-0.25, "-0.25"), (1.5, "1.5"), (math.nan, "nan"), (math.inf, "inf")):
        x = images(2, 3)
        x[1, 1] = value
        with pytest.raises(RmpDeployError, match=f"encoding '{encoding}': value = {said}, allowed 0..1"):
            encode(x, 4, encoding, seeded())
    with pytest.raises(RmpDeployError, match=r"x = torch.uint8, allowed floats"):
        encode(torch.ones(2, 3, dtype=torch.uint8), 4, encoding, seeded())


def test_an_unknown_encoding_and_no_steps_are_refused():
    with pytest.raises(RmpDeployError, match=r"encoding 'rate': unknown, allowed direct, poisson, ttfs, time_series"):
        encode(images(2, 3), 4, "rate", seeded())
    with pytest.raises(RmpDeployError, match=r"T = 0, allowed 1\.\.65535"):
        encode(images(2, 3), 0, "poisson", seeded())
    for T in (2.5, True, "4", None):
        with pytest.raises(RmpDeployError, match=rf"T = {T!r}, allowed 1\.\.65535"):
            encode(images(2, 3), T, "direct", seeded())
