"""Two groups of numbers: how far apart they are, and how sure one can be of it.

Numbers of one seed belong together: they started from the same weights and saw the same batches, so their difference
varies less than they do. Where seeds are shared, differences are therefore taken pair by pair (Student's paired t, and
Wilcoxon's signed ranks where there are enough pairs for them to say anything); elsewhere Welch's t compares the means.
Plain numbers in, plain numbers out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["difference", "holm", "mean_interval"]

LEVEL = 0.95
ROUNDING = 1e-12  # what is left of the deviation of equal numbers
# The smallest two-sided p of Wilcoxon's test is 2 / 2^n: with five pairs it cannot fall below 0.06.
ENOUGH_FOR_RANKS = 6
DIFFERENCE_COLUMNS = [
    "group",
    "reference",
    "method",
    "n",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "p_wilcoxon",
    "won",
]


def mean_interval(values: np.ndarray) -> tuple[float, float, float, float]:
    """Return mean, sample standard deviation, and the bounds of the mean's 95 % interval by Student's t.

    Args:
        values: (n,); of one number, all but the mean are NaN, of none, the mean too. Of equal numbers the bounds are:
            two that happen to be the same do not make a mean certain.
    """
    n = len(values)
    if n == 0:
        return (np.nan,) * 4
    mean = float(np.mean(values))
    if n == 1:
        return mean, np.nan, np.nan, np.nan
    sd = float(np.std(values, ddof=1))
    if sd < ROUNDING:
        return mean, sd, np.nan, np.nan
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd / n**0.5
    return mean, sd, mean - half, mean + half


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any]:
    """Return how far ``values`` are above ``reference``, and how sure that is.

    Args:
        values: seed -> number.
        reference: seed -> number. With two seeds in common at least, only those that are in both count, as pairs.

    Returns:
        ``method`` ("paired t", "Welch's t", or "no test" where a group has one number or none, or nothing varies),
        ``n`` (pairs, or the numbers of the smaller group), ``difference`` with its 95 % interval ``low`` to ``high``,
        ``p`` (two-sided), ``p_wilcoxon`` (from six pairs on), and ``won``, the share of pairs in which ``values`` are
        above. What cannot be told is NaN.
    """
    nothing = dict.fromkeys(("low", "high", "p", "p_wilcoxon", "won"), np.nan)
    common = sorted(values.keys() & reference.keys())
    if len(common) >= 2:
        pairs = np.array([values[seed] - reference[seed] for seed in common])
        mean, sd, low, high = mean_interval(pairs)
        varied = sd >= ROUNDING
        return {
            "method": "paired t" if varied else "no test",
            "n": len(pairs),
            **{"difference": mean, "low": low, "high": high},
            "p": float(stats.ttest_1samp(pairs, 0.0).pvalue) if varied else np.nan,
            "p_wilcoxon": _signed_ranks(pairs),
            "won": float(np.mean(pairs > 0)),
        }
    first, second = np.array(list(values.values())), np.array(list(reference.values()))
    n = min(len(first), len(second))
    apart = float(first.mean() - second.mean()) if n else np.nan
    if n < 2 or first.var() + second.var() < 1e-24:
        return {"method": "no test", "n": n, "difference": apart, **nothing}
    test = stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(LEVEL)
    found = {"low": float(interval.low), "high": float(interval.high), "p": float(test.pvalue)}
    return {"method": "Welch's t", "n": n, "difference": apart, **nothing, **found}


def _signed_ranks(pairs: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed ranks; NaN where too few pairs differ."""
    pairs = pairs[np.abs(pairs) > 1e-12]
    if len(pairs) < ENOUGH_FOR_RANKS:
        return np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties make it approximate, which it is in any case
        return float(stats.wilcoxon(pairs).pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values corrected for their number by Holm's method, which keeps the error of the family; NaN stays.

    Args:
        p: (n,) p values of tests that are read side by side.
    """
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return corrected
