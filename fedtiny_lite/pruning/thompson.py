"""Thompson sampling of masks: a Beta posterior for each weight, told by votes, and a mask drawn from it.

The arithmetic of FedRTS (Huang et al., NeurIPS 2025, arXiv 2501.19122), checked against the authors' library
FedPruning. A posterior is float32 [2, weights of the layer]: alpha and beta of each weight, flattened.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedtiny_lite.model.masks import Mask, largest, top_mask


def prior(weights: int) -> Tensor:
    """Beta(1, 1), all shares equally likely, for each of a layer's weights."""
    return torch.ones(2, weights)


def kept_outcomes(mean: Tensor, clients: Sequence[Tensor], shares: Sequence[float], core: int, fusion: float) -> Tensor:
    """How well each kept weight did, float64 [kept] in [0, 1]: is it among the `core` largest of its layer?

    `mean` [kept]: the averaged weights; `clients`: each client's, of `shares` that sum to one. The average's vote
    counts 1 - fusion, the clients' together fusion.
    """
    votes = sum(share * _core(weights, core) for weights, share in zip(clients, shares, strict=True))
    return (1 - fusion) * _core(mean, core) + fusion * votes


def _core(weights: Tensor, core: int) -> Tensor:
    vote = torch.zeros(len(weights), dtype=torch.float64)
    vote[largest(weights.abs(), core)] = 1
    return vote


def pruned_outcomes(votes: Sequence[Tensor], shares: Sequence[float], fusion: float) -> Tensor:
    """How promising each pruned position is, float64 [pruned] in [0, 1]: did clients list its gradient?

    `votes`: each client's, bool [pruned]. The average knows nothing of these positions: its vote is 1/2.
    """
    listed = sum(share * vote.double() for vote, share in zip(votes, shares, strict=True))
    return (1 - fusion) / 2 + fusion * listed


def observe(posterior: Tensor, where: Tensor, outcomes: Tensor, weight: float) -> Tensor:
    """The posterior after outcomes X at `where`, bool [weights]: alpha += weight X, beta += weight (1 - X)."""
    posterior = posterior.clone()
    posterior[:, where] += (weight * torch.stack([outcomes, 1 - outcomes])).float()
    return posterior


def draw_mask(posteriors: Mapping[str, Tensor], mask: Mask, rng: np.random.Generator) -> Mask:
    """Each layer's best weights by one draw from its posteriors, as many as `mask` keeps there."""
    draws = {name: rng.beta(*posteriors[name].double().numpy()) for name in mask}
    return top_mask({name: torch.from_numpy(draw).view(mask[name].shape) for name, draw in draws.items()}, mask.kept)
