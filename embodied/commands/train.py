"""``embodied train``: one run from composed configuration, by imitation or reinforcement."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from embodied import registry
from embodied.commands.base import Command, command_line, finish, take
from embodied.config import from_plain, load_yaml
from embodied.core.errors import ConfigError
from embodied.core.task import file_name
from embodied.train.config import IMITATION, TrainConfig


@dataclasses.dataclass
class Options(TrainConfig):
    """Keys of ``embodied train``: those of a run, and where it goes.

    Attributes:
      out: Run directory to make; empty for ``runs/<task>-<level>-<observation>-<memory>-s<seed>``,
        which doesn't name the policy, and several tasks by their number (``4tasks``).
      resume: Carry on from the newest checkpoint of ``out``, as it was begun. Without a task
        no other key is taken; with one all must be as before.
    """

    task: list[str] = dataclasses.field(default_factory=list)
    out: str = ""
    resume: bool = False

    def __post_init__(self) -> None:
        if self.task or not (self.resume and self.out):
            super().__post_init__()


def check(options: Options, typed: Collection[str]) -> None:
    """Refuses keys that would change nothing, since the run's own file says what it is."""
    others = [key for key in typed if key not in ("out", "resume")]
    if not options.task and others:
        raise ConfigError(
            f"embodied train --resume out={options.out} carries on a run as it was begun, and "
            f"{others[0]}= would change nothing; leave out {', '.join(others)}, or give the whole "
            "command that began it, task= or suite= among it, to have every key compared"
        )


def run(options: Options) -> None:
    """Checks every name before anything heavy is loaded, then trains."""
    if options.task:
        config = take(TrainConfig, options)
        out = Path(options.out or default_run(config))
    else:
        out = Path(options.out)
        config = from_plain(TrainConfig, load_yaml(out / "config.yaml"), source=str(out))
    check_names(config)
    if config.algorithm == IMITATION:
        from embodied.train.imitation import train
    else:
        from embodied.train.reinforcement import train

    done = int(train(config, out, resume=options.resume).name)
    if done < config.steps:
        print(f"stopped after {done} of {config.steps} steps")
        finish(out, command_line("embodied", "train", "--resume", f"out={out}"))
    else:
        finish(out, command_line("embodied", "evaluate", out))


def check_names(config: TrainConfig) -> None:
    """Refuses unknown tasks, levels, policies, memories and their options."""
    for task, level in zip(config.task, config.task_levels(), strict=True):
        registry.task_info(task).knobs(level)
    from embodied.memory import memory_config

    memory_config(config.memory.name, config.memory.config)
    options = dict(config.policy.config)
    for key in ("memory", "memory_config"):
        if key in options:
            raise ConfigError(
                f"policy.config.{key} is set by memory=NAME and memory.config.*; leave it out"
            )
    schema = registry.policy_config_class(config.policy.name)
    from_plain(schema, options, where="policy.config")


def default_run(config: TrainConfig) -> str:
    """Returns ``runs/<task>-<level>-<observation>-<memory>-s<seed>``.

    Several tasks are named by their number, as ``4tasks``. Reinforcement learning leaves the
    observation out: its tasks have but one.
    """
    level = "-".join(dict.fromkeys(config.task_levels()))
    seen = [config.observation] if config.algorithm == IMITATION else []
    parts = (file_name(*config.task), level, *seen, config.memory.name, f"s{config.seed}")
    return "runs/" + "-".join(parts)


COMMAND = Command(
    run,
    Options,
    config="train",
    check=check,
    examples=(
        "train policy=memory_vla task=remember_color level=easy preset=small seed=0",
        "train task=remember_color memory=none seed=0",
        "train suite=memory_bench_4 observation=state preset=state",
        "train --resume out=runs/remember_color-easy-rgb-none-s0",
        "train task=put_block_back optim.lr=5e-4 policy.config.head.steps=5",
    ),
)
