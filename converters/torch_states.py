"""States that a traced module passes around by hand: ``spikes, mem = lif(x, mem)``.

In the IR a neuron keeps its own state, so a state is only followed: it must go from the layer that made it back to that
layer, in the next step or as what the caller passes in. Any arithmetic on one is refused.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves


class State:
    """A layer's state, or one that was passed in (`owner` None); its parts, by name or index, are that state too."""

    def __init__(self, owner: str | None = None) -> None:
        self.owner = owner

    def __getattr__(self, part: str) -> State:
        if part.startswith("__"):
            raise AttributeError(part)  # protocols that a state does not follow
        return self

    def __getitem__(self, index: int) -> State:
        return self

    def __setitem__(self, index: int, part: object) -> None:
        if not is_state_of(part, self.owner):
            raise TypeError(f"a state of '{self.owner}' is set to {part!r}")

    def __bool__(self) -> bool:
        raise TypeError("what to do depends on the value of a state")

    __iter__ = None  # of how many parts, nobody knows


def is_state_of(x: object, owner: str | None) -> bool:
    """True for what a layer may be given as its state: its own, the one passed in, none yet, or zeros."""
    if isinstance(x, fx.Proxy):
        return False
    if isinstance(x, Tensor):
        return not bool(x.any())
    return x is None or (isinstance(x, State) and (x.owner is None or owner is None or x.owner == owner))


def call_with_states(module: nn.Module, x: Any) -> Any:
    """Call a traced module on `x` and the states of the step before, which it has no other way to get."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    states = {p.name: State() for p in named if p.default in (p.empty, None)}
    return without_states(module(x, **states))


def without_states(returned: Any) -> Any:
    """Of a tuple that a module returns, the one tensor; anything else as it is."""
    if not isinstance(returned, tuple):
        return returned
    values = [leaf for leaf in tree_leaves(returned) if not is_state_of(leaf, None)]
    return values[0] if len(values) == 1 else returned
