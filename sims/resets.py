"""When and how episodes start, alone or in the rows of a vector, in both suites."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from embodied.core.errors import ConfigError, unknown_name

DISABLED, SAME_STEP = "disabled", "same_step"
MODES = {DISABLED: AutoresetMode.DISABLED, SAME_STEP: AutoresetMode.SAME_STEP}


def check_rows(num_envs: int, num_workers: int, autoreset: str) -> None:
    """Checks what every vector environment is made from.

    Raises:
      ConfigError: For an unknown mode or a number out of range.
    """
    if autoreset not in MODES:
        raise unknown_name("autoreset", autoreset, MODES)
    if num_envs < 1 or num_workers < 0:
        raise ConfigError(
            f"expected num_envs >= 1 and num_workers >= 0, got {num_envs} and {num_workers}"
        )


def seed_array(seeds: Iterable[int]) -> np.ndarray:
    """Returns seeds as int64 [n].

    Raises:
      ConfigError: For one that is no whole number, below 0 or from 2**63 on.
    """
    given = list(seeds)
    wrong = [seed for seed in given if not (_whole(seed) and 0 <= seed < 2**63)]
    if wrong:
        raise ConfigError(f"seed: expected a whole number from 0 to 2**63 - 1, got {wrong[0]!r}")
    return np.array(given, np.int64)


def read_one(
    seed: int | None,
    options: Mapping[str, Any] | None,
    random: np.random.Generator,
    task: str,
    n_cues: int,
) -> tuple[int, int | None]:
    """Returns the episode seed and the cue, if any, that one environment's ``reset`` asks for.

    Args:
      seed: Episode seed, or None for one from `random`.
      options: ``cue`` alone.
      random: The environment's generator.
      task: Name of the task, for messages.
      n_cues: Cues that it has.

    Raises:
      ConfigError: For an unknown option, or a seed or cue out of range.
    """
    episode = int(random.integers(2**31)) if seed is None else int(seed_array([seed])[0])
    unknown = set(options or {}) - {"cue"}
    if unknown:
        raise unknown_name("reset option", sorted(unknown)[0], ["cue"])
    cue = (options or {}).get("cue")
    check_cue(cue, task, n_cues)
    return episode, cue


def check_cue(cue: Any, task: str, n_cues: int) -> None:
    """Checks the cue that is asked for, if any.

    Raises:
      ConfigError: For one that is no whole number, or that the task has not.
    """
    if cue is not None and not (_whole(cue) and 0 <= cue < n_cues):
        raise ConfigError(f"cue of {task}: expected 0 to {n_cues - 1}, got {cue!r}")


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer))


@dataclasses.dataclass(frozen=True)
class Reset:
    """What one call of ``reset`` asks for, with an entry for each of n rows.

    Attributes:
      mask: bool [n], rows to reset.
      seeds: int64 [n] episode seeds.
      cues: Cues, or None for the seed's own.
    """

    mask: np.ndarray
    seeds: np.ndarray
    cues: list[int | None]


class ResetReader:
    """Reads calls of ``reset``, before anything is done to a row.

    Args:
      num_envs: Rows n.
      task: Name of the task, for messages.
      n_cues: Cues that it has.
    """

    def __init__(self, num_envs: int, task: str, n_cues: int) -> None:
        self.num_envs, self._task, self._n_cues = num_envs, task, n_cues
        self._last = np.random.default_rng().integers(2**30) + np.arange(num_envs)

    def read(
        self,
        seed: int | Sequence[int] | None,
        options: Mapping[str, Any] | None,
        playing: np.ndarray,
    ) -> Reset:
        """Returns what is asked for.

        Args:
          seed: A seed for each row, or one that counts up over the rows. Without one, each row
            goes on from the seed that it plays, raised by n; one that plays none goes on from
            the last seed given for it (from a random one at first).
          options: ``reset_mask`` (bool [n], rows to reset; by default all) and ``cue`` (a cue
            or None for each row).
          playing: int64 [n] seeds that the rows play; -1 for none.

        Raises:
          ConfigError: For an unknown option, one with another number of entries than rows, or
            a seed or cue out of range.
        """
        options = dict(options or {})
        mask, cues = options.pop("reset_mask", None), options.pop("cue", None)
        if options:
            raise unknown_name("reset option", sorted(options)[0], ["reset_mask", "cue"])
        n, seeds = self.num_envs, seed
        if seed is None:
            seeds = np.where(playing < 0, self._last, playing) + n
        elif _whole(seed):
            seeds = range(int(seed), int(seed) + n)
        mask = np.ones(n, bool) if mask is None else mask
        cues = [None] * n if cues is None else cues
        for name, value in (("reset_mask", mask), ("cue", cues), ("seed", seeds)):
            shape = np.shape(value)
            if shape != (n,):
                raise ConfigError(
                    f"{name}: expected one entry for each of {n} rows, got "
                    f"{f'shape {shape}' if shape else f'a single {value!r}'}"
                )
        mask = np.asarray(mask, bool)
        for row in np.flatnonzero(mask):
            check_cue(cues[row], self._task, self._n_cues)
        self._last = seed_array(seeds)
        return Reset(mask, self._last, list(cues))
