"""Exercises of notebook 02: BN statistics that a client re-estimates and the server combines, by both rules."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from fedtiny_lite.exercises.judging import Exercise
from fedtiny_lite.pruning.bn_selection import aggregate_bn_stats

Pair = tuple[Tensor, Tensor]


# --- statistics that a client re-estimates ----------------------------------------------------------------


def _batches(generator: Generator) -> tuple[list[Tensor]]:
    sizes = torch.randint(2, 9, (4,), generator=generator).tolist()
    return ([torch.randn(n, 3, 4, 4, generator=generator) * 2 + i for i, n in enumerate(sizes)],)


def _observed(batches: Sequence[Tensor], momentum: float | None = None) -> Pair:
    """What batch norm holds after these batches. `momentum`: None for each batch's share of the images so far."""
    norm, seen = nn.BatchNorm2d(3), 0
    for batch in batches:
        seen += len(batch)
        norm.momentum = momentum or len(batch) / seen
        norm(batch)
    return norm.get_buffer("running_mean"), norm.get_buffer("running_var")


def _of_batches(batches: Sequence[Tensor], weights: Tensor, correction: int = 1) -> Pair:
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.var((0, 2, 3), correction=correction) for batch in batches])
    return weights @ means, weights @ variances


def _sizes(batches: Sequence[Tensor]) -> Tensor:
    sizes = torch.tensor([float(len(batch)) for batch in batches])
    return sizes / sizes.sum()


def _batches_alike(batches: Sequence[Tensor]) -> Pair:
    """Your statistics count every batch alike; weigh each by its number of images."""
    return _of_batches(batches, torch.full((len(batches),), 1 / len(batches)))


def _old_remains(batches: Sequence[Tensor]) -> Pair:
    """Your statistics still hold a part of the old ones (momentum 0.1); start from nothing."""
    return _observed(batches, 0.1)


def _biased(batches: Sequence[Tensor]) -> Pair:
    """Your variance divides by n; batch norm stores the unbiased variance, which divides by n − 1."""
    return _of_batches(batches, _sizes(batches), correction=0)


def _last_batch(batches: Sequence[Tensor]) -> Pair:
    """Your statistics are those of the last batch; does the sum start anew inside the loop?"""
    return _of_batches(batches[-1:], torch.ones(1))


def _last_share(batches: Sequence[Tensor]) -> Pair:
    """Your statistics hold the last batch's share of the sum alone; does the sum start anew inside the loop?"""
    return _of_batches(batches[-1:], _sizes(batches)[-1:])


def _whole_variance(batches: Sequence[Tensor]) -> Pair:
    """Your variance is that of all images together; batch norm averages the variances of the batches."""
    return _of_batches([torch.cat(list(batches))], torch.ones(1))


def _deviation(batches: Sequence[Tensor]) -> Pair:
    """Your second result is built from standard deviations; batch norm averages variances."""
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    return _sizes(batches) @ means, _sizes(batches) @ torch.stack([batch.std((0, 2, 3)) for batch in batches])


def _root_of_variance(batches: Sequence[Tensor]) -> Pair:
    """Your second result is the standard deviation; batch norm stores its square, the variance."""
    mean, variance = _observed(batches)
    return mean, variance.sqrt()


_REESTIMATE = Exercise(
    inputs=_batches,
    right=_observed,
    parts=("mean", "variance"),
    mistakes=(
        _batches_alike,
        _old_remains,
        _biased,
        _last_batch,
        _last_share,
        _whole_variance,
        _deviation,
        _root_of_variance,
    ),
    hints=(
        "Take each batch's mean and variance per channel, over images and pixels; then average by len(batch).",
        "`batch.mean((0, 2, 3))` and `batch.var((0, 2, 3))` are [channels]; the weight is `len(batch) / images`.",
    ),
)


# --- statistics that the server combines ------------------------------------------------------------------


def _clients(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    means = torch.randn(4, 3, generator=generator) * 2
    variances = torch.rand(4, 3, generator=generator) + 0.5
    return means, variances, torch.randint(5, 60, (4,), generator=generator)


def _by_rule(means: Tensor, variances: Tensor, counts: Tensor, rule: str) -> Pair:
    stats = [{"running_mean": m, "running_var": v} for m, v in zip(means, variances, strict=True)]
    found = aggregate_bn_stats(stats, _shares(counts).tolist(), rule)
    return found["running_mean"], found["running_var"]


def _shares(counts: Tensor) -> Tensor:
    return counts / counts.sum()


def _paper(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    return _by_rule(means, variances, counts, "paper")


def _pooled(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    return _by_rule(means, variances, counts, "pooled")


def _clients_alike(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your server counts every client alike; weigh each by its number of images."""
    return means.mean(0), variances.mean(0)


def _only_mean_weighted(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your mean is right, but your variance counts every client alike; weigh it by the numbers of images too."""
    return _shares(counts) @ means, variances.mean(0)


def _last_client(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your server returns the last client's statistics; does the sum start anew inside the loop?"""
    return means[-1], variances[-1]


def _last_clients_share(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your server holds the last client's share of the sum alone; does the sum start anew inside the loop?"""
    share = _shares(counts)[-1]
    return share * means[-1], share * variances[-1]


def _not_normalised(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your weights do not sum to one; divide the clients' numbers of images by the number of all images."""
    return counts.float() @ means, counts.float() @ variances


def _pooled_for_paper(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your variance also holds the spread of the clients' means; the paper's rule leaves that out."""
    return _pooled(means, variances, counts)


def _deviations(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your server averages standard deviations; average variances."""
    return _shares(counts) @ means, (_shares(counts) @ variances.sqrt()) ** 2


def _weights_squared(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your variance squares the weights, as for the variance of a mean; here it is a mean of variances."""
    return _shares(counts) @ means, _shares(counts) ** 2 @ variances


_COMBINE = Exercise(
    inputs=_clients,
    right=_paper,
    parts=("mean", "variance"),
    mistakes=(
        _clients_alike,
        _only_mean_weighted,
        _last_client,
        _last_clients_share,
        _not_normalised,
        _pooled_for_paper,
        _deviations,
        _weights_squared,
    ),
    hints=(
        "Both results are weighted means over the clients, with weights w_k = n_k / n.",
        "With `w = counts / counts.sum()`, `w @ means` sums w_k μ_k over the clients, for every channel.",
    ),
)


# --- the variance of all images together -------------------------------------------------------------------


def _paper_for_pooled(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your variance leaves out how far the clients' means lie apart; add Σ w_k (μ_k − μ)² (unsquared, the sum is 0)."""
    return _paper(means, variances, counts)


def _spread_subtracted(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your variance subtracts the spread of the means; it belongs on top of the mean of the variances."""
    (mean, pooled), (_, paper) = _pooled(means, variances, counts), _paper(means, variances, counts)
    return mean, 2 * paper - pooled


def _spread_unweighted(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your spread of the means counts every client alike; weigh (μ_k − μ)² by w_k."""
    mean, variance = _paper(means, variances, counts)
    return mean, variance + ((means - mean) ** 2).mean(0)


def _spread_around_plain_mean(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your spread is around the unweighted mean of the means; take it around the weighted one."""
    mean, variance = _paper(means, variances, counts)
    return mean, variance + _shares(counts) @ (means - means.mean(0)) ** 2


def _second_moment(means: Tensor, variances: Tensor, counts: Tensor) -> Pair:
    """Your variance adds the squared means themselves; subtract the common mean before squaring."""
    mean, variance = _paper(means, variances, counts)
    return mean, variance + _shares(counts) @ means**2


_POOL_VARIANCE = Exercise(
    inputs=_clients,
    right=_pooled,
    parts=("mean", "variance"),
    mistakes=(
        _paper_for_pooled,
        _spread_subtracted,
        _spread_unweighted,
        _spread_around_plain_mean,
        _second_moment,
        _clients_alike,
    ),
    hints=(
        "The images of two clients differ for two reasons: within a client (σ²_k), and from client to client (μ_k).",
        "Start from the paper's rule and add `w @ (means - mean) ** 2`.",
    ),
)

EXERCISES = {"reestimate": _REESTIMATE, "combine": _COMBINE, "pool_variance": _POOL_VARIANCE}
