"""One row of numbers for one task under one intervention, computed from its episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from embodied.core.errors import DataError
from embodied.evaluate import stats
from embodied.evaluate.results import SWAPS, EpisodeResult

ABLE_COMMIT_RATE = 0.95
"""A memoryless control counts only if it commits in at least this share of episodes."""


def summarise(
    episodes: Sequence[EpisodeResult], ceiling: float, expert: float | None
) -> dict[str, Any]:
    """Returns the measured part of a result row.

    Args:
      episodes: Rows of one task, level and intervention.
      ceiling: c*, the best success without memory.
      expert: Success of the privileged expert, or None if it was never measured.

    Returns:
      Plain data: counts, rates as fractions with 95 % Wilson intervals, the normalised memory
      score, failure kinds, counts per cue, and what happened to swapped memories.
    """
    n = len(episodes)
    if n == 0:
        raise DataError("no episodes to summarise; ask for at least one")
    wins = sum(e.success for e in episodes)
    low, high = stats.wilson(wins, n)
    score, score_low, score_high = stats.memory_score(wins / n, low, high, ceiling, expert)
    cues = sorted({e.cue for e in episodes})
    row = {
        "n": n,
        "successes": wins,
        "success": wins / n,
        "low": low,
        "high": high,
        "ceiling": ceiling,
        "expert": expert,
        "score": score,
        "score_low": score_low,
        "score_high": score_high,
        "commit_rate": sum(e.committed for e in episodes) / n,
        "failure_kinds": dict(
            sorted(Counter(e.failure_kind for e in episodes if not e.success).items())
        ),
        "per_cue": {
            str(cue): {
                "n": sum(e.cue == cue for e in episodes),
                "successes": sum(e.success for e in episodes if e.cue == cue),
            }
            for cue in cues
        },
        "mean_time_s": sum(e.time_s for e in episodes) / n,
        "mean_observations": sum(e.observations for e in episodes) / n,
        "state_bytes": max(e.state_bytes for e in episodes),
        "state_filled": _median([e.state_filled for e in episodes]),
        **dict.fromkeys(SWAP_FIELDS),
    }
    kinds = {e.intervene for e in episodes}
    if len(kinds) > 1:
        raise DataError(f"episodes of several interventions in one row: {sorted(kinds)}")
    if kinds <= set(SWAPS):
        row |= swap_summary(episodes)
    return row


def _median(values: Sequence[int | None]) -> int | None:
    """Returns the median; None unless all are known."""
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if len(known) == len(values) else None


SWAP_FIELDS = ("swapped", "followed", "swap_followed", "swap_low", "swap_high")


def swap_summary(episodes: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Returns how often swapped memories were followed.

    The rate is over episodes in which a swap took place, those that then committed to nothing
    included: not acting is not following.
    """
    swapped = [e for e in episodes if e.intervened and e.followed is not None]
    followed = sum(bool(e.followed) for e in swapped)
    low, high = stats.wilson(followed, len(swapped))
    return {
        "swapped": len(swapped),
        "followed": followed,
        "swap_followed": followed / len(swapped) if swapped else None,
        "swap_low": low if swapped else None,
        "swap_high": high if swapped else None,
    }


def compare_with_twin(
    episodes: Sequence[EpisodeResult], twin: Sequence[EpisodeResult], ceiling: float
) -> dict[str, Any]:
    """Compares a policy with its memoryless twin.

    Args:
      episodes: Rows of the policy.
      twin: Rows of the twin, of the same task and level; the paired test uses common seeds.
      ceiling: c*; the twin is tested for equivalence to it.

    Raises:
      DataError: If they share no seed, or a seed's cue differs between them.
    """
    own = {(e.task, e.level, e.seed): e for e in episodes}
    pairs = [(own[key], e) for e in twin if (key := (e.task, e.level, e.seed)) in own]
    if not pairs:
        raise DataError(
            "the policy and its twin have no evaluation seed in common, so they can't be paired; "
            "evaluate both with the same seed_start"
        )
    odd = [a.seed for a, b in pairs if a.cue != b.cue]
    if odd:
        raise DataError(f"seed {odd[0]} had another cue for the twin; same level and knobs?")
    paired = stats.mcnemar([a.success for a, _ in pairs], [b.success for _, b in pairs])
    n, wins = len(twin), sum(e.success for e in twin)
    low, high = stats.wilson(wins, n)
    equal = stats.equivalence(wins, n, ceiling)
    commit_rate = sum(e.committed for e in twin) / n
    return {
        "n": n,
        "success": wins / n,
        "low": low,
        "high": high,
        "commit_rate": commit_rate,
        "able": commit_rate >= ABLE_COMMIT_RATE,
        "contains_ceiling": equal.contains,
        "equivalent": equal.equivalent,
        "p_equivalence": max(equal.p_low, equal.p_high),
        "margin": equal.margin,
        "verdict": equal.verdict,
        "paired_n": paired.n,
        "only_policy": paired.only_a,
        "only_twin": paired.only_b,
        "difference": paired.difference,
        "p_value": paired.p_value,
    }
