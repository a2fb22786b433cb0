"""Statistics of two groups: their numbers are those of textbooks and of scipy, and what cannot be told is not told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ghostkit.differences import difference, holm, mean_interval

# Student's sleep data: extra hours of sleep of ten people by one drug and by another; t = 4.0621, p = 0.002833.
FIRST = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
SECOND = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))


def test_pairs_give_students_own_result():
    found = difference(SECOND, FIRST)
    assert (found["method"], found["n"]) == ("paired t", 10)
    assert found["difference"] == pytest.approx(1.58)
    assert found["p"] == pytest.approx(0.002833, abs=1e-6)
    assert (found["low"], found["high"]) == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert found["won"] == 0.9
    assert found["p_wilcoxon"] == pytest.approx(0.0039, abs=2e-3), "nine pairs differ, all the same way"


def test_without_common_seeds_it_is_welchs_test():
    found = difference({seed + 100: value for seed, value in SECOND.items()}, FIRST)
    assert (found["method"], found["n"]) == ("Welch's t", 10)
    assert found["p"] == pytest.approx(0.07939, abs=1e-5)
    assert (found["low"], found["high"]) == pytest.approx((-0.2055, 3.3655), abs=1e-4)
    assert math.isnan(found["won"])
    assert math.isnan(found["p_wilcoxon"])


def test_only_common_seeds_make_pairs():
    found = difference({0: 2.0, 1: 3.0, 2: 5.0, 9: 100.0}, {0: 1.0, 1: 1.0, 2: 2.0, 8: -100.0})
    assert (found["n"], found["difference"], found["won"]) == (3, 2.0, 1.0)


@pytest.mark.parametrize(
    ("values", "reference", "n", "apart"),
    [
        ({0: 2.0}, {0: 1.0}, 1, 1.0),
        ({0: 2.0}, {0: 1.0, 1: 2.0}, 1, 0.5),
        ({}, {0: 1.0}, 0, math.nan),
        ({5: 1.0, 6: 1.0}, {0: 3.0, 1: 3.0}, 2, -2.0),
    ],
    ids=["one pair", "one against two", "none", "no spread at all"],
)
def test_where_there_is_no_spread_there_is_no_test(values, reference, n, apart):
    found = difference(values, reference)
    assert (found["method"], found["n"]) == ("no test", n)
    assert found["difference"] == pytest.approx(apart, nan_ok=True)
    assert all(math.isnan(found[name]) for name in ("low", "high", "p", "p_wilcoxon", "won"))


def test_pairs_that_differ_all_alike_are_no_reason_to_be_sure():
    found = difference({0: 0.3, 1: 0.4, 2: 0.5}, {0: 0.1, 1: 0.2, 2: 0.3})
    assert (found["method"], found["difference"]) == ("no test", pytest.approx(0.2))
    assert all(math.isnan(found[name]) for name in ("low", "high", "p"))


def test_equal_numbers_have_a_mean_but_no_interval():
    mean, sd, low, high = mean_interval(np.array([0.1, 0.1, 0.1]))
    assert (mean, sd) == pytest.approx((0.1, 0))
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(("n", "told"), [(5, False), (6, True)])
def test_ranks_are_tested_only_where_they_can_say_something(n, told):
    found = difference({seed: seed + 1.0 for seed in range(n)}, dict.fromkeys(range(n), 0.0))
    assert math.isnan(found["p_wilcoxon"]) != told


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 4))
    hits = [low <= 3.0 <= high for _, _, low, high in map(mean_interval, draws)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("values", "mean"), [([], math.nan), ([2.0], 2.0)])
def test_one_number_has_no_spread(values, mean):
    found = mean_interval(np.array(values))
    assert found[0] == pytest.approx(mean, nan_ok=True)
    assert all(map(math.isnan, found[1:]))


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        ([0.5, math.nan, 0.6], [1.0, math.nan, 1.0]),
    ],
)
def test_p_values_of_a_family_are_corrected_by_holm(p, corrected):
    np.testing.assert_allclose(holm(np.array(p, dtype=float)), corrected)


def test_a_paired_test_sees_what_an_unpaired_one_does_not():
    draw = np.random.default_rng(1)
    base = draw.normal(0.9, 0.03, 8)
    better = base + 0.01 + draw.normal(0, 0.002, 8)
    paired = difference(dict(enumerate(better)), dict(enumerate(base)))
    assert paired["p"] < 0.001 < 0.2 < stats.ttest_ind(better, base, equal_var=False).pvalue
