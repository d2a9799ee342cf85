"""The schema of a training run. Plain data; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.task import EnvConfig, paired_levels


@dataclasses.dataclass
class OptimConfig:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
      lr: Peak learning rate.
      final_lr_fraction: Learning rate at the last step as a fraction of the peak.
      warmup_steps: Steps of linear warm-up.
      weight_decay: Applied to matrices only, not to norms, biases or embeddings of size 1.
      clip_norm: Largest global gradient norm.
      ema: Decay of the averaged weights that are evaluated and deployed; 0 turns it off.
    """

    lr: float = 5e-4
    final_lr_fraction: float = 0.05
    warmup_steps: int = 100
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    ema: float = 0.995

    def __post_init__(self) -> None:
        if self.lr <= 0 or not 0 <= self.ema < 1:
            raise ConfigError(f"expected lr > 0 and 0 <= ema < 1, got lr={self.lr}, ema={self.ema}")
        if self.clip_norm <= 0:
            raise ConfigError(f"clip_norm must be > 0 (inf never clips), got {self.clip_norm}")
        for name in ("warmup_steps", "weight_decay", "final_lr_fraction"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be >= 0, got {getattr(self, name)}")


@dataclasses.dataclass
class Component:
    """A name from a closed table with its options.

    Attributes:
      name: Row of the table.
      config: Options, as the row's own configuration dataclass names them.
    """

    name: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Stage:
    """A part of a curriculum.

    Attributes:
      steps: Steps of the run, at most; the last stage takes all that are left.
      weights: Sampling weight of each task's data or episodes; empty for equal weights.
      until: Success of every task with a weight at which the next stage begins early; 0 for
        never. In imitation on validation seeds, which needs `eval_every`; in reinforcement of
        the latest training episodes.
    """

    steps: int
    weights: list[float] = dataclasses.field(default_factory=list)
    until: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.until <= 1:
            raise ConfigError(
                f"a stage has steps >= 1 and until within 0..1, got {self.steps}, {self.until}"
            )


IMITATION, PPO, VTRACE = "imitation", "ppo", "vtrace"
ALGORITHMS = (IMITATION, PPO, VTRACE)

ACTING, ALL = "acting", "all"
STORED, RECOMPUTE = "stored", "recompute"


@dataclasses.dataclass
class ReinforceConfig:
    """How a policy learns from its own episodes. One step of a run collects and learns once.

    Attributes:
      rows: Episodes that go on side by side.
      ticks: Ticks of each row in a segment; memory goes on from segment to segment.
      epochs: Passes over what was collected.
      minibatches: Groups of rows, each an optimiser step of a pass. Divides `rows`.
      gamma: Discount a tick.
      lam: Lambda of the advantages.
      clip: PPO: how far the ratio of probabilities may move to count.
      rho_clip: V-trace: largest weight of an error.
      c_clip: V-trace: largest weight of a trace.
      value_weight: Weight of the value loss.
      entropy: Weight of the entropy bonus.
      normalize: Centres the advantages of an update and divides them by their spread, or by
        `least_spread` where that is larger.
      least_spread: In units of reward. Where every episode succeeds, what spread is left is noise,
        and bringing it to unit scale would undo what was learnt.
      loss_on: ``"acting"``: policy, value and entropy are learnt at ticks whose action counts
        (the simulator says which; policies never see it); ``"all"``: at every tick.
      storage: ``"stored"``: past ticks are what acting stored; ``"recompute"``: the segment runs
        through memory again with the present weights, from where it began.
      window: Latest episodes of each task that the running success is of.
      env: How the simulator is made; of tasks without an arm, the knobs alone.
    """

    rows: int = 64
    ticks: int = 128
    epochs: int = 3
    minibatches: int = 4
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    rho_clip: float = 1.0
    c_clip: float = 1.0
    value_weight: float = 0.5
    entropy: float = 0.01
    normalize: bool = True
    least_spread: float = 0.2
    loss_on: str = ACTING
    storage: str = STORED
    window: int = 400
    env: EnvConfig = dataclasses.field(default_factory=lambda: EnvConfig(observation="state"))

    def __post_init__(self) -> None:
        for name in ("rows", "ticks", "epochs", "minibatches", "window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"reinforce.{name} must be >= 1, got {getattr(self, name)}")
        if self.rows % self.minibatches:
            raise ConfigError(
                f"reinforce.minibatches={self.minibatches} must divide reinforce.rows={self.rows}"
            )
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"reinforce.{name} must be within 0..1, got {getattr(self, name)}"
                )
        for name in ("clip", "rho_clip", "c_clip", "least_spread"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"reinforce.{name} must be > 0, got {getattr(self, name)}")
        for name in ("value_weight", "entropy"):
            if getattr(self, name) < 0:
                raise ConfigError(f"reinforce.{name} must be >= 0, got {getattr(self, name)}")
        if self.loss_on not in (ACTING, ALL):
            raise unknown_name("reinforce.loss_on", self.loss_on, (ACTING, ALL))
        if self.storage not in (STORED, RECOMPUTE):
            raise unknown_name("reinforce.storage", self.storage, (STORED, RECOMPUTE))


@dataclasses.dataclass
class TrainConfig:
    """One run; written to ``config.yaml`` in the run directory.

    Attributes:
      task: Task names; several train one multi-task policy.
      level: Level of the tasks.
      levels: Level of each task, where they differ; a task may stand there once a level.
      observation: ``"rgb"``, ``"rgbd"`` or ``"state"``; names the default datasets.
      data: Dataset directories, one a task; empty for ``data/<task>-<level>-<observation>``.
      data_weights: Sampling weight of each dataset, in reinforcement each task's share of the
        rows; empty for equal weights.
      stages: A curriculum instead of `data_weights`, recorded with the run: for example
        ``stages="[{steps: 500, weights: [1, 0]}, {steps: 1500}]"``.
      order: ``"segments"`` (whole episodes), ``"group"`` (ticks drawn from an episode) or
        ``"stream"`` (memory goes on from batch to batch); see `embodied.data.orders`.
      order_ticks: Observation ticks of a row: of a group or a stream's step, or at most of a
        segment (0: whole episodes).
      cache: Whether the data is kept in memory: ``"auto"`` (if it takes at most half of what is
        free when training begins), ``"always"`` or ``"never"``: then each batch is read from
        the compressed shards while the one before is learnt from.
      features: Directory of kept outputs of a policy's frozen parts; empty encodes every tick
        anew.
      policy: The policy and its options.
      memory: The memory and its options; ``none`` gives the memoryless twin.
      algorithm: ``"imitation"`` of demonstrations, or ``"ppo"`` or ``"vtrace"`` in the simulator.
      seed: Seeds weights, data order and training noise.
      steps: Optimiser steps; in reinforcement each collects `reinforce.ticks` of all rows and
        learns from them.
      batch_episodes: Whole episodes in a batch.
      reinforce: How ``algorithm=ppo`` and ``vtrace`` collect and learn.
      optim: Optimiser and schedule.
      init: Run, checkpoint or claim whose weights to start from; optimiser and step are fresh.
      device: ``"cpu"`` or ``"cuda"``.
      threads: CPU threads.
      precision: ``"fp32"``, ``"bf16"`` (autocast), or ``"auto"``: bf16 where it is fast.
      log_every: Steps between log rows.
      checkpoint_every: Steps between checkpoints.
      eval_every: Steps between evaluations on validation seeds in imitation; 0 for none.
      eval_episodes: Episodes of such an evaluation.
    """

    task: list[str]
    level: str = "easy"
    levels: list[str] = dataclasses.field(default_factory=list)
    observation: str = "rgb"
    data: list[str] = dataclasses.field(default_factory=list)
    data_weights: list[float] = dataclasses.field(default_factory=list)
    stages: list[Stage] = dataclasses.field(default_factory=list)
    order: str = "segments"
    order_ticks: int = 0
    cache: str = "auto"
    features: str = "cache/features"
    policy: Component = dataclasses.field(default_factory=lambda: Component("memory_vla"))
    memory: Component = dataclasses.field(default_factory=lambda: Component("perceptual_cognitive"))
    algorithm: str = IMITATION
    seed: int = 0
    steps: int = 2000
    batch_episodes: int = 8
    reinforce: ReinforceConfig = dataclasses.field(default_factory=ReinforceConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    init: str | None = None
    device: str = "cpu"
    threads: int = 1
    precision: str = "auto"
    log_every: int = 20
    checkpoint_every: int = 250
    eval_every: int = 0
    eval_episodes: int = 50

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise unknown_name("algorithm", self.algorithm, ALGORITHMS)
        EnvConfig(self.observation)  # refuses what is none
        if not self.task:
            raise ConfigError("task is empty: name at least one, for example task=remember_color")
        self.task_levels()
        self._check_stages()
        if self.data and len(self.data) != len(self.task):
            raise ConfigError(
                f"{len(self.task)} tasks need as many data directories, got {self.data}"
            )
        least = dict.fromkeys(("steps", "batch_episodes", "threads"), 1)
        least |= {"log_every": 1, "checkpoint_every": 1, "eval_episodes": 1}
        for name, value in {**least, "seed": 0, "eval_every": 0}.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} must be >= {value}, got {getattr(self, name)}")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"precision must be auto, fp32 or bf16, got {self.precision!r}")

    def _check_stages(self) -> None:
        if self.stages and self.data_weights:
            raise ConfigError("stages have their own weights; leave out data_weights")
        for weights in filter(None, self.stage_weights()):
            tasks = len(self.task)
            if len(weights) != tasks or min(weights) < 0 or not 0 < sum(weights) < math.inf:
                name = "weights of a stage" if self.stages else "data_weights"
                raise ConfigError(
                    f"{name} must be {tasks} numbers >= 0, one a task and not all 0, got {weights}"
                )
        early = any(stage.until for stage in self.stages[:-1])
        if early and self.algorithm == IMITATION and not self.eval_every:
            raise ConfigError(
                "a stage with until= is ended by success on validation seeds; set eval_every="
            )
        if self.eval_every and self.algorithm != IMITATION:
            raise ConfigError(
                f"eval_every={self.eval_every} is for imitation: algorithm={self.algorithm} logs "
                "the success of its own latest episodes (success/<task>-<level>); leave it at 0"
            )
        planned = sum(stage.steps for stage in self.stages[:-1])
        if planned >= self.steps and self.stages:
            raise ConfigError(
                f"the stages before the last take {planned} steps of steps={self.steps}, so that "
                "the last would never begin; raise steps"
            )

    def task_levels(self) -> list[str]:
        """Returns the level of each task."""
        return paired_levels(self.task, self.level, self.levels)

    def stage_weights(self) -> list[list[float]]:
        """Returns the sampling weights of each stage."""
        return [stage.weights for stage in self.stages] or [self.data_weights]

    def datasets(self) -> list[str]:
        """Returns the dataset directory of each task."""
        settings = zip(self.task, self.task_levels(), strict=True)
        return self.data or [f"data/{task}-{level}-{self.observation}" for task, level in settings]
