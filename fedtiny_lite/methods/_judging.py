"""What a client does in adaptive BN selection: it re-estimates BN statistics of the candidates, and measures losses.

The server's side, and the exchanges, are in `_selection`.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fedtiny_lite.federated.client import Client
from fedtiny_lite.federated.encodings import decode_pool, decode_stats, encode_stats
from fedtiny_lite.federated.messages import Message, decode_state, state_lengths
from fedtiny_lite.federated.state import Reply
from fedtiny_lite.methods._settings import Development
from fedtiny_lite.model.costs import forward_flops, model_bytes, other_sizes
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.networks import load_state

CANDIDATES = ("pool", "weights", "trials")
"""Tensors that hold the candidates: their masks, and the weights that they share or the models that they are."""


def answer_statistics(client: Client, message: Message) -> Reply:
    """Re-estimated BN statistics of every candidate on the client's development split, float32 [C, statistics].

    The client remembers the candidates for the next exchange.
    """
    client.memory.update({name: message.tensors[name] for name in CANDIDATES if name in message.tensors})
    split = client.development_split(client.config.of(Development).dev_fraction)
    stats, flops = [], 0
    for candidate, state in candidates(client):
        load_state(client.model, state)
        stats.append(client.engine(candidate).recalibrate_bn(client.model, candidate, split, client.task.pixels))
        flops += forward_flops(client.task.layers, candidate.kept) * len(split)
    return _reply(client, {"stats": encode_stats(stats, client.task.stats_shapes)}, flops, len(split))


def answer_losses(client: Client, message: Message) -> Reply:
    """Each candidate's loss, summed over the development split: float64 [C]; and its correct answers.

    The candidates are in the message or remembered; the client forgets them.
    """
    client.memory.update(message.tensors)
    split = client.development_split(client.config.of(Development).dev_fraction)
    pool, scores, flops = list(candidates(client)), [], 0
    rows = client.memory.get("stats")
    stats = [{}] * len(pool) if rows is None else decode_stats(rows, client.task.stats_shapes)
    for (candidate, state), of_candidate in zip(pool, stats, strict=True):
        load_state(client.model, state | of_candidate)
        scores.append(client.engine(candidate).evaluate(client.model, candidate, split, client.task.pixels))
        flops += forward_flops(client.task.layers, candidate.kept) * len(split)
    losses = torch.tensor([score.loss_sum for score in scores], dtype=torch.float64)
    correct = torch.tensor([score.correct for score in scores])
    reply = _reply(client, {"loss": losses, "correct": correct}, flops, len(split))
    client.memory.clear()
    return reply


def candidates(client: Client) -> Iterator[tuple[Mask, dict[str, Tensor]]]:
    """Mask and state of each candidate that the client remembers."""
    held, shapes = client.memory, client.task.state_shapes
    pool = decode_pool(held["pool"], client.mask)
    if "trials" not in held:
        yield from ((candidate, candidate_state(client, held["weights"], candidate)) for candidate in pool)
        return
    lengths = [sum(state_lengths(candidate, shapes)) for candidate in pool]
    for candidate, packed in zip(pool, held["trials"].split(lengths), strict=True):
        yield candidate, decode_state(packed, candidate, shapes)


def candidate_state(client: Client, weights: Tensor, candidate: Mask) -> dict[str, Tensor]:
    """The received weights, which are packed under the union of the pool, as far as `candidate` keeps them."""
    state = decode_state(weights, client.mask, client.task.state_shapes)
    apply_mask(state, candidate)
    return state


def _reply(client: Client, tensors: Mapping[str, Tensor], flops: int, images: int) -> Reply:
    """A reply from judging the pool: the weights that any candidate keeps were held, and no gradient.

    After a trial the client holds as many models as candidates.
    """
    models = decode_pool(client.memory["pool"], client.mask) if "trials" in client.memory else [client.mask]
    others = sum(other_sizes(client.model))
    held = sum(model_bytes(client.task.layers, mask.kept, others) for mask in models)
    return Reply(tensors, flops, sum(mask.total for mask in models), held, {"judged": images})
