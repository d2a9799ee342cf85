"""What every task tells the rest of the package about itself, without loading a simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from embodied.core.errors import ConfigError, unknown_name

CUE, GAP, EXECUTE = "cue", "gap", "execute"
PHASES = (CUE, GAP, EXECUTE)

IMITATION, REINFORCEMENT = "imitation", "reinforcement"

CHOICE = "choice"
"""Control by naming a cue: an expert's motion acts on that belief."""

FAILURE_KINDS = ("", "wrong_choice", "early_commit", "motor", "timeout")
"""'' while undecided or on success. `wrong_choice` is a memory failure; `motor` (dropped,
knocked over, right target missed) and `timeout` are execution failures."""


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """One row of the task table.

    Attributes:
      name: Snake-case name used in commands, for example ``"remember_color"``.
      env_id: Gymnasium id.
      entry: ``"module:Class"`` of the task implementation, imported lazily.
      summary: One line for `embodied list`.
      levels: Level name -> knob values; each fixes every knob that matters.
      ceiling: Level's knobs -> best success without memory (c*), a fraction.
      cues: Level's knobs -> number of cue values.
      horizon_s: Level's knobs -> longest possible episode in seconds.
      progress: Whether what has to be remembered is how far one has got, in a row of choices that
        all look the same, and not only a cue that was shown.
      chance: Level's knobs -> success of guessing among what there is to choose from, or of random
        actions where nothing is chosen once and for all. None: not known, the ceiling says more.
      published_keyframes: Keyframes of an episode of the published task that this one re-creates,
        as its authors' heuristic counts them; None where there is no such number.
      learned_by: ``"imitation"`` of an expert that moves an arm, or ``"reinforcement"``.
    """

    learned_by: ClassVar[str] = IMITATION

    name: str
    env_id: str
    entry: str
    summary: str
    levels: Mapping[str, Mapping[str, Any]]
    ceiling: Callable[[Mapping[str, Any]], float]
    cues: Callable[[Mapping[str, Any]], int]
    horizon_s: Callable[[Mapping[str, Any]], float]
    progress: bool = dataclasses.field(default=False, kw_only=True)
    chance: Callable[[Mapping[str, Any]], float] | None = dataclasses.field(
        default=None, kw_only=True
    )
    published_keyframes: int | None = dataclasses.field(default=None, kw_only=True)

    def knobs(self, level: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the knobs of `level` with `overrides`; refuses unknown names.

        Raises:
          ConfigError: For an unknown level or knob.
        """
        if level not in self.levels:
            raise unknown_name(f"level of {self.name}", level, self.levels)
        knobs = dict(self.levels[level])
        for key, value in (overrides or {}).items():
            if key not in knobs:
                raise unknown_name(f"knob of {self.name}", key, knobs)
            if isinstance(knobs[key], (int, float)) and not isinstance(value, (int, float)):
                raise ConfigError(f"knob {key!r} of {self.name}: expected a number, got {value!r}")
            knobs[key] = value
        return knobs

    def needs_memory(self, knobs: Mapping[str, Any]) -> bool:
        """Returns whether there is anything to remember at these knobs."""
        return self.progress or self.cues(knobs) > 1

    def env_kwargs(self, config: EnvConfig) -> dict[str, Any]:
        """Returns the arguments that an environment of this task takes of `config`.

        The rest has no meaning for it. A suite without cameras overrides this.
        """
        return config.kwargs()


@dataclasses.dataclass
class EnvConfig:
    """How an environment is made; recorded in every dataset, checkpoint and result.

    Attributes:
      observation: ``"state"``, ``"rgb"`` (pictures with each camera's calibration) or
        ``"rgbd"`` (and depth).
      cameras: Camera names whose images are observed (ignored for ``"state"``).
      image_size: Height and width of every image in pixels.
      control: ``"fast"`` (position actuators and inverse kinematics), ``"osc"`` (robosuite), or
        ``"choice"``: an action is the number of a thing to choose, and the expert's motion does
        it under ``fast``; for reinforcement, since there is nothing to demonstrate.
      visuals: ``"lite"`` (low-poly) or ``"full"`` (robosuite's stock look).
      reward: ``"sparse"`` or ``"dense"``.
      knobs: Knob overrides on top of the level.
    """

    observation: str = "rgb"
    cameras: list[str] = dataclasses.field(default_factory=lambda: ["front"])
    image_size: int = 64
    control: str = "fast"
    visuals: str = "lite"
    reward: str = "sparse"
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                raise unknown_name(field, getattr(self, field), allowed)
        if not 16 <= self.image_size <= 1024:
            raise ConfigError(f"image_size must be within 16..1024, got {self.image_size}")

    def kwargs(self) -> dict[str, Any]:
        """Returns the keyword arguments for ``gymnasium.make`` and ``make_vec``."""
        return {**dataclasses.asdict(self), "cameras": tuple(self.cameras)}


_CHOICES = {
    "observation": ("state", "rgb", "rgbd"),
    "control": ("fast", "osc", CHOICE),
    "visuals": ("lite", "full"),
    "reward": ("sparse", "dense"),
}


def check_moves_arm(control: str) -> None:
    """Refuses control by choice where a hand's motion is what is wanted.

    Raises:
      ConfigError: For ``"choice"``.
    """
    if control == CHOICE:
        raise ConfigError(
            "control=choice names a thing and moves no hand by itself, so there is nothing to "
            "demonstrate or certify; use control=fast or osc"
        )


def paired_levels(tasks: list[str], level: str, levels: list[str]) -> list[str]:
    """Returns the level of each task: `levels`, or `level` for all where that is empty.

    Raises:
      ConfigError: Unless there are as many as tasks.
    """
    if levels and len(levels) != len(tasks):
        raise ConfigError(
            f"{len(tasks)} tasks need as many levels, got {levels}; or give level= for all"
        )
    return levels or [level] * len(tasks)


def file_name(*tasks: str) -> str:
    """Returns a task's name as a part of the name of a file; of several tasks, their number."""
    return tasks[0].replace("/", "-") if len(tasks) == 1 else f"{len(tasks)}tasks"
