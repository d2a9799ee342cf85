"""The rules of a recall task, for all rows of a batch at once.

A `Game` holds every row's episode in arrays whose first axis is n, the rows, and changes them
in place. Both environments are thin shells around it. Rows are named by ``rows``: `ALL` (every
row, which costs no indexing) or an int64 array of row numbers.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.specs import DISCRETE, ActionSpec, ArraySpec
from embodied.core.task import (
    CUE,
    EXECUTE,
    FAILURE_KINDS,
    GAP,
    REINFORCEMENT,
    EnvConfig,
    TaskInfo,
)
from sims.recall import draws

CONTROL_HZ = 10.0
"""Steps a second of episode time: the clock of memories and videos; the rules know steps only."""

ALL = slice(None)
Rows = slice | np.ndarray

P_CUE, P_GAP, P_EXECUTE, P_NONE = range(4)
_PHASES = np.array([CUE, GAP, EXECUTE, ""], dtype=object)
_FAILURES = np.array(FAILURE_KINDS, dtype=object)
WRONG, TIMEOUT = FAILURE_KINDS.index("wrong_choice"), FAILURE_KINDS.index("timeout")


@dataclasses.dataclass(frozen=True)
class RecallInfo(TaskInfo):
    """The row of a recall task.

    Attributes:
      steps: Level's knobs -> longest possible episode in steps.
    """

    learned_by: ClassVar[str] = REINFORCEMENT

    steps: Callable[[Mapping[str, Any]], int]

    def env_kwargs(self, config: EnvConfig) -> dict[str, Any]:
        """Returns the knobs alone: there are no cameras, controllers or looks to choose."""
        return {"knobs": dict(config.knobs)}


def recall_info(
    name: str,
    env_id: str,
    entry: str,
    summary: str,
    levels: Mapping[str, Mapping[str, Any]],
    cues: Callable[[Mapping[str, Any]], int],
    steps: Callable[[Mapping[str, Any]], int],
    ceiling: Callable[[Mapping[str, Any]], float] | None = None,
    chance: Callable[[Mapping[str, Any]], float] | None = None,
) -> RecallInfo:
    """Returns a row; `ceiling` and `chance` are one in as many as there are cues unless given.

    That holds where everything observed from the first step that counts on is the same for
    all cues, and each cue makes another choice right (a test compares the observations).
    """

    def guess(knobs: Mapping[str, Any]) -> float:
        return 1.0 / cues(knobs)

    return RecallInfo(
        name=f"recall/{name}",
        env_id=f"Recall/{env_id}-v0",
        entry=f"sims.recall.{entry}",
        summary=summary,
        levels=levels,
        ceiling=ceiling or guess,
        cues=cues,
        horizon_s=lambda knobs: steps(knobs) / CONTROL_HZ,
        chance=chance or guess,
        steps=steps,
    )


def check_knobs(info: TaskInfo, knobs: Mapping[str, Any], **ranges: tuple[int, int]) -> None:
    """Refuses a knob that is no whole number within its range (both ends count).

    Raises:
      ConfigError: Naming knob, range and value.
    """
    for name, (low, high) in ranges.items():
        value = knobs[name]
        if not (float(value).is_integer() and low <= value <= high):
            raise ConfigError(
                f"knob {name} of {info.name}: expected a whole number from {low} to {high}, "
                f"got {value!r}"
            )


def cue_array(cues: Sequence[int | None]) -> np.ndarray:
    """Returns cues as int64 [n], with -1 for None: the seed's own."""
    return np.array([-1 if c is None else int(c) for c in cues], np.int64)


def token(size: int, *shape: int, dtype: str = "int64") -> ArraySpec:
    """Returns the spec of ids in 0..size-1; a reader finds the vocabulary in ``high + 1``."""
    return ArraySpec(shape, dtype, "token", 0, size - 1)


def code(*shape: int) -> ArraySpec:
    """Returns the spec of random codes: elements -1 and 1, all 0 where nothing is shown."""
    return ArraySpec((*shape, draws.CODE_SIZE), "float32", "", -1.0, 1.0)


class Game(abc.ABC):
    """Episodes of one task in n rows.

    Args:
      knobs: A level's knobs.
      rows: n.

    Attributes:
      obs: Observation key -> array [n, ...], always of the present tick.
      seed: int64 [n] episode seeds.
      cue: int64 [n]; which of the options is right, while all else of the episode stays.
      tick: int64 [n] steps since the episode began.
      reward: float64 [n] of the last step.
      terminated: bool [n]; the outcome is decided.
      truncated: bool [n]; the time is up.
      actionable: bool [n]; whether the next action counts.
      state: Name -> array of all of the above and of a task's own; what `save` returns.
    """

    info: ClassVar[RecallInfo]
    action_names: tuple[str, ...]
    option_names: tuple[str, ...]
    """Words of what can be chosen: ``info["target"]`` and ``info["commit"]``."""
    instruction_words: tuple[str, ...] = ("",)
    """Words of ``instruction_token``, where there is one."""

    def __init__(self, knobs: Mapping[str, Any], rows: int) -> None:
        self.knobs, self.n = dict(knobs), int(rows)
        self.state: dict[str, np.ndarray] = {}
        self.index = np.arange(self.n)
        self.n_cues = self.info.cues(self.knobs)
        self.seed, self.tick = self.keep("seed"), self.keep("tick")
        self.cue = self.keep("cue", fill=-1)
        self.reward = self.keep("reward", dtype=np.float64)
        self.phase = self.keep("phase", dtype=np.uint8, fill=P_NONE)
        self.target = self.keep("target", dtype=np.int16, fill=-1)
        self.commit = self.keep("commit", dtype=np.int16, fill=-1)
        self.failure = self.keep("failure", dtype=np.uint8)
        self.terminated, self.truncated = (self._flag(k) for k in ("terminated", "truncated"))
        self.actionable, self.success = (self._flag(k) for k in ("actionable", "success"))
        self.gate, self.started = self._flag("gate"), self._flag("started")
        self.observation_specs = self.specs()
        self.obs = {
            key: self.keep(f"obs/{key}", spec.shape, spec.dtype)
            for key, spec in self.observation_specs.items()
        }
        self._options = np.array([*self.option_names, ""], dtype=object)
        self._instructions = np.array(self.instruction_words, dtype=object)

    def keep(
        self, name: str, shape: Sequence[int] = (), dtype: Any = np.int64, fill: float = 0
    ) -> np.ndarray:
        """Makes an array [n, *shape] that belongs to the state of the episodes."""
        self.state[name] = np.full((self.n, *shape), fill, dtype)
        return self.state[name]

    def _flag(self, name: str) -> np.ndarray:
        return self.keep(name, dtype=bool)

    # -- what a task defines ------------------------------------------------------------------

    @abc.abstractmethod
    def specs(self) -> dict[str, ArraySpec]:
        """Returns observation key -> spec."""

    @abc.abstractmethod
    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Draws the episodes of `rows` and shows their first observations.

        Args:
          rows: int64 [k], each row once.
          seeds: int64 [k].
          cues: int64 [k].
        """

    @abc.abstractmethod
    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Moves `rows` on by a step; `tick` has been raised, `reward` and `gate` cleared.

        Args:
          actions: int64 [n]; they count in rows that were `actionable` only.
          rows: Rows to move; the others must stay as they are.
        """

    @abc.abstractmethod
    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Returns int64 [n] actions of a player who takes the cue of each row to be `belief`.

        With the true cues it is the oracle; with guesses it shows what memory is worth.
        """

    @abc.abstractmethod
    def evidence(self) -> np.ndarray:
        """Returns int64 [n, E, 2]: first and last ticks that show what must be remembered.

        Episodes with fewer than E such stretches end in rows of -1.
        """

    @abc.abstractmethod
    def picture(self, row: int, size: int) -> np.ndarray:
        """Returns uint8 [size, size, 3] of one row for human eyes."""

    def extra_infos(self) -> dict[str, np.ndarray]:
        """Returns info name -> [n] of what the task adds."""
        return {}

    def redraw(self) -> None:  # noqa: B027  (most tasks keep all they show)
        """Rebuilds the observations that `save` leaves out."""

    @property
    def horizon(self) -> int:
        """Longest possible episode in steps."""
        return self.info.steps(self.knobs)

    @property
    def action_spec(self) -> ActionSpec:
        """The choice of one action a step."""
        names = self.action_names
        return ActionSpec(DISCRETE, len(names), 1, low=0.0, high=1.0, names=names)

    # -- running ------------------------------------------------------------------------------

    def start(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Starts episodes.

        Args:
          rows: int64 [k].
          seeds: int64 [k], each >= 0.
          cues: int64 [k]; -1 for the seed's own, which is balanced over blocks of seeds.

        Raises:
          ConfigError: For a cue that the task has not.
        """
        bad = (cues < -1) | (cues >= self.n_cues)
        if bad.any():
            raise ConfigError(
                f"cue of {self.info.name}: expected 0 to {self.n_cues - 1}, got {cues[bad][0]}"
            )
        if (cues < 0).any():
            own = draws.balanced_cues(seeds, self.info.name, self.n_cues)
            cues = np.where(cues < 0, own, cues)
        self.seed[rows], self.cue[rows], self.tick[rows] = seeds, cues, 0
        self.reward[rows], self.commit[rows], self.failure[rows] = 0.0, -1, 0
        self.phase[rows], self.started[rows] = P_CUE, True
        for flag in (self.terminated, self.truncated, self.actionable, self.success, self.gate):
            flag[rows] = False
        self.begin(rows, seeds, cues)

    def step(self, actions: np.ndarray, rows: Rows = ALL) -> None:
        """Moves `rows` on by one step; `actions` int64 [n] are in range."""
        self.tick[rows] += 1
        self.reward[rows] = 0.0
        self.gate[rows] = False
        self.advance(actions, rows)

    def where(self, rows: Rows, mask: np.ndarray) -> np.ndarray:
        """Returns the row numbers among `rows` at which `mask` (as long as `rows`) is set."""
        found = mask.nonzero()[0]
        return found if rows is ALL else rows[found]

    def open(self, rows: np.ndarray, gate: bool = True) -> None:
        """Begins the phase in which actions count."""
        self.phase[rows], self.actionable[rows], self.gate[rows] = P_EXECUTE, True, gate

    def decide(self, rows: np.ndarray, chosen: np.ndarray, right: np.ndarray, won: float) -> None:
        """Latches the outcome: options `chosen` were taken, and are `right` or not."""
        self.commit[rows], self.success[rows] = chosen, right
        self.failure[rows] = np.where(right, 0, WRONG)
        self.reward[rows] += won * right
        self.terminated[rows], self.actionable[rows] = True, False

    def time_out(self, rows: np.ndarray) -> None:
        """Ends episodes because their time is up."""
        self.truncated[rows], self.actionable[rows] = True, False
        self.failure[rows] = np.where(self.success[rows], 0, TIMEOUT)

    # -- what is told -------------------------------------------------------------------------

    def infos(self) -> dict[str, np.ndarray]:
        """Returns info name -> new array [n]; words are Python strings in object arrays."""
        infos = {
            "phase": _PHASES.take(self.phase),
            "actionable": self.actionable.copy(),
            "held": ~self.actionable,
            "gate": self.gate.copy(),
            "commit": self._options.take(self.commit, mode="wrap"),
            "target": self._options.take(self.target, mode="wrap"),
            "cue": self.cue.copy(),
            "success": self.success.copy(),
            "failure_kind": _FAILURES.take(self.failure),
            "time_s": self.tick / CONTROL_HZ,
            "image_fresh": self.started.copy(),
        }
        if "instruction_token" in self.obs:
            infos["instruction"] = self._instructions.take(self.obs["instruction_token"])
        else:
            infos["instruction"] = np.full(self.n, self.instruction_words[0], object)
        return {**infos, **self.extra_infos()}

    def save(self) -> dict[str, np.ndarray]:
        """Returns copies of all arrays of the state, pictures left out."""
        return {k: v.copy() for k, v in self.state.items() if not k.endswith("_image_u8")}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Puts back what `save` returned.

        Raises:
          ConfigError: If it is of another task, level or number of rows.
        """
        own = {k: (v.shape, v.dtype) for k, v in self.save().items()}
        given = {k: (v.shape, v.dtype) for k, v in state.items()}
        if own != given:
            names = sorted(k for k in {*own, *given} if own.get(k) != given.get(k))
            raise ConfigError(
                f"the saved state does not fit {self.info.name} with {self.n} rows: "
                f"{', '.join(names)} differ in shape or type; restore it into an environment "
                "made with the same task, level, knobs and number of rows"
            )
        for name, value in state.items():
            self.state[name][:] = value
        self.redraw()
