"""Growth lists as messages: the server says how long, clients list their largest gradients, the server merges them.

Shared by FedTiny and the methods that came after it, which differ in what is adjusted and what trains or decides.
"""

from collections.abc import Mapping

from torch import Tensor

from fedtiny_lite.federated.client import Client, growth_batch, reply
from fedtiny_lite.federated.messages import Message, decode_growth_list, encode_growth_list, encode_state
from fedtiny_lite.federated.protocol import Reply, State
from fedtiny_lite.federated.server import Server, average, masked_start, pretrained, send_model, shares
from fedtiny_lite.model.costs import growth_flops
from fedtiny_lite.model.masks import Mask, erk_counts, magnitude_mask
from fedtiny_lite.pruning.progressive import (
    GrowthList,
    exchange_counts,
    exchange_rate,
    grow_and_prune,
    is_adjustment,
    merge_growth_lists,
)


def start_at_erk(server: Server) -> State:
    """The largest pretrained weights of each layer, at Erdős-Rényi-kernel densities."""
    weights = pretrained(server)
    return masked_start(weights, magnitude_mask(weights, erk_counts(server.mask_shapes, server.budget)))


def counts_of_all_layers(server: Server, mask: Mask, r: int) -> dict[str, int]:
    """Weights to exchange per layer where all layers are adjusted at once: empty but in adjustment rounds."""
    config = server.config
    if not is_adjustment(r, config.adjust_every, config.adjust_until):
        return {}
    return exchange_counts(mask, tuple(mask), exchange_rate(r, config.adjust_until, config.adjust_rate))


def ask_for_lists(server: Server, state: State, r: int, counts: Mapping[str, int]) -> tuple[dict[str, Tensor], dict]:
    """The model, and how long each layer's list shall be, if any."""
    tensors, meta = send_model(server, state, r)
    return tensors, meta | ({"grow": dict(counts)} if counts else {})


def list_gradients(client: Client, mask: Mask, counts: Mapping[str, int]) -> tuple[dict[str, GrowthList], int]:
    """The largest gradients of pruned positions on one batch, and the FLOPs that they cost beside training."""
    if not counts:
        return {}, 0
    images, labels = growth_batch(client)
    lists = client.engine(mask).growth_lists(client.model, mask.to(images.device), counts, images, labels)
    return lists, growth_flops(client.layers, mask.kept, tuple(counts)) * len(images)


def answer_with_lists(
    client: Client, mask: Mask, trained: dict[str, Tensor], flops: int, counts: Mapping[str, int]
) -> Reply:
    """The trained weights, which are still in the client's model, and the lists that were asked for."""
    lists, extra = list_gradients(client, mask, counts)
    tensors = {"weights": encode_state(trained, mask)}
    for name, entries in lists.items():
        packed = encode_growth_list(entries, mask[name].numel())
        tensors |= {f"{name}:{part}": tensor for part, tensor in packed.items()}
    return reply(client, tensors, mask, flops + extra, list_entries=sum(counts.values()))


def fold_lists(server: Server, state: State, replies: list[Message], counts: Mapping[str, int]) -> tuple[State, dict]:
    """The average; the layers of `counts` then grow where the clients' gradients agree, and are pruned."""
    weights, mask = average(server, state, replies), state.mask
    merged = {}
    for name in counts:
        packed = [{part: reply.tensors[f"{name}:{part}"] for part in ("index", "value")} for reply in replies]
        lists = [decode_growth_list(entries, mask[name].numel()) for entries in packed]
        merged[name] = merge_growth_lists(lists, shares(replies))
    weights, mask = grow_and_prune(weights, mask, merged, counts)
    return State(weights, mask, unsent=tuple(counts)), {"adjusted": dict(counts)} if counts else {}
