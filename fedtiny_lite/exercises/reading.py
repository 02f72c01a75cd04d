"""Exercises of notebook 05: the lead over the best, many comparisons at once, and a share that is saved."""

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise, whole_number
from fedtiny_lite.report import deciding

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
    """Six p values in no order, two of them so large that the smaller one, times 2, exceeds 1."""
    small = torch.rand(4, generator=generator, dtype=torch.float64) * 0.1
    large = torch.rand(2, generator=generator, dtype=torch.float64) * 0.4 + 0.55
    return (torch.cat([small, large])[torch.randperm(6, generator=generator)],)


def _holm(p: Tensor) -> Tensor:
    """As `intervals.holm`, whose library collects garbage at each call and so takes too long for a check."""
    return _stepped(p, torch.arange(len(p), 0, -1))


def _stepped(p: Tensor, factors: Tensor) -> Tensor:
    """The p values times the factors of their ranks, none below a smaller one, none above 1, in the order given."""
    order = p.argsort()
    return (p[order] * factors).cummax(0).values.clamp(max=1)[order.argsort()]


def _bonferroni(p: Tensor) -> Tensor:
    """You multiply every p value by n (Bonferroni); Holm takes n, n − 1, … by rising p."""
    return (p * len(p)).clamp(max=1)


def _bonferroni_above_1(p: Tensor) -> Tensor:
    """You multiply every p value by n (Bonferroni); Holm takes n, n − 1, … by rising p. None may exceed 1."""
    return p * len(p)


def _above_1(p: Tensor) -> Tensor:
    """Some of your values exceed 1, and a probability does not: take min(1, ·), as `.clamp(max=1)` does."""
    order = p.argsort()
    return (p[order] * torch.arange(len(p), 0, -1)).cummax(0).values[order.argsort()]


def _above_1_not_monotone(p: Tensor) -> Tensor:
    """Some of your values exceed 1, and some fall below that of a smaller p; `cummax` and `.clamp(max=1)` mend both."""
    order = p.argsort()
    return (p[order] * torch.arange(len(p), 0, -1))[order.argsort()]


def _order_for_inverse(p: Tensor) -> Tensor:
    """You put the values back by `order`, which sorts; its inverse puts them back: `corrected[order.argsort()]`."""
    return _holm(p).sort().values[p.argsort()]


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
    mistakes=(
        _bonferroni,
        _bonferroni_above_1,
        _above_1,
        _above_1_not_monotone,
        _one_less,
        _from_the_largest,
        _sorted,
        _order_for_inverse,
        _not_monotone,
    ),
    hints=(
        "Sort, multiply by n, n − 1, …, 1, let none fall below the one before it or exceed 1, and put them back.",
        "`order = p.argsort()`; `corrected = (p[order] * torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1)`; "
        "`order.argsort()` is the inverse of `order`.",
    ),
)


# --- a share that is saved --------------------------------------------------------------------------------


def _two_costs(generator: Generator) -> tuple[float, float]:
    """What two methods cost; either may cost more."""
    less, more = torch.rand(2, generator=generator, dtype=torch.float64).sort().values.tolist()
    pair = less + 0.1, more + 0.2
    return pair if whole_number(generator, 0, 1) else pair[::-1]


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


def _never_negative(ours: float, theirs: float) -> float:
    """Where FedTiny costs more, your share is 0; it should fall below 0 and so say how much more."""
    return max(0.0, 1 - ours / theirs)


def _without_sign(ours: float, theirs: float) -> float:
    """Your share lost its sign; where FedTiny costs more it is below 0."""
    return abs(1 - ours / theirs)


def _exchanged(ours: float, theirs: float) -> float:
    """You exchange the two costs; `ours` is FedTiny's, and `theirs` is the whole."""
    return 1 - theirs / ours


def _per_cent(ours: float, theirs: float) -> float:
    """Your result is in per cent; a share of one half is 0.5."""
    return 100 * _saved(ours, theirs)


_SAVED = Exercise(
    inputs=_two_costs,
    right=_saved,
    parts=("share",),
    mistakes=(_left, _of_ours, _difference, _never_negative, _without_sign, _exchanged, _per_cent),
    hints=("The whole is the other method's cost.", "`1 - ours / theirs`; below 0 it costs more."),
)

EXERCISES = {"lead": _LEAD, "holm": _HOLM, "saved": _SAVED}
