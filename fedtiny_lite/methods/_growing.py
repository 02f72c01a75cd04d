"""Growth lists as messages: the server says how long, clients list their largest gradients, the server merges them.

Shared by FedTiny and the methods that came after it, which differ in what is adjusted and what trains or decides.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fedtiny_lite.federated.checks import Check, expected_lists, model_values
from fedtiny_lite.federated.client import Client, list_gradients, reply
from fedtiny_lite.federated.encodings import decode_growth_lists, encode_growth_lists
from fedtiny_lite.federated.messages import Message, encode_state
from fedtiny_lite.federated.protocol import Note
from fedtiny_lite.federated.server import Server, average, pretrained, shares
from fedtiny_lite.federated.state import Question, Reply, State, masked_start
from fedtiny_lite.methods._settings import Adjustment, GrowthBatch
from fedtiny_lite.model.masks import Mask, erk_counts, magnitude_mask
from fedtiny_lite.pruning.progressive import (
    GrowthList,
    exchange_counts,
    exchange_rate,
    grow_and_prune,
    is_adjustment,
    merge_growth_lists,
)

Counts = Mapping[str, int]
"""Layer -> how many of its weights are exchanged; empty where nothing is adjusted."""


def start_at_erk(server: Server) -> State:
    """The largest pretrained weights of each layer, at Erdős-Rényi-kernel densities."""
    weights, task = pretrained(server), server.task
    return masked_start(weights, magnitude_mask(weights, erk_counts(task.mask_shapes, task.budget)))


def adjusts(server: Server, r: int) -> bool:
    """Whether round r is an adjustment round."""
    own = server.task.config.of(Adjustment)
    return is_adjustment(r, own.adjust_every, own.adjust_until)


def rate_in(server: Server, r: int) -> float:
    """The share of a layer's kept weights that an adjustment in round r exchanges."""
    own = server.task.config.of(Adjustment)
    return exchange_rate(r, own.adjust_until, own.adjust_rate)


def counts_of_all_layers(server: Server, mask: Mask, r: int) -> Counts:
    """Weights to exchange per layer where all layers are adjusted at once: empty but in adjustment rounds."""
    return exchange_counts(mask, tuple(mask), rate_in(server, r)) if adjusts(server, r) else {}


def ask_for_all_layers(server: Server, state: State, r: int) -> Question:
    """The model, and in adjustment rounds how many weights each layer shall exchange."""
    return ask_for_lists(counts_of_all_layers(server, state.mask, r))


def ask_for_lists(counts: Counts) -> Question:
    """The model, and how long each layer's list shall be, if any."""
    return Question(meta={"grow": dict(counts)} if counts else {})


def answer_with_lists(client: Client, mask: Mask, trained: dict[str, Tensor], flops: int, counts: Counts) -> Reply:
    """The trained weights and the lists that were asked for, taken at these weights."""
    lists, extra = list_gradients(client, trained, mask, counts, client.config.of(GrowthBatch).growth_batch)
    tensors = {"weights": encode_state(trained, mask)} | encode_growth_lists(lists, client.task.sizes)
    return reply(client, tensors, mask, flops + extra, list_entries=sum(counts.values()))


def expect_lists(server: Server, state: State, counts: Counts) -> Mapping[str, Check]:
    """Weights under the server's mask, and a list of each layer in `counts`."""
    return {"weights": model_values(server.task, state.mask)} | expected_lists(server.task, state.mask, counts)


def fold_lists(server: Server, state: State, replies: list[Message], counts: Counts) -> tuple[State, Note]:
    """The average; the layers of `counts` then grow where the clients' gradients agree, and are pruned."""
    weights, lists = average(server, state, replies), _lists_by_layer(server, replies, counts)
    merged = {name: merge_growth_lists(of_clients, shares(replies)) for name, of_clients in lists.items()}
    weights, mask = grow_and_prune(weights, state.mask, merged, counts)
    return replace(state, weights=weights, mask=mask), {"adjusted": dict(counts)} if counts else {}


def grown_weights(before: Mask, after: Mask) -> dict[str, int]:
    """Layer -> how many of its weights are kept now and were not before; layers without any are left out."""
    grown = {name: int((keep & before.pruned[name]).sum()) for name, keep in after.items()}
    return {name: count for name, count in grown.items() if count}


def _lists_by_layer(server: Server, replies: list[Message], counts: Counts) -> dict[str, list[GrowthList]]:
    decoded = [decode_growth_lists(reply.tensors, counts, server.task.sizes) for reply in replies]
    return {name: [lists[name] for lists in decoded] for name in counts}
