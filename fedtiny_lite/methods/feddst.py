"""FedDST (Bibikar et al., AAAI 2022, arXiv 2112.09824; code github.com/bibikar/feddst): clients prune and regrow their
own masks, the server averages each weight over the clients that hold it.

The mask starts as the ERK magnitude mask, as in the code. In adjustment rounds a client trains the first half of its
batches, exchanges in each layer the smallest weights for the pruned positions of largest gradient, trains the second
half, and returns its mask too. The server then prunes each layer by magnitude back to its ERK count.

Deviations: the half is counted in batches, so that one local epoch suffices (the authors' library FedPruning splits
whole epochs in half; the code adjusts after a given epoch), and momentum starts anew in the second half. What was just
pruned cannot regrow in the same step, and grown weights are chosen among pruned ones only, so each layer keeps its
count (the code chooses among all). The gradient is that of one batch, BN statistics frozen; it is computed tile by tile
but counted as the dense gradient of all layers, which the code holds. ERK is Evci et al.'s (the code scales sparsities
in place of densities). The rate is `adjust_rate` for every method (the code: 0.5; its README: 0.01) and decays as
FedTiny's does, in FedTiny's rounds (the original adjusts every 15); the authors' clients exchange at the undecayed
rate. While the rate is above zero, each layer exchanges at least one weight.
"""

from collections.abc import Mapping
from dataclasses import replace

from fedtiny_lite.federated.checks import Check, model_values, read_whole_mask, whole_mask
from fedtiny_lite.federated.client import Client, list_gradients, local_schedule, receive, reply, train_locally
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.messages import Message, encode_state
from fedtiny_lite.federated.protocol import Exchange, Method, Note
from fedtiny_lite.federated.server import Server, average_over_holders
from fedtiny_lite.federated.state import Reply, State
from fedtiny_lite.methods._averaging import expect_weights, fold_average, train_and_return
from fedtiny_lite.methods._growing import ask_for_all_layers, counts_of_all_layers, grown_weights, start_at_erk
from fedtiny_lite.methods._settings import Growth, GrowthBatch
from fedtiny_lite.model.masks import apply_mask, top_mask
from fedtiny_lite.pruning.progressive import grow_and_prune


def answer(client: Client, message: Message) -> Reply:
    """The trained weights; in adjustment rounds they train under the client's own mask halfway, and it goes along."""
    if "grow" not in message.meta:
        return train_and_return(client, message)
    (state, mask), counts, schedule = receive(client, message), message.meta["grow"], local_schedule(client)
    half = len(schedule) // 2
    state, before = train_locally(client, state, mask, schedule[:half])
    lists, growing = list_gradients(client, state, mask, counts, client.config.of(GrowthBatch).growth_batch)
    state, mask = grow_and_prune(state, mask, lists, counts)
    state, after = train_locally(client, state, mask, schedule[half:])
    tensors = {"weights": encode_state(state, mask), "mask": encode_mask(mask, list(mask))}
    return reply(client, tensors, mask, before + growing + after, dense_gradient=tuple(mask))


def expect(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """The trained weights; in adjustment rounds under the client's own mask, which keeps as many weights a layer."""
    if not counts_of_all_layers(server, state.mask, r):
        return expect_weights(server, state, r, k, reply)
    return {"mask": whole_mask(server.task, state.mask.kept), "weights": model_values(server.task, state.mask)}


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The average; in adjustment rounds over the holders of each weight, then pruned to each layer's count."""
    if not counts_of_all_layers(server, state.mask, r):
        return fold_average(server, state, r, replies)
    masks = [read_whole_mask(server.task, reply.tensors["mask"]) for reply in replies]
    weights, union = average_over_holders(server, replies, masks)
    mask = top_mask({name: weights[name].abs().masked_fill(~keep, -1) for name, keep in union.items()}, state.mask.kept)
    apply_mask(weights, mask)
    return replace(state, weights=weights, mask=mask), {"adjusted": grown_weights(state.mask, mask)}


METHOD = Method(
    "FedDST",
    "masks that change",
    start_at_erk,
    Exchange("train", ask_for_all_layers, answer, expect, fold),
    settings=Growth,
    knobs={"adjust_rate": (0.3, 0.5)},
)
