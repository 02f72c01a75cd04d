"""What a method is: a starting state, and exchanges in which the server asks, clients answer, the server folds.

A method is data in, data out. `ask` and `fold` see only the server's side, `answer` only the message and one
client; everything between them crosses as packed bytes. So the same method runs in one process, in worker
processes, or on a federated engine, and every byte can be counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedtiny_lite.masks import Mask


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
    """A client's answer: tensors and plain values to send, and the FLOPs that it cost (counted, not sent)."""

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    flops: int


@dataclass(frozen=True)
class Exchange:
    """One round trip between the server and all clients.

    ask(server, state, r) -> tensors and plain values for the clients;
    answer(client, message) -> Reply;
    fold(server, state, r, replies) -> the next state and a note for the record (plain JSON).
    `replies` are messages of the accepted clients in order of client number, whatever order they came in.
    """

    name: str
    ask: Callable
    answer: Callable
    fold: Callable


@dataclass(frozen=True)
class Method:
    """start(server) -> State; prelude(config) -> exchanges before training; `training`: the exchange of a round."""

    start: Callable
    training: Exchange
    prelude: Callable = lambda config: ()
