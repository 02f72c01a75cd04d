"""SSFL (Ohib et al., TMLR 2026): SNIP scores on every client's own data, averaged into one static mask; then FedAvg.

Follows the paper (arXiv 2405.09037) and its first author's Flower baseline (flwrlabs/flower, baselines/ssfl): each
client scores the whole model on one batch, the server averages the scores by the clients' shares of the data and keeps
the best of all layers together. (The baseline averages uniformly by default; its clients hold equally many images.)
Deviations: pretrained weights instead of untrained ones, and the batch's statistics in batch norm, see `saliency`.

Before training, a client holds the dense model and its gradient, and returns a score for each prunable weight: the
record counts that as kept weights, memory, FLOPs and bytes.
"""

import torch
from torch import Tensor

from fedtiny_lite.federated.client import Client, growth_batch, receive, reply
from fedtiny_lite.federated.messages import Message
from fedtiny_lite.federated.protocol import Exchange, Method, Reply, State
from fedtiny_lite.federated.server import Server, full_mask, masked_start, pretrained, send_model, shares
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.model.costs import training_flops
from fedtiny_lite.pruning.saliency import saliency_mask, snip_scores


def start(server: Server) -> State:
    """The dense pretrained weights."""
    return masked_start(pretrained(server), full_mask(server.mask_shapes))


def answer(client: Client, message: Message) -> Reply:
    """SNIP scores of all prunable weights on one batch of the client's own images, float32 [prunable weights]."""
    state, mask = receive(client, message)
    images, labels = growth_batch(client)
    scores = snip_scores(client.model, state, client.mask_shapes, images, labels)
    flops = training_flops(client.layers, mask.kept) * len(labels)
    return reply(client, {"scores": torch.cat([score.flatten() for score in scores.values()])}, mask, flops)


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The received weights under the mask of the best average scores, which no client holds yet."""
    scores = average_scores(server, replies)
    return masked_start(state.weights, saliency_mask(scores, server.budget, server.config.saliency_scope)), {}


def average_scores(server: Server, replies: list[Message]) -> dict[str, Tensor]:
    """Each weight's mean score, float64, clients weighted by their number of images."""
    mean = sum(reply.tensors["scores"].double() * share for reply, share in zip(replies, shares(replies), strict=True))
    parts = mean.split(list(server.sizes.values()))
    return {name: part.view(shape) for (name, shape), part in zip(server.mask_shapes.items(), parts, strict=True)}


METHOD = Method(start, AVERAGING, lambda config: (Exchange("saliency", send_model, answer, fold),))
