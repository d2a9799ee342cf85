"""StaleFact: a ball is put into one of K bins and moved R times since; touch the bin it is in now.

Kin: the update gap that MEMOBench names; here with phase lamp, snapping gates and commits. Balls
sink into closed bins and rise from them, carried by nobody, while the arm is held. A dark ball
moves likewise, D times, and doesn't count. The moves are drawn backwards from the last bin, which
is the cue, so an old fact tells about it what chance tells; see `write_once`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.choice import ChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import draw_grid
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M, Part, ball, box
from sims.memory_bench.task import TICKS_PER_S

MAX_K, MAX_R, MAX_D = 9, 6, 6
BIN_RGB, BALL_RGB, DECOY_RGB = (0.36, 0.20, 0.14), PALETTE["yellow"], PALETTE["navy"]
REST_S = 0.3
"""How long everything rests at the start and after each move."""

_BIN_HALF_M = (0.036, 0.036, 0.028)
_BIN_Z_M = TABLE_TOP_M + _BIN_HALF_M[2]
_BALL_RADIUS_M, _TRAVEL_M = 0.021, 0.12
_FRONT_XY_M = np.array([0.29, 0.0])  # where balls come from
_RISE = 0.25  # share of a move for rising, and for sinking


def _cue_s(knobs: Mapping[str, Any]) -> float:
    """Returns the length of the cue phase: the ball's way in, a decoy's, and all moves."""
    moves = 1 + knobs["R"] + (1 + knobs["D"] if knobs["D"] else 0)
    return REST_S + moves * (knobs["move_s"] + REST_S)


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    return _cue_s(knobs) + knobs["gap_max_s"] + knobs["execute_s"]


def _moves(k: int, updates: int, decoys: int, move_s: float) -> dict[str, Any]:
    return {"K": k, "R": updates, "D": decoys, "move_s": move_s}


INFO = TaskInfo(
    name="stale_fact",
    env_id="MemoryBench/StaleFact-v0",
    entry="sims.memory_bench.tasks.stale_fact:StaleFact",
    summary="a ball is put into one of K bins, then moved R times; touch the bin it is in now",
    levels=levels.four(
        _moves(3, 1, 0, 1.4),
        _moves(4, 2, 1, 1.2),
        _moves(6, 4, 2, 1.2),
        _moves(9, 6, 4, 1.0),
        execute_s=8.0,
    ),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=_horizon_s,
)


def write_once(knobs: Mapping[str, Any]) -> float:
    """Returns the best success of a memory that keeps the ball's first bin and nothing later.

    After R moves, each to any other bin, the ball is back in its first bin with probability
    1/K + (1 - 1/K) (-1/(K-1))^R, and in each other bin equally likely.
    """
    k, moves = knobs["K"], knobs["R"]
    back = 1 / k + (1 - 1 / k) * (-1 / (k - 1)) ** moves
    return max(back, (1 - back) / (k - 1))


class StaleFact(ChoiceTask):
    """The cue is the bin that holds the ball last."""

    info = INFO
    later_plan = ("steps", "decoy_bins", "of_decoy")
    instructions = (
        "get the bright ball: touch the bin it is in now",
        "find out where the bright ball was put last and touch that bin",
        "touch the bin that holds the bright ball; the dark one does not matter",
        "the bright ball is moved from bin to bin: touch the one where it is in the end",
    )
    half_height_m = _BIN_HALF_M[2]
    ball_height_m = 0.2

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        for name, low, high in (("K", 3, MAX_K), ("R", 1, MAX_R), ("D", 0, MAX_D)):
            levels.check_whole(self.info.name, knobs, name, low, high)
        if not 0.6 <= knobs["move_s"] <= 3.0:
            raise ConfigError(
                f"knob move_s of {self.info.name}: expected 0.6 to 3 s, got {knobs['move_s']}"
            )
        super().__init__(knobs)
        self.k, self.updates, self.decoys = int(knobs["K"]), int(knobs["R"]), int(knobs["D"])
        self._bins = [f"bin{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """The moves are seen while the arm is held, then one choice of K."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("show",), held=True)

    @classmethod
    def baselines(cls, knobs: Mapping[str, Any]) -> Mapping[str, float]:
        """A memory that never updates what it once wrote."""
        return {"write_once": write_once(knobs)}

    @property
    def candidates(self) -> Sequence[str]:
        """The bins."""
        return self._bins

    @property
    def cue_ticks(self) -> int:
        """Length of the cue phase."""
        return round(_cue_s(vars(self.knobs)) * TICKS_PER_S)

    def parts(self) -> Sequence[Part]:
        """K closed bins, the ball, the decoy, and two distractors that fly about in a busy gap."""
        return [
            *(box(name, _BIN_HALF_M) for name in self._bins),
            ball("ball", _BALL_RADIUS_M),
            ball("decoy", _BALL_RADIUS_M),
            *distractors.parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """The bins, the two balls while they are out, the distractors."""
        return [
            *(Entity(name, "container", name) for name in self._bins),
            Entity("ball", "marker", "ball"),
            Entity("decoy", "marker", "decoy"),
            *distractors.entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of the bins; how far the ball moves on each time, the decoy's bins, the order."""
        xy = draw_grid(rng, self.k)
        steps = rng.integers(1, self.k, MAX_R)
        decoy_steps = rng.integers(1, self.k, MAX_D)
        later = np.repeat((False, True), (self.updates, self.decoys))
        return {
            "pos": np.hstack((xy, np.full((self.k, 1), _BIN_Z_M))),
            "steps": steps[: self.updates],
            "decoy_bins": (rng.integers(self.k) + np.r_[0, decoy_steps.cumsum()]) % self.k,
            "of_decoy": [False, *([True] if self.decoys else []), *rng.permutation(later).tolist()],
            "paths": distractors.draw(rng),
        }

    # -- the cue phase --------------------------------------------------------------------

    def ball_bins(self) -> list[int]:
        """Returns the bins that hold the ball, one after the other; the last is the cue."""
        bins = [self.cue]
        for step in self.plan["steps"][::-1]:
            bins.append(int(bins[-1] - step) % self.k)
        return bins[::-1]

    def moves(self) -> list[tuple[str, int, int]]:
        """Returns the moves in order: ball or decoy, from which bin (-1 from outside), to which."""
        bins = {"ball": self.ball_bins(), "decoy": [int(b) for b in self.plan["decoy_bins"]]}
        found, count = [], {"ball": 0, "decoy": 0}
        for of_decoy in self.plan["of_decoy"]:
            name = "decoy" if of_decoy else "ball"
            index = count[name]
            found.append((name, bins[name][index - 1] if index else -1, bins[name][index]))
            count[name] += 1
        return found

    def setup_cue(self) -> None:
        """The bins, all closed; a ball comes in from the front."""
        self.show_candidates(BIN_RGB)
        self._move_balls()

    def cue_tick(self) -> bool:
        """Moves the balls one after the other; complete when the last move is over."""
        self._move_balls()
        self.scene.forward()  # what appears now is observed now
        return super().cue_tick()

    def _move_balls(self) -> None:
        """Puts the ball that moves at this tick where it is, and parks what is in a bin."""
        since_s = self.phase_tick / TICKS_PER_S - REST_S
        index, within_s = divmod(since_s, self.knobs.move_s + REST_S)
        share = within_s / self.knobs.move_s
        moves = self.moves()
        moving = moves[int(index)] if 0 <= index < len(moves) and share < 1 else None
        for name, rgb in (("ball", BALL_RGB), ("decoy", DECOY_RGB)):
            if moving is not None and moving[0] == name:
                self.scene.place(name, self._on_the_way(*moving[1:], share))
                self.scene.paint(name, rgb)
            elif self.scene.present[name]:
                self.scene.park(name)

    def _on_the_way(self, source: int, target: int, share: float) -> np.ndarray:
        """Returns where a moving ball is [3]: up, over, and down into the bin."""
        goal = self.plan["pos"][target]
        start = self.plan["pos"][source] if source >= 0 else np.array([*_FRONT_XY_M, goal[2]])
        over = min(max((share - _RISE) / (1 - 2 * _RISE), 0.0), 1.0)
        pos = start + (goal - start) * over * over * (3.0 - 2.0 * over)
        pos[2] += _TRAVEL_M * min(share / _RISE, (1 - share) / _RISE, 1.0)
        return pos

    # -- gap and go -----------------------------------------------------------------------

    def setup_gap(self) -> None:
        """Shows the bins, as at go."""
        self.show_candidates(BIN_RGB)
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows the bins; nothing here depends on the cue."""
        self.show_candidates(BIN_RGB)
