"""LotteryFL (Li et al., arXiv 2008.03371; code charleslipku/LotteryFL): each client finds a lottery ticket of its own.

A client gets the global weights under its own mask. Where these are accurate enough on its data, it prunes
`lottery_rate` of what each layer keeps, the smallest first, and puts the rest back to the initial weights; then it
trains. The server averages each coordinate over the clients that keep it, so a coordinate that nobody keeps is pruned.

Deviations: the initial weights are the pretrained ones, batch norm and its statistics included. Accuracy is measured on
the client's development split, on which it also trains (the authors' code takes test images). The last pruning stops at
the budget, and from round `adjust_until` on, or in the last but one, a client above it is pruned to it whatever its
accuracy: until then clients keep more than the budget. The original rate, 0.2, needs 21 rounds for a density of 0.01:
`lottery_rate=0`, the default of short runs, is the rate that arrives by then. Averages are weighted by samples.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedtiny_lite.config import Config
from fedtiny_lite.federated.client import Client, receive, remember_mask, reply, train_locally
from fedtiny_lite.federated.messages import Message, decode_state, encode_mask, encode_state, read_mask
from fedtiny_lite.federated.protocol import Exchange, Method, Reply, State
from fedtiny_lite.federated.server import Server, average_over_holders, full_mask, masked_start, pretrained
from fedtiny_lite.model.costs import forward_flops
from fedtiny_lite.model.masks import Mask, apply_mask, top_mask, uniform_counts
from fedtiny_lite.model.networks import load_state


def start(server: Server) -> State:
    """The pretrained model, nothing pruned.

    `mask<k>`: client k's mask, packed; `unsent`: bool [clients], whose mask the client does not hold.
    """
    dense, clients = full_mask(server.mask_shapes), range(server.config.clients)
    masks = {f"mask{k}": encode_mask(dense, list(dense)) for k in clients}
    return replace(masked_start(pretrained(server), dense), extra=masks | {"unsent": torch.ones(len(clients)).bool()})


def personal(server: Server, state: State, k: int) -> tuple[dict[str, Tensor], Mask]:
    """Client k's own model: the global weights under its mask."""
    mask = client_mask(server, state.extra, k)
    weights = {name: tensor.clone() for name, tensor in state.weights.items()}
    apply_mask(weights, mask)
    return weights, mask


def client_mask(server: Server, extra: Mapping[str, Tensor], k: int) -> Mask:
    """Client k's mask as the server knows it."""
    return read_mask(extra[f"mask{k}"].numpy().tobytes(), tuple(server.mask_shapes.items()))


def last_call(config: Config) -> int:
    """The round from which on clients are pruned to the budget; not the last one, which starts from it."""
    return max(min(config.adjust_until, config.rounds - 2), 0)


def next_counts(server: Server, mask: Mask, r: int) -> dict[str, int]:
    """Weights that each layer keeps after the next pruning, never fewer than its share of the budget."""
    config, target = server.config, uniform_counts(server.sizes, server.budget)
    if r >= last_call(config):
        return target
    rate = config.lottery_rate or 1 - (server.budget / sum(server.sizes.values())) ** (1 / last_call(config))
    return {name: max(int((1 - rate) * kept), target[name]) for name, kept in mask.kept.items()}


def ask(server: Server, state: State, r: int, k: int) -> tuple[dict[str, Tensor], dict]:
    """Client k's own model and, while that is above the budget, what a pruning would leave of it."""
    weights, mask = personal(server, state, k)
    tensors = {"weights": encode_state(weights, mask)}
    if state.extra["unsent"][k]:
        tensors["mask"] = state.extra[f"mask{k}"]
    counts = next_counts(server, mask, r)
    return tensors, {"prune_to": counts, "anyway": r >= last_call(server.config)} if counts != mask.kept else {}


def answer(client: Client, message: Message) -> Reply:
    """The trained weights, and the mask if it changed.

    As long as it may prune, the client remembers the initial weights, which count as memory beside the model.
    """
    state, held = receive(client, message)
    mask, judging, spare = held, 0, 0
    if "prune_to" in message.meta:
        spare = client.memory.setdefault("initial", message.tensors["weights"]).nbytes
        state, mask, judging = try_ticket(client, message.meta, state, held)
    else:
        client.memory.pop("initial", None)
    trained, flops = train_locally(client, state, mask)
    tensors = {"weights": encode_state(trained, mask)}
    if mask != held:
        tensors["mask"] = encode_mask(mask, list(client.mask_shapes))
        remember_mask(client, tensors["mask"])
    sent = reply(client, tensors, mask, judging + flops)
    return replace(sent, kept=held.total, state_bytes=sent.state_bytes + spare)


def try_ticket(
    client: Client, goal: Mapping, state: dict[str, Tensor], mask: Mask
) -> tuple[dict[str, Tensor], Mask, int]:
    """The initial weights under a smaller mask if `state` is accurate enough or must shrink `anyway`, else `state`; the
    mask; the FLOPs of judging.
    """
    judging = 0
    if not goal["anyway"]:
        split = client.development_split()
        load_state(client.model, state)
        score = client.engine(mask).evaluate(client.model, mask, split, client.pixels)
        judging = forward_flops(client.layers, mask.kept) * len(split)
        if score.correct <= client.config.lottery_accuracy * score.count:
            return state, mask, judging
    smaller = top_mask({name: state[name].abs().where(keep, -1) for name, keep in mask.items()}, goal["prune_to"])
    initial = decode_state(client.memory["initial"], full_mask(client.mask_shapes), client.state_shapes)
    apply_mask(initial, smaller)
    return initial, smaller, judging


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The average over the holders of each weight; the record is told the density of every client."""
    clients = [message.meta["client"] for message in replies]
    unsent = torch.ones(server.config.clients, dtype=torch.bool)
    unsent[clients] = False  # a rejected client may hold a mask that the server has not seen
    changed = {f"mask{k}": m.tensors["mask"] for k, m in zip(clients, replies, strict=True) if "mask" in m.tensors}
    extra = state.extra | changed | {"unsent": unsent}
    masks = [client_mask(server, extra, k) for k in range(server.config.clients)]
    weights, union = average_over_holders(server, replies, [masks[k] for k in clients])
    return State(weights, union, extra=extra), {"client_density": [mask.prunable_density for mask in masks]}


METHOD = Method(start, Exchange("train", ask, answer, fold, per_client=True), personal=personal)
