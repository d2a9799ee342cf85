"""The evaluations of a cell: their words, and what is refused of them before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embodied import registry
from embodied.benchmark.config import HTML, BenchmarkConfig, replaced
from embodied.benchmark.places import BEYOND, EVALUATION, LOOKS
from embodied.commands import base
from embodied.core.errors import ConfigError
from embodied.evaluate.config import EvaluateConfig
from embodied.evaluate.results import NONE, SWAPPED, SWAPS


def of(config: BenchmarkConfig, looked: bool) -> dict[str, tuple[str, ...]]:
    """Returns folder of a cell -> words of ``embodied evaluate``, in the order of the work.

    Args:
      config: What is asked for.
      looked: Whether episodes of the cell may be looked into.
    """
    words = {EVALUATION: config.evaluating()}
    if looked and (looking := _looking(config)):
        words[LOOKS] = looking
    for column, own in config.beyond.items():
        words[BEYOND.format(column)] = config.going_beyond(own)
    return words


def _looking(config: BenchmarkConfig) -> tuple[str, ...]:
    """Returns the words of an evaluation that explains an episode of each task, and its swap."""
    tasks = [registry.task_info(task) for task, _ in config.settings()]
    named = [info.name for info in tasks if info.needs_memory(next(iter(info.levels.values())))]
    if config.report != HTML or not named:
        return ()
    own = (
        f"task=[{','.join(dict.fromkeys(named))}]",
        "episodes=1",
        "batch=1",
        f"seed_start={config.seed_start}",
        f"intervene={NONE},{SWAPPED}",
        "videos=1",
        "inspect=true",
    )
    return replaced(config.evaluate, own)


def check(config: BenchmarkConfig) -> None:
    """Refuses words that a command would refuse, some of them after hours of training.

    Raises:
      ConfigError: Naming the key of the benchmark that they come from.
    """
    settings = list(dict.fromkeys(config.settings()))
    for task, level in settings:
        registry.imitation_task(task).knobs(level)
    try:
        words = config.collecting(*settings[0])  # the others' differ in task and level alone
        knobs = base.parse(base.load("collect"), words, "collect").knobs
        for task, level in settings:
            registry.check_knobs(task, level, knobs)
    except ConfigError as error:
        raise _blamed("collect", config.collect, error) from error
    given = {BEYOND.format(name): (f"beyond.{name}", own) for name, own in config.beyond.items()}
    for folder, words in of(config, looked=True).items():
        try:
            asked = ["RUN", *words, f"out={folder}"]
            _check(config, base.parse(base.load("evaluate"), asked, "evaluate"), knobs)
        except ConfigError as error:
            raise _blamed(*given.get(folder, ("evaluate", config.evaluate)), error) from error


def _blamed(key: str, words: list[str], error: ConfigError) -> ConfigError:
    return ConfigError(f"{key}=[{','.join(words)}]: {error}") if words else error


def _check(config: BenchmarkConfig, asked: EvaluateConfig, collected: Mapping[str, Any]) -> None:
    """Refuses an evaluation of tasks, levels or knobs that there are not, or without a table."""
    if NONE not in asked.intervene:
        raise ConfigError(
            f"intervene={','.join(asked.intervene)} leaves no episodes for the table, which has "
            f"those without intervention; add {NONE}"
        )
    trained = config.settings()
    for task in asked.task or dict.fromkeys(task for task, _ in trained):
        info = registry.imitation_task(task)
        levels = [level for name, level in trained if name == task] or [trained[0][1]]
        for level in [asked.level] if asked.level else levels:
            info.knobs(level, asked.knobs)
            if _names_data(config):
                continue  # runs bring the knobs of their data along, which are not known here
            own = collected if (task, level) in trained else {}
            knobs = {**own, **asked.knobs}
            registry.check_knobs(task, level, knobs)
            swaps = set(asked.intervene) & set(SWAPS)
            if swaps and not info.needs_memory(info.knobs(level, knobs)):
                raise ConfigError(
                    f"{task} has nothing to remember at these knobs, so no memories to swap; leave "
                    f"out {' and '.join(SWAPS)}, and process=true, which needs them"
                )


def _names_data(config: BenchmarkConfig) -> bool:
    return any(
        word.startswith("data=")
        for words in (config.train, *config.train_of.values())
        for word in words
    )
