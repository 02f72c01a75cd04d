"""Federated averaging under a mask that stays as it is: the training exchange of every static method."""

from collections.abc import Mapping
from dataclasses import replace

from fedtiny_lite.federated.checks import Check, model_values
from fedtiny_lite.federated.client import Client, receive, reply, train_locally
from fedtiny_lite.federated.messages import Message, encode_state
from fedtiny_lite.federated.protocol import Exchange, Note
from fedtiny_lite.federated.server import Server, average
from fedtiny_lite.federated.state import Question, Reply, State


def send_model(server: Server, state: State, r: int) -> Question:
    """The model, and no more."""
    return Question()


def train_and_return(client: Client, message: Message) -> Reply:
    """Local epochs on the weights received; only the kept weights go back."""
    state, mask = receive(client, message)
    trained, flops = train_locally(client, state, mask)
    return reply(client, {"weights": encode_state(trained, mask)}, mask, flops)


def expect_weights(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """The trained weights under the server's mask."""
    return {"weights": model_values(server.task, state.mask)}


def fold_average(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The average of the accepted clients."""
    return replace(state, weights=average(server, state, replies)), {}


AVERAGING = Exchange("train", send_model, train_and_return, expect_weights, fold_average)
