"""When and how the rows of a vector environment start: what both suites' have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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


@dataclasses.dataclass(frozen=True)
class Reset:
    """What one call of ``reset`` asks for, with an entry for each of n rows.

    Attributes:
      mask: bool [n], rows to reset.
      seeds: Episode seeds.
      cues: Cues, or None for the seed's own.
    """

    mask: np.ndarray
    seeds: list[int]
    cues: list[int | None]


class ResetReader:
    """Reads calls of ``reset``.

    Args:
      num_envs: Rows n.
    """

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        start = int(np.random.default_rng().integers(2**30))
        self._last = [start + row for row in range(num_envs)]

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
          ConfigError: For an unknown option, or one with another number of entries than rows.
        """
        options = dict(options or {})
        given, cues = options.pop("reset_mask", None), options.pop("cue", None)
        if options:
            raise unknown_name("reset option", sorted(options)[0], ["reset_mask", "cue"])
        mask = np.ones(self.num_envs, bool) if given is None else np.asarray(given, bool)
        cues = [None] * self.num_envs if cues is None else list(cues)
        seeds = self._seeds(seed, playing)
        for name, value in (("reset_mask", mask), ("cue", cues), ("seed", seeds)):
            if len(value) != self.num_envs:
                raise ConfigError(
                    f"{name}: expected one entry for each of {self.num_envs} rows, got {len(value)}"
                )
        self._last = seeds
        return Reset(mask, seeds, [None if cue is None else int(cue) for cue in cues])

    def _seeds(self, seed: int | Sequence[int] | None, playing: np.ndarray) -> list[int]:
        if seed is None:
            last = np.where(playing < 0, self._last, playing)
            return [int(s) + self.num_envs for s in last]
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + row for row in range(self.num_envs)]
        return [int(s) for s in seed]
