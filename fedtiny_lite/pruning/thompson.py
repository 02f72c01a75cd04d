"""Thompson sampling of masks: votes move a Beta posterior of each weight, and masks are drawn from the posteriors.

This is the arithmetic of FedRTS (Huang et al., NeurIPS 2025, arXiv 2501.19122), checked against the authors' library
FedPruning. A layer's posterior is float32 [2, weights of the layer]: alpha and beta of each weight, in flat order.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedtiny_lite.model.masks import Mask, largest, top_mask


def prior(weights: int) -> Tensor:
    """Beta(1, 1), the uniform distribution, for each of a layer's weights: ones, float32 [2, weights]."""
    return torch.ones(2, weights)


def kept_outcomes(mean: Tensor, clients: Sequence[Tensor], shares: Sequence[float], core: int, fusion: float) -> Tensor:
    """How well each kept weight did, float64 [kept] in [0, 1]. A vote is 1 for the `core` largest |weights|, else 0.

    `mean`: the averaged weights [kept]; `clients`: the weights of each client [kept]; `shares`: a share per client,
    which sum to one. The vote of the average counts 1 - fusion, the votes of all clients together count fusion.
    """
    votes = sum(share * _core(weights, core) for weights, share in zip(clients, shares, strict=True))
    return (1 - fusion) * _core(mean, core) + fusion * votes


def _core(weights: Tensor, core: int) -> Tensor:
    vote = torch.zeros(len(weights), dtype=torch.float64)
    vote[largest(weights.abs(), core)] = 1
    return vote


def pruned_outcomes(votes: Sequence[Tensor], shares: Sequence[float], fusion: float) -> Tensor:
    """How promising each pruned position is, float64 [pruned] in [0, 1]. A client votes for what its list holds.

    `votes`: bool [pruned] per client, True where the client listed the position's gradient; `shares` and `fusion` are
    as in `kept_outcomes`. The average knows nothing of these positions, so that its vote is 1/2.
    """
    listed = (share * vote.double() for vote, share in zip(votes, shares, strict=True))
    return (1 - fusion) / 2 + fusion * sum(listed, start=torch.zeros(()))


def observe(posterior: Tensor, where: Tensor, outcomes: Tensor, weight: float) -> Tensor:
    """The posterior after the outcomes X: alpha += weight X and beta += weight (1 - X).

    `where`: bool [weights], the positions that `outcomes` [positions] belongs to; other positions stay as they are.
    """
    posterior = posterior.clone()
    posterior[:, where] += (weight * torch.stack([outcomes, 1 - outcomes])).float()
    return posterior


def draw_mask(posteriors: Mapping[str, Tensor], mask: Mask, rng: np.random.Generator) -> Mask:
    """A mask that keeps, in each layer, the weights of largest draw from their posteriors, as many as `mask` keeps."""
    draws = {name: rng.beta(*posteriors[name].double().numpy()) for name in mask}
    return top_mask({name: torch.from_numpy(draw).view(mask[name].shape) for name, draw in draws.items()}, mask.kept)
