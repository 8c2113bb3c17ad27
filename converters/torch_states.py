"""States that a traced module passes around by hand: ``spikes, mem = lif(x, mem)``.

In the IR a neuron keeps its own state. So a state is only followed: it must go from the neuron that made it back to
that neuron in the next step, through the caller, an attribute or the neuron itself. A module is therefore traced twice,
and the second time stands for all steps; arithmetic on a state cannot be traced.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rmp_deploy.converters.torch_layers import refused
from rmp_deploy.errors import RmpDeployError


class State:
    """The state `part` of the neuron `owner`; without an owner it was passed in, and stands for any of the model's."""

    def __init__(self, owner: str | None = None, part: str = "") -> None:
        self.owner, self.part = owner, part

    def __getattr__(self, name: str) -> State:
        if name.startswith("__"):
            raise AttributeError(name)  # protocols that a state does not follow
        return self

    def __getitem__(self, index: int) -> State:
        return self

    def __setitem__(self, index: int, state: object) -> None:
        """In a list of states that was passed in; its parts are not told apart."""
        if not isinstance(state, State):
            raise TypeError(f"{state!r} is put among the states")

    def __bool__(self) -> bool:
        raise TypeError("what to do depends on the value of a state")

    __iter__ = None  # of how many parts, nobody knows


def check_states(
    neuron: nn.Module, path: str, given: Mapping[str, object], first_step: bool, keeps_state: bool
) -> None:
    """Check the states that `neuron` is `given` by argument name: its own, of the step before.

    Args:
        neuron: the layer, which stands at `path`.
        path: its module path.
        given: its arguments but the first.
        first_step: so that zeros, or none, are its state too.
        keeps_state: where it is given none, it goes on from its own; otherwise it would begin anew in every step.

    Raises:
        RmpDeployError: it is given anything else.
    """
    states = {name: state for name, state in given.items() if state is not None}
    if not first_step and not states and not keeps_state:
        todo = "Pass it the state that it returned in the step before"
        raise refused(neuron, path, "called without a state: it begins anew in every step", "its own state", todo)
    for name, state in states.items():
        if first_step and isinstance(state, Tensor) and not state.any():
            continue
        if isinstance(state, State) and state.owner in (None, path) and state.part in ("", name):
            continue
        found = f"a new {type(state).__name__}" if not isinstance(state, State) else f"'{state.part}' of {state.owner}"
        todo = "Begin with zeros, and keep each state for its neuron from step to step"
        raise refused(neuron, path, f"{name} = {found}", "its own, of the step before", todo)


def check_not_reset(neuron: nn.Module, path: str, held: Mapping[str, Tensor]) -> None:
    """Check that a forward of one step has left alone the buffers that `neuron`, which stands at `path`, `held`.

    Raises:
        RmpDeployError: it has reset them, and does so in every step.
    """
    if any(now is not held.get(name) for name, now in neuron.named_buffers()):
        todo = "Reset it outside of forward, before the first step"
        raise refused(neuron, path, "reset by the forward of every step", "a state that is kept", todo)


def call_with_states(module: nn.Module, x: Any) -> Any:
    """Call a traced module on `x` and, where it takes states, those of the step before; return the one tensor."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    returned = module(x, **{p.name: State() for p in named if p.default in (p.empty, None)})
    if not isinstance(returned, tuple | State):
        return returned
    values = [leaf for leaf in tree_leaves(returned) if leaf is not None and not isinstance(leaf, State)]
    if not values:
        kind = type(module).__name__
        raise RmpDeployError(f"{kind}: returns a state, allowed spikes or currents. Return the neuron's spikes.")
    return values[0] if len(values) == 1 else returned
