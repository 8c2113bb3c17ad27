"""A preset that brings no data says which folder it wants."""

from __future__ import annotations

import pytest

from rmp_deploy.cli import main
from rmp_deploy.training.config import PRESETS


@pytest.mark.parametrize("name", [name for name, config in PRESETS.items() if not config.data])
def test_a_preset_without_data_names_the_folder_that_it_wants(name, tmp_path, capsys):
    assert main(["train", "--preset", name, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: preset '{name}': data = none, allowed")
    assert "folder" in line
    assert "Pass it as --data." in line
    assert not (tmp_path / "run").exists()
