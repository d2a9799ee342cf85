"""The cells of the robustness table: what is disturbed, how much, and how a cell is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.files import read_json, write_json
from embodied.core.ticks import PERIOD
from embodied.evaluate import api, provenance
from embodied.evaluate.results import NONE
from embodied.evaluate.runner import closing
from embodied.evaluate.stats import mcnemar, wilson
from embodied.train.checkpoint import LoadedPolicy
from robustness import disturb
from robustness.disturb import Disturbance, DisturbedEnv, DisturbedPolicy

MEMORY, TWIN = "with memory", "memoryless"
PLAIN = "none"
TICK_MS = 50.0
DEFINITION = 1
"""Rises when a disturbance changes its meaning: cells measured before are measured again."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A disturbance at some levels.

    Attributes:
      what: For people: what happens.
      unit: Of the levels.
      levels: From little to much; the undisturbed run stands at `plain` beside them.
      make: Level -> disturbance.
      plain: The level at which nothing happens.
      pictures: It changes pictures alone.
    """

    what: str
    unit: str
    levels: tuple[float, ...]
    make: Callable[[float], Disturbance]
    plain: float = 0.0
    pictures: bool = False


def _ticks(ms: float) -> int:
    return round(ms / TICK_MS)


KINDS: dict[str, Kind] = {
    "jitter": Kind(
        "actions that miss their control tick: the one before is done again",
        "%", (10, 20, 40), lambda share: disturb.Jitter(share / 100),
    ),
    "lost_frames": Kind(
        "observation ticks lost: memory does not see them, and the arm stands still",
        "%", (10, 20, 40), lambda share: disturb.Loss(share / 100),
    ),
    "latency_hold": Kind(
        "answers late, and then done from their start",
        "ms", (100, 200, 300, 400), lambda ms: disturb.LatencyHold(_ticks(ms)),
    ),
    "latency_skip": Kind(
        "answers late, and what was due by then skipped",
        "ms", (100, 200, 300), lambda ms: disturb.LatencySkip(_ticks(ms)),
    ),
    "camera_shift": Kind(
        "cameras moved, calibration as before",
        "cm", (1, 2, 4), lambda cm: disturb.Camera(disturb.SHIFT, cm), pictures=True,
    ),
    "camera_turn": Kind(
        "cameras turned, calibration as before",
        "degrees", (1, 2, 4), lambda deg: disturb.Camera(disturb.TURN, deg), pictures=True,
    ),
    "camera_shift_told": Kind(
        "cameras moved and calibrated anew",
        "cm", (1, 2, 4), lambda cm: disturb.Camera(disturb.SHIFT, cm, True), pictures=True,
    ),
    "camera_turn_told": Kind(
        "cameras turned and calibrated anew",
        "degrees", (1, 2, 4), lambda deg: disturb.Camera(disturb.TURN, deg, True), pictures=True,
    ),
    "brightness": Kind(
        "the room darker or brighter",
        "%", (50, 75, 125, 150), lambda v: disturb.Light(v / 100, v / 100, v / 100), 100.0,
        pictures=True,
    ),
    "warmth": Kind(
        "the room's light warmer: so much more red, so much less blue",
        "%", (10, 20, 30), lambda v: disturb.Light(1 + v / 100, 1.0, 1 - v / 100), pictures=True,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One disturbance at one level; kind ``"none"`` is the undisturbed run."""

    kind: str
    level: float

    def make(self) -> Disturbance:
        """Returns the disturbance."""
        return Disturbance() if self.kind == PLAIN else KINDS[self.kind].make(self.level)

    def label(self) -> str:
        """Returns it in a few words."""
        return (
            PLAIN if self.kind == PLAIN else f"{self.kind} {self.level:g} {KINDS[self.kind].unit}"
        )


def cells(names: Sequence[str], pictures: bool) -> list[Cell]:
    """Returns the undisturbed cell and those of the kinds `names` (all by default).

    Args:
      names: Kinds.
      pictures: Whether the policies see pictures; kinds that change nothing else are left out.

    Raises:
      ConfigError: For an unknown kind, or one that changes nothing for these policies.
    """
    for name in names:
        if name not in KINDS:
            raise unknown_name("disturbance", name, KINDS)
        if KINDS[name].pictures and not pictures:
            raise ConfigError(f"{name} changes pictures, and these policies see none")
    some = {k: v for k, v in KINDS.items() if (k in names or not names)}
    some = {k: v for k, v in some.items() if pictures or not v.pictures}
    return [Cell(PLAIN, 0.0)] + [Cell(name, lev) for name, kind in some.items()
                                 for lev in kind.levels]  # fmt: skip


class Grid:
    """Measures cells, each once, and keeps them in a file after each.

    Args:
      file: The JSON file; cells in it that were measured alike are not measured again.
      policies: Role -> policy.
      config: Episodes, first seed, batch and threads.
    """

    def __init__(
        self, file: Path, policies: dict[str, LoadedPolicy], config: api.EvaluateConfig
    ) -> None:
        self.file, self.policies, self.config = file, policies, config
        self.settings = {
            role: api.settings(dataclasses.replace(config, source=str(loaded.path)), loaded)[0]
            for role, loaded in policies.items()
        }
        self.hashes = {
            role: provenance.describe(loaded)["sha256"] for role, loaded in policies.items()
        }
        first = next(iter(self.settings.values()))
        for role, setting in self.settings.items():
            if (setting.task, setting.level, setting.env) != (first.task, first.level, first.env):
                raise ConfigError(
                    f"the {role} policy was trained on {setting.task} ({setting.level}) as "
                    f"{setting.env}, the other on {first.task} ({first.level}) as {first.env}; "
                    "both must see the same environment"
                )
            api.check_fresh_seeds(policies[role], config.seed_start, config.episodes)
            _check_ticks(policies[role])
        self.setting = first
        self.rows: list[dict[str, Any]] = read_json(file)["rows"] if file.exists() else []

    def run(self, todo: Sequence[Cell], head: dict[str, Any]) -> None:
        """Measures what is missing; `head` is written above the rows."""
        wanted = [(cell, role) for cell in todo for role in self.policies]
        missing = [one for one in wanted if self.find(*one) is None]
        if not missing:
            return
        with closing(api.make_vec(self.config, self.setting)) as vector:
            for number, (cell, role) in enumerate(missing, 1):
                print(f"cell {number} of {len(missing)}: {cell.label()}, {role}", flush=True)
                row = self._measure(cell, role, vector)
                self.rows = [r for r in self.rows if not self._same_place(r, cell, role)] + [row]
                write_json(self.file, {**head, "rows": self.rows})

    def find(self, cell: Cell, role: str) -> dict[str, Any] | None:
        """Returns the row of a cell, if it was measured with this policy and these seeds."""
        expected = self._facts(role)
        for row in self.rows:
            if self._same_place(row, cell, role):
                return row if all(row[k] == v for k, v in expected.items()) else None
        return None

    def _same_place(self, row: dict[str, Any], cell: Cell, role: str) -> bool:
        return (row["kind"], row["level"], row["role"]) == (cell.kind, cell.level, role)

    def _facts(self, role: str) -> dict[str, Any]:
        seeds = [self.config.seed_start, self.config.seed_start + self.config.episodes - 1]
        return {
            "n": self.config.episodes,
            "seeds": seeds,
            "batch": self.config.batch,
            "definition": DEFINITION,
            "sha256": self.hashes[role],
        }

    def _measure(self, cell: Cell, role: str, vector: Any) -> dict[str, Any]:
        disturbance, loaded = cell.make(), self.policies[role]
        env = DisturbedEnv(vector, disturbance)
        policy = DisturbedPolicy(loaded.policy, disturbance)
        first = self.config.seed_start
        try:
            episodes = api.run_episodes(
                self.config,
                dataclasses.replace(loaded, policy=policy),
                self.settings[role],
                env,
                NONE,
                range(first, first + self.config.episodes),
            )
        finally:
            disturbance.release()
        wins = [episode.success for episode in episodes]
        low, high = wilson(sum(wins), len(wins))
        plain = self.find(Cell(PLAIN, 0.0), role)
        before = [mark == "1" for mark in plain["outcomes"]] if plain else wins
        paired = mcnemar(wins, before)
        return {
            "kind": cell.kind,
            "level": cell.level,
            "role": role,
            **self._facts(role),
            "successes": sum(wins),
            "success": sum(wins) / len(wins),
            "low": low,
            "high": high,
            "commit_rate": sum(episode.committed for episode in episodes) / len(wins),
            "lost": paired.only_b,
            "won": paired.only_a,
            "p_value": paired.p_value,
            "outcomes": "".join("01"[win] for win in wins),
        }


def _check_ticks(loaded: LoadedPolicy) -> None:
    """Refuses a policy to which the definitions don't apply.

    Raises:
      ConfigError: If it does not answer a chunk every period, or at another control rate.
    """
    spec = loaded.policy.spec
    if spec.observe_on != PERIOD or spec.control_hz * TICK_MS != 1000:
        raise ConfigError(
            f"{loaded.path} observes on {spec.observe_on!r} at {spec.control_hz:g} Hz; the table "
            "is defined for policies that answer a chunk every period at 20 Hz"
        )
