"""Make lava-nc 0.10.0 importable on Python 3.10-3.13 with numpy 1.26-2.3; the only door to `import lava`.

Upstream is archived, so these patches are final. Each is applied to lava's modules in this process, never to files;
lava's own tests pass with them.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib
import importlib.metadata
import multiprocessing
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import managers
from typing import Any

import numpy as np
import numpy.typing as npt

from rmp_deploy.errors import RmpDeployError

VERSION = "0.10.0"
INSTALL = (
    f"pip install 'rmp-deploy[lava]' && pip install --no-deps --ignore-requires-python lava-nc=={VERSION}"
    if sys.version_info >= (3, 11)  # lava-nc declares Python < 3.11, so there the extra brings its dependencies only
    else "pip install 'rmp-deploy[lava]'"
)
VAR_MODEL = "lava.magma.compiler.var_model"
_lock = threading.Lock()
_is_imported = False


def import_lava() -> None:
    """Import lava's core with the patches applied; does nothing after the first call.

    Lava is bound to the `fork` context whatever the program's start method is, and that start method is left alone.

    Raises:
        RmpDeployError: lava-nc is absent, is not 0.10.0, misses a dependency, or the platform has no `fork`.
    """
    global _is_imported  # noqa: PLW0603
    with _lock:
        if not _is_imported:
            _check_installed()
            try:
                _import_patched()
            except ImportError as error:
                raise RmpDeployError(f"lava-nc: {error}, allowed all of its dependencies. Run: {INSTALL}") from error
            _is_imported = True


def _check_installed() -> None:
    try:
        found = importlib.metadata.version("lava-nc")
    except importlib.metadata.PackageNotFoundError:
        raise RmpDeployError(f"lava-nc: not installed, allowed {VERSION}. Run: {INSTALL}") from None
    if found != VERSION:
        raise RmpDeployError(f"lava-nc: version = {found}, allowed {VERSION}. Run: {INSTALL}")
    if "fork" not in multiprocessing.get_all_start_methods():
        raise RmpDeployError(
            f"lava-nc: no fork on {sys.platform}, allowed systems with fork. Use the backend reference or onnxruntime."
        )


def _import_patched() -> None:
    with _no_start_method(), _hashable_defaults():
        importlib.import_module(VAR_MODEL)
        process = importlib.import_module("lava.magma.core.process.process")
        ports = importlib.import_module("lava.magma.core.process.ports.ports")
        conv = importlib.import_module("lava.proc.conv.models")
        for name in ("lava.proc.dense.models", "lava.proc.lif.models", "lava.magma.core.run_configs"):
            importlib.import_module(name)
    _bind_to_fork()
    _raise_attribute_error(process.Collection)
    _reshape_by_position(ports.ReshapePort)
    # int8 there: 128 groups or more give silent zeros, numpy 2 raises for sizes >= 128 (lava/proc/conv/models.py:25-32)
    for geometry in ("kernel_size", "stride", "padding", "dilation", "groups"):
        getattr(conv.AbstractPyConvModel, geometry).d_type = np.int32


@contextmanager
def _no_start_method() -> Iterator[None]:
    """lava/magma/runtime/message_infrastructure/multiprocessing.py:47 sets the start method on import: it raises where
    one is set already (a DataLoader with workers), and would force `fork` on the rest of the program."""
    original = multiprocessing.set_start_method
    multiprocessing.set_start_method = lambda *_args, **_kwargs: None
    try:
        yield
    finally:
        multiprocessing.set_start_method = original


@contextmanager
def _hashable_defaults() -> Iterator[None]:
    """Python 3.11+ refuses unhashable dataclass defaults such as `ByteEncoder()` (lava/magma/compiler/var_model.py):
    while that module is imported, its dataclasses keep object's identity hash."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **kwargs: Any) -> Any:
        def wrap(cls: type) -> Any:
            made: Any = original(**kwargs)(cls)
            if made.__module__ == VAR_MODEL and made.__hash__ is None:
                made.__hash__ = object.__hash__
            return made

        return wrap if cls is None else wrap(cls)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


def _bind_to_fork() -> None:
    """Give lava the `fork` context by name: what it passes to its children (samples, classes) is not pickled.

    Its children, which wait for messages for ever, also die with this process, however that ends (SIGKILL, `timeout`).
    """
    fork = multiprocessing.get_context("fork")
    infrastructure = "lava.magma.runtime.message_infrastructure"
    actor = importlib.import_module(f"{infrastructure}.multiprocessing").SystemProcess
    actor._start_method = "fork"
    actor._Popen = staticmethod(fork.Process._Popen)
    original: Callable[[Any], None] = actor.run

    def run(self: Any) -> None:
        _die_with_parent()
        original(self)

    class Manager(managers.SharedMemoryManager):
        def __init__(self) -> None:
            super().__init__(ctx=fork)

        def start(self, *_args: Any, **_kwargs: Any) -> None:
            super().start(initializer=_die_with_parent)

    actor.run = run
    bindings: list[tuple[str, str, object]] = [
        (f"{infrastructure}.shared_memory_manager", "managers", types.SimpleNamespace(SharedMemoryManager=Manager)),
        ("lava.magma.runtime.runtime", "Queue", fork.Queue),
        ("lava.magma.compiler.channels.pypychannel", "Semaphore", fork.Semaphore),
    ]
    for module, name, value in bindings:
        setattr(importlib.import_module(module), name, value)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class _MissingMemberError(AssertionError, AttributeError):
    """What lava raises (AssertionError) and what `hasattr` expects (AttributeError)."""


def _raise_attribute_error(collection: Any) -> None:
    """Python 3.12+ asks Collection for dunder names with `hasattr` (lava/magma/core/process/process.py)."""
    original: Callable[[Any, str], Any] = collection.__getattr__

    def __getattr__(self: Any, item: str) -> Any:  # noqa: N807
        try:
            return original(self, item)
        except AssertionError as error:
            raise _MissingMemberError(*error.args) from None

    collection.__getattr__ = __getattr__


def _reshape_by_position(reshape_port: Any) -> None:
    """numpy 2.4 removed `np.reshape(newshape=...)` (lava/magma/core/process/ports/ports.py:920,931)."""

    def forward(self: Any) -> functools.partial[Any]:
        return functools.partial(_reshape, shape=self.shape)

    def backward(self: Any) -> functools.partial[Any]:
        return functools.partial(_reshape, shape=self.old_shape)

    reshape_port.get_transform_func_fwd = forward
    reshape_port.get_transform_func_bwd = backward


def _reshape(data: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.reshape(data, shape)
