"""SSFL (Ohib et al., TMLR 2026): SNIP scores on every client's own data, averaged into one static mask; then FedAvg.

Follows the paper (arXiv 2405.09037) and its first author's Flower baseline (flwrlabs/flower, baselines/ssfl): each
client scores the whole model on one batch, the server averages the scores by the clients' shares of the data and keeps
the best of all layers together. (The baseline averages uniformly by default; its clients hold equally many images.)
Deviations: pretrained weights instead of untrained ones, the batch's statistics in batch norm (see `saliency`), and a
batch that is augmented as in training.

Before training, a client holds the dense model and its gradient, and returns a score for each prunable weight: the
record counts that as kept weights, memory, FLOPs and bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtiny_lite.federated.checks import Check, numbers
from fedtiny_lite.federated.client import Client, growth_batch, receive, reply
from fedtiny_lite.federated.messages import Message
from fedtiny_lite.federated.protocol import Exchange, Method, Note
from fedtiny_lite.federated.server import Server, full_mask, pretrained, weighted_mean
from fedtiny_lite.federated.state import Reply, State, masked_start
from fedtiny_lite.methods._averaging import AVERAGING, send_model
from fedtiny_lite.methods._settings import GrowthBatch, Saliency
from fedtiny_lite.model.costs import training_flops
from fedtiny_lite.pruning.saliency import saliency_mask, snip_scores


def start(server: Server) -> State:
    """The dense pretrained weights."""
    return masked_start(pretrained(server), full_mask(server.task.mask_shapes))


def answer(client: Client, message: Message) -> Reply:
    """SNIP scores of all prunable weights on one batch of the client's own images, float32 [prunable weights]."""
    state, mask = receive(client, message)
    images, labels = growth_batch(client, client.config.of(GrowthBatch).growth_batch)
    scores = snip_scores(client.model, state, client.task.mask_shapes, images, labels)
    flops = training_flops(client.task.layers, mask.kept) * len(labels)
    return reply(client, {"scores": torch.cat([score.flatten() for score in scores.values()])}, mask, flops)


def expect(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """A score of each prunable weight, none of them negative."""
    return {"scores": numbers(sum(server.task.sizes.values()), low=0)}


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The pretrained weights under the mask of the best average scores."""
    scores, scope = average_scores(server, replies), server.task.config.of(Saliency).saliency_scope
    return masked_start(state.weights, saliency_mask(scores, server.task.budget, scope)), {}


def average_scores(server: Server, replies: list[Message]) -> dict[str, Tensor]:
    """Each weight's mean score, float64, clients weighted by their number of images."""
    parts = weighted_mean(replies, "scores").split(list(server.task.sizes.values()))
    return {name: part.view(shape) for (name, shape), part in zip(server.task.mask_shapes.items(), parts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Settings(Saliency, GrowthBatch):
    """What the scores are taken on, and among which weights the best are kept."""


SALIENCY = Exchange("saliency", send_model, answer, expect, fold)
METHOD = Method("SSFL", "masks that stay", start, AVERAGING, lambda config: (SALIENCY,), settings=Settings)
