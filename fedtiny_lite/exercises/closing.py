"""An exercise of notebook 08: which replies close a round."""

import math

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise, whole_number
from fedtiny_lite.federated.ledger import needed


def _replies(generator: Generator) -> tuple[Tensor, Tensor, float, int]:
    """When each client's reply came (inf: never), whether it passed the checks, the timeout, `min_replies`.

    By chance: most replies are good; half of them, rounded down; two; all, and `min_replies` is larger than their
    number; one too few for `min_replies`. One good reply comes at the timeout itself.
    """
    timeout, asked = float(whole_number(generator, 25, 55)), whole_number(generator, 6, 9)
    late, wrong, least = (
        (1, 0, 1),
        (asked - asked // 2 - 1, 1, 1),
        (asked - 2, 0, 1),
        (0, 0, asked + 2),
        (1, 1, asked - 1),
    )[whole_number(generator, 0, 4)]
    order = torch.randperm(asked, generator=generator)
    seconds, passed = timeout * torch.rand(asked, generator=generator), torch.ones(asked, dtype=torch.bool)
    seconds[order[:late]] += timeout + 1
    seconds[order[: late // 2]] = math.inf
    seconds[order[-1]] = timeout
    passed[order[late : late + wrong]] = False
    return seconds, passed, timeout, least


def _folded(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    return _enough((seconds <= timeout) & passed, needed(len(seconds), min_replies))


def _enough(accepted: Tensor, least: float) -> Tensor:
    return accepted if int(accepted.sum()) >= least else torch.zeros_like(accepted)


def _late_too(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You average replies that came after the timeout; the round was closed by then."""
    return _folded(seconds.clamp(max=1e6), passed, 1e6 - 1, min_replies)


def _unchecked(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You average replies that failed a check; a rejected reply counts as none."""
    return _folded(seconds, torch.ones_like(passed), timeout, min_replies)


def _however_few(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You average however few are left; below half of those asked, or below `min_replies`, the run stops."""
    return (seconds <= timeout) & passed


def _half_alone(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You ask for half of the clients alone; there have to be `min_replies` too."""
    return _folded(seconds, passed, timeout, 1)


def _least_alone(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You ask for `min_replies` alone; there has to be half of those asked too."""
    return _enough((seconds <= timeout) & passed, min(min_replies, len(seconds)))


def _before_the_timeout(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You leave out a reply that came at the timeout itself; it is in time: `seconds <= timeout`."""
    return _enough((seconds < timeout) & passed, needed(len(seconds), min_replies))


def _more_than_half(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You ask for more than half of the clients; half of them is enough."""
    return _enough((seconds <= timeout) & passed, max(len(seconds) // 2 + 1, min(min_replies, len(seconds))))


def _more_than_needed(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You ask for more replies than are needed; as many as that are enough: `>=`, not `>`."""
    return _enough((seconds <= timeout) & passed, math.floor(needed(len(seconds), min_replies)) + 1)


def _half_rounded_down(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You round half of an odd number of clients down; 3 of 7 are fewer than half; compare with `len(seconds) / 2`."""
    return _enough((seconds <= timeout) & passed, max(len(seconds) // 2, min(min_replies, len(seconds))))


def _more_than_asked(seconds: Tensor, passed: Tensor, timeout: float, min_replies: int) -> Tensor:
    """You ask for more replies than there are clients; where fewer are asked than `min_replies`, all have to answer."""
    return _enough((seconds <= timeout) & passed, max(len(seconds) / 2, min_replies))


_FOLDED = Exercise(
    inputs=_replies,
    right=_folded,
    parts=("set of clients",),
    mistakes=(
        _late_too,
        _before_the_timeout,
        _unchecked,
        _however_few,
        _half_alone,
        _least_alone,
        _more_than_half,
        _more_than_needed,
        _half_rounded_down,
        _more_than_asked,
    ),
    hints=(
        "Accepted: in time, and passed. If they are fewer than half of all, or than min(min_replies, all): nobody.",
        "`enough = accepted.sum() >= max(len(seconds) / 2, min(min_replies, len(seconds)))`, then `accepted & enough`",
    ),
)

EXERCISES = {"folded": _FOLDED}
