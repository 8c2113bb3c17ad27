"""Hardware profiles by name or file: `load("cmos45")`, `load("my_chip.toml")`.

The folder stands at the root, but its one import path is `rmp_deploy.hw_profiles`.
"""

from __future__ import annotations

import os
from pathlib import Path

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.hw_profiles.figures import Barrier, Figure, Limit, Memory, Price, Quantity, WholeTask
from rmp_deploy.hw_profiles.reading import read
from rmp_deploy.hw_profiles.schema import LATENCIES, LIMITS, MESH, ROUTES, STATIC, TERMS, HardwareProfile, Term

__all__ = [
    "LATENCIES",
    "LIMITS",
    "MESH",
    "ROUTES",
    "STATIC",
    "TERMS",
    "Barrier",
    "Figure",
    "HardwareProfile",
    "Limit",
    "Memory",
    "Price",
    "Quantity",
    "Term",
    "WholeTask",
    "load",
    "names",
]

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the profiles that ship with the package, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(name_or_path: str | os.PathLike[str]) -> HardwareProfile:
    """Load a shipped profile by name, or any other by its path (ends in .toml or holds a folder).

    Raises:
        RmpDeployError: no shipped profile has that name, or the file is not a valid profile.
    """
    text = os.fspath(name_or_path)
    path = Path(text)
    if path.suffix == ".toml" or path.name != text:
        return read(path)
    if text not in names():
        raise RmpDeployError(
            f"profile '{text}': unknown name, allowed {', '.join(names())} or a path to a .toml file. Choose one."
        )
    return read(_FOLDER / f"{text}.toml")
