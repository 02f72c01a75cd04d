"""FedRTS (Huang et al., NeurIPS 2025, arXiv 2501.19122): masks drawn by combinatorial Thompson sampling.

The server holds a Beta posterior for each prunable weight. Every round tells it which kept weights are large, in the
average and at each client; an adjustment round also which pruned positions clients list for their gradients, by
index alone. Then each layer's mask is drawn anew from the posteriors, with as many weights as before. The original has
adjust_rate 0.4, adjust_every 10, adjust_until 300, gamma = 0.5 (`thompson_fusion`), lambda = 10 (`thompson_weight`).

Steps and starting mask (ERK densities, largest weights) are those of the authors' library FedPruning; the paper's body
was not at hand. Differs: as in FedTiny, a layer exchanges at least one weight while the rate is above zero.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedtiny_lite.federated.client import Client, receive, reply, train_locally
from fedtiny_lite.federated.messages import Message, decode_mask, decode_state, encode_mask, encode_state
from fedtiny_lite.federated.protocol import Exchange, Method, Reply, State
from fedtiny_lite.federated.server import Server, average, shares
from fedtiny_lite.methods._growing import ask_for_lists, counts_of_all_layers, list_gradients, start_at_erk
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.pruning.progressive import exchange_counts, exchange_rate
from fedtiny_lite.pruning.thompson import draw_mask, kept_outcomes, observe, prior, pruned_outcomes
from fedtiny_lite.seeding import numpy_generator

Posteriors = dict[str, Tensor]


def start(server: Server) -> State:
    """The ERK magnitude mask; all posteriors flat."""
    return replace(start_at_erk(server), extra={name: prior(size) for name, size in server.sizes.items()})


def ask(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The model, and in adjustment rounds how many gradients of each layer a client may vote for."""
    return ask_for_lists(server, state, r, counts_of_all_layers(server, state.mask, r))


def answer(client: Client, message: Message) -> Reply:
    """The trained weights; in adjustment rounds also which pruned positions have the largest gradients."""
    state, mask = receive(client, message)
    trained, flops = train_locally(client, state, mask)
    counts = message.meta.get("grow", {})
    lists, extra = list_gradients(client, mask, counts)
    votes = {name: torch.zeros(mask[name].shape, dtype=torch.bool) for name in lists}
    for name, (index, _) in lists.items():
        votes[name].view(-1)[index] = True
    tensors = {"weights": encode_state(trained, mask)}
    tensors |= {"votes": encode_mask(votes, list(client.mask_shapes))} if votes else {}
    return reply(client, tensors, mask, flops + extra, list_entries=sum(counts.values()))


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The average; until adjustments stop the posteriors learn, and in adjustment rounds a mask is drawn from them."""
    weights = average(server, state, replies)
    if r >= server.config.adjust_until:
        return replace(state, weights=weights, unsent=()), {}
    posteriors = judge_kept(server, state, r, weights, replies)
    if not counts_of_all_layers(server, state.mask, r):
        return State(weights, state.mask, extra=posteriors), {}
    posteriors = judge_pruned(server, state.mask, posteriors, replies)
    mask = draw_mask(posteriors, state.mask, numpy_generator(server.config.seed, "thompson", r))
    apply_mask(weights, mask)
    grown = {name: int((keep & ~state.mask[name]).sum()) for name, keep in mask.items()}
    grown = {name: count for name, count in grown.items() if count}
    return State(weights, mask, unsent=tuple(grown), extra=posteriors), {"adjusted": grown}


def judge_kept(server: Server, state: State, r: int, weights: dict[str, Tensor], replies: list[Message]) -> Posteriors:
    """The posteriors after a vote on the kept weights: all but as many as an adjustment would exchange are core."""
    config, mask = server.config, state.mask
    exchanged = exchange_counts(mask, tuple(mask), exchange_rate(r, config.adjust_until, config.adjust_rate))
    clients = [decode_state(reply.tensors["weights"], mask, server.state_shapes) for reply in replies]
    judged = {}
    for name, keep in mask.items():
        core, theirs = mask.kept[name] - exchanged.get(name, 0), [client[name][keep] for client in clients]
        outcomes = kept_outcomes(weights[name][keep], theirs, shares(replies), core, config.thompson_fusion)
        judged[name] = observe(state.extra[name], keep.flatten(), outcomes, config.thompson_weight)
    return judged


def judge_pruned(server: Server, mask: Mask, posteriors: Posteriors, replies: list[Message]) -> Posteriors:
    """The posteriors after a vote on the pruned positions; a layer that nobody could vote on has none."""
    config, judged = server.config, dict(posteriors)
    votes = [decode_mask(reply.tensors["votes"], server.mask_shapes) for reply in replies]
    for name in votes[0]:
        pruned = mask.pruned[name]
        outcomes = pruned_outcomes([vote[name][pruned] for vote in votes], shares(replies), config.thompson_fusion)
        judged[name] = observe(posteriors[name], pruned.flatten(), outcomes, config.thompson_weight)
    return judged


METHOD = Method(start, Exchange("train", ask, answer, fold))
