"""LotteryFL (Li et al., arXiv 2008.03371; code charleslipku/LotteryFL): each client finds a lottery ticket of its own.

A client gets the global weights under its own mask. Where these are accurate enough on its data, it prunes
`lottery_rate` of what each layer keeps, the smallest first, and puts the rest back to the initial weights; then it
trains. The server averages each coordinate over the clients that keep it and took part in the round. A coordinate that
none of those keeps stays as it was while another client keeps it; one that no client keeps is pruned.

Deviations: the initial weights are the pretrained ones, batch norm and its statistics included. Accuracy is measured on
the client's development split, on which it also trains (the authors' code takes test images). The last pruning stops at
the budget, and from round `adjust_until` on, or in the last but one, a client above it is pruned to it whatever its
accuracy: until then clients keep more than the budget. The original rate, 0.2, needs 21 rounds for a density of 0.01:
`lottery_rate=0`, the default of short runs, is the rate that arrives by then. Averages are weighted by samples. The
authors' server keeps the last value of a coordinate that no client keeps; here it is pruned. The server's model is the
union of the clients' and so no smaller than any: 1.00 to 1.62 times the budget on digits. Where not all clients take
part in a round, each is handed the initial weights before training, as it may first train much later.

The server's model is at least as dense as its densest client. A client that was not drawn since the last call still
holds more than the budget, so with few clients a round the server's model may never become tiny; the clients' own
models do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from torch import Size, Tensor

from fedtiny_lite.federated.checks import Check, model_values, read_whole_mask, whole_mask
from fedtiny_lite.federated.client import Client, evaluate_locally, receive, reply, train_locally
from fedtiny_lite.federated.formats import encode_mask, mask_counts, read_mask
from fedtiny_lite.federated.messages import Message, decode_state, encode_state
from fedtiny_lite.federated.protocol import Exchange, Method, Note
from fedtiny_lite.federated.server import Server, average_over_holders, full_mask, pretrained
from fedtiny_lite.federated.state import Question, Reply, State, masked_start
from fedtiny_lite.federated.task import Task
from fedtiny_lite.methods._averaging import send_model
from fedtiny_lite.methods._settings import Development
from fedtiny_lite.model.costs import forward_flops
from fedtiny_lite.model.masks import Mask, apply_mask, share_of, top_mask, uniform_counts, union_of
from fedtiny_lite.records.summary import of_each
from fedtiny_lite.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(Development):
    """LotteryFL's own settings, and how many images a client judges itself on."""

    lottery_accuracy: float = setting(0.5, "a client prunes above this accuracy of its own", low=0, high=1)
    lottery_rate: float = setting(
        0.0, "share pruned at a time; 0 = what reaches the density by adjust_until", low=0, high=1
    )
    adjust_until: int = setting(8, "from this round on, clients above the budget are pruned to it", low=0, high=100_000)


def start(server: Server) -> State:
    """The pretrained model, nothing pruned. `of_clients`: the `mask`, packed, of each client that has pruned."""
    return masked_start(pretrained(server), full_mask(server.task.mask_shapes))


def remember_initial(client: Client, message: Message) -> Reply:
    """Nothing to send: the client keeps the initial weights."""
    client.memory["initial"] = message.tensors["weights"]
    return reply(client, {}, client.mask, 0)


def remind_initial(server: Server, state: State, r: int) -> Question:
    """The model, and the initial weights that a client forgot or never had."""
    dense = full_mask(server.task.mask_shapes)
    return Question({"initial": encode_state(pretrained(server), dense)})


def expect_nothing(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """No tensor."""
    return {}


def nothing_changes(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The same state."""
    return state, {}


def mask_of(server: Server, state: State, k: int) -> Mask:
    """Client k's mask as the server knows it."""
    shapes = tuple(server.task.mask_shapes.items())
    return read_mask(state.of_clients[k]["mask"].numpy().tobytes(), shapes) if k in state.of_clients else _dense(shapes)


@lru_cache(maxsize=1)
def _dense(shapes: tuple[tuple[str, Size], ...]) -> Mask:
    return full_mask(dict(shapes))


def last_call(task: Task) -> int:
    """The round from which on clients are pruned to the budget; not the last one, which starts from it."""
    return max(min(task.config.of(Settings).adjust_until, task.config.rounds - 2), 0)


def next_counts(task: Task, mask: Mask, r: int) -> dict[str, int]:
    """Weights that each layer keeps after the next pruning, never fewer than its share of the budget."""
    target = uniform_counts(task.sizes, task.budget)
    if r >= last_call(task):
        return target
    density = task.budget / sum(task.sizes.values())
    rate = task.config.of(Settings).lottery_rate or 1 - density ** (1 / last_call(task))
    return {name: max(share_of(kept, 1 - rate), target[name]) for name, kept in mask.kept.items()}


def answer(client: Client, message: Message) -> Reply:
    """The trained weights, and the mask if it changed.

    As long as it may prune, the client remembers the initial weights, which count as memory beside the model. The
    first model that anyone is sent is the initial one; whoever missed it is sent both.
    """
    state, held = receive(client, message)
    mask, judging, spare, counts = held, 0, 0, next_counts(client.task, held, client.round)
    if counts != held.kept:
        first = message.tensors.get("initial", message.tensors["weights"])
        spare = client.memory.setdefault("initial", first).nbytes
        state, mask, judging = try_ticket(client, counts, state, held)
    else:
        client.memory.pop("initial", None)
    trained, flops = train_locally(client, state, mask)
    tensors = {"weights": encode_state(trained, mask)}
    if mask != held:
        tensors["mask"] = encode_mask(mask, list(client.task.mask_shapes))
        client.hold_own_mask(mask)
    sent = reply(client, tensors, mask, judging + flops)
    return replace(sent, kept=held.total, state_bytes=sent.state_bytes + spare)


def try_ticket(
    client: Client, counts: Mapping[str, int], state: dict[str, Tensor], mask: Mask
) -> tuple[dict[str, Tensor], Mask, int]:
    """The initial weights under a smaller mask if `state` is accurate enough or it is the last call, else `state`; the
    mask; the FLOPs of judging.
    """
    own, judging = client.config.of(Settings), 0
    if client.round < last_call(client.task):
        split = client.development_split(own.dev_fraction)
        score = evaluate_locally(client, state, mask, split)
        judging = forward_flops(client.task.layers, mask.kept) * len(split)
        if score.correct <= own.lottery_accuracy * score.count:
            return state, mask, judging
    smaller = top_mask({name: state[name].abs().where(keep, -1) for name, keep in mask.items()}, counts)
    shapes = client.task.state_shapes
    initial = decode_state(client.memory["initial"], full_mask(client.task.mask_shapes), shapes)
    apply_mask(initial, smaller)
    return initial, smaller, judging


def expect(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """The trained weights under the client's mask; if that is a new one, it goes along and is part of the old one.

    From the last call on, a client whose mask is above the budget has to send a new one.
    """
    held = mask_of(server, state, k)
    counts = next_counts(server.task, held, r)
    if "mask" not in reply.tensors:
        if r >= last_call(server.task) and counts != held.kept:
            raise ValueError("it has no mask, and by this round every client prunes to the budget")
        return {"weights": model_values(server.task, held)}

    mask = read_whole_mask(server.task, reply.tensors["mask"])  # the weights are as long as this one keeps
    if mask.kept != counts or any(bool((keep & held.pruned[name]).any()) for name, keep in mask.items()):
        raise ValueError(f"it keeps {mask.kept} weights a layer in place of {counts} of those kept before")
    return {"mask": lambda packed: None, "weights": model_values(server.task, mask)}  # the mask is checked by now


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The average over the holders of each weight; the record is told the density of every client."""
    clients = [message.meta["client"] for message in replies]
    sent = {k: {"mask": m.tensors["mask"]} for k, m in zip(clients, replies, strict=True) if "mask" in m.tensors}
    known = replace(state, of_clients={**state.of_clients, **sent})
    weights, held = average_over_holders(server, replies, [mask_of(server, known, k) for k in clients])
    union = union_of_clients(server, known)
    for name in union:  # what no client of this round holds keeps its value
        weights[name] = weights[name].where(held[name], state.weights[name])
    apply_mask(weights, union)
    return replace(known, weights=weights, mask=union), {"client_density": of_each(densities(server.task, known))}


def union_of_clients(server: Server, state: State) -> Mask:
    """What any client holds, with one client's mask in memory at a time."""
    clients = range(server.task.config.clients)
    dense = next((k for k in clients if k not in state.of_clients), None)  # it has not pruned
    return union_of(mask_of(server, state, k) for k in (clients if dense is None else (dense,)))


def densities(task: Task, state: State) -> list[float]:
    """The density of each client's mask."""
    held = {k: mask_counts(found["mask"], task.mask_shapes) for k, found in state.of_clients.items()}
    return [sum(held.get(k, task.sizes).values()) / sum(task.sizes.values()) for k in range(task.config.clients)]


INITIAL = Exchange("initial_weights", send_model, remember_initial, expect_nothing, nothing_changes)


def of_client(task: Task, mask: Mask) -> Mapping[str, Check]:
    """The check of a client's mask."""
    return {"mask": whole_mask(task)}


METHOD = Method(
    "LotteryFL",
    "masks that change",
    start,
    Exchange("train", send_model, answer, expect, fold, remind=remind_initial),
    lambda config: (INITIAL,) if config.clients_per_round not in (0, config.clients) else (),
    settings=Settings,
    knobs={"lottery_accuracy": (0.5, 0.3)},
    mask_of=mask_of,
    of_client=of_client,
)
