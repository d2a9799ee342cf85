"""``embodied collect``: expert demonstrations of one task or a suite."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from embodied import registry
from embodied.collect import collect
from embodied.commands.base import Command, command_line, finish, take, training_keys
from embodied.core.errors import ConfigError
from embodied.core.task import EnvConfig, paired_levels


@dataclasses.dataclass
class Options(EnvConfig):
    """Keys of ``embodied collect``: how the environment is made, and how much of it.

    Attributes:
      task: Task names; each makes a dataset of its own.
      level: Level of the tasks.
      levels: Level of each task, where they differ; a task may stand there once a level.
      episodes: Seeds to try; more than a finished dataset holds extends it.
      out: Dataset directory; empty for ``data/<task>-<level>-<observation>``.
      seed_start: First seed.
      noise: Scale of the demonstrator's noise and bursts; 0 for clean episodes.
      clean: Share of episodes without them, as quick and direct as a policy acts; it helps where
        several commits follow one another, which noise draws out.
      workers: Processes; null for one a core, 0 to work in this process.
      observe_on: ``"period"`` or ``"decision"``.
      observe_period_s: Seconds between observation ticks under ``"period"``.
      label_horizon: Actions in a label chunk.
      resume: Continue what is in the directory; false refuses an existing dataset.
    """

    task: list[str] = dataclasses.field(default_factory=list)
    level: str = "easy"
    levels: list[str] = dataclasses.field(default_factory=list)
    episodes: int = 2000
    out: str = ""
    seed_start: int = 0
    noise: float = 1.0
    clean: float = 0.0
    workers: int | None = None
    observe_on: str = "period"
    observe_period_s: float = 0.4
    label_horizon: int = 16
    resume: bool = True


def run(options: Options) -> None:
    """Collects one dataset a task; all names are checked before the first starts."""
    if not options.task:
        known = ", ".join(registry.task_names())
        raise ConfigError(f"missing key 'task': add task=NAME. Known: {known}")
    if options.out and len(options.task) > 1:
        raise ConfigError(
            f"out={options.out} is one directory, but {len(options.task)} tasks make one each; "
            "leave it out"
        )
    config = take(EnvConfig, options)
    levels = paired_levels(options.task, options.level, options.levels)
    settings = list(zip(options.task, levels, strict=True))
    for task, level in settings:
        registry.imitation_task(task).knobs(level, config.knobs)
    made = Path()
    for task, level in settings:
        made = Path(options.out or f"data/{task}-{level}-{options.observation}")
        result = collect(
            task,
            level,
            config,
            episodes=options.episodes,
            out=made,
            seed_start=options.seed_start,
            noise=options.noise,
            clean=options.clean,
            num_workers=options.workers,
            observe_on=options.observe_on,
            observe_period_s=options.observe_period_s,
            label_horizon=options.label_horizon,
            resume=options.resume,
        )
        print(f"{task} {level}: {result.stored} episodes stored, {result.new} of them new")
        for seed, reason in sorted(result.failed.items()):
            print(f"  seed {seed} left out: {reason}")
    if len(options.task) > 1:
        names = [f"task={','.join(options.task)}", f"level={options.level}"]
        if options.levels:
            names[1] = f"levels={','.join(options.levels)}"
        names += training_keys(options.observation, options.observe_on)
        finish(None, command_line("embodied", "train", *names))
    else:
        finish(made, command_line("embodied", "data", "show", made))


COMMAND = Command(
    run,
    Options,
    config="collect",
    resumes=True,
    examples=(
        "collect task=remember_color level=easy episodes=2000",
        "collect task=put_block_back observation=state episodes=500 workers=2",
        "collect suite=memory_bench_4 observation=state episodes=1000",
        "collect task=remember_color cameras=front,wrist image_size=96 knobs.K=5",
    ),
)
