"""What a method is: a starting state, and exchanges in which the server asks, clients answer, the server folds.

A method is data in, data out. `ask` and `fold` see only the server's side, `answer` only the message and one
client; everything between them crosses as packed bytes. So the same method runs in one process, in worker
processes, or on a federated engine, and every byte can be counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedtiny_lite.model.masks import Mask


@dataclass(frozen=True)
class State:
    """What the server knows between exchanges; never changed in place.

    `weights`: parameters and running BN statistics, zero outside `mask`. `unsent`: layers whose masks the
    clients do not hold yet. `extra`: whatever else the method needs; tensors only once training begins, as
    it is checkpointed with the rest.
    """

    weights: dict[str, Tensor]
    mask: Mask
    unsent: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """A client's answer: tensors and plain values to send, and what it cost (counted, not sent).

    `flops`: of this answer. `kept`: prunable weights that the client held at most. `state_bytes`: its model state
    as the paper counts memory (`costs.model_state_memory`).
    """

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    flops: int
    kept: int
    state_bytes: int


@dataclass(frozen=True)
class Exchange:
    """One round trip between the server and all clients.

    ask(server, state, r) -> tensors and plain values for the clients; with `per_client`, ask(server, state, r, k) is
    called for each client k instead, and None leaves that client out;
    answer(client, message) -> Reply;
    fold(server, state, r, replies) -> the next state and a note for the record (plain JSON).
    `replies` are messages of the accepted clients in order of client number, whatever order they came in; the number
    is their `meta["client"]`.
    """

    name: str
    ask: Callable
    answer: Callable
    fold: Callable
    per_client: bool = False


@dataclass(frozen=True)
class Method:
    """start(server) -> State; prelude(config) -> exchanges before training; `training`: the exchange of a round.

    `model(config, allowed, classes, in_shape, generator) -> nn.Module` where a method trains another network than
    `config.model`; `allowed` is the number of parameters that a pruned `config.model` may keep in all.
    `personal(server, state, k) -> (weights, Mask)` where client k ends with a model of its own.
    """

    start: Callable
    training: Exchange
    prelude: Callable = lambda config: ()
    model: Callable | None = None
    personal: Callable | None = None
