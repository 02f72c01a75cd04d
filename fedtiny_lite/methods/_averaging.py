"""Federated averaging under a mask that stays as it is: the training exchange of every static method."""

from dataclasses import replace

from fedtiny_lite.federated.client import Client, receive, reply, train_locally
from fedtiny_lite.federated.messages import Message, encode_state
from fedtiny_lite.federated.protocol import Exchange, Reply, State
from fedtiny_lite.federated.server import Server, average, send_model


def train_and_return(client: Client, message: Message) -> Reply:
    """Local epochs on the weights received; only the kept weights go back."""
    state, mask = receive(client, message)
    trained, flops = train_locally(client, state, mask)
    return reply(client, {"weights": encode_state(trained, mask)}, mask, flops)


def fold_average(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The average of the accepted clients; the mask is now with all of them."""
    return replace(state, weights=average(server, state, replies), unsent=()), {}


AVERAGING = Exchange("train", send_model, train_and_return, fold_average)
