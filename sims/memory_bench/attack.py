"""The attacker: a policy that tries to carry the cue through a gate in the scene.

Whatever the arm does before a gate could leave a trace: a posture, a block pushed aside, a
command that lingers. The attacker looks for one. It does what the expert does, so that the phase
ends, and adds a push that depends on what it sees, the cue included while that shows: at full
strength at first, then as gently as it must for the expert to succeed. The push is improved by a
cross-entropy search, rewarded by how far apart the cues then are at go, in anything: observations,
the simulator's whole state, the controller, the task's variables. The gate holds if nothing
differs by a bit.

What a difference would be worth is told by a decoder, which learns on some seeds to read the cue
from what the best push leaves in sight at go, and is asked on others. Every seed is played with
every cue, so a decoder to which all cues look the same is right in exactly one of so many,
without any noise of sampling.

In a row of choices the gate before the second one counts as well; where what must be remembered
is how far one has got (``TaskInfo.progress``), that is what is read. Where the arm is held until
the choice there is nothing to push; then the cues are only compared and read.

Source of the search: R. Rubinstein, "The cross-entropy method", Methodology and Computing in
Applied Probability 1 (1999).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.core.proportion import wilson
from embodied.core.ridge import ridge_answers
from embodied.core.rng import derive
from embodied.core.task import EXECUTE
from sims.memory_bench.action import ACTION_SIZE
from sims.memory_bench.aliasing import HIDDEN, AllModes, Progress, spread_cues

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv

GENERATIONS, POPULATION, ELITE = 4, 12, 3
"""Of the search; each candidate plays every cue of one seed."""

CUES = 4
"""So many cue values at most are told apart."""

_LOOKS = 8  # numbers that the push sees of an observation
_STRENGTH = 1.5  # of a push, in units of the largest action
_TURNS = 0.2  # of it for turns: a hand turned away for good couldn't finish
_WILD_TICKS = 30  # of free motion, at full strength
_GENTLY = (0.2, 0.0)  # shares of it after that, tried in turn where a phase did not end
_NEVER = -20.0  # reward where no phase ended; of equal bits it is log10 of the next
_TINIEST = 1e-15

Gate = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Observation and state when a choice is due."""


def attack(
    env: MemoryBenchEnv,
    search_seeds: Sequence[int],
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Searches for a push that survives the gate and decodes the cue from what is seen then.

    Args:
      env: An unwrapped environment; what it shows is what the decoder sees.
      search_seeds: One for each generation of the search, used in turn.
      seeds: The decoder learns on the first half and is asked on the second.
      progress: See :data:`Progress`.

    Returns:
      ``largest_difference`` found at go in anything that is not declared hidden, between cues of
      one seed; ``holds``: whether that is zero. The decoder's ``accuracy`` with Wilson's 95 %
      ``low`` and ``high`` over ``asked`` answers, ``chance``, ``classes`` told apart, ``seeds``
      played to the end with every cue, and ``candidates`` searched: 0 where the arm is held
      all along.

    Raises:
      RuntimeError: If hardly any seed could be played to the end, so that nothing was attacked.
    """
    cues = spread_cues(env, 1 if env.info.progress else CUES)
    candidates = 0 if _held_throughout(env, seeds[0], cues[0]) else GENERATIONS * POPULATION
    total = candidates + len(seeds)
    report = progress or (lambda what, done, total: None)
    best, largest = _Push.none(), 0.0
    if candidates:
        told = lambda done: report("attacker", done, total)  # noqa: E731
        best, largest = _search(env, cues, search_seeds, told)
    examples: list[list[np.ndarray]] = []
    for index, seed in enumerate(seeds):
        gates = _play_all(env, best, seed, cues)
        if gates is not None:
            largest = max(largest, _spread_of(gates))
            examples.append([_numbers(observation) for observation, _ in gates])
        report("attacker", candidates + index + 1, total)
    if len(examples) < 2 or len(examples) < len(seeds) / 2:
        raise RuntimeError(
            f"{env.info.name}: only {len(examples)} of {len(seeds)} seeds could be played to the "
            "end under attack; nothing is known of the gate"
        )
    half = len(examples) // 2
    right = _decode(examples[:half], examples[half:])
    classes, asked = len(examples[0]), (len(examples) - half) * len(examples[0])
    low, high = wilson(right, asked)
    return {
        "holds": largest == 0.0,
        "accuracy": right / asked,
        "low": low,
        "high": high,
        "asked": asked,
        "chance": 1 / classes,
        "classes": classes,
        "seeds": len(examples),
        "candidates": candidates,
        "largest_difference": largest,
    }


# -- the push -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Push:
    """What is added to the expert's action: a function of the present observation alone.

    Attributes:
      weights: [7, looks + 1].
      look: Fixed random map [looks, numbers of an observation].
    """

    weights: np.ndarray
    look: np.ndarray

    @classmethod
    def none(cls) -> _Push:
        """Returns the push that is none."""
        return cls(np.zeros((ACTION_SIZE, 1)), np.zeros((0, 0)))

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        if not len(self.look):
            return np.zeros(ACTION_SIZE)
        seen = np.tanh(self.look @ _numbers(observation))
        push: np.ndarray = _STRENGTH * np.tanh(self.weights @ np.append(seen, 1.0))
        push[3:6] *= _TURNS
        return push


def _search(
    env: MemoryBenchEnv, cues: Sequence[int], seeds: Sequence[int], report: Callable[[int], None]
) -> tuple[_Push, float]:
    """Returns the push whose traces at go lay farthest apart, and how far."""
    env.reset(seed=seeds[0])
    size = len(_numbers(env.observe(draw=True)))
    rng = derive(seeds[0], "attack")
    look = rng.normal(0.0, 1.0 / math.sqrt(size), (_LOOKS, size))
    mean = np.zeros((ACTION_SIZE, _LOOKS + 1))
    spread = np.full_like(mean, 2.0)
    best, most, largest = _Push(mean, look), -math.inf, 0.0
    for generation in range(GENERATIONS):
        seed = seeds[generation % len(seeds)]
        tried: list[tuple[float, np.ndarray]] = []
        for index in range(POPULATION):
            push = _Push(rng.normal(mean, spread), look)
            gates = _play_all(env, push, seed, cues)
            apart = _spread_of(gates) if gates is not None else 0.0
            reward = _NEVER if gates is None else math.log10(_TINIEST + apart)
            tried.append((reward, push.weights))
            largest = max(largest, apart)
            if reward > most:
                best, most = push, reward
            report(generation * POPULATION + index + 1)
        tried.sort(key=lambda one: -one[0])
        elite = np.stack([weights for _, weights in tried[:ELITE]])
        mean, spread = elite.mean(0), elite.std(0) + 0.1
    return best, largest


# -- playing --------------------------------------------------------------------------------


def _held_throughout(env: MemoryBenchEnv, seed: int, cue: int) -> bool:
    """Returns whether the arm can't be moved before the last gate that is looked at."""
    env.reset(seed=seed, options={"cue": cue})
    if env.task.n_choices > 1:
        return False
    while env.task.phase != EXECUTE:
        if not env.task.held:
            return False
        env.advance(np.zeros(ACTION_SIZE, np.float32))
    return True


def _play_all(
    env: MemoryBenchEnv, push: _Push, seed: int, cues: Sequence[int]
) -> list[Gate] | None:
    """Returns the gates of all cues, always in the same order; None if one was not reached."""
    played = []
    for cue in cues:
        tries = (_play(env, push, seed, cue, share) for share in _GENTLY)
        gates = next((gates for gates in tries if gates is not None), None)
        if gates is None:
            return None
        played.append(gates)
    return list(itertools.chain(*played))


def _play(env: MemoryBenchEnv, push: _Push, seed: int, cue: int, share: float) -> list[Gate] | None:
    """Plays up to the first choice, or to the second of several; None if it does not get there."""
    observe = AllModes(env)
    env.reset(seed=seed, options={"cue": cue})
    task, expert = env.task, env.make_expert(seed=seed)
    gates = [_gate(observe)] if task.phase == EXECUTE else []
    wanted, free_ticks = 2 if task.n_choices > 1 else 1, 0
    while len(gates) < wanted and not task.decided:
        action = expert.act()
        if not task.held:
            strength = 1.0 if free_ticks < _WILD_TICKS else share
            action = action + strength * push(env.observe(draw=True))
            free_ticks += 1
        snapped = env.advance(np.clip(action, -1.0, 1.0).astype(np.float32))
        if snapped and task.phase == EXECUTE:
            gates.append(_gate(observe))
    return gates if len(gates) == wanted else None


def _gate(observe: AllModes) -> Gate:
    snapshot = observe.snapshot()
    open_state = {k: v for k, v in snapshot.state.items() if not k.startswith(HIDDEN)}
    return snapshot.observation, open_state


# -- what is left at go ---------------------------------------------------------------------


def _numbers(observation: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns everything that is seen as one vector; whole numbers as parts of their range."""
    parts = []
    for key in sorted(observation):
        value = observation[key]
        scale = 255.0 if value.dtype == np.uint8 else 1.0
        parts.append(value.astype(np.float64).ravel() / scale)
    return np.concatenate(parts)


def _spread_of(gates: Sequence[Gate]) -> float:
    """Returns the largest difference between the gates, in any number of any name."""
    largest = 0.0
    for part in range(2):
        for name in gates[0][part]:
            values = np.stack([gate[part][name].astype(np.float64).ravel() for gate in gates])
            largest = max(largest, float(np.ptp(values, axis=0).max(initial=0.0)))
    return largest


def _decode(known: Sequence[Sequence[np.ndarray]], asked: Sequence[Sequence[np.ndarray]]) -> int:
    """Learns to tell the classes apart by linear ridge regression; returns right answers.

    Args:
      known: Of each seed to learn on, what is seen in each class.
      asked: The same, of the seeds to be asked about.
    """
    classes = len(known[0])
    x, test = (np.stack(list(itertools.chain(*rows))) for rows in (known, asked))
    labels = np.arange(classes)
    answers = ridge_answers(x, np.tile(labels, len(known)), test, classes)
    return int((answers == np.tile(labels, len(asked))).sum())
