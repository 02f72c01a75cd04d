"""Adaptive batch-normalisation selection: a pool of coarse candidates, judged on re-estimated statistics.

All candidates share the server's pretrained weights and differ only in their masks. Before a candidate is judged, the
clients re-estimate its batch-norm statistics on their own skewed data, and the server combines these statistics. A
candidate is thus not judged by the server's statistics, which belong to other data.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedtiny_lite.data.datasets import Split, batches, to_float
from fedtiny_lite.model.masks import Mask, magnitude_mask, noise_counts
from fedtiny_lite.model.networks import bn_names
from fedtiny_lite.model.training import EVALUATION_BATCH, Evaluation, Normalisation
from fedtiny_lite.settings import check_choice

BnStats = dict[str, Tensor]
"""Running means and variances of a model by buffer name, each a float32 tensor [channels]."""


def usual_pool_size(density: float) -> int:
    """Candidates in a pool, C = max(1, round(0.1 / density)): 10 at a density of 0.01 (recalled from the paper)."""
    return max(1, round(0.1 / density))


def candidate_pool(
    weights: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    budget: int,
    candidates: int,
    noise: float,
    rng: np.random.Generator,
) -> list[Mask]:
    """`candidates` magnitude masks with noisy layer densities, each of at most `budget` kept weights.

    `weights`: the pretrained weights by name; `sizes`: number of prunable weights per layer. Layer densities are drawn
    by `masks.noise_counts`, the uniform-noise strategy of the authors' 2022 code.
    """
    return [magnitude_mask(weights, noise_counts(sizes, budget, noise, rng)) for _ in range(candidates)]


@torch.no_grad()
def recalibrate_bn(model: nn.Module, split: Split, pixels: Normalisation) -> BnStats:
    """Re-estimates running means and variances by one pass over `split`; returns a copy of them.

    The passes run in train mode without gradient and without augmentation. The estimate is the mean, over the batches,
    of each batch's mean and (unbiased) variance, weighted by the batch's size. No parameter, batch counter or mode of
    the model changes. The authors' 2022 code instead makes ten passes with momentum 0.1, which leaves 0.9^10 = 35 % of
    the old statistics after ten batches.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, was_training = [norm.momentum for norm in norms], model.training
    counters = {name: b.clone() for name, b in model.named_buffers() if name.endswith("num_batches_tracked")}

    def observe(images: Tensor, momentum: float) -> None:
        for norm in norms:
            norm.momentum = momentum
        model(images)

    model.train()
    try:
        observe_all(observe, split, pixels)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for name, counter in counters.items():
            model.get_buffer(name).copy_(counter)
        model.train(was_training)
    return bn_stats(model)


def observe_all(observe: Callable[[Tensor, float], None], split: Split, pixels: Normalisation) -> None:
    """Calls observe(images, momentum) on every batch of `split`.

    The momentum is the batch's share of all images seen so far, which makes a running value the exact weighted mean.
    Example: batches of 256, 256 and 88 images have momenta 1, 1/2 and 88/600.
    """
    seen = 0
    for index in batches(len(split), EVALUATION_BATCH, None):
        seen += len(index)
        observe(to_float(split.take(index).images, pixels.mean, pixels.std), len(index) / seen)


def bn_stats(model: nn.Module) -> BnStats:
    """A copy of the model's running statistics, on the CPU."""
    buffers = dict(model.named_buffers())
    return {name: buffers[name].detach().cpu().clone() for name in bn_names(model)}


def aggregate_bn_stats(stats: Sequence[BnStats], weights: Sequence[float], rule: str) -> BnStats:
    """The clients' statistics combined: mean = sum_k w_k mean_k.

    `weights`: w_k, client k's share of the images; they sum to one. The variance follows `rule`. "paper" takes sum_k
    w_k var_k. "pooled" adds the spread of the means, sum_k w_k (var_k + (mean_k - mean)^2), the variance of the
    clients' values taken together. For one pass over all images it is exact, up to a factor n / (n - 1), in the first
    layer only, as deeper inputs were normalised client by client. Sums are taken in float64, the result is float32.
    Raises ValueError for another rule.
    """
    check_choice("rule", rule, ("paper", "pooled"))
    combined = {}
    for name in (n for n in stats[0] if n.endswith("running_mean")):
        variance_name = name.removesuffix("mean") + "var"
        mean = _weighted_sum([s[name] for s in stats], weights)
        spread = [
            s[variance_name].double() + (((s[name].double() - mean) ** 2) if rule == "pooled" else 0.0) for s in stats
        ]
        combined[name] = mean.float()
        # Far-apart finite means have a spread that float32 cannot hold; infinity would spoil the model for good.
        combined[variance_name] = _weighted_sum(spread, weights).clamp(max=torch.finfo(torch.float32).max).float()
    return combined


def _weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    weighted = (tensor.double() * weight for tensor, weight in zip(tensors, weights, strict=True))
    return sum(weighted, start=torch.zeros(()))


def choose_candidate(evaluations: Sequence[Sequence[Evaluation]]) -> tuple[int, list[float]]:
    """The number of the candidate of least mean loss, and the mean loss of every candidate.

    `evaluations[k][c]`: candidate c on client k's images. A candidate's mean loss is sum_k loss_sum / sum_k count, so
    that clients weigh by their images. Of equal candidates the first is chosen.
    """
    losses = [
        sum(client.loss_sum for client in column) / sum(client.count for client in column)
        for column in zip(*evaluations, strict=True)
    ]
    return int(np.argmin(losses)), losses
