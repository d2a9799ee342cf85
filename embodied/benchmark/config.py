"""What a benchmark is asked for. Plain data; imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.rng import EVAL_SEED_START
from embodied.core.task import paired_levels

REPORTS = MARKDOWN, HTML = ("md", "html")

TRUNK = "policy.config.trunk="

OWN_KEYS = ("episodes", "seed_start", "process")
"""Keys of ``embodied evaluate`` that a benchmark has too."""


@dataclasses.dataclass
class BenchmarkConfig:
    """A table: a multi-task policy for each memory and training seed, evaluated on every task.

    Attributes:
      task: Task names.
      level: Level of the tasks.
      levels: Level of each task, where they differ.
      observation: ``"state"``, ``"rgb"`` or ``"rgbd"``.
      policy: Policy that all memories are put into.
      memory: Memories, a line of the table each, compared with ``full_history`` where that is
        among them; ``none`` is the memoryless twin.
      seeds: Training seeds of each.
      demonstrations: Episodes to collect of each task, where they are not there yet.
      episodes: Episodes of each task and line, on fresh seeds.
      process: Whether process rates are measured as well, which takes four times as long.
      seed_start: First of the fresh seeds.
      collect: Further words of ``embodied collect``, for example ``[label_horizon=8]``.
      train: Further words of ``embodied train``, for example ``[steps=2000]``. From state,
        MemoryVLA takes ``policy.config.trunk=entities`` by itself, if neither a preset is named
        nor another trunk, here or in `train_of`.
      train_of: The same for single memories: ``train_of.gru=[memory.config.width=128]``. They
        stay those of a memory's first run.
      evaluate: Further words of ``embodied evaluate``, for all columns.
      beyond: Name -> words of ``embodied evaluate`` for episodes unlike those of training, a
        column each: ``beyond.longer=[knobs.gap_min_s=10,knobs.gap_max_s=30]``. They replace those
        of `evaluate` and of the benchmark's own (``episodes=50`` for a shorter column). More
        columns can be asked for later.
      report: ``"md"`` for the table, or ``"html"`` for a page as well, for which an episode of each
        task and memory (of the first training seed) is looked into.
      jobs: Runs side by side, a thread each.
      out: Directory; one that is there already is carried on, with more memories or seeds if
        asked for.
    """

    task: list[str]
    level: str = "easy"
    levels: list[str] = dataclasses.field(default_factory=list)
    observation: str = "state"
    policy: str = "memory_vla"
    memory: list[str] = dataclasses.field(
        default_factory=lambda: ["perceptual_cognitive", "full_history", "none"]
    )
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    demonstrations: int = 1000
    episodes: int = 100
    process: bool = False
    seed_start: int = EVAL_SEED_START
    collect: list[str] = dataclasses.field(default_factory=list)
    train: list[str] = dataclasses.field(default_factory=list)
    train_of: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    evaluate: list[str] = dataclasses.field(default_factory=list)
    beyond: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    report: str = MARKDOWN
    jobs: int = 1
    out: str = ""

    def __post_init__(self) -> None:
        if not self.task:
            raise ConfigError("no tasks: name some by suite=NAME or task=[A,B]")
        paired_levels(self.task, self.level, self.levels)
        if self.report not in REPORTS:
            raise unknown_name("report", self.report, REPORTS)
        for name in ("memory", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name}: expected one or more, each once, got {values}")
        for name in ("demonstrations", "episodes", "jobs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name, words in self.beyond.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ConfigError(
                    f"beyond.{name}: expected a name of small letters, digits and _, such as longer"
                )
            if not words:
                raise ConfigError(
                    f"beyond.{name}=[]: expected words of embodied evaluate, such as [level=hard]"
                )
        for where, words in {
            "evaluate": self.evaluate,
            **{f"beyond.{name}": words for name, words in self.beyond.items()},
        }.items():
            keys = [key_of(word) for word in words]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise ConfigError(f"{where}: {twice[0]} is given twice: {words}")
        own = [word for word in self.evaluate if key_of(word) in OWN_KEYS]
        if own:
            raise ConfigError(
                f"evaluate=[{','.join(own)}]: the benchmark has that key itself; give "
                f"{' '.join(own)} as a word of its own"
            )
        strange = sorted(set(self.train_of) - set(self.memory))
        if strange:
            raise ConfigError(f"train_of.{strange[0]}: not among memory={self.memory}")

    def settings(self) -> list[tuple[str, str]]:
        """Returns (task, level) of each column."""
        return list(zip(self.task, paired_levels(self.task, self.level, self.levels), strict=True))

    def training(self, own: Sequence[str] = ()) -> tuple[str, ...]:
        """Returns the words of ``embodied train`` but for memory and seed.

        Args:
          own: Those of a single memory, which are added.
        """
        tasks, levels = (",".join(names) for names in zip(*self.settings(), strict=True))
        # From state there are tables of entities and no pictures, which its default trunk reads.
        reads = self.observation == "state" and self.policy == "memory_vla"
        chosen = any(word.startswith(("preset=", TRUNK)) for word in self.train)
        chosen = chosen or any(word.startswith(TRUNK) for word in own)
        return (
            f"policy={self.policy}",
            f"task=[{tasks}]",
            f"levels=[{levels}]",
            f"observation={self.observation}",
            *((f"{TRUNK}entities",) if reads and not chosen else ()),
            *self.train,
            *own,
        )

    def evaluating(self) -> tuple[str, ...]:
        """Returns the words of ``embodied evaluate`` that make the table's numbers."""
        return self._evaluating(process=self.process, videos=1)

    def going_beyond(self, words: Sequence[str]) -> tuple[str, ...]:
        """Returns the words of ``embodied evaluate`` that make a column of `beyond`."""
        return replaced(self._evaluating(process=False, videos=0), words)

    def _evaluating(self, process: bool, videos: int) -> tuple[str, ...]:
        own = (
            f"episodes={self.episodes}",
            f"seed_start={self.seed_start}",
            f"process={str(process).lower()}",
            "intervene=none",
            f"videos={videos}",
        )
        return replaced(own, self.evaluate)

    def collecting(self, task: str, level: str) -> tuple[str, ...]:
        """Returns the words of ``embodied collect`` that make the demonstrations of a task."""
        return (
            f"task={task}",
            f"level={level}",
            f"observation={self.observation}",
            f"episodes={self.demonstrations}",
            *self.collect,
        )


def key_of(word: str) -> str:
    """Returns the key that a word of a command gives: ``--some-key`` is ``some_key``."""
    name = word.partition("=")[0]
    return name[2:].replace("-", "_") if name.startswith("--") else name


def replaced(*groups: Sequence[str]) -> tuple[str, ...]:
    """Returns the words of all groups, later ones in the place of earlier ones of the same key."""
    words = {key_of(word): word for group in groups for word in group}
    return tuple(words.values())
