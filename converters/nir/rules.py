"""From continuous time to steps: what a time constant becomes in a step of dt, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """One step of dt [s] of ``tau * dv/dt = v_leak - v + r * x`` with x held during the step:

    ``v = decay * v + leak * (v_leak + r * x)``, ``leak = 1 - decay``

    The two rules differ in `decay` alone. `leak` is its complement without the cancellation where decay is close to 1,
    `tau` the inverse of `decay`.
    """

    decay: Callable[[F64, float], F64]  # of tau [s] and dt [s]
    leak: Callable[[F64, float], F64]  # of tau [s] and dt [s]
    tau: Callable[[F64, float], F64]  # of decay and dt [s]


RULES: dict[str, Rule] = {
    # forward Euler: Norse (functional/lif_box.py), snnTorch (import_nir.py) and NIR's converter to Lava
    "euler": Rule(
        decay=lambda tau, dt: 1 - dt / tau,
        leak=lambda tau, dt: dt / tau,
        tau=lambda decay, dt: dt / (1 - decay),
    ),
    # the exact solution: the closed form of NIR's paper, Sinabs
    "exponential": Rule(
        decay=lambda tau, dt: np.exp(-dt / tau),
        leak=lambda tau, dt: -np.expm1(-dt / tau),
        tau=lambda decay, dt: -dt / np.log(decay),
    ),
}


def check(dt: float | None, rule: str) -> tuple[float, Rule]:
    """The step [s] and the rule that the caller named.

    Raises:
        RmpDeployError: dt is missing or not a positive number, or there is no such rule.
    """
    if rule not in RULES:
        raise RmpDeployError(f"NIR: rule = {rule!r}, allowed {' or '.join(RULES)}. Choose one.")
    if dt is None:
        raise RmpDeployError("NIR: dt = none, allowed > 0 [s]. NIR is continuous in time: say how long a step is.")
    if not (np.isfinite(dt) and dt > 0):
        raise RmpDeployError(f"NIR: dt = {dt}, allowed > 0 [s]. Correct it.")
    return float(dt), RULES[rule]
