"""Statistics against scipy, published values and simple facts."""

from __future__ import annotations

import math

import pytest
from scipy import special
from scipy import stats as scipy_stats

from embodied.core.errors import DataError
from embodied.evaluate import stats


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, no correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_reproduces_newcombe(successes, n, low, high):
    assert stats.wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_edges():
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.wilson(300, 300)[1] == 1.0 and stats.wilson(300, 300)[0] > 0.98
    with pytest.raises(DataError, match="successes"):
        stats.wilson(3, 2)


@pytest.mark.parametrize("a", [0.5, 1, 7, 300])
@pytest.mark.parametrize("b", [0.5, 2, 40, 1200])
@pytest.mark.parametrize("x", [1e-6, 0.1, 0.5, 0.93, 1 - 1e-9])
def test_incomplete_beta(a, b, x):
    assert stats.incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), abs=1e-11)


@pytest.mark.parametrize("n", [1, 10, 1000])
@pytest.mark.parametrize("p", [0.0, 0.023, 1 / 3, 0.9, 1.0])
def test_binomial(n, p):
    for k in {0, 1, n // 3, n - 1, n}:
        assert stats.binomial_cdf(k, n, p) == pytest.approx(
            scipy_stats.binom.cdf(k, n, p), abs=1e-11
        )
        expected = scipy_stats.binom.sf(k - 1, n, p)
        assert stats.binomial_sf(k, n, p) == pytest.approx(expected, abs=1e-11)
        expected = scipy_stats.binomtest(k, n, p).pvalue
        assert stats.binomial_test(k, n, p) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("df", [1, 2, 5, 30])
def test_student_t(df):
    for t in (-3.0, -0.2, 0.0, 1.5, 12.0):
        assert stats.student_t_sf(t, df) == pytest.approx(scipy_stats.t.sf(t, df), abs=1e-12)
    for p in (0.025, 0.5, 0.8, 0.975):
        expected = scipy_stats.t.ppf(p, df)
        assert stats.student_t_quantile(p, df) == pytest.approx(expected, abs=1e-9)


def test_equivalence_to_a_ceiling():
    at_chance = stats.equivalence(335, 1000, 1 / 3)
    assert at_chance.equivalent and at_chance.contains and at_chance.margin == 0.05
    assert at_chance.p_high == pytest.approx(scipy_stats.binom.cdf(335, 1000, 1 / 3 + 0.05))
    assert at_chance.p_low == pytest.approx(scipy_stats.binom.sf(334, 1000, 1 / 3 - 0.05))
    assert not stats.equivalence(380, 1000, 1 / 3).equivalent
    assert not stats.equivalence(260, 1000, 1 / 3).equivalent
    few = stats.equivalence(100, 300, 1 / 3)
    assert not few.equivalent and few.contains and "contains the ceiling" in few.verdict


def test_small_ceilings_use_the_upper_test_alone():
    result = stats.equivalence(10, 1000, 0.0128)
    assert result.margin == 0.0128 and result.p_low == 0.0 and result.equivalent
    assert not stats.equivalence(30, 1000, 0.0128).equivalent
    assert result.p_exact == pytest.approx(scipy_stats.binomtest(10, 1000, 0.0128).pvalue, abs=1e-6)


def test_a_ceiling_of_one_is_reached_or_missed_from_below():
    always, mostly = (stats.equivalence(wins, 1000, 1.0) for wins in (1000, 985))
    assert always.equivalent
    assert always.contains
    assert mostly.equivalent
    assert not mostly.contains
    assert not stats.equivalence(945, 1000, 1.0).equivalent
    assert stats.equivalence_power(1000, 1.0) == 1.0
    assert stats.equivalence_power(20, 1.0) == 0.0


def test_deviations_that_cancel_in_a_mean_are_seen():
    """Two tasks 8 points above and below their ceiling: the mean alone would pass."""
    assert stats.equivalence(416 + 584, 2000, 0.5).equivalent
    apart = stats.joint_equivalence({"above": (584, 1000, 0.5), "below": (416, 1000, 0.5)})
    assert not apart.equivalent and apart.p_value > 0.9
    assert "not shown for all 2 tasks" in apart.verdict and "contains the ceiling in 0" in (
        apart.verdict
    )
    counts = {"a": (500, 1000, 0.5), "b": (345, 1000, 1 / 3)}
    both = stats.joint_equivalence(counts)
    b = stats.equivalence(*counts["b"])
    assert both.equivalent and both.worst == "b" and both.p_value == max(b.p_low, b.p_high)
    assert "equivalent to the ceiling in all 2 tasks" in both.verdict
    few = stats.joint_equivalence({"a": (500, 1000, 0.5), "b": (0, 200, 0.01)})
    assert not few.equivalent and "from 1000 episodes a task on, here 200" in few.verdict


def test_equivalence_power():
    power = stats.equivalence_power(1000, 1 / 3)
    expected = sum(
        scipy_stats.binom.pmf(k, 1000, 1 / 3)
        for k in range(1001)
        if stats.equivalence(k, 1000, 1 / 3).equivalent
    )
    assert power == pytest.approx(expected, abs=1e-9) and 0.8 < power < 0.95
    assert stats.equivalence_power(300, 1 / 3) < 0.5


def test_mcnemar_reproduces_the_sign_test():
    a = [True] * 59 + [True] * 6 + [False] * 16 + [False] * 19
    b = [True] * 59 + [False] * 6 + [True] * 16 + [False] * 19
    result = stats.mcnemar(a, b)
    assert (result.only_a, result.only_b, result.n) == (6, 16, 100)
    assert result.p_value == pytest.approx(scipy_stats.binomtest(6, 22, 0.5).pvalue)
    assert result.difference == pytest.approx(-0.10)
    assert stats.mcnemar([True, False], [True, False]).p_value == 1.0
    with pytest.raises(DataError, match="equally many"):
        stats.mcnemar([True], [])


def test_clustered_comparison_is_a_t_test_over_training_seeds():
    pairs = []
    for wins in (60, 66, 63):
        pairs.append(([True] * wins + [False] * (100 - wins), [i % 3 == 0 for i in range(100)]))
    result = stats.clustered_paired(pairs)
    gaps = [w.difference for w in result.within]
    expected = scipy_stats.ttest_1samp(gaps, 0.0)
    assert result.p_value == pytest.approx(expected.pvalue, abs=1e-10)
    interval = expected.confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    single = stats.clustered_paired(pairs[:1])
    assert single.p_value is None and single.low is None and single.clusters == 1
    same = stats.clustered_paired([([True], [True]), ([False], [False])])
    assert same.p_value is None and same.low is None and same.difference == 0.0
    lucky = stats.clustered_paired([([True] * 9, [False] * 9)] * 2)
    assert lucky.p_value is None and lucky.low is None and lucky.difference == 1.0
    # The mean of three tenths is not a tenth to the last bit.
    tenth = stats.clustered_paired([([True] + [False] * 9, [False] * 10)] * 3)
    assert tenth.p_value is None and tenth.low is None and tenth.difference == pytest.approx(0.1)


def test_memory_score():
    assert stats.memory_score(1 / 3, 0.3, 0.4, 1 / 3, 1.0)[0] == pytest.approx(0.0)
    m, low, high = stats.memory_score(0.99, 0.97, 1.0, 1 / 3, 0.995)
    assert m == pytest.approx((0.99 - 1 / 3) / (0.995 - 1 / 3)) and low < m < high
    assert stats.memory_score(0.5, 0.4, 0.6, 0.5, None) == (None, None, None)
    assert not math.isnan(m)
