"""Rank correlation, interval, p value and Holm's correction: values worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtiny_lite.report.intervals import holm, p_value, rank_correlation, t_interval


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1.0),
        ([1, 2, 3, 4], [8, 6, 4, -2], -1.0),
        ([1, 2, 3, 4], [2, 1, 4, 3], 1 - 6 * 4 / (4 * 15)),  # 1 - 6 sum d^2 / (n (n^2 - 1))
        ([1, 2, 3], [5, 5, 9], math.sqrt(3) / 2),  # ranks 1.5, 1.5, 3: 1.5 / sqrt(2 * 1.5)
    ],
)
def test_hand_values(x, y, expected):
    assert rank_correlation(x, y) == pytest.approx(expected)


def test_no_correlation_without_spread():
    assert math.isnan(rank_correlation([1, 2, 3], [4, 4, 4]))


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2, 3]), ([1], [1]), ([], [])])
def test_refuses_what_has_no_rank_correlation(x, y):
    with pytest.raises(ValueError, match="at least two"):
        rank_correlation(x, y)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30))
def test_it_is_the_linear_correlation_of_ranks(pairs):
    """Equal values share the mean of the ranks they take up."""
    places = []
    for values in np.array(pairs).T:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        places.append((counts.cumsum() - (counts - 1) / 2)[place])
    x, y = zip(*pairs, strict=True)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert rank_correlation(x, y) == pytest.approx(np.corrcoef(*places)[0, 1], abs=1e-12)


def test_interval_of_five_worked_by_hand():
    # mean 3, squared deviations 4 + 1 + 0 + 1 + 4 = 10, s = sqrt(10 / 4); 2.776 s / sqrt(5) = 1.963
    assert t_interval([1, 2, 3, 4, 5]) == pytest.approx((3, 1.037, 4.963), abs=1e-3)
    assert t_interval([0.2, 0.2, 0.2]) == pytest.approx((0.2, 0.2, 0.2))


@pytest.mark.parametrize("count", [0, 1])
def test_refuses_what_has_no_interval(count):
    with pytest.raises(ValueError, match="at least two"):
        t_interval([0.0] * count)


def test_p_values_by_hand():
    """Of three values p = 1 - t / sqrt(t^2 + 2), the distribution having two degrees of freedom."""
    for step, t in ((0.001, 34.64), (0.005, 6.928), (0.01, 3.464)):
        assert p_value([0.02 - step, 0.02, 0.02 + step]) == pytest.approx(1 - t / math.sqrt(t**2 + 2), abs=1e-4)
    assert [p_value([value] * 3) for value in (0.0, 0.25)] == [1, 0]
    for values in ([], [0.25]):
        with pytest.raises(ValueError, match="at least two"):
            p_value(values)


def test_holm_by_hand():
    """3 * 0.02, then 2 * 0.025 = 0.05, raised to the one before it, then 0.9; in the order given."""
    assert holm([0.9, 0.02, 0.025]) == pytest.approx([0.9, 0.06, 0.06])
    assert holm([0.01, 0.6, 0.7]) == pytest.approx([0.03, 1, 1])
    assert holm([]) == []
