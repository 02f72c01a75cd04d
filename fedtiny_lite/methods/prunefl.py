"""PruneFL (Jiang et al., TNNLS 2022, arXiv 1909.12326; code github.com/jiangyuang/PruneFL): one client prunes the
dense model, then every adjustment asks all clients for dense squared gradients.

`prunefl_layers=free` is the paper: weights move between layers (`_reconfiguring`). `fixed` is the variant of the
authors' library FedPruning: an ERK magnitude mask on the server in place of initial pruning, and each layer grows as
many weights, by g^2, as it drops (there those just dropped may regrow, here not).

Deviations: times are counted, not measured. The constant c of the authors' time, c + sum of t, is left out. Client 0
prunes initially, as in the authors' simulation, but from the pretrained weights without a warm-up, adjusting after
every `local_epochs`, until it is down to the budget rather than until its density settles. Gradients are squared batch
by batch and collected in adjustment rounds only, as in the library and in the costs published for PruneFL (the code
sums those of a round first, in every round). The dropped share decays as a cosine, as in the library (the code halves
it in 10,000 rounds). Adjustments stop at `adjust_until`, as FedTiny's. No reconfiguration may exceed the budget, and in
initial pruning at least half of what a step drops stays out. The memory counted holds one dense gradient and not the
running sum of squares, as in the published ratio (1 + 2d) / 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedtiny_lite.config import Config
from fedtiny_lite.federated.checks import Check, model_values, numbers, read_whole_mask, whole_mask
from fedtiny_lite.federated.client import Client, local_schedule, receive, reply
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.messages import Message, decode_state, encode_state
from fedtiny_lite.federated.protocol import Exchange, Method, Note
from fedtiny_lite.federated.server import Server, average, full_mask, pretrained
from fedtiny_lite.federated.state import Question, Reply, State, masked_start
from fedtiny_lite.methods._averaging import expect_weights, fold_average, send_model, train_and_return
from fedtiny_lite.methods._growing import adjusts, counts_of_all_layers, grown_weights, rate_in, start_at_erk
from fedtiny_lite.methods._reconfiguring import average_squares, reconfigure, train_and_square, without_smallest
from fedtiny_lite.methods._settings import Adjustment
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.training import epoch_batches
from fedtiny_lite.pruning.progressive import grow_and_prune
from fedtiny_lite.settings import setting

INITIAL_DROP = 0.3
"""Share of a layer that one step of initial pruning drops, as the authors set it."""


@dataclass(frozen=True, kw_only=True)
class Settings(Adjustment):
    """PruneFL's own setting beside its schedule."""

    prunefl_layers: str = setting(
        "free", "whether weights move between layers, as in the paper", choices=("free", "fixed")
    )


def start(server: Server) -> State:
    """The pretrained weights, dense for client 0 to prune; with fixed layers under the ERK magnitude mask."""
    if server.task.config.of(Settings).prunefl_layers == "fixed":
        return start_at_erk(server)
    return masked_start(pretrained(server), full_mask(server.task.mask_shapes))


# --- initial pruning, by one client -----------------------------------------------------------------------


def first_client(config: Config, r: int) -> list[int]:
    """Client 0 alone."""
    return [0]


def prune_initially(client: Client, message: Message) -> Reply:
    """The dense model, trained and reconfigured step by step until it is within the budget.

    A step may keep at most the mean of what the model keeps before and after its drop. So at least half of what a step
    drops stays out, and the steps come to an end.
    """
    state, dense = receive(client, message)
    mask, budget, flops, generator = dense, client.task.budget, 0, client.generator("train")
    while mask.total > budget:
        schedule = epoch_batches(client.split, client.config.local_epochs, client.config, generator)
        state, squares, cost = train_and_square(client, state, mask, schedule)
        most = max(budget, (mask.total + without_smallest(state, mask, INITIAL_DROP).total) // 2)
        mask, flops = reconfigure(state, mask, squares, client.task.layers, INITIAL_DROP, most), flops + cost
        apply_mask(state, mask)
    tensors = {"weights": encode_state(state, mask), "mask": encode_mask(mask, list(mask))}
    return reply(client, tensors, dense, flops, dense_gradient=tuple(dense))


def expect_pruned(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """A mask within the budget, and the weights under it."""
    within = whole_mask(server.task, at_most=server.task.budget)
    packed = reply.tensors.get("mask")
    if packed is None:
        raise ValueError("it has no mask")
    return {"mask": within, "weights": model_values(server.task, read_whole_mask(server.task, packed))}


def fold_one(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """Client 0's model and mask."""
    mask = read_whole_mask(server.task, replies[0].tensors["mask"])
    return masked_start(decode_state(replies[0].tensors["weights"], mask, server.task.state_shapes), mask), {}


# --- training ---------------------------------------------------------------------------------------------


def ask(server: Server, state: State, r: int) -> Question:
    """The model, and in adjustment rounds the wish for squared gradients."""
    return Question(meta={"squares": True} if adjusts(server, r) else {})


def answer(client: Client, message: Message) -> Reply:
    """The trained weights; in adjustment rounds also the squared gradients, those of pruned positions too."""
    if "squares" not in message.meta:
        return train_and_return(client, message)
    state, mask = receive(client, message)
    trained, squares, flops = train_and_square(client, state, mask, local_schedule(client))
    flat = torch.cat([square.flatten() for square in squares.values()])
    tensors = {"weights": encode_state(trained, mask), "squares": flat}
    return reply(client, tensors, mask, flops, dense_gradient=tuple(mask))


def expect(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """The trained weights, and in adjustment rounds a square of each parameter."""
    weights, shapes = expect_weights(server, state, r, k, reply), server.task.state_shapes
    parameters = sum(shape.numel() for name, shape in shapes.items() if name not in server.task.stats_shapes)
    return {**weights, "squares": numbers(parameters, low=0)} if adjusts(server, r) else weights


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The average; in adjustment rounds then reconfigured by the clients' averaged squares."""
    if not adjusts(server, r):
        return fold_average(server, state, r, replies)
    weights, squares = average(server, state, replies), average_squares(server, replies)
    if server.task.config.of(Settings).prunefl_layers == "fixed":
        weights, mask = exchange_within_layers(server, state, r, weights, squares)
    else:
        mask = reconfigure(weights, state.mask, squares, server.task.layers, rate_in(server, r), server.task.budget)
        apply_mask(weights, mask)
    return replace(state, weights=weights, mask=mask), {"adjusted": grown_weights(state.mask, mask)}


def exchange_within_layers(
    server: Server, state: State, r: int, weights: dict[str, Tensor], squares: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Mask]:
    """Each layer grows as many weights, those of largest square, as it drops."""
    counts = counts_of_all_layers(server, state.mask, r)
    scores = {name: (torch.arange(squares[name].numel()), squares[name].flatten()) for name in counts}
    return grow_and_prune(weights, state.mask, scores, counts)


INITIAL = Exchange("initial_pruning", send_model, prune_initially, expect_pruned, fold_one, first_client)

METHOD = Method(
    "PruneFL",
    "masks that change",
    start,
    Exchange("train", ask, answer, expect, fold),
    lambda config: (INITIAL,) if config.of(Settings).prunefl_layers == "free" else (),
    settings=Settings,
    knobs={"adjust_rate": (0.3, 0.5)},
)
