"""Say what works in this environment, and the exact command for what does not."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict, dataclass

from rich.table import Table

from rmp_deploy.cli.common import console, print_json
from rmp_deploy.errors import RmpDeployError


@dataclass(frozen=True)
class Finding:
    """One feature: does it work here, what was found, and what to run if it does not."""

    feature: str
    works: bool
    found: str
    todo: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to ask for."""


def run(args: argparse.Namespace) -> int:
    findings = examine()
    if args.json:
        print_json({"python": platform.python_version(), "findings": [asdict(f) for f in findings]})
    else:
        out = console()
        table = Table("feature", "works", "found", box=None)
        for f in findings:
            table.add_row(f.feature, "yes" if f.works else "no", f.found)
        out.print(table)
        for f in findings:
            if not f.works:
                out.print(f"{f.feature}: {f.todo}")
    return 0 if findings[0].works else 1


def examine() -> list[Finding]:
    """Core first: without it nothing works; every other feature is an extra."""
    return [
        _packages("core: simulate, verify and price files", ("numpy", "onnx", "onnxruntime", "rich", "jinja2"), ""),
        _packages("train and export", ("torch", "safetensors", "scikit-learn"), "train"),
        _lava(),
    ]


IMPORT_NAMES = {"scikit-learn": "sklearn"}


def _packages(feature: str, packages: tuple[str, ...], extra: str) -> Finding:
    missing = [p for p in packages if importlib.util.find_spec(IMPORT_NAMES.get(p, p)) is None]
    found = ", ".join(f"{p} {_version(p)}" for p in packages if p not in missing)
    name = f"rmp-deploy[{extra}]" if extra else "rmp-deploy"
    todo = f"pip install '{name}'"
    return Finding(feature, not missing, found if not missing else f"missing: {', '.join(missing)}", todo)


def _lava() -> Finding:
    feature = "simulate on Lava"
    try:
        from rmp_deploy.converters.lava.compat import import_lava

        import_lava()
    except RmpDeployError as e:
        return Finding(feature, False, "missing or not usable", str(e))
    return Finding(feature, True, f"lava-nc {_version('lava-nc')} on Python {platform.python_version()}", "")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "?"
