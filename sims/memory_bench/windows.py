"""What suffices: how much of an episode a policy has to have seen to know what to choose.

Three poor memories are measured, each as an oracle that makes the best of what it holds beside
the present observation: the first frame of the episode alone, the last N ticks alone, and both.
The expert's full rollouts of every cue are cut to what such a memory holds. Histories that are
equal bit for bit in it must be answered alike, so of each such group the most frequent target is
answered. What the first frame doesn't show (`Task.later_plan`) is drawn several times in the same
scene, and gaps are still and of one length, since nobody knows beforehand how long they are or
what happens in them. An oracle that reads bits, and may know the scene by them, bounds every real
memory of its kind.

A task whose first frame says it all is solved by keeping an anchor; one that the last few ticks
tell, by a short window. Comparisons of memories should rest on tasks that need more.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.core.task import EXECUTE
from sims.memory_bench.aliasing import Progress, spread_cues

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv
    from sims.memory_bench.task import Task

ANCHOR, WINDOW, BOTH, INTEGRATION = (
    "anchor-solvable",
    "window-solvable",
    "anchor-and-window-solvable",
    "needs-integration",
)
"""Labels: the first frame suffices; the last N ticks do; both together do; none of these."""

REDRAWS = 4
"""Draws of what the first frame doesn't show, for each seed and cue."""

LONGEST_SHARE = 0.5
"""A window longer than this share of what came before the last choice is no short memory."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A moment at which something has to be chosen.

    Attributes:
      tick: Index of its observation in the history's ticks.
      target: What is right.
    """

    tick: int
    target: str


@dataclasses.dataclass(frozen=True)
class History:
    """One rollout of the expert.

    Attributes:
      ticks: A digest of the whole observation of each control tick, from the reset on.
      choices: Its moments of choice, in order.
    """

    ticks: tuple[bytes, ...]
    choices: tuple[Choice, ...]

    def views(self, first: bool, last: int) -> Iterator[tuple[Hashable, str]]:
        """Yields what a memory holds at each choice, the present included, and the target."""
        for choice in self.choices:
            begin = max(0, choice.tick - last)
            seen = self.ticks[begin : choice.tick + 1]
            yield (self.ticks[:1] if first else None, seen), choice.target


Episode = Sequence[History]
"""Histories of one seed's scene: of all cues, and of all draws of what comes later."""


def solved(episodes: Sequence[Episode], first: bool, last: int) -> float:
    """Returns the share of histories that such a memory answers rightly at every choice.

    Args:
      episodes: Of each seed all histories.
      first: Whether the first frame is kept.
      last: How many ticks before the present are kept.
    """
    right = total = 0
    for histories in episodes:
        views = [list(history.views(first, last)) for history in histories]
        counts: dict[Hashable, Counter[str]] = {}
        for seen, target in (view for row in views for view in row):
            counts.setdefault(seen, Counter())[target] += 1
        answer = {seen: count.most_common(1)[0][0] for seen, count in counts.items()}
        right += sum(all(answer[seen] == target for seen, target in row) for row in views)
        total += len(histories)
    return right / total


def shortest(episodes: Sequence[Episode], first: bool) -> int:
    """Returns the smallest number of last ticks with which everything is answered rightly."""
    low, high = 0, max(c.tick for some in episodes for h in some for c in h.choices)
    while low < high:
        middle = (low + high) // 2
        if solved(episodes, first, middle) == 1.0:
            high = middle
        else:
            low = middle + 1
    return low


def describe(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Returns the certificate of some episodes.

    Returns:
      ``label``; ``first``, ``last`` and ``first_and_last``: success of the three oracles, the
      latter two by number of ticks (powers of two); ``last_ticks`` and ``first_and_last_ticks``:
      how many suffice for all; ``history_ticks``: the shortest time from the reset to the last
      choice of an episode.
    """
    history = min(h.choices[-1].tick for some in episodes for h in some)
    lengths = [2**power for power in range(int(history).bit_length())]
    last, both = (shortest(episodes, first) for first in (False, True))
    first = solved(episodes, True, 0)
    return {
        "label": label(first, last, both, history),
        "first": first,
        "last": {str(n): solved(episodes, False, n) for n in lengths},
        "first_and_last": {str(n): solved(episodes, True, n) for n in lengths},
        "last_ticks": last,
        "first_and_last_ticks": both,
        "history_ticks": history,
    }


def label(first: float, last: int, both: int, history: int) -> str:
    """Returns the label of a task; see `describe` for the arguments."""
    longest = LONGEST_SHARE * history
    if first == 1.0:
        return ANCHOR
    if last <= longest:
        return f"{WINDOW}({last})"
    return f"{BOTH}({both})" if both <= longest else INTEGRATION


def still(task: type[Task], knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns knobs to measure with: every gap the longest, and nothing moves in it or jitters.

    Args:
      task: Class of the task.
      knobs: Of the level.
    """
    return {"gap_min_s": knobs["gap_max_s"], "busy": 0.0, **task.still_knobs}


def measure(
    env: MemoryBenchEnv, seeds: Sequence[int], progress: Progress | None = None
) -> dict[str, Any]:
    """Rolls the expert out for every cue of some seeds and returns the certificate.

    Args:
      env: An unwrapped environment that shows the state, with `still` knobs.
      seeds: Episode seeds.
      progress: See :data:`sims.memory_bench.aliasing.Progress`.

    Returns:
      As `describe`, with ``seeds`` and ``cues``.

    Raises:
      RuntimeError: If the expert fails, since its history would lack choices.
    """
    cues, episodes = spread_cues(env), []
    redraws = range(REDRAWS) if env.task.later_plan else (None,)
    for index, seed in enumerate(seeds):
        episodes.append([_history(env, seed, cue, redraw) for cue in cues for redraw in redraws])
        if progress:
            progress("windows", index + 1, len(seeds))
    return {**describe(episodes), "seeds": list(seeds), "cues": len(cues)}


def _history(env: MemoryBenchEnv, seed: int, cue: int, redraw: int | None) -> History:
    """Plays the expert's episode, gaps included."""
    env.reset(seed=seed, options={"cue": cue})
    if redraw is not None:
        env.task.restart_otherwise(redraw)
    task, expert = env.task, env.make_expert(seed=seed)
    ticks = [_digest(env.observe(draw=False))]
    choices: list[Choice] = []
    while not task.decided:
        snapped = env.advance(expert.act())
        ticks.append(_digest(env.observe(draw=False)))
        if snapped and task.phase == EXECUTE:
            choices.append(Choice(len(ticks) - 1, task.target()))
    if not task.success:
        raise RuntimeError(
            f"{env.info.name}: the expert failed with seed {seed} and cue {cue} "
            f"({task.failure_kind}); choose another seed"
        )
    return History(tuple(ticks), tuple(choices))


def _digest(observation: Mapping[str, np.ndarray]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(observation):
        digest.update(np.ascontiguousarray(observation[key]))
    return digest.digest()
