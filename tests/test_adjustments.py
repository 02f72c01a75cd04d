"""Schedules and lists computed from settings alone."""

import math

import pytest

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments.adjustments import (
    BY_ADJUSTMENT,
    BY_ROUND,
    never_adjusted,
    paper_blocks,
    paper_lists,
    schedule,
)

BLOCKS = (("a",), ("b",), ("c",), ("d",))


@pytest.fixture(scope="module")
def paper():
    return make_config("paper")


def test_turns_by_round_number_skip_half_of_four_blocks(paper):
    found = schedule(make_config(adjust_every=10, adjust_until=50), BLOCKS)
    due = [r for r, turn in enumerate(found.turns[BY_ADJUSTMENT]) if turn is not None]
    assert due == [10, 20, 30, 40] and found.units == 4
    assert [found.turns[BY_ADJUSTMENT][r] for r in due] == [0, 1, 2, 3]
    assert [found.turns[BY_ROUND][r] for r in due] == [2, 0, 2, 0]
    assert never_adjusted(found) == {BY_ADJUSTMENT: 0, BY_ROUND: 2}
    assert found.rates[25] == pytest.approx(0.15)


def test_the_list_of_the_papers_last_block(paper):
    """rate 0.3 of 1 % of each layer; 32 bits a value and ceil(log2 n) bits an index."""
    lists = paper_lists(paper)
    assert len(lists) == len(paper_blocks(paper)) == 4
    dense, short = lists["block 4"]
    assert 100 < dense / short < 300
    assert short >= 0.3 * 0.01 * (dense / 4) * (32 + math.log2(1e6)) / 8
