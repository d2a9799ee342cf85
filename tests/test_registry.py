"""Names become rows of closed tables or entry points, and nothing else."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from embodied import registry
from embodied.core.errors import ConfigError, EmbodiedError
from embodied.core.task import EnvConfig, TaskInfo


def test_builtin_rows_resolve() -> None:
    for name in registry.POLICIES:
        config = registry.policy_config_class(name)
        assert registry.policy_class(name).__module__.startswith("policies.")
        assert config() == config()
    for name in registry.task_names():
        info = registry.task_info(name)
        assert info.name == name
        for level, knobs in info.levels.items():
            assert 0 < info.ceiling(knobs) <= 1, (name, level)
            assert (info.ceiling(knobs) < 1) == info.needs_memory(knobs), (name, level)
            assert info.horizon_s(knobs) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: registry.task_info("remember_colour"), "did you mean 'remember_color'"),
        (lambda: registry.policy_class("memory_vlaa"), "did you mean 'memory_vla'"),
        (lambda: registry.policy_config_class("os:system"), "unknown policy 'os:system'"),
        (lambda: registry.make_env("remember_color", "eazy"), "did you mean 'easy'"),
        (
            lambda: registry.make_env("remember_color", "easy", EnvConfig(knobs={"k": 3})),
            "did you mean 'K'",
        ),
        (lambda: registry.make_vec("remember", "easy"), "did you mean 'remember_color'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_memories_are_listed() -> None:
    assert {"none", "perceptual_cognitive", "gru", "full_history"} <= set(registry.memory_names())


def _points(monkeypatch: pytest.MonkeyPatch, group: str, **values: str) -> None:
    points = [importlib.metadata.EntryPoint(k, v, group) for k, v in values.items()]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [p for p in points if p.group == group]
    )
    registry._entry_points.cache_clear()


@pytest.fixture
def _clean_entry_points():
    yield
    registry._entry_points.cache_clear()


INSTALLED_TASK = TaskInfo(
    name="own_task",
    env_id="Own/Task-v0",
    entry="tests.test_registry:Task",
    summary="a task of one's own",
    levels={"easy": {"K": 2}},
    ceiling=lambda knobs: 1 / knobs["K"],
    cues=lambda knobs: knobs["K"],
    horizon_s=lambda knobs: 5.0,
)
MISNAMED_TASK = INSTALLED_TASK


@pytest.mark.usefixtures("_clean_entry_points")
def test_an_installed_task_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    _points(monkeypatch, registry.TASK_GROUP, own_task="tests.test_registry:INSTALLED_TASK")
    assert "own_task" in registry.task_names()
    assert registry.task_info("own_task").ceiling({"K": 2}) == 0.5


@pytest.mark.usefixtures("_clean_entry_points")
@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        (registry.TASK_GROUP, "other", "tests.test_registry:MISNAMED_TASK", "got 'own_task'"),
        (registry.TASK_GROUP, "other", "json:dumps", "expected a TaskInfo"),
        (registry.TASK_GROUP, "remember_color", "json:dumps", "name of a built-in one"),
        (registry.POLICY_GROUP, "memory_vla", "json:dumps", "name of a built-in one"),
        (registry.POLICY_GROUP, "other", "json:JSONEncoder", "Config is a dataclass"),
    ],
)
def test_bad_entry_points_are_named(
    monkeypatch: pytest.MonkeyPatch, group: str, name: str, value: str, message: str
) -> None:
    _points(monkeypatch, group, **{name: value})
    ask = registry.task_info if group == registry.TASK_GROUP else registry.policy_config_class
    with pytest.raises(ConfigError, match=message):
        _ask_all(ask, name, group)


def _ask_all(ask, name: str, group: str) -> None:
    """A clash with a built-in name shows when names are listed."""
    ask(name)
    registry.task_names() if group == registry.TASK_GROUP else registry.policy_names()


def test_a_foreign_sims_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sims").mkdir()
    (tmp_path / "sims" / "__init__.py").write_text("raise SystemExit('imported')")
    code = (
        "from embodied import registry\n"
        "from embodied.core.errors import EmbodiedError\n"
        "try:\n    registry.task_names()\n"
        "except EmbodiedError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "the package 'sims' belongs at" in done.stdout
    assert str(tmp_path / "sims") in done.stdout


def test_errors_are_embodied_errors() -> None:
    assert issubclass(ConfigError, EmbodiedError)


@pytest.mark.sim
def test_make_env_and_make_vec() -> None:
    config = EnvConfig(observation="state")
    env = registry.make_env("remember_color", "easy", config)
    observation, info = env.reset(seed=3)
    assert observation["entities"].ndim == 2
    assert info["phase"] == "cue"
    env.close()
