"""``embodied play``: see a task done, by the expert, by a policy, or by you."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from embodied import registry
from embodied.commands.base import Command, command_line, finish
from embodied.core.errors import ConfigError
from embodied.core.rng import EVAL_SEED_START
from embodied.core.task import IMITATION, EnvConfig, check_moves_arm

if TYPE_CHECKING:
    from embodied.play import Played


@dataclasses.dataclass
class Options:
    """Keys of ``embodied play``.

    Attributes:
      task: Task name; not needed with ``policy``, which knows its own.
      level: Level name; empty for the policy's own, or the task's first.
      policy: Run, checkpoint or claim to watch instead of the expert.
      keyboard: Drive the arm yourself, in this terminal.
      episodes: Episodes side by side in the video.
      seed: First episode seed; a policy is shown this many after its first evaluation seed.
      cue: Cue of every episode; null for the seed's own.
      noise: Scale of the expert's noise.
      camera: Camera of the video.
      size: Side of the picture in pixels.
      control: ``"fast"`` or ``"osc"``; a policy keeps its own.
      visuals: ``"lite"`` or ``"full"``; a policy keeps its own.
      out: Video to write; empty for a name below ``plays/`` that is not taken.
    """

    task: str = ""
    level: str = ""
    policy: str = ""
    keyboard: bool = False
    episodes: int = 3
    seed: int = 0
    cue: int | None = None
    noise: float = 0.0
    camera: str = "front"
    size: int = 288
    control: str = "fast"
    visuals: str = "lite"
    out: str = ""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.seed < 0 or not 32 <= self.size <= 1024:
            raise ConfigError(
                "expected episodes >= 1, seed >= 0 and size within 32..1024, got "
                f"episodes={self.episodes}, seed={self.seed}, size={self.size}"
            )
        if self.out and not self.out.endswith(".mp4"):
            raise ConfigError(f"out={self.out}: expected the name of a video, ending in .mp4")
        if self.out and Path(self.out).exists():
            raise ConfigError(f"{self.out} already exists; choose another out= or remove it")
        check_moves_arm(self.control)
        if self.keyboard and self.policy:
            raise ConfigError("--keyboard and policy= name two players; give one of them")


def run(options: Options) -> None:
    """Chooses the player, prints the outcome of each episode."""
    if not options.task and not options.policy:
        known = ", ".join(registry.task_names())
        raise ConfigError(f"missing task: embodied play TASK, or policy=RUN. Known: {known}")
    if options.policy:
        _policy(options)
        return
    from embodied import play

    info = registry.task_info(options.task)
    level = options.level or next(iter(info.levels))
    info.knobs(level)
    config = EnvConfig(control=options.control, visuals=options.visuals)
    who = "keyboard" if options.keyboard else "expert"
    out = Path(options.out) if options.out else play.unused(who, options.task, level, options.seed)
    look = {"cue": options.cue, "camera": options.camera, "size": options.size}
    if options.keyboard:
        with play.terminal_keys() as keys:
            played = play.play_keyboard(
                options.task,
                level,
                config,
                options.seed,
                Path(out),
                keys,
                play.show_in_terminal,
                **look,
            )
    else:
        seeds = range(options.seed, options.seed + options.episodes)
        played = play.play_expert(
            options.task, level, config, seeds, out, noise=options.noise, **look
        )
    _print(played)
    task, at = f"task={options.task}", f"level={level}"
    learn = "collect" if info.learned_by == IMITATION else "train"
    finish(played.video, command_line("embodied", learn, task, at))


def _policy(options: Options) -> None:
    from embodied import play

    played = play.play_policy(
        options.policy,
        options.task,
        options.level,
        range(EVAL_SEED_START + options.seed, EVAL_SEED_START + options.seed + options.episodes),
        options.out,
        cue=options.cue,
        camera=options.camera,
        size=options.size,
    )
    _print(played)
    finish(played.video, command_line("embodied", "evaluate", options.policy))


def _print(played: Played) -> None:
    for seed, cue, _, words in played.outcomes:
        print(f"seed {seed}, cue {cue}: {words}")


COMMAND = Command(
    run,
    Options,
    positional=("task",),
    examples=(
        "play remember_color",
        "play put_block_back level=hard episodes=1 size=480 visuals=full",
        "play remember_color --keyboard",
        "play recall/ballet_pixel level=4_delay16",
        "play policy=runs/remember_color-easy-rgb-perceptual_cognitive-s0 episodes=6",
    ),
)
