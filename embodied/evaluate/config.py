"""What an evaluation is asked for. Plain data; imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.rng import EVAL_SEED_START
from embodied.core.task import EnvConfig
from embodied.evaluate.executors import ExecutorConfig
from embodied.evaluate.process import NEEDED
from embodied.evaluate.results import INTERVENTIONS, NONE

EPISODE, CALLS = "episode", "calls"
CLOCKS = (EPISODE, CALLS)


@dataclasses.dataclass
class RemoteConfig:
    """How a server is asked, where ``source`` is the address of one.

    Attributes:
      timeout_s: Longest wait for an answer.
      env: What a server observes that does not say so itself: its cameras and their size.
      names: Observation key -> such a server's name of it; arrays of one name are joined end to
        end. Empty sends all under their own names. The instruction goes as ``prompt``.
      observe_period_s: How often such a server is asked.
    """

    timeout_s: float = 30.0
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    observe_period_s: float = 0.4

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.observe_period_s <= 0:
            raise ConfigError(
                "expected timeout_s > 0 and observe_period_s > 0, got "
                f"{self.timeout_s} and {self.observe_period_s}"
            )


@dataclasses.dataclass
class EvaluateConfig:
    """What to evaluate and how; recorded in the results.

    Attributes:
      source: Run directory (its newest checkpoint), checkpoint directory, claim, bundle, or the
        address of a server, such as ``ws://127.0.0.1:8000``.
      episodes: Episodes of each task and intervention.
      task: Tasks; by default all that the policy was trained on.
      level: Level; by default the one it was trained on.
      knobs: Knob overrides on top of the level.
      intervene: Any of ``none``, ``swapped``, ``erased``, ``frozen``, ``rewound`` and
        ``swapped_rewound``; a row each, named twice or not.
      process: Adds the interventions that tell what was stored, kept, recalled and executed
        (`embodied.evaluate.process`), and those rates.
      intervene_episodes: Episodes of each real intervention; 0 for as many as `episodes`.
      twin: Run or checkpoint of the memoryless twin, evaluated on the same seeds, or an
        evaluation directory of it.
      seed_start: First episode seed; the others follow.
      batch: Rows that run side by side; part of the result, since a replay needs it.
      workers: Simulator processes; 0 simulates in this one. Changes no result.
      executor: How answers become control actions.
      capacity: Memory slots instead of the policy's own number; 0 keeps it.
      clock: What memory is told as time: ``"episode"`` (seconds, as in training) or ``"calls"``
        (one control period for each call of the policy, as MemoryVLA's released code counts).
      videos: Episodes of each row that are filmed.
      inspect: Also writes what each tick of the filmed episodes saw, answered and read from memory,
        as a picture and as arrays, into ``inspection/`` (see `embodied.evaluate.inspection`); the
        page lets one scrub through them.
      device: ``"cpu"`` or ``"cuda"``.
      threads: CPU threads of the policy.
      remote: How a server is asked.
      out: Directory to make; by default in ``eval/`` of the run (of the working directory for
        a checkpoint outside a run).
      progress: Whether to show progress bars.
    """

    source: str
    episodes: int = 300
    task: list[str] = dataclasses.field(default_factory=list)
    level: str = ""
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)
    intervene: list[str] = dataclasses.field(default_factory=lambda: [NONE])
    process: bool = False
    intervene_episodes: int = 0
    twin: str = ""
    seed_start: int = EVAL_SEED_START
    batch: int = 16
    workers: int = 0
    executor: ExecutorConfig = dataclasses.field(default_factory=ExecutorConfig)
    capacity: int = 0
    clock: str = EPISODE
    videos: int = 3
    inspect: bool = False
    device: str = "cpu"
    threads: int = 1
    remote: RemoteConfig = dataclasses.field(default_factory=RemoteConfig)
    out: str = ""
    progress: bool = True

    def __post_init__(self) -> None:
        least_of = {"episodes": 1, "batch": 1, "threads": 1}
        for name in ("workers", "videos", "intervene_episodes", "capacity"):
            least_of[name] = 0
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if not self.intervene:
            raise ConfigError("intervene is empty; use intervene=none for a plain evaluation")
        # Each once: the same episodes a second time would be counted as more of them.
        self.intervene = list(dict.fromkeys([*self.intervene, *(NEEDED if self.process else ())]))
        if self.clock not in CLOCKS:
            raise unknown_name("clock", self.clock, CLOCKS)
        for kind in self.intervene:
            if kind not in INTERVENTIONS:
                raise unknown_name("intervention", kind, INTERVENTIONS)
        if self.inspect and not self.videos:
            raise ConfigError("inspect=true looks into the filmed episodes, but videos=0")
        if self.seed_start < 0:
            raise ConfigError(f"seed_start must be >= 0, got {self.seed_start}")
