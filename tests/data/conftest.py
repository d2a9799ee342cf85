"""Small datasets of the fake environment, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embodied.collect import collect
from embodied.core.task import EnvConfig
from tests.data import fake_env

CONFIG = EnvConfig(image_size=16)


def collect_fake(out: Path, episodes: int = 12, **options):
    """Collects with the fake environment in this process."""
    options = {"num_workers": 0, "progress": False, "env_factory": fake_env.make, **options}
    config, task = options.pop("config", CONFIG), options.pop("task", "fake")
    return collect(task, "easy", config, episodes=episodes, out=out, **options)


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    """Twelve seeds of the fake task, one of which fails; read-only."""
    out = tmp_path_factory.mktemp("data") / "fake"
    collect_fake(out)
    return out


@pytest.fixture(scope="session")
def decisions(tmp_path_factory) -> Path:
    """The same twelve seeds, clean and observed on decisions; read-only."""
    out = tmp_path_factory.mktemp("decisions") / "fake"
    collect_fake(out, observe_on="decision", noise=0.0)
    return out


@pytest.fixture
def dataset(original, tmp_path) -> Path:
    """A copy of `original` to damage."""
    shutil.copytree(original, tmp_path / "fake")
    return tmp_path / "fake"
