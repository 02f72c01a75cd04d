"""Adaptive BN selection as messages: the pool goes down, statistics come up, go down combined, losses come up.

The comparisons differ in the statistics that a candidate wears while it is judged: `vanilla` keeps those of the
pretrained model, `server` takes those that the server re-estimates on its own public set.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedtiny_lite.federated.client import Client
from fedtiny_lite.federated.messages import Message, decode_mask, decode_state, encode_mask
from fedtiny_lite.federated.protocol import Exchange, Reply, State
from fedtiny_lite.federated.server import Server, masked_start, pretrained, send_model, shares
from fedtiny_lite.model.costs import forward_flops, model_bytes, other_sizes
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.networks import bn_names, load_state
from fedtiny_lite.model.training import Evaluation
from fedtiny_lite.pruning.bn_selection import aggregate_bn_stats, candidate_pool, choose_candidate, recalibrate_bn
from fedtiny_lite.seeding import numpy_generator


def start_with_pool(server: Server) -> State:
    """The pool of candidates on the pretrained weights; with `selection=fixed` the numbered candidate at once."""
    config, weights = server.config, pretrained(server)
    rng = numpy_generator(config.seed, "pool")
    count = config.candidate + 1 if config.selection == "fixed" else config.candidates
    pool = candidate_pool(weights, server.sizes, server.budget, count, config.pool_noise, rng)
    if config.selection == "fixed":
        return masked_start(weights, pool[config.candidate])
    union = Mask({name: torch.stack([mask[name] for mask in pool]).any(0) for name in pool[0]})
    extra = {"pool": pool, "pretrained": weights}
    if config.selection == "server":
        extra["stats"] = [server_stats(server, masked_start(weights, candidate).weights) for candidate in pool]
    return replace(masked_start(weights, union), extra=extra)


def server_stats(server: Server, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """BN statistics that the server re-estimates on its own public set (a control)."""
    load_state(server.model, weights)
    return recalibrate_bn(server.model, server.public, server.pixels)


def send_pool(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The weights that any candidate keeps, and each candidate's mask as a choice among those."""
    tensors, _ = send_model(server, state, r)
    for c, candidate in enumerate(state.extra["pool"]):
        within = {name: candidate[name][state.mask[name]] for name in state.mask}
        tensors[f"candidate{c}"] = encode_mask(within, list(server.mask_shapes))
    return tensors, {}


def answer_statistics(client: Client, message: Message) -> Reply:
    """Re-estimated BN statistics of every candidate on the client's development split, float32 [C, statistics]."""
    client.memory.update(message.tensors)
    split = client.development_split()
    stats, flops = [], 0
    for candidate in received_pool(client):
        load_candidate(client, candidate)
        found = client.engine(candidate).recalibrate_bn(client.model, candidate, split, client.pixels)
        stats.append(_flatten(found, client))
        flops += forward_flops(client.layers, candidate.kept) * len(split)
    return _judged(client, {"stats": torch.stack(stats)}, flops, len(split))


def fold_statistics(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The combined statistics of every candidate."""
    combined = []
    for c in range(len(state.extra["pool"])):
        per_client = [_unflatten(reply.tensors["stats"][c], server) for reply in replies]
        combined.append(aggregate_bn_stats(per_client, shares(replies), server.config.bn_variance))
    return replace(state, extra=state.extra | {"stats": combined}), {}


def send_stats(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """BN statistics of every candidate, float32 [C, statistics]."""
    return {"stats": torch.stack([_flatten(stats, server) for stats in state.extra["stats"]])}, {}


def send_pool_and_stats(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The pool, with the statistics that the server re-estimated."""
    return send_pool(server, state, r)[0] | send_stats(server, state, r)[0], {}


def answer_losses(client: Client, message: Message) -> Reply:
    """Summed loss and correct answers of every candidate on the development split, in evaluation mode."""
    client.memory.update(message.tensors)
    split = client.development_split()
    stats = client.memory.get("stats")
    scores, flops = [], 0
    for c, candidate in enumerate(received_pool(client)):
        load_candidate(client, candidate, None if stats is None else stats[c])
        scores.append(client.engine(candidate).evaluate(client.model, candidate, split, client.pixels))
        flops += forward_flops(client.layers, candidate.kept) * len(split)
    losses = torch.tensor([score.loss_sum for score in scores], dtype=torch.float64)
    correct = torch.tensor([score.correct for score in scores])
    answer = _judged(client, {"loss": losses, "correct": correct}, flops, len(split))
    client.memory.clear()
    return answer


def _judged(client: Client, tensors: dict[str, Tensor], flops: int, samples: int) -> Reply:
    """A reply from judging the pool: the weights that any candidate keeps were held, and no gradient."""
    kept = {name: int(keep.sum()) for name, keep in decode_mask(client.memory["mask"], client.mask_shapes).items()}
    held = model_bytes(client.layers, kept, sum(other_sizes(client.model)))
    return Reply(tensors, {"samples": samples}, flops, sum(kept.values()), held)


def fold_losses(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The chosen candidate on the pretrained weights, with the statistics it was judged on."""
    scores = [
        [
            Evaluation(float(loss), int(correct), reply.meta["samples"])
            for loss, correct in zip(reply.tensors["loss"], reply.tensors["correct"], strict=True)
        ]
        for reply in replies
    ]
    chosen, losses = choose_candidate(scores)
    pool = state.extra["pool"]
    stats = state.extra["stats"][chosen] if "stats" in state.extra else {}
    note = {"chosen": chosen, "losses": losses, "kept": [candidate.kept for candidate in pool]}
    return masked_start(state.extra["pretrained"] | stats, pool[chosen]), {"selection": note}


def received_pool(client: Client) -> list[Mask]:
    """The candidates' masks, from what the client was sent."""
    union = decode_mask(client.memory["mask"], client.mask_shapes)
    shapes = {name: torch.Size([int(keep.sum())]) for name, keep in union.items()}
    pool = []
    for c in range(sum(name.startswith("candidate") for name in client.memory)):
        within = decode_mask(client.memory[f"candidate{c}"], shapes)
        pool.append(Mask({name: keep.clone().masked_scatter_(keep, within[name]) for name, keep in union.items()}))
    return pool


def load_candidate(client: Client, candidate: Mask, stats: Tensor | None = None) -> None:
    """Put the received weights into the client's model, masked by `candidate`, with `stats` if given."""
    union = Mask(decode_mask(client.memory["mask"], client.mask_shapes))
    state = decode_state(client.memory["weights"], union, client.state_shapes)
    apply_mask(state, candidate)
    load_state(client.model, state if stats is None else state | _unflatten(stats, client))


def _flatten(stats: dict[str, Tensor], holder: Server | Client) -> Tensor:
    return torch.cat([stats[name] for name in bn_names(holder.model)])


def _unflatten(vector: Tensor, holder: Server | Client) -> dict[str, Tensor]:
    shapes = {name: holder.state_shapes[name] for name in bn_names(holder.model)}
    return dict(zip(shapes, vector.split([shape.numel() for shape in shapes.values()]), strict=True))


STATISTICS = Exchange("bn_statistics", send_pool, answer_statistics, fold_statistics)
LOSSES_ON_CLIENTS_STATS = Exchange("candidate_losses", send_stats, answer_losses, fold_losses)
LOSSES_ON_PRETRAINED_STATS = Exchange("candidate_losses", send_pool, answer_losses, fold_losses)
LOSSES_ON_SERVER_STATS = Exchange("candidate_losses", send_pool_and_stats, answer_losses, fold_losses)

EXCHANGES = {
    "adaptive": (STATISTICS, LOSSES_ON_CLIENTS_STATS),
    "vanilla": (LOSSES_ON_PRETRAINED_STATS,),
    "server": (LOSSES_ON_SERVER_STATS,),
    "fixed": (),
}
"""The exchanges before training, by the setting `selection`."""
