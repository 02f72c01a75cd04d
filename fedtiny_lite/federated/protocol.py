"""What a method is: a starting state, and exchanges in which the server asks, clients answer, the server folds.

A method is data in, data out. `ask` and `fold` see only the server's side, `answer` only the message and one
client; everything between them crosses as packed bytes. So the same method runs in one process, in worker
processes, or on a federated engine, and every byte can be counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.federated.checks import Check
from fedtiny_lite.federated.client import Client, packed_memory, receive, take_mask
from fedtiny_lite.federated.messages import Message, pack, unpack
from fedtiny_lite.federated.participation import in_round
from fedtiny_lite.federated.privacy import disturb
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import Question, Reply, State
from fedtiny_lite.federated.task import Task
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.records.schema import FAMILIES
from fedtiny_lite.settings import Settings, is_declared, names

Note = dict[str, Any]
"""What a fold tells the record, as plain JSON."""


Ask = Callable[[Server, State, int], Question]
"""ask(server, state, r): the server's question in round `r` (-1: before training), the same for all clients."""

Answer = Callable[[Client, Message], Reply]
"""answer(client, message): one client's answer; the client's mask is up to date by then."""

Expect = Callable[[Server, State, int, int, Message], Mapping[str, Check]]
"""expect(server, state, r, k, reply): the tensors that client k's reply must hold, each with the check it has to pass.

`reply` is not trusted yet. It is given because what is allowed may depend on it: weights under a mask of the client's
own are as long as that mask, which the reply carries, keeps. Raises ValueError for a reply that is wrong already, such
as one without a value that it needs.
"""

Fold = Callable[[Server, State, int, list[Message]], tuple[State, Note]]
"""fold(server, state, r, replies): the next state, and a note for the record.

`replies`: those that were accepted, in order of client number, whatever order they came in. Each says in `meta` its
`client` and its `samples`.
"""

WeightsIn = Callable[[Task, Mask, Message], Tensor | None]
"""weights_in(task, mask, reply): the weights in a checked reply, packed under `mask`; None if there are none."""


def plain_weights(task: Task, mask: Mask, reply: Message) -> Tensor | None:
    """The tensor `weights`."""
    return reply.tensors.get("weights")


OwnNetwork = Callable[[Config, int, int, tuple[int, int, int]], nn.Module]
"""model(config, allowed, classes, in_shape): the network that a method trains in place of `config.model`.

It holds no data (torch's "meta" device). `allowed`: the number of parameters that a pruned `config.model` may keep in
all.
"""


@dataclass(frozen=True)
class Exchange:
    """One round trip between the server and clients; `clients(config, r)`: the numbers of those that are asked.

    `remind`: what a client that remembers nothing is asked in place of `ask`, where that builds on earlier exchanges.
    Such a client has lost its memory, or gave no answer so far. Nobody is asked it in the first exchange.
    `weights_in`: where a reply has its weights, for the setting `update_limit`.
    """

    name: str
    ask: Ask
    answer: Answer
    expect: Expect
    fold: Fold
    clients: Callable[[Config, int], Sequence[int]] = in_round
    remind: Ask | None = None
    weights_in: WeightsIn = plain_weights


@dataclass(frozen=True)
class Method:
    """A method: how it begins, its exchanges, what it owns, and how it is shown.

    start(server) -> State; `training`: the exchange of a round; prelude(config) -> the exchanges before training.
    `settings`: the class of the settings that are its own. `label` and `family` name it in figures; the families are
    "reference", "masks that stay" and "masks that change". `knobs`: settings of its own that tuning tries, with their
    values. `model`: the network that it trains in place of `config.model`, if it has one of its own.
    `mask_of(server, state, k)`: client k's mask, where each client has its own; it follows from `state.of_clients[k]`.
    `extra(task, mask)`: what a state under `mask` holds in `extra` during training, each tensor with its check;
    `of_client(task, mask)`: what it holds of a client in `of_clients`. A checkpoint is held to both.
    Raises ValueError for another family, for settings that are no such class or that have the name of one that every
    run has, and for a knob that is none of them.
    """

    label: str
    family: str
    start: Callable[[Server], State]
    training: Exchange
    prelude: Callable[[Config], Sequence[Exchange]] = lambda config: ()
    settings: type[Settings] = Settings
    knobs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    model: OwnNetwork | None = None
    mask_of: Callable[[Server, State, int], Mask] | None = None
    extra: Callable[[Task, Mask], Mapping[str, Check]] = lambda task, mask: {}
    of_client: Callable[[Task, Mask], Mapping[str, Check]] = lambda task, mask: {}

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family = {self.family!r} of {self.label}: choose one of {', '.join(FAMILIES)}")
        if not is_declared(self.settings):
            raise ValueError(
                f"settings = {self.settings!r} of {self.label}: give a class that is derived from "
                "fedtiny_lite.settings.Settings, with @dataclass(frozen=True, kw_only=True) above it"
            )
        own = names(self.settings)
        for name in own & names(Config):
            raise ValueError(f"settings of {self.label}: {name} is a setting that every run has; choose another name")
        for name in self.knobs.keys() - own:
            its = ", ".join(sorted(own)) or "none"
            raise ValueError(f"knobs of {self.label}: {name} is no setting of its own; those are {its}")


def exchange_at(method: Method, config: Config, index: int) -> Exchange:
    """The exchange at a place of the method's prelude; -1: that of training."""
    return (*method.prelude(config), method.training)[index]


class Answered(NamedTuple):
    """What comes back from a client: its packed reply; its memory, which stays with it; what the reply cost (see
    `state.Reply`); the engines that trained.
    """

    reply: bytes
    memory: bytes
    flops: int
    kept: int
    state_bytes: int
    trained_on: tuple[str, ...]


def answer_question(client: Client, exchange: Exchange, question: bytes) -> Answered:
    """The client's side of an exchange: mask up to date, then the method's answer.

    Beside what the method says, a reply tells the client's number of images, the version of the mask that it answers
    under, and the one that it holds afterwards. A client that cannot bring its mask up to date says just that.
    """
    message, held = unpack(question), client.version
    if not take_mask(client, message):
        refusal = pack({}, samples=len(client.split), version=held, holds=held)
        return Answered(refusal, packed_memory(client), 0, 0, 0, ())
    private = client.config.clip_norm > 0
    before = receive(client, message)[0] if private and "weights" in message.tensors else {}
    found = exchange.answer(client, message)
    tensors = disturb(client, before, found.tensors)
    meta = dict(found.meta) | {"samples": len(client.split), "version": message.meta["version"]}
    packed = pack(tensors, **meta, holds=client.version)
    engines = tuple(sorted(client.trained_on))
    return Answered(packed, packed_memory(client), found.flops, found.kept, found.state_bytes, engines)


class Heard(NamedTuple):
    """What the server hears of an `Answered`: of the client's memory the digest alone (`memory.digest`)."""

    reply: bytes
    memory: str
    flops: int
    kept: int
    state_bytes: int
    trained_on: tuple[str, ...]


class Lost(NamedTuple):
    """What the server has of a client that gave no answer: the reason.

    `forgot`: the client is there but lost its memory, so it has to be sent everything.
    """

    why: str
    forgot: bool = False
