"""Exercises of notebook 01: how far apart clients' labels and statistics are, and who gets which image of a class."""

import numpy as np
import torch
from torch import Generator, Tensor

from fedtiny_lite.data.partition import summarise
from fedtiny_lite.exercises.judging import Exercise
from fedtiny_lite.experiments.drift import bn_distance


def _counts(generator: Generator) -> tuple[Tensor]:
    """Images of each class (columns) at each client (rows); some clients lack classes."""
    counts = torch.randint(0, 40, (4, 6), generator=generator) * (torch.rand(4, 6, generator=generator) < 0.7)
    counts[:, 0] += 1
    return (counts,)


def _summary(counts: Tensor) -> dict:
    labels = torch.arange(counts.shape[1]).repeat(len(counts)).repeat_interleave(counts.flatten())
    parts = torch.arange(len(labels)).split(counts.sum(1).tolist())
    return summarise(labels.numpy(), tuple(part.numpy() for part in parts), counts.shape[1])


def _local(counts: Tensor) -> Tensor:
    return counts / counts.sum(1, keepdim=True)


def _overall(counts: Tensor) -> Tensor:
    return counts.sum(0) / counts.sum()


# --- how far labels lie apart -----------------------------------------------------------------------------


def _label_distance(counts: Tensor) -> float:
    return _summary(counts)["label_distance"]


def _not_halved(counts: Tensor) -> Tensor:
    """Your distance is twice as large: total variation is half of the sum of absolute differences."""
    return (_local(counts) - _overall(counts)).abs().sum(1).mean()


def _from_even(counts: Tensor) -> Tensor:
    """You compare clients with equal shares of all classes; compare them with all clients' images together."""
    return (_local(counts) - 1 / counts.shape[1]).abs().sum(1).mean() / 2


def _from_mean_client(counts: Tensor) -> Tensor:
    """You compare with the mean of the clients' shares; take the shares of all images together, large clients count
    more.
    """
    local = _local(counts)
    return (local - local.mean(0)).abs().sum(1).mean() / 2


def _by_size(counts: Tensor) -> Tensor:
    """Your mean weighs clients by their images; here every client counts alike."""
    return (counts.sum(1) / counts.sum()) @ (_local(counts) - _overall(counts)).abs().sum(1) / 2


def _of_counts(counts: Tensor) -> Tensor:
    """You compare numbers of images; divide each client's by its sum first, to have shares."""
    return (counts - counts.float().mean(0)).abs().sum(1).mean() / 2


def _added_up(counts: Tensor) -> Tensor:
    """You add up the clients; take their mean."""
    return (_local(counts) - _overall(counts)).abs().sum() / 2


_LABEL_DISTANCE = Exercise(
    inputs=_counts,
    right=_label_distance,
    parts=("distance",),
    mistakes=(_not_halved, _from_even, _from_mean_client, _by_size, _of_counts, _added_up),
    hints=(
        "Two kinds of shares: each client's, and those of all images together. Half of the absolute differences' sum.",
        "`local = counts / counts.sum(1, keepdim=True)`, `overall = counts.sum(0) / counts.sum()`.",
    ),
)


# --- how many classes a client has, in effect -------------------------------------------------------------


def _effective_classes(counts: Tensor) -> Tensor:
    return torch.tensor(_summary(counts)["effective_classes"])


def _entropy(counts: Tensor) -> Tensor:
    """You return the entropy; its exponential is the number of classes."""
    return _effective_classes(counts).log()


def _bits(counts: Tensor) -> Tensor:
    """Your entropy is in bits, but the exponential is that of e; use the natural logarithm, or 2 to the power."""
    return torch.exp(_entropy(counts) / np.log(2))


def _present(counts: Tensor) -> Tensor:
    """You count the classes that occur at all; one image of a class counts less than a hundred."""
    return (counts > 0).sum(1)


def _simpson(counts: Tensor) -> Tensor:
    """You return 1 / Σ p², another measure of the same thing; here it is the exponential of the entropy."""
    return 1 / (_local(counts) ** 2).sum(1)


_EFFECTIVE_CLASSES = Exercise(
    inputs=_counts,
    right=_effective_classes,
    parts=("effective classes",),
    mistakes=(_entropy, _bits, _present, _simpson),
    hints=(
        "exp(−Σ p log p) for each client; where p is 0 the term is 0, though log 0 is not finite.",
        "`torch.special.entr(p)` is −p log p, and 0 at 0. Sum over dimension 1.",
    ),
)


# --- who gets which image of a class ----------------------------------------------------------------------


def _class(generator: Generator) -> tuple[Tensor, int]:
    share = torch.rand(5, generator=generator, dtype=torch.float64) + 0.05
    return share / share.sum(), int(torch.randint(40, 90, (), generator=generator))


def _from_cuts(share: Tensor, images: int, cuts: Tensor) -> Tensor:
    ends = torch.cat([torch.zeros(1), cuts, torch.tensor([images])]).long()
    return torch.arange(len(share)).repeat_interleave(ends.diff())


def _owners(share: Tensor, images: int) -> Tensor:
    return _from_cuts(share, images, (share.cumsum(0)[:-1] * images).floor())


def _loses(share: Tensor, images: int) -> Tensor:
    """Images are lost, since each share is rounded down alone; round the cumulated shares instead."""
    return torch.arange(len(share)).repeat_interleave((share * images).long())


def _to_nearest(share: Tensor, images: int) -> Tensor:
    """Your cuts are rounded to the nearest image; the package rounds them down."""
    return _from_cuts(share, images, (share.cumsum(0)[:-1] * images).round())


def _last_takes_rest(share: Tensor, images: int) -> Tensor:
    """Each share is rounded down alone, so that the last client takes what all others lost; round cumulated shares."""
    return _from_cuts(share, images, (share * images).floor()[:-1].cumsum(0))


def _drawn(share: Tensor, images: int) -> Tensor:
    """Every client gets as many images; use the shares."""
    return _from_cuts(torch.ones_like(share), images, torch.arange(1, len(share)) * images // len(share))


_OWNERS = Exercise(
    inputs=_class,
    right=_owners,
    parts=("owner",),
    mistakes=(_loses, _to_nearest, _last_takes_rest, _drawn),
    hints=(
        "Client k gets the images between two cuts; cut number k is at images · (share 0 + … + share k), rounded down.",
        "`cuts = (share.cumsum(0)[:-1] * images).long()`; `torch.bucketize(torch.arange(images), cuts, right=True)`.",
    ),
)


# --- how far statistics lie apart -------------------------------------------------------------------------


def _statistics(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clients' means, those of all images together, by which large clients count more, and a variance."""
    means, share = torch.randn(4, 6, generator=generator), torch.rand(4, generator=generator) + 0.1
    return means, share @ means / share.sum(), torch.rand(6, generator=generator) * 3 + 0.5


def _bn_distance(means: Tensor, mean: Tensor, variance: Tensor) -> float:
    stats = [{"bn.running_mean": m, "bn.running_var": variance} for m in means]
    return bn_distance(stats, {"bn.running_mean": mean, "bn.running_var": variance})["bn"][0]


def _by_variance(means: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """You divide by the variance; σ is its square root."""
    return ((means - mean) / variance).square().mean().sqrt()


def _from_average(means: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """You compare with the average of the clients' means; compare with `mean`, where large clients count more."""
    return ((means - means.mean(0)) / variance.sqrt()).square().mean().sqrt()


def _plain(means: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """You do not divide by σ; channels of large values then count most."""
    return (means - mean).square().mean().sqrt()


def _absolute(means: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """You take the mean of absolute values; the root mean square weighs large differences more."""
    return ((means - mean) / variance.sqrt()).abs().mean()


def _no_root(means: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """You return the mean square; take its root."""
    return ((means - mean) / variance.sqrt()).square().mean()


def _signed(means: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Your differences cancel, since they are averaged before they are squared."""
    return ((means - mean) / variance.sqrt()).mean().abs()


_BN_DISTANCE = Exercise(
    inputs=_statistics,
    right=_bn_distance,
    parts=("distance",),
    mistakes=(_by_variance, _from_average, _plain, _absolute, _no_root, _signed),
    hints=(
        "(μₖ − μ) / σ for every client and channel; then square, mean, root, in this order.",
        "`((means - mean) / variance.sqrt())` is [K, channels]; `.square().mean().sqrt()` makes one number of it.",
    ),
)

EXERCISES = {
    "label_distance": _LABEL_DISTANCE,
    "effective_classes": _EFFECTIVE_CLASSES,
    "owners": _OWNERS,
    "bn_distance": _BN_DISTANCE,
}
