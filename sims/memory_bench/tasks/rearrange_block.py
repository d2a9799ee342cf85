"""RearrangeBlock: move marked blocks, press the button, then centre the one never moved.

Kin: MemoryBench's "rearrange block" (SAM2Act, 2025); a re-creation in which the blocks are
identical, the scene at go is the same whatever was moved, and more blocks and moves can make it
longer. With K = 2 and no pre-moves it is the original's plan: the centre's block goes to the
empty patch, later the other one to the centre.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, TaskInfo
from sims.memory_bench import levels
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import by_place
from sims.memory_bench.machines import uniform
from sims.memory_bench.manipulation import (
    BLOCK_HALF_M,
    BLOCK_RGB,
    CENTRE_RGB,
    CENTRE_XY_M,
    NEXT,
    PATCH_RGB,
    SHOWN_RGB,
    BlockTask,
    draw_ring,
)
from sims.memory_bench.parts import TABLE_TOP_M, Part, box, patch
from sims.memory_bench.task import LAMP_STEPS, Waypoint

_BLOCK_Z_M = TABLE_TOP_M + BLOCK_HALF_M[2]
_CENTRE = -1  # the centre's index among places, as in rearrange_sequences


def _moves(k: int, pre_moves: int) -> dict[str, Any]:
    return {"K": k, "pre_moves": pre_moves, "cue_s": 12.0 + 6.0 * pre_moves}


INFO = TaskInfo(
    name="rearrange_block",
    env_id="MemoryBench/RearrangeBlock-v0",
    entry="sims.memory_bench.tasks.rearrange_block:RearrangeBlock",
    summary="move marked blocks of K, press the button, then centre the one never moved",
    levels=levels.four(
        _moves(2, 0), _moves(3, 1), _moves(4, 2), _moves(4, 4), tol_m=0.05, execute_s=8.0
    ),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=levels.horizon_s,
    published_keyframes=11,
)


@functools.lru_cache(maxsize=32)
def rearrange_sequences(candidates: int, pre_moves: int) -> tuple[tuple[int, tuple, int], ...]:
    """All histories of RearrangeBlock: ``(unmoved, moves, empty at start)``.

    One patch of K is empty, a block stands at the centre, one block on every other patch. Each
    of `pre_moves` moves takes a marked block to the empty patch; the last move takes the
    centre's block there. Exactly one block is never moved, so `pre_moves` >= K - 2: the first
    K - 2 of them move each other block once, the rest move some of them again.

    Returns:
      One tuple a history; ``moves`` holds ``(from, to)`` patch indices, ``from`` is -1 for the
      centre. Every unmoved patch occurs equally often.
    """
    if candidates < 2 or pre_moves < candidates - 2:
        raise ValueError(
            f"RearrangeBlock needs K >= 2 and pre_moves >= K - 2, got K={candidates}, "
            f"pre_moves={pre_moves}"
        )
    found = []
    for unmoved in range(candidates):
        others = [i for i in range(candidates) if i != unmoved]
        for order in itertools.permutations(others):
            moves = [(order[i + 1], order[i]) for i in range(candidates - 2)]
            chains = [(tuple(moves), order[-1])]
            for _ in range(pre_moves - (candidates - 2)):
                # Not the block that was moved last: that would only undo the move.
                chains = [
                    ((*chain, (source, empty)), source)
                    for chain, empty in chains
                    for source in others
                    if source != empty and source != chain[-1][1]
                ]
            found += [(unmoved, (*c, (-1, empty)), order[0]) for c, empty in chains]
    return tuple(found)


def _machine(candidates: int, pre_moves: int) -> Machine:
    """Watch which block is never moved, then bring that one to the centre."""
    histories = rearrange_sequences(candidates, pre_moves)
    last = pre_moves + 1

    def observe(state):
        history, stage = state
        if stage > last:
            return ("gap" if stage == last + 1 else "go", None)
        if stage == last:
            return ("press", None)
        # In view: the lamp's step, which patch is empty, which block is marked for moving.
        return ("move", stage, *histories[history][1][stage])

    def actions(seen):
        if seen[0] == "go":
            return tuple(range(candidates))
        return ("hold",) if seen[0] == "gap" else ("do", "spoil")

    def step(state, action):
        history, stage = state
        if stage == last + 2:
            return {SUCCESS if action == histories[history][0] else FAILURE: Fraction(1)}
        return {FAILURE if action == "spoil" else (history, stage + 1): Fraction(1)}

    return Machine(
        INFO.name,
        uniform([(h, 0) for h in range(len(histories))]),
        observe,
        actions,
        step,
        may_wait=lambda state: state[1] <= last,
        cue_of=lambda state: histories[state[0]][0],
    )


class RearrangeBlock(BlockTask):
    """The cue is the patch whose block is never moved; at go, block i stands on patch i."""

    info = INFO
    later_plan = ("history",)
    instructions = (
        "move each marked block to the empty patch, press the button, then move the block that "
        "was never moved to the centre",
        "put the marked blocks on the free patch one by one, push the button, then centre the "
        "block you did not move",
        "marked blocks go to the empty patch; after the button, bring the untouched block to "
        "the centre mark",
    )

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        k, moves = knobs["K"], knobs["pre_moves"]
        levels.check_whole(self.info.name, knobs, "K", 2, 4)
        most = k - 2 if k < 4 else len(LAMP_STEPS) - 1
        if not k - 2 <= moves <= most or moves != int(moves):
            raise ConfigError(
                f"knob pre_moves of rearrange_block at K={k}: expected {k - 2} to {most}, got "
                f"{moves}; every other block must be moved once, and each move has a lamp colour"
            )
        super().__init__(knobs)
        self.k, self._pre_moves = int(k), int(moves)
        self._patches = [f"patch{i}" for i in range(self.k)]
        self._blocks = tuple(f"block{i}" for i in range(self.k))

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """The histories of all cues, the marks in view, and one choice of a block after go."""
        return _machine(int(knobs["K"]), int(knobs["pre_moves"]))

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the block parts."""
        return self._blocks

    @property
    def n_steps(self) -> int:
        """The pre-moves and the move of the centre's block."""
        return self._pre_moves + 1

    def parts(self) -> Sequence[Part]:
        """K patches, the centre's mark, K free blocks, button and distractors."""
        return [
            *(patch(name) for name in self._patches),
            patch("centre", half_m=0.04),
            *(box(name, BLOCK_HALF_M, "free") for name in self._blocks),
            *self.common_parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """Blocks, patches, centre mark, button, distractors."""
        return [
            *(Entity(name, "cube", name) for name in self._blocks),
            *(Entity(name, "patch", name) for name in self._patches),
            Entity("centre", "marker", "centre"),
            *self.common_entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of patches and button, which history of the cue's, offsets and yaws."""
        places, button = draw_ring(rng, self.k)
        count = len(rearrange_sequences(self.k, self._pre_moves)) // self.k
        return {
            "patches": places,
            "button": button + rng.uniform(-0.005, 0.005, 2),
            "history": int(rng.integers(count)),
            "offsets": rng.uniform(-0.006, 0.006, (2, self.k, 2)),
            "yaws": rng.uniform(-0.25, 0.25, (2, self.k)),
            **self.draw_common(rng),
        }

    # -- the history ----------------------------------------------------------------------

    def _history(self) -> tuple[tuple[tuple[int, int], ...], int]:
        """Returns the moves (from, to) of this episode and the patch empty at the start."""
        own = [h for h in rearrange_sequences(self.k, self._pre_moves) if h[0] == self.cue]
        _, moves, empty = own[self.plan["history"]]
        return moves, empty

    def _occupants(self, steps: int) -> dict[int, int]:
        """Returns place -> block after so many moves; -1 is the centre."""
        moves, empty = self._history()
        at = {place: place for place in range(self.k) if place != empty}
        at[_CENTRE] = empty  # the block named after the empty patch starts at the centre
        for source, target in moves[:steps]:
            at[target] = at.pop(source)
        return at

    def _move(self, step: int | None = None) -> tuple[int, np.ndarray]:
        """Returns the block that a cue step (by default the present one) moves, and where to."""
        step = min(self.vars["steps_done"] if step is None else step, self.n_steps - 1)
        source, target = self._history()[0][step]
        return self._occupants(step)[source], self.plan["patches"][target]

    # -- hooks ----------------------------------------------------------------------------

    def show(self) -> None:
        """Patches, mark and blocks: as the history begins, or, from the gap on, all in place."""
        plan, scene, cue_phase = self.plan, self.scene, self.phase == CUE
        for name, xy in zip(self._patches, plan["patches"], strict=True):
            scene.place(name, (*xy, TABLE_TOP_M + 0.001))
        scene.place("centre", (*CENTRE_XY_M, TABLE_TOP_M + 0.001))
        scene.paint("centre", CENTRE_RGB)
        occupants = self._occupants(0) if cue_phase else {i: i for i in range(self.k)}
        for place, block in occupants.items():
            xy = CENTRE_XY_M if place == _CENTRE else plan["patches"][place]
            xy = xy + plan["offsets"][int(cue_phase), block]
            scene.place(self._blocks[block], (*xy, _BLOCK_Z_M), plan["yaws"][int(cue_phase), block])
        self._paint()

    def _paint(self) -> None:
        """Marks the block to move now and its patch; in a reactive twin after go, the answer."""
        scene, marked_block, marked_patch = self.scene, None, None
        if self.phase == CUE and self.vars["steps_done"] < self.n_steps:
            marked_block = self._move()[0]
            marked_patch = self._history()[0][self.vars["steps_done"]][0]
        elif self.phase != CUE and self.knobs.visible_cue:
            marked_block = marked_patch = self.cue
        for i in range(self.k):
            scene.paint(self._blocks[i], SHOWN_RGB if i == marked_block else BLOCK_RGB)
            scene.paint(self._patches[i], SHOWN_RGB if i == marked_patch else PATCH_RGB)

    def step_done(self) -> bool:
        """The marked block rests on the empty patch, released."""
        return self.rests_at(*self._move())

    def next_step(self) -> None:
        """Marks the next block."""
        self._paint()

    def execute_tick(self) -> None:
        """The first block released decides: which one it is, then whether it lies at the centre."""
        offsets = self.plan["offsets"][0]
        block = self.released(self.plan["patches"] + offsets)
        if block is None:
            return
        if block != self.cue:
            self.commit(self._patches[block], False)
        else:
            self.commit(self._patches[block], self.rests_at(block, CENTRE_XY_M), "motor")

    def choice_order(self) -> Sequence[int]:
        """The patches, by where they are."""
        return by_place(self.plan["patches"])

    def target(self) -> str:
        """The patch whose block was never moved."""
        return self._patches[self.cue]

    def step_progress(self) -> float:
        """Reaching the marked block and bringing it to the empty patch."""
        return self.carry_progress(*self._move())

    def execute_progress(self) -> float:
        """Reaching the right block and bringing it to the centre."""
        return self.carry_progress(self.cue, CENTRE_XY_M)

    def waypoints(self) -> Sequence[Waypoint]:
        """The present move, or the press; after go, the unmoved block to the centre."""
        if self.phase != CUE:
            return self.carry_path(self.cue, CENTRE_XY_M)
        if self.vars["steps_done"] == self.n_steps:
            return self.press_path()
        block, goal = self._move()
        path = self.carry_path(block, goal)
        # Wait above for the lamp to count the step; then `replan` goes on with the next.
        return [*path, dataclasses.replace(path[-1], stage=NEXT)]

    def upcoming(self) -> Sequence[Waypoint]:
        """The move after the one just done (whether counted yet or not), or the press."""
        if self.phase != CUE:
            return ()
        done = self.vars["steps_done"]
        done += done < self.n_steps and self.rests_at(*self._move())
        return self.press_path() if done == self.n_steps else self.carry_path(*self._move(done))

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew when a block was pushed away or lost; goes on when a step is counted."""
        block, goal = (self.cue, CENTRE_XY_M) if self.phase != CUE else self._move()
        if self.carry_failed(block, stage, goal_world_m):
            return self.waypoints()
        if stage == NEXT and not (
            self.vars["steps_done"] < self.n_steps and self.rests_at(block, goal)
        ):
            return self.waypoints()
        return None
