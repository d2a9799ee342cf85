"""What comes after a gate: under the same actions every cue looks the same, until one is decided.

At go all is equal, and from there on the simulator runs on what is equal; but a task's own code
knows the cue and might show it a tick later. So the expert's motion of one cue is done again from
the gate of every other, and everything is compared tick by tick: proprioception, instruction,
entities and state, and now and then the pictures. Only names that start with ``hidden_`` may
differ. What is compared at a gate itself, and between which histories, is in
:mod:`sims.memory_bench.aliasing`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.core.task import EXECUTE, GAP
from sims.memory_bench.aliasing import HIDDEN, AllModes, Progress, spread_cues

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv

PICTURE_TICKS = 10
"""Control ticks between pictures that are compared: half a second."""

State = dict[str, np.ndarray]
_Trace = list[dict[str, bytes]]


def measure(
    env: MemoryBenchEnv, seeds: Sequence[int], progress: Progress | None = None
) -> dict[str, Any]:
    """Does one motion from every gate at which the arm is let go; see the module's text.

    Args:
      env: An unwrapped environment with pictures; every camera in it is compared.
      seeds: Episode seeds; within a seed everything must be equal.
      progress: See :data:`sims.memory_bench.aliasing.Progress`.

    Returns:
      ``holds``, ``cues`` rolled out, ``gates`` from which the motion was done again, ``ticks``
      compared, ``pictures`` among them, and ``differences``: the first few names that differ,
      with seed, cue and tick after the gate.
    """
    observe, cues = AllModes(env), spread_cues(env)
    differences: list[dict[str, Any]] = []
    gates = ticks = pictures = 0
    for index, seed in enumerate(seeds):
        known: dict[str, tuple[list[np.ndarray], _Trace]] = {}
        for number, cue in enumerate(cues):
            for kind, state, motion in _gates(env, seed, cue):
                if kind not in known:
                    known[kind] = motion, _trace(env, observe, state, motion)
                    continue
                motion, reference = known[kind]
                gates += 1
                trace = _trace(env, observe, state, motion)
                for tick, (mine, theirs) in enumerate(zip(trace, reference, strict=False), 1):
                    ticks, pictures = ticks + 1, pictures + (tick % PICTURE_TICKS == 0)
                    names = {n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n)}
                    differences += [
                        {"seed": seed, "cue": cue, "tick": tick, "name": name}
                        for name in sorted(names)
                    ]
            if progress:
                progress("onward", index * len(cues) + number + 1, len(seeds) * len(cues))
    return {
        "holds": ticks > 0 and not differences,
        "seeds": list(seeds),
        "cues": len(cues),
        "gates": gates,
        "ticks": ticks,
        "pictures": pictures,
        "differences": differences[:20],
    }


def _gates(env: MemoryBenchEnv, seed: int, cue: int) -> list[tuple[str, State, list[np.ndarray]]]:
    """Plays an episode by the expert; returns of each gate what looks like it, state and motion.

    What looks like it is the instruction where that tells the cue (``TaskInfo.progress``).
    """
    env.reset(seed=seed, options={"cue": cue})
    task, expert = env.task, env.make_expert()
    kind = task.instruction if env.info.progress else ""
    found: list[tuple[str, State, list[np.ndarray]]] = []

    def begin() -> None:
        if task.phase == EXECUTE:
            found.append((kind, env.save_state(), []))

    begin()
    while not task.decided:
        if task.phase == GAP:  # go makes the same state whatever went before
            task._snap(EXECUTE)
            begin()
        action = expert.act()
        if found:
            found[-1][2].append(np.array(action))
        if env.advance(action):
            begin()
    return found


def _trace(
    env: MemoryBenchEnv, observe: AllModes, state: State, motion: Sequence[np.ndarray]
) -> _Trace:
    """Returns digests of everything after each action, up to a decision or another gate."""
    env.restore_state(state)
    trace: _Trace = []
    for tick, action in enumerate(motion, 1):
        if env.advance(action) or env.task.decided:
            break
        seen = observe.snapshot(draw=tick % PICTURE_TICKS == 0)
        named = {**seen.observation, **seen.state}
        trace.append({n: _digest(v) for n, v in named.items() if not n.startswith(HIDDEN)})
    return trace


def _digest(array: np.ndarray) -> bytes:
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.blake2b(head + array.tobytes(), digest_size=16).digest()
