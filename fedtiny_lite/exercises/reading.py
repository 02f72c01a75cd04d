"""Exercises of notebook 05: the lead over the best, many comparisons at once, and a share that is saved."""

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise
from fedtiny_lite.report import deciding, intervals

# --- the lead over the best -------------------------------------------------------------------------------


def _accuracies(generator: Generator) -> tuple[Tensor]:
    """[methods, seeds]; the first row is FedTiny's, and no other is the best in every seed."""
    return (torch.rand(5, 6, generator=generator),)


def _lead(accuracies: Tensor) -> Tensor:
    return accuracies[0] - accuracies[1 + int(accuracies[1:].mean(1).argmax())]


def _best_of_each_seed(accuracies: Tensor) -> Tensor:
    """You take the best baseline of each seed, a maximum of noisy numbers; take the one baseline of the best mean."""
    return accuracies[0] - accuracies[1:].max(0).values


def _mean_baseline(accuracies: Tensor) -> Tensor:
    """You subtract the mean of the baselines; to lead is to be ahead of the best one."""
    return accuracies[0] - accuracies[1:].mean(0)


def _with_itself(accuracies: Tensor) -> Tensor:
    """You count FedTiny among its rivals, so its lead is never above 0."""
    return accuracies[0] - accuracies.max(0).values


def _behind(accuracies: Tensor) -> Tensor:
    """Your sign is the other way round: a lead is FedTiny's accuracy minus the other's."""
    return -_lead(accuracies)


_LEAD = Exercise(
    inputs=_accuracies,
    right=_lead,
    parts=("lead",),
    mistakes=(_best_of_each_seed, _mean_baseline, _with_itself, _behind),
    hints=(
        "A number per seed: row 0 minus one other row, that of the largest mean.",
        "`accuracies[1:].mean(1).argmax()` is the number of that row, counted from row 1.",
    ),
)


# --- many comparisons at once -----------------------------------------------------------------------------


def _p_values(generator: Generator) -> tuple[Tensor]:
    """Six p values in no order, one of them large."""
    small = torch.rand(5, generator=generator, dtype=torch.float64) * 0.1
    large = torch.rand(1, generator=generator, dtype=torch.float64) * 0.4 + 0.5
    return (torch.cat([small, large])[torch.randperm(6, generator=generator)],)


def _holm(p: Tensor) -> Tensor:
    return torch.tensor(intervals.holm(p.tolist()), dtype=torch.float64)


def _stepped(p: Tensor, factors: Tensor) -> Tensor:
    """The p values times the factors of their ranks, none below a smaller one, none above 1, in the order given."""
    order = p.argsort()
    return (p[order] * factors).cummax(0).values.clamp(max=1)[order.argsort()]


def _bonferroni(p: Tensor) -> Tensor:
    """You multiply every p value by n (Bonferroni); Holm takes n, n − 1, … by rising p."""
    return (p * len(p)).clamp(max=1)


def _one_less(p: Tensor) -> Tensor:
    """The smallest p value is multiplied by n, not by n − 1."""
    return _stepped(p, torch.arange(len(p) - 1, -1, -1))


def _from_the_largest(p: Tensor) -> Tensor:
    """Your factors run the wrong way: the smallest p value is multiplied by n, the largest by 1."""
    return _stepped(p, torch.arange(1, len(p) + 1))


def _sorted(p: Tensor) -> Tensor:
    """Your values are sorted; return them in the order in which they were given."""
    return _holm(p).sort().values


def _not_monotone(p: Tensor) -> Tensor:
    """A larger p value became smaller than one before it; carry the largest so far along (`cummax`)."""
    order = p.argsort()
    return (p[order] * torch.arange(len(p), 0, -1)).clamp(max=1)[order.argsort()]


_HOLM = Exercise(
    inputs=_p_values,
    right=_holm,
    parts=("p values",),
    mistakes=(_bonferroni, _one_less, _from_the_largest, _sorted, _not_monotone),
    hints=(
        "Sort, multiply by n, n − 1, …, 1, let none fall below the one before it, and put them back.",
        "`order = p.argsort()`; `(p[order] * torch.arange(n, 0, -1)).cummax(0).values`; back with `order.argsort()`.",
    ),
)


# --- a share that is saved --------------------------------------------------------------------------------


def _two_costs(generator: Generator) -> tuple[float, float]:
    """What two methods cost, the first one less."""
    less, more = torch.rand(2, generator=generator, dtype=torch.float64).sort().values.tolist()
    return less + 0.1, more + 0.2


def _saved(ours: float, theirs: float) -> float:
    return deciding.saved(ours, theirs)


def _left(ours: float, theirs: float) -> float:
    """This share is what is left; what is saved is 1 minus that."""
    return ours / theirs


def _of_ours(ours: float, theirs: float) -> float:
    """You divide by FedTiny's own cost; the cost of the other method is the whole."""
    return theirs / ours - 1


def _difference(ours: float, theirs: float) -> float:
    """A difference has a unit; divide it by the other method's cost."""
    return theirs - ours


_SAVED = Exercise(
    inputs=_two_costs,
    right=_saved,
    parts=("share",),
    mistakes=(_left, _of_ours, _difference),
    hints=("The whole is the other method's cost.", "`1 - ours / theirs`; below 0 it costs more."),
)

EXERCISES = {"lead": _LEAD, "holm": _HOLM, "saved": _SAVED}
