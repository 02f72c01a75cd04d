"""Exercises of notebook 03: which block's turn it is, and how many weights are exchanged."""

import math

import torch
from torch import Generator

from fedtiny_lite.exercises.judging import Exercise, whole_number
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.pruning import progressive

# --- whose turn it is -------------------------------------------------------------------------------------


def _adjustment_round(generator: Generator) -> tuple[int, int, int]:
    every = whole_number(generator, 3, 10)
    return every * whole_number(generator, 1, 12), every, whole_number(generator, 3, 5)


def _turn(r: int, every: int, blocks: int) -> int:
    [block] = progressive.unit_for_round([[str(number)] for number in range(blocks)], r, every)
    return int(block)


def _by_round(r: int, every: int, blocks: int) -> int:
    """Your turns go by the number of the round, so that some blocks are never adjusted; count adjustments instead."""
    return r % blocks


def _second_first(r: int, every: int, blocks: int) -> int:
    """Your turns begin with block 1; the first adjustment, in round `every`, is the turn of block 0."""
    return r // every % blocks


def _never_again(r: int, every: int, blocks: int) -> int:
    """Your numbers run beyond the last block; after the last it is the first block's turn again."""
    return r // every - 1


def _wrong_order(r: int, every: int, blocks: int) -> int:
    """Your turns run from the last block to the first; blocks are numbered in the order of their turns."""
    return blocks - 1 - _turn(r, every, blocks)


_TURN = Exercise(
    inputs=_adjustment_round,
    right=_turn,
    parts=("block",),
    mistakes=(_by_round, _second_first, _never_again, _wrong_order),
    hints=(
        "Which adjustment is it? Round `every` has the first, round 2 · `every` the second.",
        "`r // every - 1` counts adjustments from 0; `%` makes the turns start over.",
    ),
)


# --- how many weights are exchanged -----------------------------------------------------------------------


def _layer(generator: Generator) -> tuple[int, int, float, int, int]:
    """Round, R_stop, rate, kept and pruned weights; in turn an ordinary, a nearly empty and a nearly full layer."""
    kept, pruned = [(whole_number(generator, 30, 300), 900), (3, 600), (400, 5)][whole_number(generator, 0, 2)]
    return whole_number(generator, 1, 80), 100, 0.3, kept, pruned


def _count(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    mask = Mask({"w": torch.arange(kept + pruned) < kept})
    return progressive.exchange_counts(mask, ["w"], progressive.exchange_rate(r, until, rate))["w"]


def _bounded(count: float, pruned: int) -> int:
    return min(max(int(count), 1), pruned)


def _undecayed(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your count does not decay; the share falls as a cosine until round `until`."""
    return _bounded(rate * kept, pruned)


def _twice(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your share is twice too large: 1 + cos runs from 2 to 0, so it starts at rate · 2; halve it."""
    return _bounded(rate * (1 + math.cos(math.pi * r / until)) * kept, pruned)


def _without_pi(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your cosine does not reach its end at round `until`; its argument is π r / until."""
    return _bounded(rate / 2 * (1 + math.cos(r / until)) * kept, pruned)


def _linear(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your share falls along a line; the paper's falls as a cosine."""
    return _bounded(rate * (1 - r / until) * kept, pruned)


def _rounded(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your count is rounded to the nearest; round down."""
    return _bounded(round(progressive.exchange_rate(r, until, rate) * kept), pruned)


def _may_be_none(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your count can be 0; an adjustment exchanges at least one weight."""
    return min(int(progressive.exchange_rate(r, until, rate) * kept), pruned)


def _beyond(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your count can be larger than the number of pruned positions; no more than those can grow."""
    return max(int(progressive.exchange_rate(r, until, rate) * kept), 1)


def _unbounded(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your count has no bounds; it is at least 1 and at most the number of pruned positions."""
    return int(progressive.exchange_rate(r, until, rate) * kept)


def _of_all(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your count is a share of all weights; take the share of the kept ones."""
    return _bounded(progressive.exchange_rate(r, until, rate) * (kept + pruned), pruned)


def _of_pruned(r: int, until: int, rate: float, kept: int, pruned: int) -> int:
    """Your count is a share of the pruned weights; take the share of the kept ones."""
    return _bounded(progressive.exchange_rate(r, until, rate) * pruned, pruned)


_EXCHANGE_COUNT = Exercise(
    inputs=_layer,
    right=_count,
    parts=("count",),
    mistakes=(
        _undecayed,
        _twice,
        _without_pi,
        _linear,
        _rounded,
        _may_be_none,
        _beyond,
        _unbounded,
        _of_all,
        _of_pruned,
    ),
    hints=(
        "First the share, rate / 2 · (1 + cos(π r / until)); then its part of the kept weights, rounded down.",
        "`min(max(int(share * kept), 1), pruned)`",
    ),
)

EXERCISES = {"turn": _TURN, "exchange_count": _EXCHANGE_COUNT}
