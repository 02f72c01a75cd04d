"""What the methods that prune by saliency on the server share."""

from collections.abc import Callable, Mapping

from torch import Tensor

from fedtiny_lite.data.datasets import to_float
from fedtiny_lite.federated.server import Server, pretrained
from fedtiny_lite.federated.state import State, masked_start
from fedtiny_lite.methods._settings import IteratedSaliency
from fedtiny_lite.pruning.saliency import Scores, iterated_mask, synflow_scores


def public_batch(server: Server) -> tuple[Tensor, Tensor]:
    """The server's whole public set as one batch without augmentation: float images [B, C, H, W] and labels [B].

    It is all the server has: a part of it would add noise for nothing. SNIP was published with 100 images, GraSP with
    10 per class; the set has 20 per class, at profile `paper` 5.
    """
    public, pixels = server.public, server.task.pixels
    return to_float(public.images, pixels.mean, pixels.std), public.labels


def synaptic_flow(server: Server, state: Mapping[str, Tensor]) -> Scores:
    """SynFlow's score of each prunable weight under a masked state."""
    return synflow_scores(server.model, state, server.task.mask_shapes, server.task.in_shape)


def start_pruned(server: Server, score: Callable[[Mapping[str, Tensor]], Scores], steps: int) -> State:
    """The pretrained weights under the mask of the best scores.

    `score(state)` gives a score per prunable weight; `steps`: those of the original, unless `saliency_steps` is set.
    """
    own, weights = server.task.config.of(IteratedSaliency), pretrained(server)
    steps = own.saliency_steps or steps
    return masked_start(weights, iterated_mask(weights, score, server.task.budget, steps, own.saliency_scope))
