"""Aliasing: at a gate no bit of any observation or state still tells the cue.

Full rollouts of every cue are compared at the end of the cue phase and at go: pictures, depth,
proprioception, instruction and entities, and below them MuJoCo's whole integration state, the
controller and the task's variables. Only names that start with ``hidden_`` may differ.

In a row of choices every one of them is compared with the first. Where what must be remembered
is how far one has got (``TaskInfo.progress``), histories of one cue are the pairs: so many
choices taken against another number of them, with the same instruction.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.core.rng import derive
from embodied.core.task import CUE, EXECUTE, GAP

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv

BEHAVIOURS = ("expert", "noisy", "extreme")
"""What is done before go: clean expert; strong noise; corner actions first, then the expert."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, how many there are."""

HIDDEN = "hidden_"
"""Names in a state that start so may differ between cues at a gate."""

MOST_CUES = 16
"""So many cue values are rolled out at most, spread evenly over all of them: all where there are no
more, which is so at every level but the larger ones of order_recall, trace_route and set_recall."""

_CORNER_TICKS, _CORNER_HOLD, _TRIES = 30, 5, 4


def compare(
    env: MemoryBenchEnv, seeds: Sequence[int], progress: Progress | None = None
) -> dict[str, Any]:
    """Compares full rollouts of every cue at both gates; see the module's text.

    Args:
      env: An unwrapped environment with pictures; every camera in it is compared.
      seeds: Episode seeds; within a seed everything must be equal.
      progress: See :data:`Progress`.

    Returns:
      ``holds``, how many ``cues`` were rolled out, counts of rollouts, completed ones and pairs
      compared at go for each behaviour, the compared ``observations`` and ``state`` names, the
      declared ``hidden`` ones, and ``differences``: the first few names that differ, with seed,
      cue and behaviour.
    """
    observe = AllModes(env)
    cues = spread_cues(env)
    counts = {b: {"rollouts": 0, "completed": 0, "succeeded": 0, "pairs": 0} for b in BEHAVIOURS}
    differences, goals_differ = [], True
    names: dict[str, list[str]] = {"observations": [], "state": [], "hidden": []}
    done, total = 0, len(seeds) * len(BEHAVIOURS) * len(cues)
    for seed in seeds:
        references: dict[str, _Rollout] = {}
        needed: dict[str, list[tuple[str, ...]]] = {}
        for behaviour in BEHAVIOURS:
            choices: dict[str, int] = {}
            for cue in cues:
                rollout = _complete(env, observe, seed, cue, behaviour)
                count = counts[behaviour]
                count["rollouts"] += 1
                done += 1
                if progress:
                    progress("aliasing", done, total)
                if rollout is None:
                    continue
                count["completed"] += 1
                count["succeeded"] += rollout.success
                kind = rollout.instruction if env.info.progress else ""
                choices[kind] = choices.get(kind, 0) + len(rollout.targets)
                if behaviour == "expert":
                    needed.setdefault(kind, []).append(rollout.targets)
                reference = references.setdefault(kind, rollout)
                differences += [
                    {"seed": seed, "cue": cue, "behaviour": behaviour, "name": name}
                    for name in rollout.differences(reference)
                ]
                names = rollout.names()
            counts[behaviour]["pairs"] += sum(n * (n - 1) // 2 for n in choices.values())
        goals_differ &= all(_demand_memory(histories) for histories in needed.values())
    complete = all(
        counts["expert"][k] == len(seeds) * len(cues) for k in ("completed", "succeeded")
    )
    compared = all(count["pairs"] for count in counts.values())
    return {
        "holds": not differences and goals_differ and complete and compared,
        "seeds": list(seeds),
        "cues": len(cues),
        "cues_total": env.task.n_cues,
        "behaviours": counts,
        "every_cue_needs_another_choice": goals_differ,
        **names,
        "differences": differences[:20],
    }


def spread_cues(env: MemoryBenchEnv, most: int = MOST_CUES) -> list[int]:
    """Returns the cue values to look at: all, or `most` spread evenly over them."""
    count = env.task.n_cues
    return sorted({round(c) for c in np.linspace(0, count - 1, min(count, most))})


def _demand_memory(histories: Sequence[tuple[str, ...]]) -> bool:
    """Returns whether what looks equal needs different choices: between cues and along a row."""
    chosen = {target for targets in histories for target in targets}
    return len(set(histories)) == len(histories) and len(chosen) > 1


def corrupt_before_gates(env: MemoryBenchEnv, seeds: Sequence[int]) -> dict[str, Any]:
    """Corrupts everything just before each gate and checks that the snap undoes it.

    Returns:
      ``holds``, the number of ``corruptions`` and the names that survived (``leaks``).
    """
    observe = AllModes(env)
    leaks: set[str] = set()
    corruptions = 0
    for seed in seeds:
        rollout = _complete(env, observe, seed, 0, "expert")
        if rollout is None:
            continue
        # Where the instruction tells the cue, another cue's scene may look different.
        cues = range(1 if env.info.progress else min(2, env.task.n_cues))
        for attempt, cue in itertools.product(range(2), cues):
            env.reset(seed=seed, options={"cue": cue})
            rng = derive(seed, "corrupt", attempt, cue)
            for phase in (GAP, EXECUTE):
                snapshot = rollout.first(phase)
                _corrupt(env, rng)
                env.task._snap(phase)
                corruptions += 1
                leaks |= set(observe.snapshot().differences(snapshot))
    return {
        "holds": corruptions > 0 and not leaks,
        "corruptions": corruptions,
        "leaks": sorted(leaks),
    }


def _corrupt(env: MemoryBenchEnv, rng: np.random.Generator) -> None:
    """Writes noise into every piece of simulator, scene and controller state there is."""
    m, d = env.scene.m, env.scene.d
    for name in (
        "qpos", "qvel", "act", "ctrl", "qacc_warmstart", "qfrc_applied", "xfrc_applied",
        "mocap_pos", "mocap_quat", "userdata",
    ):  # fmt: skip
        field = getattr(d, name)
        field += rng.normal(0.0, 0.1, field.shape)
    d.time += rng.uniform(0.1, 9.0)
    m.geom_rgba[:, :3] = rng.uniform(0, 1, (m.ngeom, 3))
    m.body_gravcomp[:] = rng.uniform(0, 1, m.nbody)
    for name in env.scene.present:
        env.scene.present[name] = bool(rng.integers(2))
    command = env.controller.save()
    env.controller.restore({k: v + rng.normal(0, 0.1, v.shape) for k, v in command.items()})


def watch_choices(
    env: MemoryBenchEnv, observe: AllModes
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Plays on by the expert, without gaps; returns target and observation at each choice."""
    task, expert, seen = env.task, env.make_expert(), []
    leg = ""
    while not task.decided:
        if task.phase == GAP:
            task._snap(EXECUTE)
        if task.leg != leg:
            leg = task.leg
            seen.append((task.target(), observe.observation()))
        env.advance(expert.act())
    return seen


@dataclasses.dataclass
class _Snapshot:
    """Everything at one gate: what a policy sees in any mode, and what it doesn't."""

    observation: dict[str, np.ndarray]
    state: dict[str, np.ndarray]

    def differences(self, other: _Snapshot) -> Iterator[str]:
        for mine, theirs in ((self.observation, other.observation), (self.state, other.state)):
            for name in sorted(mine.keys() | theirs.keys()):
                hidden = mine is self.state and name.startswith(HIDDEN)
                if not hidden and not _equal(mine.get(name), theirs.get(name)):
                    yield name


@dataclasses.dataclass
class _Rollout:
    """The gates of one episode: each phase that began, with everything as it was then."""

    gates: list[tuple[str, _Snapshot]]
    targets: tuple[str, ...]
    instruction: str
    success: bool

    def first(self, phase: str) -> _Snapshot:
        return next(snapshot for name, snapshot in self.gates if name == phase)

    def differences(self, other: _Rollout) -> list[str]:
        words = {GAP: "gap", EXECUTE: "go"}
        return [
            f"{words[phase]}: {name}"
            for phase, snapshot in self.gates
            for name in snapshot.differences(other.first(phase))
        ]

    def names(self) -> dict[str, list[str]]:
        state = sorted(self.first(EXECUTE).state)
        return {
            "observations": sorted(self.first(EXECUTE).observation),
            "state": [name for name in state if not name.startswith(HIDDEN)],
            "hidden": [name for name in state if name.startswith(HIDDEN)],
        }


class AllModes:
    """Observes one environment in every mode at once."""

    def __init__(self, env: MemoryBenchEnv) -> None:
        from sims.memory_bench.observe import Observer

        self._env = env
        self._entities = Observer(
            env.scene, "state", (), env.observer.image_size, env.task.entities()
        )

    def observation(self, draw: bool = True) -> dict[str, np.ndarray]:
        """Returns proprioception, instruction and entities; pictures and depth if `draw`."""
        rows = {key: spec.zeros() for key, spec in self._entities.specs.items()}
        self._entities.fill(rows, self._env.task, False)
        return {**rows, **self._env.observe(draw=True)} if draw else rows

    def snapshot(self, draw: bool = True) -> _Snapshot:
        return _Snapshot(self.observation(draw), self._env.save_state())


def _equal(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    """Bit equality: dtype, shape and every byte (so -0.0 differs from 0.0)."""
    if left is None or right is None:
        return False
    same = left.dtype == right.dtype and left.shape == right.shape
    return same and left.tobytes() == right.tobytes()


def _complete(
    env: MemoryBenchEnv, observe: AllModes, seed: int, cue: int, behaviour: str
) -> _Rollout | None:
    """Returns a full rollout that got to go, or None if several tries spoilt the cue phase."""
    for attempt in range(_TRIES if behaviour != "expert" else 1):
        rollout = _rollout(env, observe, seed, cue, behaviour, attempt)
        if rollout is not None:
            return rollout
    return None


def _rollout(
    env: MemoryBenchEnv, observe: AllModes, seed: int, cue: int, behaviour: str, attempt: int
) -> _Rollout | None:
    env.reset(seed=seed, options={"cue": cue})
    task = env.task
    # The noise differs between cues, so that the histories have nothing in common.
    rng = derive(seed, "certify", behaviour, cue, attempt)
    noise = 1.5 if behaviour == "noisy" else 0.0
    expert = env.make_expert(seed=int(rng.integers(2**31)), noise=noise)
    gates: list[tuple[str, _Snapshot]] = []
    targets: list[str] = []

    def begin_leg() -> None:
        gates.append((task.phase, observe.snapshot()))
        if task.phase == EXECUTE:
            targets.append(task.target())

    if task.phase == EXECUTE:
        begin_leg()
    # In a row of choices the first one belongs to the history of those that follow.
    several = 2 if task.n_choices > 1 else 1
    corner, free_ticks = np.zeros(7), 0
    for tick in itertools.count():
        if task.decided:
            break
        action = expert.act()
        if len(targets) < several:
            if behaviour == "extreme" and (free_ticks < _CORNER_TICKS or task.held):
                if tick % _CORNER_HOLD == 0:
                    corner = rng.choice((-1.0, 1.0), 7)
                    corner[3:6] *= 0.2  # a hand turned away for good couldn't finish
                action = corner
            else:
                action = expert.perturb(action)
        free_ticks += not task.held
        # Between the tries of a cue phase the cue still shows.
        if env.advance(action) and task.phase != CUE:
            begin_leg()
    if len(targets) < several:
        return None
    return _Rollout(gates, tuple(targets), task.instruction, task.success)
