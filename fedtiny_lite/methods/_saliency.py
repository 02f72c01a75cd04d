"""What the methods that prune by saliency on the server share."""

from collections.abc import Callable

from torch import Tensor

from fedtiny_lite.data.datasets import to_float
from fedtiny_lite.federated.protocol import State
from fedtiny_lite.federated.server import Server, masked_start, pretrained
from fedtiny_lite.pruning.saliency import iterated_mask


def public_batch(server: Server) -> tuple[Tensor, Tensor]:
    """The server's whole public set as one batch without augmentation: float images [B, C, H, W] and labels [B].

    It has the size of the batches that the criteria were published with (SNIP 100 images, GraSP 10 per class), and it
    is all the server has: a part of it would add noise for nothing.
    """
    public, pixels = server.public, server.pixels
    return to_float(public.images, pixels.mean, pixels.std), public.labels


def start_pruned(server: Server, score: Callable, steps: int) -> State:
    """The pretrained weights under the mask of the best scores.

    `score(state)` gives a score per prunable weight; `steps`: those of the original, unless `saliency_steps` is set.
    """
    config, weights = server.config, pretrained(server)
    steps = config.saliency_steps or steps
    return masked_start(weights, iterated_mask(weights, score, server.budget, steps, config.saliency_scope))
