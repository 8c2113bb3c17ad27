"""What a user installs: one top-level name, the symlinked folders and the data files inside it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_only_rmp_deploy(tmp_path):
    # built from a copy: setuptools leaves build/ and *.egg-info beside the sources
    copy = tmp_path / "source"
    subprocess.run(["git", "-C", str(ROOT), "checkout-index", "-a", f"--prefix={copy}/"], check=True)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(copy),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"rmp_deploy"}
    for wanted in (
        "rmp_deploy/py.typed",
        "rmp_deploy/converters/torch_to_ir.py",
        "rmp_deploy/converters/lava/network.py",
        "rmp_deploy/hw_profiles/loihi1.toml",
        "rmp_deploy/hw_profiles/loihi2.toml",
        "rmp_deploy/report/page.html.j2",
        "rmp_deploy/report/switch.js",
    ):
        assert wanted in names


def test_every_dependency_is_pinned():
    """`make` installs with constraints.txt: what pyproject.toml asks for has its version there."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [r for requirements in project["optional-dependencies"].values() for r in requirements]
    asked = {re.split(r"[<>=;\[ ]", r)[0].lower() for r in (*project["dependencies"], *extras)} - {"rmp-deploy"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert asked <= {line.split("==")[0].lower() for line in lines}


def test_what_the_makefile_installs_on_its_own_is_pinned_to_the_same_version():
    """Their declared dependencies would change torch, numpy or nir: one version of each, in both files."""
    own = re.findall(r"[\w-]+==[\d.]+", re.sub(r"^#.*", "", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {"neurobench==2.3.0", "sinabs==3.1.3", "spikingjelly==2.0.0", "syops==0.0.5"} <= set(own)
    assert set(own) <= set((ROOT / "constraints.txt").read_text().splitlines())
