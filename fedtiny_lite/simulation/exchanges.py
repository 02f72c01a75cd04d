"""One exchange with the clients, wherever they are: asked, answered, checked, folded; what it cost, for the record."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from fedtiny_lite.federated.ledger import Accepted, Ledger, accept, address, forget, note_changes, who_knows_nothing
from fedtiny_lite.federated.memory import NOTHING
from fedtiny_lite.federated.protocol import Ask, Exchange, Heard, Lost, Method, exchange_at
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import State
from fedtiny_lite.model.masks import check_masked
from fedtiny_lite.simulation.places import Asked, Call, Place
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.setup import Federation

Answers = dict[int, Heard | Lost]


class Asking(NamedTuple):
    """What came of asking. `ledger`: without what clients forgot; `answers`: of each client that was asked; `down`: the
    bytes that were sent; `forgot`: the clients that had lost their memory, ascending.
    """

    ledger: Ledger
    answers: Answers
    down: int
    forgot: list[int]


def carry_out(
    federation: Federation, method: Method, index: int, progress: Progress, r: int, place: Place
) -> tuple[Progress, dict[str, Any]]:
    """One round trip in round `r`: what follows from it, its cost, and the method's notes.

    `index`: the exchange's place in the method's prelude, -1 for training.
    """
    began, server, state = time.perf_counter(), federation.server, progress.state
    exchange = exchange_at(method, server.task.config, index)
    call = Call(server.task.config, server.task.pixels, index, r)
    asking = _ask(method, exchange, server, state, progress.ledger, call, place)
    replies = {k: found if isinstance(found, Lost) else found.reply for k, found in asking.answers.items()}
    accepted = accept(method, exchange, server, state, r, asking.ledger, replies)
    following, note = exchange.fold(server, state, r, accepted.replies)
    check_state(server, following)
    heard = {k: found for k, found in asking.answers.items() if isinstance(found, Heard)}
    remembered = {k: found.memory for k, found in heard.items() if k not in accepted.undone}
    memories = {**asking.ledger.memories, **remembered}
    ledger = note_changes(method, server, state, following, replace(accepted.ledger, memories=memories))
    if index >= 0:  # a later exchange may build on this one, so whoever missed it is sent everything
        ledger = forget(ledger, accepted.lost)
    cost = _cost(asking, heard, accepted) | {"seconds": time.perf_counter() - began}
    return Progress(following, ledger), cost | note


def _ask(
    method: Method, exchange: Exchange, server: Server, state: State, ledger: Ledger, call: Call, place: Place
) -> Asking:
    """Asks the clients of the exchange; those that missed what it builds on are asked `remind`.

    Whoever lost its memory is asked once more, likewise.
    """
    remind = exchange.remind or exchange.ask

    def questions(ask: Ask, clients: list[int], ledger: Ledger) -> dict[int, Asked]:
        if not clients:
            return {}
        messages = address(method, server, state, ledger, ask(server, state, call.r), clients)
        return {k: Asked(message, ledger.memories.get(k, NOTHING)) for k, message in messages.items()}

    def send(asked: Mapping[int, Asked]) -> tuple[Answers, int]:
        return dict(place.ask(call, asked)), sum(len(question.message) for question in asked.values())

    clients = list(exchange.clients(call.config, call.r))
    blank = who_knows_nothing(ledger, clients)
    others = [k for k in clients if k not in blank]
    answers, down = send(questions(exchange.ask, others, ledger) | questions(remind, blank, ledger))
    forgot = sorted(k for k, found in answers.items() if isinstance(found, Lost) and found.forgot)
    if not forgot:
        return Asking(ledger, answers, down, [])
    ledger = forget(ledger, forgot)
    again, more = send(questions(remind, forgot, ledger))
    return Asking(ledger, answers | again, down + more, forgot)


def check_state(server: Server, state: State) -> None:
    """Raises ValueError for a state that cannot be packed: both sides take its numbers in the order of the task."""
    task = server.task
    for part, given, needed in (
        ("weights", state.weights, task.state_shapes),
        ("mask", state.mask, task.mask_shapes),
    ):
        if list(given) != list(needed):
            raise ValueError(f"the {part} of a state must have the names {list(needed)}, in this order")
    check_masked(state.weights, state.mask)


def _cost(asking: Asking, heard: Mapping[int, Heard], accepted: Accepted) -> dict[str, Any]:
    """What an exchange cost, for the record; who was rejected, lost or forgot only where there are some."""
    flops = [found.flops for found in heard.values()]
    reasons = {"rejections": accepted.rejections, "lost": accepted.lost}
    return {
        "asked": sorted(asking.answers),
        "bytes_up": sum(len(found.reply) for found in heard.values()),
        "bytes_down": asking.down,
        "training_flops": sum(flops),
        "client_flops": max(flops),
        "client_kept": max(found.kept for found in heard.values()),
        "client_state_bytes": max(found.state_bytes for found in heard.values()),
        "rejected_clients": sorted(accepted.rejections),
        "trained_on": sorted({name for found in heard.values() for name in found.trained_on}),
        **({"forgot": asking.forgot} if asking.forgot else {}),
    } | {name: {str(k): reason for k, reason in of_kind.items()} for name, of_kind in reasons.items() if of_kind}
