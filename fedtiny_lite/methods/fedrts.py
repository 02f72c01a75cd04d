"""FedRTS (Huang et al., NeurIPS 2025, arXiv 2501.19122): masks drawn by combinatorial Thompson sampling.

The server holds a Beta posterior for each prunable weight. Every round before `adjust_until` tells it which kept
weights are large, in the average and at each client; an adjustment round also which pruned positions clients list for
their gradients, by index alone. Then each layer's mask is drawn anew from the posteriors, with as many weights as
before. The original has adjust_rate 0.4, adjust_every 10, adjust_until 300, gamma = 0.5 (`thompson_fusion`), lambda =
10 (`thompson_weight`).

Steps and starting mask (ERK densities, largest weights) are those of the authors' library FedPruning; the paper's body
was not at hand. Differs: as in FedTiny, a layer exchanges at least one weight while the rate is above zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedtiny_lite.federated.checks import Check, model_values, numbers, pruned_positions
from fedtiny_lite.federated.client import Client, list_gradients, receive, reply, train_locally
from fedtiny_lite.federated.formats import decode_mask, encode_mask
from fedtiny_lite.federated.messages import Message, decode_state, encode_state
from fedtiny_lite.federated.protocol import Exchange, Method, Note
from fedtiny_lite.federated.server import Server, average, shares
from fedtiny_lite.federated.state import Reply, State
from fedtiny_lite.federated.task import Task
from fedtiny_lite.methods._growing import (
    ask_for_all_layers,
    counts_of_all_layers,
    grown_weights,
    rate_in,
    start_at_erk,
)
from fedtiny_lite.methods._settings import Growth
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.pruning.progressive import exchange_counts
from fedtiny_lite.pruning.thompson import draw_mask, kept_outcomes, observe, prior, pruned_outcomes
from fedtiny_lite.seeding import numpy_generator
from fedtiny_lite.settings import setting

Posteriors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings(Growth):
    """FedRTS's own settings beside those of growth lists."""

    thompson_weight: float = setting(
        10.0, "how much one round's vote counts in a posterior (lambda)", above=0, high=1e6
    )
    thompson_fusion: float = setting(
        0.5, "the clients' share of a vote, the average's being the rest (gamma)", low=0, high=1
    )


def start(server: Server) -> State:
    """The ERK magnitude mask; all posteriors flat. `extra`: a posterior for each layer."""
    return replace(start_at_erk(server), extra={name: prior(size) for name, size in server.task.sizes.items()})


def answer(client: Client, message: Message) -> Reply:
    """The trained weights; in adjustment rounds also which pruned positions have the largest gradients."""
    state, mask = receive(client, message)
    trained, flops = train_locally(client, state, mask)
    counts = message.meta.get("grow", {})
    lists, extra = list_gradients(client, trained, mask, counts, client.config.of(Settings).growth_batch)
    votes = {name: torch.zeros(mask[name].shape, dtype=torch.bool) for name in lists}
    for name, (index, _) in lists.items():
        votes[name].view(-1)[index] = True
    tensors = {"weights": encode_state(trained, mask)}
    tensors |= {"votes": encode_mask(votes, list(client.task.mask_shapes))} if votes else {}
    return reply(client, tensors, mask, flops + extra, list_entries=sum(counts.values()))


def expect(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """The trained weights, and in adjustment rounds as many votes in each layer as it exchanges weights."""
    weights = {"weights": model_values(server.task, state.mask)}
    counts = counts_of_all_layers(server, state.mask, r)
    return weights | ({"votes": pruned_positions(server.task, state.mask, counts)} if counts else {})


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The average; until adjustments stop the posteriors learn, and in adjustment rounds a mask is drawn from them."""
    config, weights = server.task.config, average(server, state, replies)
    if r >= config.of(Settings).adjust_until:
        return replace(state, weights=weights), {}
    posteriors = judge_kept(server, state, r, weights, replies)
    if not counts_of_all_layers(server, state.mask, r):
        return State(weights, state.mask, posteriors), {}
    posteriors = judge_pruned(server, state.mask, posteriors, replies)
    mask = draw_mask(posteriors, state.mask, numpy_generator(config.seed, "thompson", r))
    apply_mask(weights, mask)
    return State(weights, mask, posteriors), {"adjusted": grown_weights(state.mask, mask)}


def judge_kept(server: Server, state: State, r: int, weights: dict[str, Tensor], replies: list[Message]) -> Posteriors:
    """The posteriors after a vote on the kept weights: all but as many as an adjustment would exchange are core."""
    own, mask = server.task.config.of(Settings), state.mask
    exchanged = exchange_counts(mask, tuple(mask), rate_in(server, r))
    clients = [decode_state(reply.tensors["weights"], mask, server.task.state_shapes) for reply in replies]
    judged = {}
    for name, keep in mask.items():
        core, theirs = mask.kept[name] - exchanged.get(name, 0), [client[name][keep] for client in clients]
        outcomes = kept_outcomes(weights[name][keep], theirs, shares(replies), core, own.thompson_fusion)
        judged[name] = observe(state.extra[name], keep.flatten(), outcomes, own.thompson_weight)
    return judged


def judge_pruned(server: Server, mask: Mask, posteriors: Posteriors, replies: list[Message]) -> Posteriors:
    """The posteriors after a vote on the pruned positions; a layer that nobody could vote on has none."""
    own, judged = server.task.config.of(Settings), dict(posteriors)
    votes = [decode_mask(reply.tensors["votes"], server.task.mask_shapes) for reply in replies]
    for name in votes[0]:
        pruned = mask.pruned[name]
        outcomes = pruned_outcomes([vote[name][pruned] for vote in votes], shares(replies), own.thompson_fusion)
        judged[name] = observe(posteriors[name], pruned.flatten(), outcomes, own.thompson_weight)
    return judged


def extra(task: Task, mask: Mask) -> Mapping[str, Check]:
    """The checks of the posteriors."""
    return {name: numbers(2, size, low=0) for name, size in task.sizes.items()}


METHOD = Method(
    "FedRTS",
    "masks that change",
    start,
    Exchange("train", ask_for_all_layers, answer, expect, fold),
    settings=Settings,
    extra=extra,
    knobs={"adjust_rate": (0.3, 0.5)},
)
