"""Surrogate gradients refuse what gives no gradient."""

from __future__ import annotations

import math

import pytest

from rmp_deploy.training.surrogate import Arctan, Rectangular, Sigmoid, Tanh


@pytest.mark.parametrize("kind", [Rectangular, Tanh, Sigmoid, Arctan])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_a_surrogate_of_no_finite_sharpness_is_refused(kind, value):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: \w+ = {value}, allowed finite and > 0"):
        kind(value)
