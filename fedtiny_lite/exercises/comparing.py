"""Exercises of notebook 04: pairs of seeds, an interval, and what one threshold for all layers leaves in each."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from scipy import stats
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise
from fedtiny_lite.model.masks import global_top_mask, uniform_counts
from fedtiny_lite.report import differences, intervals

Accuracies = Mapping[int, float]
"""Seed -> test accuracy."""


# --- pairs of seeds ---------------------------------------------------------------------------------------


def _two_methods(generator: Generator) -> tuple[dict[int, float], dict[int, float]]:
    """Seeds 0 to 6 but one, and not the same one; the second in another order."""
    seeds = torch.randperm(7, generator=generator).tolist()
    first, second = torch.rand(2, 6, generator=generator).tolist()
    return dict(zip(sorted(seeds[1:]), first, strict=True)), dict(zip(seeds[:6], second, strict=True))


def _frame(runs: Accuracies) -> pd.DataFrame:
    return pd.DataFrame({"seed": list(runs), "accuracy": list(runs.values())})


def _paired(first: Accuracies, second: Accuracies) -> list[float]:
    return differences.paired(_frame(first), _frame(second))


def _by_place(first: Accuracies, second: Accuracies) -> list[float]:
    """You pair runs by their place in the dictionary; runs of one seed belong together."""
    return [a - b for a, b in zip(first.values(), second.values(), strict=True)]


def _relative(first: Accuracies, second: Accuracies) -> list[float]:
    """You divide by the second accuracy; the difference itself is asked for."""
    return [(first[seed] - second[seed]) / second[seed] for seed in sorted(first.keys() & second.keys())]


def _absolute(first: Accuracies, second: Accuracies) -> list[float]:
    """Your differences lost their sign; a method that is behind in a seed has a difference below 0."""
    return [abs(gap) for gap in _paired(first, second)]


def _missing_as_zero(first: Accuracies, second: Accuracies) -> list[float]:
    """A seed that one method did not run counts as accuracy 0; leave it out."""
    return [first.get(seed, 0) - second.get(seed, 0) for seed in sorted(first.keys() | second.keys())]


_PAIRED = Exercise(
    inputs=_two_methods,
    right=_paired,
    parts=("differences",),
    mistakes=(_by_place, _relative, _absolute, _missing_as_zero),
    hints=(
        "Only seeds that both methods ran, in ascending order: first minus second.",
        "`sorted(first.keys() & second.keys())` are the seeds of both.",
    ),
)


# --- an interval ------------------------------------------------------------------------------------------


def _gaps(generator: Generator) -> tuple[Tensor, float]:
    """A few differences, and Student's t for as many."""
    count = int(torch.randint(4, 9, (), generator=generator))
    t = float(stats.t.ppf((1 + intervals.LEVEL) / 2, count - 1))
    return torch.randn(count, generator=generator, dtype=torch.float64), t


def _interval(gaps: Tensor, t: float) -> tuple[float, float]:
    return intervals.t_interval(gaps.tolist())[1:]


def _around(gaps: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    return gaps.mean() - half, gaps.mean() + half


def _of_one(gaps: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Your interval is that of a single difference; the mean of n scatters less, by the root of n."""
    return _around(gaps, t * gaps.std())


def _by_n(gaps: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """You divide by n; divide by its root."""
    return _around(gaps, t * gaps.std() / len(gaps))


def _normal(gaps: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """You use 1.96, which holds for many seeds; with a few use the t that is given."""
    return _around(gaps, 1.96 * gaps.std() / math.sqrt(len(gaps)))


def _biased(gaps: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Your standard deviation divides by n; from a sample it divides by n − 1."""
    return _around(gaps, t * gaps.std(correction=0) / math.sqrt(len(gaps)))


def _variance(gaps: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """You use the variance; use the standard deviation."""
    return _around(gaps, t * gaps.var() / math.sqrt(len(gaps)))


def _lowest_to_highest(gaps: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """You return the smallest and the largest difference; that range grows with more seeds."""
    return gaps.min(), gaps.max()


def _mean_and_half(gaps: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """You return the mean and half of the interval; its two ends are asked for."""
    return gaps.mean(), t * gaps.std() / math.sqrt(len(gaps))


_INTERVAL = Exercise(
    inputs=_gaps,
    right=_interval,
    parts=("low", "high"),
    mistakes=(_of_one, _by_n, _normal, _biased, _variance, _lowest_to_highest, _mean_and_half),
    hints=(
        "mean ± t · s / √n, with s the standard deviation that divides by n − 1.",
        "`gaps.std()` divides by n − 1 already; `len(gaps) ** 0.5` is the root.",
    ),
)


# --- one threshold for all layers -------------------------------------------------------------------------


def _weights(generator: Generator) -> tuple[list[Tensor], int]:
    """Layers whose weights are small where the layer is large."""
    sizes = (20, 60, 200)
    layers = [torch.randn(size, generator=generator) * (size**-0.5) for size in sizes]
    return layers, int(torch.randint(20, 60, (), generator=generator))


def _global_counts(layers: Sequence[Tensor], budget: int) -> list[int]:
    return list(global_top_mask({str(i): layer.abs() for i, layer in enumerate(layers)}, budget).kept.values())


def _signed(layers: Sequence[Tensor], budget: int) -> list[int]:
    """You rank signed weights; a large negative weight matters as much, so compare |w|."""
    return list(global_top_mask({str(i): layer for i, layer in enumerate(layers)}, budget).kept.values())


def _uniform(layers: Sequence[Tensor], budget: int) -> list[int]:
    """Every layer keeps the same share, as under a uniform mask; let all weights compete."""
    return list(uniform_counts({str(i): len(layer) for i, layer in enumerate(layers)}, budget).values())


def _one_more(layers: Sequence[Tensor], budget: int) -> list[int]:
    """You keep one weight more than the budget allows; does the threshold itself pass?"""
    return _global_counts(layers, budget + 1)


def _one_less(layers: Sequence[Tensor], budget: int) -> list[int]:
    """You keep one weight less than the budget allows; does the threshold itself pass?"""
    return _global_counts(layers, budget - 1)


def _smallest(layers: Sequence[Tensor], budget: int) -> list[int]:
    """You keep the smallest |w|; keep the largest."""
    return list(global_top_mask({str(i): -layer.abs() for i, layer in enumerate(layers)}, budget).kept.values())


_GLOBAL_COUNTS = Exercise(
    inputs=_weights,
    right=_global_counts,
    parts=("counts",),
    mistakes=(_signed, _uniform, _one_more, _one_less, _smallest),
    hints=(
        "Join all layers, find the |w| of rank `budget`, and count in each layer what reaches it.",
        "`torch.cat(layers).abs().topk(budget).values[-1]` is that threshold; `(layer.abs() >= threshold).sum()`.",
    ),
)

EXERCISES = {"paired": _PAIRED, "interval": _INTERVAL, "global_counts": _GLOBAL_COUNTS}
