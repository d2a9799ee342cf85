"""Originals made once, and a copy of them as working directory for each command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embodied import registry
from tests.bad_input.damage import make_data, make_run
from tests.data import fake_env


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every dataset and the run; read-only."""
    root = tmp_path_factory.mktemp("originals")
    make_data(root / "data")
    make_data(root / "other_task", task="put_block_back")
    make_data(root / "osc", control="osc")
    make_data(root / "two_cameras", cameras=["front", "wrist"])
    make_run(root / "run")
    return root


@pytest.fixture
def place(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of one command line: copies that may be damaged."""
    shutil.copytree(originals, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    # Commands that would simulate get the tiny environment.
    monkeypatch.setattr(registry, "make_env", fake_env.make)
    return tmp_path / "here"
