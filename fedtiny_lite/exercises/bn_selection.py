"""Exercises of notebook 02: which weights a candidate keeps, and which candidate is chosen."""

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise
from fedtiny_lite.model.masks import top_mask
from fedtiny_lite.model.training import Evaluation
from fedtiny_lite.pruning.bn_selection import choose_candidate

# --- which weights a candidate keeps ----------------------------------------------------------------------


def _weight_and_count(generator: Generator) -> tuple[Tensor, int]:
    return torch.randn(4, 3, 3, 3, generator=generator), int(torch.randint(5, 40, (), generator=generator))


def _kept(scores: Tensor, count: int) -> Tensor:
    return top_mask({"weight": scores}, {"weight": count})["weight"]


def _largest(weight: Tensor, count: int) -> Tensor:
    return _kept(weight.abs(), count)


def _signed(weight: Tensor, count: int) -> Tensor:
    """Your mask keeps the largest signed weights; a large negative weight matters as much, so compare |w|."""
    return _kept(weight, count)


def _smallest(weight: Tensor, count: int) -> Tensor:
    """Your mask keeps the smallest |w|; a candidate keeps the largest."""
    return _kept(-weight.abs(), count)


def _inverted(weight: Tensor, count: int) -> Tensor:
    """Your mask is True where a weight is pruned; True means kept."""
    return ~_largest(weight, count)


def _one_more(weight: Tensor, count: int) -> Tensor:
    """Your mask keeps one weight too many; does the threshold itself pass?"""
    return _largest(weight, count + 1)


def _one_less(weight: Tensor, count: int) -> Tensor:
    """Your mask keeps one weight too few; does the threshold itself pass?"""
    return _largest(weight, count - 1)


def _row_by_row(weight: Tensor, count: int) -> Tensor:
    """Your mask compares weights within each filter only; compare all weights of the layer."""
    rows = torch.zeros_like(weight.flatten(1), dtype=torch.bool)
    rows.scatter_(1, weight.flatten(1).abs().topk(max(count // len(weight), 1)).indices, True)
    return rows.view(weight.shape)


_KEEP_LARGEST = Exercise(
    inputs=_weight_and_count,
    right=_largest,
    parts=("mask",),
    mistakes=(_signed, _smallest, _inverted, _one_more, _one_less, _row_by_row),
    hints=(
        "Look for the `count` largest |w| of the flattened weights. The mask has the shape of the weights.",
        "`weight.abs().flatten().topk(count).indices` are the places to set True in a flat mask of False.",
    ),
)


# --- the choice -------------------------------------------------------------------------------------------


def _losses(generator: Generator) -> tuple[Tensor, Tensor]:
    """Summed losses [clients, candidates] and images per client, so uneven that weighing decides."""
    counts = torch.tensor([2, 3, 5, 60])[torch.randperm(4, generator=generator)]
    candidates = torch.rand(4, 5, generator=generator) + 1
    return candidates * counts[:, None], counts


def _chosen(loss_sums: Tensor, counts: Tensor) -> tuple[int, Tensor]:
    table = [
        [Evaluation(float(loss), 0, int(count)) for loss in row] for row, count in zip(loss_sums, counts, strict=True)
    ]
    number, losses = choose_candidate(table)
    return number, torch.tensor(losses)


def _worst(loss_sums: Tensor, counts: Tensor) -> tuple[int, Tensor]:
    """Your function chooses the candidate of the largest loss; the least is the best."""
    _, losses = _chosen(loss_sums, counts)
    return int(losses.argmax()), losses


def _clients_means(loss_sums: Tensor, counts: Tensor) -> tuple[int, Tensor]:
    """Your losses are means of the clients' means, which count every client alike; divide sums by sums."""
    losses = (loss_sums / counts[:, None]).mean(0)
    return int(losses.argmin()), losses


def _undivided(loss_sums: Tensor, counts: Tensor) -> tuple[int, Tensor]:
    """Your losses are sums; divide by the number of images of all clients together."""
    losses = loss_sums.sum(0)
    return int(losses.argmin()), losses


def _by_clients(loss_sums: Tensor, counts: Tensor) -> tuple[int, Tensor]:
    """Your losses are sums divided by the number of clients; divide by the number of their images."""
    losses = loss_sums.mean(0)
    return int(losses.argmin()), losses


def _over_candidates(loss_sums: Tensor, counts: Tensor) -> tuple[int, Tensor]:
    """Your function sums over the candidates and chooses a client; row k of `loss_sums` belongs to client k."""
    losses = loss_sums.sum(1) / counts.sum()
    return int(losses.argmin()), losses


def _client_over_images(loss_sums: Tensor, counts: Tensor) -> tuple[int, Tensor]:
    """Your function sums over the candidates and chooses a client; row k of `loss_sums` belongs to client k."""
    losses = loss_sums.sum(1) / counts
    return int(losses.argmin()), losses


_CHOOSE = Exercise(
    inputs=_losses,
    right=_chosen,
    parts=("number of the candidate", "losses"),
    mistakes=(_worst, _clients_means, _undivided, _by_clients, _over_candidates, _client_over_images),
    hints=(
        "A candidate's loss is the mean over the images of all clients: one sum over another.",
        "`loss_sums.sum(0) / counts.sum()` is [candidates]; `argmin` says which is the least.",
    ),
)

EXERCISES = {"keep_largest": _KEEP_LARGEST, "choose": _CHOOSE}
