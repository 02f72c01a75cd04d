"""PruneFL (Jiang et al., TNNLS 2022, arXiv 1909.12326; code github.com/jiangyuang/PruneFL): one client prunes the
dense model, then every adjustment asks all clients for dense squared gradients.

`prunefl_layers=free` is the paper: weights move between layers (`_adjusting`). `fixed` is the variant of the authors'
library FedPruning: an ERK magnitude mask on the server in place of initial pruning, and each layer grows as many
weights, by g^2, as it drops (there those just dropped may regrow, here not).

Deviations: times are counted, not measured. Client 0 prunes initially, as in the authors' simulation, but from the
pretrained weights without a warm-up, adjusting after every `local_epochs`, until it is down to the budget rather than
until its density settles. Gradients are squared batch by batch and collected in adjustment rounds only, as in the
library and in the costs published for PruneFL (the code sums those of a round first, in every round). The dropped
share decays as a cosine, as in the library (the code halves it in 10,000 rounds). The memory counted holds one dense
gradient and not the running sum of squares, as in the published ratio (1 + 2d) / 2.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedtiny_lite.federated.client import Client, local_schedule, receive, reply
from fedtiny_lite.federated.messages import Message, decode_mask, decode_state, encode_mask, encode_state
from fedtiny_lite.federated.protocol import Exchange, Method, Reply, State
from fedtiny_lite.federated.server import Server, average, full_mask, masked_start, pretrained, send_model
from fedtiny_lite.methods._adjusting import average_squares, reconfigure, train_and_square, without_smallest
from fedtiny_lite.methods._averaging import fold_average, train_and_return
from fedtiny_lite.methods._growing import counts_of_all_layers, start_at_erk
from fedtiny_lite.model.costs import layer_shapes
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.training import epoch_batches
from fedtiny_lite.pruning.progressive import exchange_rate, grow_and_prune, is_adjustment

INITIAL_DROP = 0.3
"""Share of a layer that one step of initial pruning drops, as the authors set it."""


def start(server: Server) -> State:
    """The pretrained weights, dense for client 0 to prune; with fixed layers under the ERK magnitude mask."""
    if server.config.prunefl_layers == "fixed":
        return start_at_erk(server)
    return masked_start(pretrained(server), full_mask(server.mask_shapes))


def ask_one(server: Server, state: State, r: int, k: int) -> tuple[dict[str, Tensor], dict] | None:
    """The dense model and the budget, for client 0 alone."""
    return None if k else (send_model(server, state, r)[0], {"budget": server.budget})


def prune_initially(client: Client, message: Message) -> Reply:
    """The dense model, trained and reconfigured until it is within the budget; half of a drop or more stays out."""
    state, dense = receive(client, message)
    mask, budget, flops, generator = dense, message.meta["budget"], 0, client.generator("train")
    while mask.total > budget:
        schedule = epoch_batches(client.split, client.config.local_epochs, client.config, generator)
        state, squares, cost = train_and_square(client, state, mask, schedule)
        most = max(budget, (mask.total + without_smallest(state, mask, INITIAL_DROP).total) // 2)
        mask, flops = reconfigure(state, mask, squares, client.layers, INITIAL_DROP, most), flops + cost
        apply_mask(state, mask)
    tensors = {"weights": encode_state(state, mask), "mask": encode_mask(mask, list(mask))}
    return reply(client, tensors, dense, flops, dense_gradient=tuple(dense))


def fold_one(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """Client 0's model and mask."""
    mask = Mask(decode_mask(replies[0].tensors["mask"], server.mask_shapes))
    return masked_start(decode_state(replies[0].tensors["weights"], mask, server.state_shapes), mask), {}


def ask(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The model, and in adjustment rounds the wish for squared gradients."""
    adjusts = is_adjustment(r, server.config.adjust_every, server.config.adjust_until)
    return send_model(server, state, r)[0], {"squares": True} if adjusts else {}


def answer(client: Client, message: Message) -> Reply:
    """The trained weights; in adjustment rounds also the squared gradients, those of pruned positions too."""
    if "squares" not in message.meta:
        return train_and_return(client, message)
    state, mask = receive(client, message)
    trained, squares, flops = train_and_square(client, state, mask, local_schedule(client))
    flat = torch.cat([square.flatten() for square in squares.values()])
    tensors = {"weights": encode_state(trained, mask), "squares": flat}
    return reply(client, tensors, mask, flops, dense_gradient=tuple(mask))


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The average; in adjustment rounds then reconfigured by the clients' averaged squares."""
    if "squares" not in replies[0].tensors:
        return fold_average(server, state, r, replies)
    weights, squares = average(server, state, replies), average_squares(server, replies)
    if server.config.prunefl_layers == "fixed":
        counts = counts_of_all_layers(server, state.mask, r)
        scores = {name: (torch.arange(squares[name].numel()), squares[name].flatten()) for name in counts}
        weights, mask = grow_and_prune(weights, state.mask, scores, counts)
    else:
        rate = exchange_rate(r, server.config.adjust_until, server.config.adjust_rate)
        layers = layer_shapes(server.model, tuple(server.public.images.shape[1:]))
        mask = reconfigure(weights, state.mask, squares, layers, rate, server.budget)
        apply_mask(weights, mask)
    grown = {name: int((keep & ~state.mask[name]).sum()) for name, keep in mask.items()}
    return replace(state, weights=weights, mask=mask, unsent=tuple(mask)), {"adjusted": grown}


INITIAL = Exchange("initial_pruning", ask_one, prune_initially, fold_one, per_client=True)

METHOD = Method(
    start,
    Exchange("train", ask, answer, fold),
    lambda config: (INITIAL,) if config.prunefl_layers == "free" else (),
)
