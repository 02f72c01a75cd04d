"""The statistics that notebooks quote; numpy only."""

from collections.abc import Sequence

import numpy as np

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantiles of Student's t for 1 to 10 degrees of freedom."""


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
    can check on a few. Raises ValueError unless there are 2 to 11 values.
    """
    n = len(values)
    if not 2 <= n <= len(T_95) + 1:
        raise ValueError(f"{n} values: this interval takes 2 to {len(T_95) + 1}")
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = T_95[n - 2] * spread / n**0.5
    return mean, mean - half, mean + half
