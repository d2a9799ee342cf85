"""Statistics of success counts: intervals, exact tests, equivalence, paired comparisons.

Pure Python on top of the regularised incomplete beta function, so that results can be read
and checked where no scientific stack is installed. Counts are integers, rates fractions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from embodied.core.errors import DataError
from embodied.core.proportion import check_count, wilson

EQUIVALENCE_MARGIN = 0.05
EQUIVALENCE_MIN_EPISODES = 1000
"""Below this many episodes, equivalence to a ceiling isn't claimed."""

SAME_GAP = 1e-12
"""Differences of success this close are equal: no two counts of episodes lie closer."""


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Returns the regularised incomplete beta function I_x(a, b), to about 1e-13.

    Source: Lentz's evaluation of the continued fraction, Abramowitz and Stegun 26.5.8.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges quickly on the other side only
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d, tiny)
            c = _away_from_zero(1.0 + term / c, tiny)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Returns P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return incomplete_beta(n - k, k + 1, 1.0 - p)


def binomial_sf(k: int, n: int, p: float) -> float:
    """Returns P(X >= k) for X ~ Binomial(n, p)."""
    if k <= 0:
        return 1.0
    if k > n:
        return 0.0
    return incomplete_beta(k, n - k + 1, p)


def binomial_test(successes: int, n: int, p: float) -> float:
    """Returns the two-sided exact p-value of rate `p`: total mass of outcomes as unlikely."""
    check_count(successes, n)
    if n == 0:
        return 1.0
    if p <= 0.0 or p >= 1.0:
        return 1.0 if successes == (0 if p <= 0.0 else n) else 0.0
    # The relative slack keeps the mirror outcome of equal probability despite rounding.
    limit = _log_pmf(successes, n, p) + 1e-7
    return min(1.0, sum(math.exp(q) for k in range(n + 1) if (q := _log_pmf(k, n, p)) <= limit))


def student_t_sf(t: float, df: float) -> float:
    """Returns P(T >= t) for Student's t with `df` degrees of freedom."""
    tail = 0.5 * incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return tail if t >= 0 else 1.0 - tail


def student_t_quantile(p: float, df: float) -> float:
    """Returns the t with P(T <= t) = `p`, by bisection."""
    if not 0.0 < p < 1.0:
        raise ValueError(f"a probability in (0, 1) is needed, got {p}")
    if p < 0.5:
        return -student_t_quantile(1.0 - p, df)
    low, high = 0.0, 1.0
    while 1.0 - student_t_sf(high, df) < p:
        high *= 2
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if 1.0 - student_t_sf(middle, df) < p else (low, middle)
    return 0.5 * (low + high)


@dataclasses.dataclass(frozen=True)
class Equivalence:
    """Whether a success rate is equivalent to a ceiling.

    Attributes:
      ceiling: c*.
      margin: min(0.05, c*).
      p_low: One-sided exact p-value against a rate <= ceiling - margin.
      p_high: One-sided exact p-value against a rate >= ceiling + margin.
      equivalent: Both below 0.05 with n >= 1000.
      contains: The Wilson interval contains the ceiling.
      p_exact: Two-sided exact binomial p-value of the ceiling itself.
      verdict: One sentence that claims no more than the numbers allow.
    """

    ceiling: float
    margin: float
    p_low: float
    p_high: float
    equivalent: bool
    contains: bool
    p_exact: float
    verdict: str


def equivalence(successes: int, n: int, ceiling: float, alpha: float = 0.05) -> Equivalence:
    """Tests equivalence to `ceiling` by two one-sided exact binomial tests (TOST).

    The margin is the smaller of 5 points and the ceiling. With margin = ceiling the lower
    bound is 0, which no rate can go below, so only the upper test remains; with a ceiling of 1
    (a task that needs no memory) only the lower one does.
    """
    check_count(successes, n)
    margin = min(EQUIVALENCE_MARGIN, ceiling)
    p_low = binomial_sf(successes, n, ceiling - margin) if margin < ceiling else 0.0
    p_high = binomial_cdf(successes, n, ceiling + margin) if ceiling + margin < 1 else 0.0
    low, high = wilson(successes, n)
    contains = low <= ceiling <= high
    passed = max(p_low, p_high) < alpha
    equivalent = passed and n >= EQUIVALENCE_MIN_EPISODES
    band = f"{100 * ceiling:.1f} % ± {100 * margin:.1f} points"
    holds = "contains" if contains else "does not contain"
    if equivalent:
        verdict = f"equivalent to the ceiling ({band}; TOST p = {max(p_low, p_high):.2g})"
    elif n < EQUIVALENCE_MIN_EPISODES:
        verdict = (
            f"the interval {holds} the ceiling {100 * ceiling:.1f} % "
            f"(equivalence is tested from {EQUIVALENCE_MIN_EPISODES} episodes on)"
        )
    else:
        verdict = f"equivalence to {band} not shown; the interval {holds} the ceiling"
    p_exact = binomial_test(successes, n, ceiling)
    return Equivalence(ceiling, margin, p_low, p_high, equivalent, contains, p_exact, verdict)


@dataclasses.dataclass(frozen=True)
class JointEquivalence:
    """Whether the success rates of several tasks are all equivalent to their ceilings.

    Attributes:
      p_value: The largest p-value among the tasks' one-sided tests.
      worst: The task it is of.
      equivalent: Every task is by itself.
      verdict: Words that claim no more than the numbers allow.
    """

    p_value: float
    worst: str
    equivalent: bool
    verdict: str


def joint_equivalence(
    counts: Mapping[str, tuple[int, int, float]], alpha: float = 0.05
) -> JointEquivalence:
    """Tests that every task is equivalent to its own ceiling, by the intersection-union test.

    In a mean over tasks deviations cancel. All are equivalent at level `alpha` where each is by
    itself, so the largest p-value counts and none has to be corrected.

    Args:
      counts: Task -> (successes, episodes, ceiling).
      alpha: Level of each one-sided test.

    Source: Berger 1982, Technometrics 24.
    """
    found = {task: equivalence(*count, alpha) for task, count in counts.items()}
    worst = max(found, key=lambda task: max(found[task].p_low, found[task].p_high))
    p_value = max(found[worst].p_low, found[worst].p_high)
    equivalent = all(e.equivalent for e in found.values())
    told = f"largest p of a task's two one-sided tests = {p_value:.2g}, {worst}"
    if equivalent:
        verdict = f"equivalent to the ceiling in all {len(found)} tasks ({told})"
    else:
        least = min(n for _, n, _ in counts.values())
        if least < EQUIVALENCE_MIN_EPISODES:
            told += f"; claimed from {EQUIVALENCE_MIN_EPISODES} episodes a task on, here {least}"
        held = sum(e.contains for e in found.values())
        verdict = (
            f"equivalence to the ceiling not shown for all {len(found)} tasks ({told}); "
            f"the interval contains the ceiling in {held} of them"
        )
    return JointEquivalence(p_value, worst, equivalent, verdict)


def equivalence_power(n: int, ceiling: float, alpha: float = 0.05) -> float:
    """Returns the chance that `n` episodes of a policy exactly at `ceiling` pass the TOST."""
    margin = min(EQUIVALENCE_MARGIN, ceiling)
    passing = 0.0
    if ceiling >= 1.0:
        return float(binomial_sf(n, n, ceiling - margin) < alpha)
    for k in range(n + 1):
        if margin < ceiling and binomial_sf(k, n, ceiling - margin) >= alpha:
            continue
        if ceiling + margin < 1 and binomial_cdf(k, n, ceiling + margin) >= alpha:
            break
        passing += math.exp(_log_pmf(k, n, ceiling))
    return min(1.0, passing)


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two policies on the same seeds.

    Attributes:
      n: Common seeds.
      only_a: Seeds where only the first succeeds.
      only_b: Seeds where only the second succeeds.
      difference: Success of the first minus the second, a fraction.
      p_value: Exact two-sided McNemar.
    """

    n: int
    only_a: int
    only_b: int
    difference: float
    p_value: float


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """Exact McNemar test of paired outcomes: a sign test on the pairs that differ.

    Source: McNemar 1947; exact form by Binomial(only_a + only_b, 1/2).
    """
    if len(a) != len(b):
        raise DataError(f"a paired test needs equally many outcomes, got {len(a)} and {len(b)}")
    only_a = sum(1 for x, y in zip(a, b, strict=True) if x and not y)
    only_b = sum(1 for x, y in zip(a, b, strict=True) if y and not x)
    differing = only_a + only_b
    p = min(1.0, 2.0 * binomial_cdf(min(only_a, only_b), differing, 0.5)) if differing else 1.0
    return Paired(len(a), only_a, only_b, (only_a - only_b) / len(a) if len(a) else 0.0, p)


@dataclasses.dataclass(frozen=True)
class ClusteredPaired:
    """Two methods compared over several training seeds.

    Attributes:
      clusters: Training seeds compared.
      difference: Mean over training seeds of the paired success difference, a fraction.
      low: Lower end of the 95 % interval of `difference`; None with one training seed, or
        where all seeds happen to differ by the same.
      high: Upper end.
      p_value: Two-sided p-value of no difference; None where there is no interval.
      within: The McNemar comparison of each training seed.
    """

    clusters: int
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    within: tuple[Paired, ...]


def clustered_paired(
    pairs: Sequence[tuple[Sequence[bool], Sequence[bool]]], alpha: float = 0.05
) -> ClusteredPaired:
    """Compares two methods with the training seed as the unit that repeats.

    Episodes of one network share that network's luck, so pooling them over training seeds
    would understate the error. Each training seed gives one number, its paired success
    difference on common evaluation seeds; a one-sample t-test over those numbers
    (degrees of freedom: training seeds - 1) says whether the *method* is better. With one
    training seed there is no such test: only McNemar about these two networks.

    Args:
      pairs: For each training seed the outcomes of both methods, aligned by evaluation seed.
      alpha: One minus the interval's level.

    Source: cluster-level analysis of matched binary pairs (Donner and Klar 2000, chapter 6).
    """
    if not pairs:
        raise DataError("a clustered comparison needs at least one training seed")
    within = tuple(mcnemar(a, b) for a, b in pairs)
    gaps = [w.difference for w in within]
    count, mean = len(gaps), sum(gaps) / len(gaps)
    if count == 1:
        return ClusteredPaired(1, mean, None, None, None, within)
    if max(gaps) - min(gaps) < SAME_GAP:  # by chance, as counts of few seeds can be
        return ClusteredPaired(count, mean, None, None, None, within)
    variance = sum((g - mean) ** 2 for g in gaps) / (count - 1)
    error = math.sqrt(variance / count)
    half = student_t_quantile(1 - alpha / 2, count - 1) * error
    p = 2.0 * student_t_sf(abs(mean) / error, count - 1)
    return ClusteredPaired(count, mean, mean - half, mean + half, p, within)


def memory_score(
    success: float, low: float, high: float, ceiling: float, expert: float | None
) -> tuple[float | None, float | None, float | None]:
    """Returns the normalised memory score M and its interval.

    M = (success - c*) / (expert - c*), so chance is 0 and the expert 1. The interval maps the
    ends of the success interval; ceiling and expert are taken as known (one is exact, the
    other measured on many more episodes).

    Returns:
      Three Nones where the expert's success is unknown or not above the ceiling.
    """
    if expert is None or expert <= ceiling:
        return None, None, None
    span = expert - ceiling
    return (success - ceiling) / span, (low - ceiling) / span, (high - ceiling) / span


def _log_pmf(k: int, n: int, p: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    head = k * math.log(p) if k else 0.0
    tail = (n - k) * math.log1p(-p) if n - k else 0.0
    return choose + head + tail


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
