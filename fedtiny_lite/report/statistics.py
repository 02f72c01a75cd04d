"""The statistics that notebooks quote."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, float64 [N]; equal values share the mean of the ranks they take up."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation of two sequences: the linear correlation of their ranks, between -1 and 1.

    NaN if all of `x` or all of `y` are equal. Raises ValueError if they differ in length or have fewer than
    two values.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"{len(x)} and {len(y)} values: a rank correlation takes as many of both, at least two")
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a few values and its 95 % confidence interval: mean -+ t s / sqrt(n), s with n - 1 in its divisor.

    t is Student's for n - 1 degrees of freedom. It takes the values for draws from a normal distribution, which nobody
    can check on a few. Raises ValueError for fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} values: this interval takes at least two")
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * spread / n**0.5
    return mean, mean - half, mean + half


def p_value(values: Sequence[float]) -> float:
    """Two-sided p value of Student's t test that the mean of at least two values is 0; 0 or 1 without spread."""
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    return float(stats.ttest_1samp(values, 0).pvalue)
