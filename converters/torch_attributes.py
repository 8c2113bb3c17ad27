"""What a forward does besides returning a value: attributes, buffers and random numbers, put back and compared."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec, tree_flatten

from rmp_deploy.converters.torch_states import State

PLAIN = (bool, int, float, complex, str, bytes, set)
Leaves = tuple[list[tuple[object, int]], TreeSpec]  # with the version of a tensor, and how containers hold them


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Afterwards, all attributes, what is in containers among them and the values of buffers are as before."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    containers: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        _collect(vars(module), containers)
    try:
        yield
    finally:
        for container, before in containers.values():
            container.clear()
            (container.extend if isinstance(container, list | deque) else container.update)(before)
        with torch.no_grad():
            for buffer, values in buffers:
                if not torch.equal(buffer, values):
                    buffer.copy_(values)


def _collect(x: object, found: dict[int, tuple[Any, Any]]) -> None:
    """Shallow copies of `x` and of the containers in it."""
    if isinstance(x, list | deque | dict | set) and id(x) not in found:
        found[id(x)] = (x, copy.copy(x))
        for item in x.values() if isinstance(x, dict) else x:
            _collect(item, found)
    elif isinstance(x, tuple):
        for item in x:
            _collect(item, found)


def attributes(model: nn.Module) -> dict[tuple[str, str], Leaves]:
    """Of every module by path and name, what would show a change between two steps."""
    found: dict[tuple[str, str], Leaves] = {}
    for path, module in model.named_modules():
        for name, value in {**module._parameters, **module._buffers, **vars(module)}.items():
            leaves, spec = tree_flatten(copy.copy(value) if isinstance(value, set) else value)
            found[path, name] = ([(leaf, leaf._version if isinstance(leaf, Tensor) else 0) for leaf in leaves], spec)
    return found


def differ(before: Leaves, after: Leaves) -> bool:
    """Whether an attribute has changed; states and values of the network do so in every step."""
    return before[1] != after[1] or any(not _same(a, b) for a, b in zip(before[0], after[0], strict=True))


def _same(before: tuple[object, int], after: tuple[object, int]) -> bool:
    (a, _), (b, _) = before, after
    traced = (State, fx.Proxy)
    if isinstance(a, traced) or isinstance(b, traced):
        return isinstance(a, traced) and type(a) is type(b)
    return before[1] == after[1] and (a is b or (isinstance(a, PLAIN) and type(a) is type(b) and a == b))


def random_numbers() -> tuple[Any, ...]:
    """Where the global random generators stand."""
    kind, keys, *position = np.random.get_state(legacy=True)  # noqa: NPY002  # that is the global one
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), kind, np.asarray(keys).tobytes(), tuple(position)
