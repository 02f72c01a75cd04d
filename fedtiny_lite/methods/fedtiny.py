"""FedTiny (Huang et al., ICDCS 2023): adaptive BN selection of a coarse mask, then progressive pruning.

Settings switch either module off (`selection=fixed`, `progressive=no`), so its ablations are this file too.
"""

import torch
from torch import Tensor

from fedtiny_lite.client import Client, receive, train_locally
from fedtiny_lite.costs import growth_flops
from fedtiny_lite.masks import Mask
from fedtiny_lite.messages import Message, decode_growth_list, encode_growth_list, encode_state
from fedtiny_lite.methods._selection import EXCHANGES, start_with_pool
from fedtiny_lite.progressive import (
    adjustment_units,
    exchange_counts,
    exchange_rate,
    grow_and_prune,
    growth_lists,
    is_adjustment,
    merge_growth_lists,
    unit_for_round,
)
from fedtiny_lite.protocol import Exchange, Method, Reply, State
from fedtiny_lite.server import Server, average, send_model, shares
from fedtiny_lite.training import training_batch


def planned_exchange(server: Server, mask: Mask, r: int) -> dict[str, int]:
    """Weights to exchange per layer in round r: empty but in adjustment rounds, and then of one block."""
    config = server.config
    units = adjustment_units(server.blocks, config.granularity, config.order, config.adjust_blocks)
    if config.progressive == "no" or not is_adjustment(r, config.adjust_every, config.adjust_until):
        return {}
    rate = exchange_rate(r, config.adjust_until, config.adjust_rate)
    return exchange_counts(mask, unit_for_round(units, r, config.adjust_every), rate)


def ask(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The model, and in adjustment rounds how long each layer's list shall be."""
    tensors, meta = send_model(server, state, r)
    counts = planned_exchange(server, state.mask, r)
    return tensors, meta | ({"grow": counts} if counts else {})


def answer(client: Client, message: Message) -> Reply:
    """The trained weights; in adjustment rounds also the largest gradients of pruned positions on one batch."""
    state, mask = receive(client, message)
    trained, flops = train_locally(client, state, mask)
    tensors = {"weights": encode_state(trained, mask)}
    counts = message.meta.get("grow", {})
    if counts:
        generator, device = client.generator("growth"), client.split.images.device
        index = torch.randperm(len(client.split), generator=generator)[: client.config.growth_batch]
        images, labels = training_batch(client.split, index, client.pixels, client.config.augment, generator)
        for name, entries in growth_lists(client.model, mask.to(device), counts, images, labels).items():
            packed = encode_growth_list(entries, mask[name].numel())
            tensors |= {f"{name}:{part}": tensor for part, tensor in packed.items()}
        flops += growth_flops(client.layers, mask.kept, tuple(counts)) * len(index)
    return Reply(tensors, {"samples": len(client.split)}, flops)


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The average; in adjustment rounds one block then grows where the clients' gradients agree, and is pruned."""
    weights, mask = average(server, state, replies), state.mask
    counts = planned_exchange(server, mask, r)
    merged = {}
    for name in counts:
        packed = [{part: reply.tensors[f"{name}:{part}"] for part in ("index", "value")} for reply in replies]
        lists = [decode_growth_list(entries, mask[name].numel()) for entries in packed]
        merged[name] = merge_growth_lists(lists, shares(replies))
    weights, mask = grow_and_prune(weights, mask, merged, counts)
    return State(weights, mask, unsent=tuple(counts)), {"adjusted": counts} if counts else {}


METHOD = Method(start_with_pool, Exchange("train", ask, answer, fold), lambda config: EXCHANGES[config.selection])
