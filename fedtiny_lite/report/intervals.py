"""What a few numbers say: rank correlation, t interval, p value, and Holm's correction for many p values."""

from collections.abc import Sequence

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

LEVEL = 0.95


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation of two sequences: the linear correlation of their ranks, between -1 and 1.

    It is NaN if all of `x` or all of `y` are equal. Raises ValueError if they differ in length or have fewer than
    two values.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"{len(x)} and {len(y)} values: a rank correlation takes as many of both, at least two")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a few values and its 95 % confidence interval: mean -+ t s / sqrt(n), s with n - 1 in its divisor.

    t is Student's for n - 1 degrees of freedom. It takes the values for draws from a normal distribution, which nobody
    can check on a few. Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values: this interval takes at least two")
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:  # scipy has no interval without spread
        return mean, mean, mean
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def expected_half(values: Sequence[float], seeds: int) -> float:
    """Half of the 95 % interval that so many values would have, if they scatter as the given ones do."""
    return float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * np.std(values, ddof=1) / np.sqrt(seeds))


def p_value(values: Sequence[float]) -> float:
    """Two-sided p value of Student's t test that the mean of at least two values is 0; 0 or 1 without spread.

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values: this test takes at least two")
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    return float(stats.ttest_1samp(values, 0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p value corrected for all of them (Holm, 1979).

    The smallest is taken times their number, the next times one less, and none is below the one before it.
    """
    if not len(p_values):
        return []
    return multipletests(p_values, alpha=1 - LEVEL, method="holm")[1].tolist()


def holm_of_planned(p_values: Sequence[float], tests: int) -> list[float]:
    """The same among so many `tests`, of which these are the ones made so far: those to come count with a p value of 1.

    What is told from 0 now can so not be lost to the mere number of later tests.
    """
    return holm([*p_values, *[1.0] * (tests - len(p_values))])[: len(p_values)]
