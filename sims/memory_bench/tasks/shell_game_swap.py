"""ShellGameSwap: a ball is hidden under one of K cups, cups swap places; touch the cup with it.

Kin: ShellGame of MIKASA-Robo and the swaps of RoboMME; a re-creation with phase lamp, snapping
gates and commits. Cups are moved by nobody (mocap bodies) and all look the same. The swaps come
from the seed alone, so at go every cue has left the same table behind; the cue is the place where
the ball ends. The arm is held while the cups move. With the occluder on, each swap passes through
an opaque tunnel over its middle, so that cups must be followed while they can't be seen.

A row of ``entities`` belongs to a place, not to a cup: when a swap has ended, rows are in the order
of places again. That shows in no picture, and makes the state's rows as alike as the cups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, TaskInfo
from sims.memory_bench import distractors, levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.choice import ChoiceTask
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M, Part, ball, cylinder, screen
from sims.memory_bench.task import TICKS_PER_S

MAX_K, MAX_S = 7, 8
CUP_RGB, TUNNEL_RGB, BALL_RGB = (0.38, 0.16, 0.10), (0.16, 0.22, 0.16), PALETTE["red"]

SHOW_S, COVER_S, REST_S = 1.0, 0.6, 0.2
"""How long the ball lies open, how long the cups take to come down, how long they rest after
that and after each swap."""

_CUP_RADIUS_M, _CUP_HALF_M, _BALL_RADIUS_M = 0.03, 0.035, 0.022
_CUP_Z_M = TABLE_TOP_M + _CUP_HALF_M
_ROW_X_M, _ROW_M, _SPACING_M, _JITTER_M = 0.04, 0.52, 0.13, 0.006
_RAISED_M = np.array([-0.09, 0.0, 0.09])
_BOW_M = 0.09
_TUNNEL_HALF_M = (0.14, 0.05, 0.05)
_HIDDEN_M = _TUNNEL_HALF_M[1] - 0.01  # a cup whose centre is so near the middle counts as hidden


def _cue_s(knobs: Mapping[str, Any]) -> float:
    """Returns the length of the cue phase: show, cover, swaps, each with a rest after it."""
    return SHOW_S + COVER_S + REST_S + knobs["S"] * (knobs["swap_s"] + REST_S)


def _horizon_s(knobs: Mapping[str, Any]) -> float:
    return _cue_s(knobs) + knobs["gap_max_s"] + knobs["execute_s"]


def _swaps(k: int, swaps: int, swap_s: float, occluder: int) -> dict[str, Any]:
    return {"K": k, "S": swaps, "swap_s": swap_s, "occluder": occluder}


INFO = TaskInfo(
    name="shell_game_swap",
    env_id="MemoryBench/ShellGameSwap-v0",
    entry="sims.memory_bench.tasks.shell_game_swap:ShellGameSwap",
    summary="a ball is covered by one of K cups, cups swap places; touch the cup that has it",
    levels=levels.four(
        _swaps(3, 2, 1.2, 0),
        _swaps(4, 4, 1.0, 0),
        _swaps(5, 6, 0.9, 1),
        _swaps(7, 8, 1.0, 1),
        execute_s=8.0,
    ),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=_horizon_s,
)


class ShellGameSwap(ChoiceTask):
    """The cue is the place where the ball ends; where it starts follows from the swaps."""

    info = INFO
    later_plan = ("swaps",)
    instructions = (
        "touch the cup that has the ball under it",
        "keep track of the hidden ball and touch the cup above it",
        "the ball was covered and the cups were moved: touch the one that hides it",
        "watch the cups swap places, then show where the ball is by touching its cup",
    )
    half_height_m = _CUP_HALF_M
    ball_height_m = 0.2

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        for name, low, high in (("K", 3, MAX_K), ("S", 0, MAX_S), ("occluder", 0, 1)):
            levels.check_whole(self.info.name, knobs, name, low, high)
        if not 0.5 <= knobs["swap_s"] <= 3.0:
            raise ConfigError(
                f"knob swap_s of {self.info.name}: expected 0.5 to 3 s, got {knobs['swap_s']}"
            )
        super().__init__(knobs)
        self.k, self.n_swaps = int(knobs["K"]), int(knobs["S"])
        self._cups = [f"cup{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """The ball's way is seen while the arm is held, then one choice of K."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("show",), held=True)

    @property
    def candidates(self) -> Sequence[str]:
        """The cups, by place."""
        return self._cups

    @property
    def cue_ticks(self) -> int:
        """Length of the cue phase."""
        return round(_cue_s(vars(self.knobs)) * TICKS_PER_S)

    def parts(self) -> Sequence[Part]:
        """K cups, the ball, the tunnel, and two distractors that fly about in a busy gap."""
        return [
            *(cylinder(name, _CUP_RADIUS_M, _CUP_HALF_M) for name in self._cups),
            ball("ball", _BALL_RADIUS_M),
            screen("tunnel", _TUNNEL_HALF_M),
            *distractors.parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """The cups, the ball, the tunnel, the distractors."""
        return [
            *(Entity(name, "container", name) for name in self._cups),
            Entity("ball", "marker", "ball"),
            Entity("tunnel", "marker", "tunnel"),
            *distractors.entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of the cups in a row; the swaps, never one that undoes the last; paths."""
        spacing = min(_SPACING_M, _ROW_M / (self.k - 1))
        y = (np.arange(self.k) - (self.k - 1) / 2) * spacing
        pos = np.stack((np.full(self.k, _ROW_X_M), y, np.full(self.k, _CUP_Z_M)), 1)
        pos[:, :2] += rng.uniform(-_JITTER_M, _JITTER_M, (self.k, 2))
        swaps: list[tuple[int, int]] = []
        while len(swaps) < self.n_swaps:
            a, b = (int(i) for i in rng.permutation(self.k)[:2])
            if not swaps or {a, b} != set(swaps[-1]):
                swaps.append((a, b))
        return {"pos": pos, "swaps": swaps, "paths": distractors.draw(rng)}

    def first_place(self) -> int:
        """Returns where the ball lies at the start, so that it ends at the cue's place."""
        place = self.cue
        for a, b in reversed(self.plan["swaps"]):
            place = {a: b, b: a}.get(place, place)
        return place

    def choice_order(self) -> Sequence[int]:
        """The cups, along their row."""
        return range(self.k)

    # -- the cue phase --------------------------------------------------------------------

    def setup_cue(self) -> None:
        """The ball in the open, the cups behind and above it."""
        self._move_cups()

    def cue_tick(self) -> bool:
        """Covers the ball, then swaps cups; complete when the last one rests."""
        self._move_cups()
        self.scene.forward()  # what appears now is observed now
        return super().cue_tick()

    def swap_now(self) -> tuple[int, float] | None:
        """Returns which swap is under way and how far, 0 to 1; None between swaps."""
        since_s = self.phase_tick / TICKS_PER_S - SHOW_S - COVER_S - REST_S
        index, within_s = divmod(since_s, self.knobs.swap_s + REST_S)
        if self.phase != CUE or since_s < 0 or index >= self.n_swaps:
            return None
        share = within_s / self.knobs.swap_s
        return (int(index), share) if share < 1 else None

    def _move_cups(self) -> None:
        """Puts cups, ball and tunnel where they are at this tick of the cue phase."""
        scene, time_s = self.scene, self.phase_tick / TICKS_PER_S
        pos = self.plan["pos"].copy()
        pos += _RAISED_M * (1.0 - _smooth((time_s - SHOW_S) / COVER_S))
        swap = self.swap_now()
        if swap is not None:
            a, b = self.plan["swaps"][swap[0]]
            middle, half = (pos[a] + pos[b]) / 2, (pos[a] - pos[b]) / 2
            angle = np.pi * _smooth(swap[1])
            # One passes before the other, around the cups between them.
            bow = np.array([_BOW_M * np.sin(angle), 0.0, 0.0])
            pos[a], pos[b] = (
                middle + half * np.cos(angle) + bow,
                middle - half * np.cos(angle) - bow,
            )
        for name, at in zip(self._cups, pos, strict=True):
            scene.place(name, at)
            scene.paint(name, CUP_RGB)
        if time_s < SHOW_S + COVER_S:
            x, y, _ = self.plan["pos"][self.first_place()]
            scene.place("ball", (x, y, TABLE_TOP_M + _BALL_RADIUS_M))
            scene.paint("ball", BALL_RGB)
        elif scene.present["ball"]:
            scene.park("ball")
        if swap is not None and self.knobs.occluder:
            scene.place("tunnel", (_ROW_X_M, middle[1], TABLE_TOP_M + _TUNNEL_HALF_M[2]))
            scene.paint("tunnel", TUNNEL_RGB)
        elif scene.present["tunnel"]:
            scene.park("tunnel")

    def covered(self) -> frozenset[str]:
        """Cups inside the tunnel."""
        if not self.scene.present["tunnel"]:
            return frozenset()
        middle_y = self.scene.pos("tunnel")[1]
        inside = (abs(self.scene.pos(name)[1] - middle_y) < _HIDDEN_M for name in self._cups)
        return frozenset(n for n, hidden in zip(self._cups, inside, strict=True) if hidden)

    # -- gap and go -----------------------------------------------------------------------

    def setup_gap(self) -> None:
        """Shows the cups in their places, as at go."""
        self.show_candidates(CUP_RGB)
        self.gap_tick()

    def setup_execute(self) -> None:
        """Shows the cups; nothing here depends on the cue."""
        self.show_candidates(CUP_RGB)


def _smooth(share: float) -> float:
    """Returns 0 to 1 for a share of a motion, with rest at both ends."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)
