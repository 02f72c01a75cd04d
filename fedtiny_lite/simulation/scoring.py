"""What a record says of the server's model: accuracy and loss on the scored images, achieved densities, totals."""

from typing import Any

import torch

from fedtiny_lite.federated.checks import inspect, numbers
from fedtiny_lite.federated.messages import pack, unpack
from fedtiny_lite.federated.protocol import Lost, Method
from fedtiny_lite.federated.state import State, masked_start
from fedtiny_lite.model.masks import kept_parameters
from fedtiny_lite.model.networks import load_state
from fedtiny_lite.model.training import correct_by_class
from fedtiny_lite.simulation.places import Place
from fedtiny_lite.simulation.setup import Federation
from fedtiny_lite.sparse.engine import engine_for

TOTALS = ("bytes_up", "bytes_down", "training_flops", "seconds")
MAXIMA = ("client_flops", "client_state_bytes")
"""Costs of an exchange, of which a finished run states the sums and the largest."""


def score(federation: Federation, state: State) -> dict[str, Any]:
    """Accuracy and loss of the server's model on the images that the run is scored on, and its achieved densities.

    `model_density`: kept / all parameters of `config.model`, where a small model stands in for it too;
    `prunable_density`: kept / all prunable weights of the model that is trained.
    """
    server, task, on = federation.server, federation.task, federation.task.config.score_on
    load_state(server.model, state.weights)
    engine = engine_for(task.config, server.model, task.layers, state.mask.kept)
    found = engine.evaluate(server.model, state.mask, federation.holdings.test, task.pixels)
    return {
        f"{on}_accuracy": found.correct / found.count,
        f"{on}_loss": found.loss_sum / found.count,
        "model_density": kept_parameters(state.weights, state.mask) / task.parameters,
        "prunable_density": state.mask.prunable_density,
        "empty_layers": list(state.mask.empty),
    }


def final(federation: Federation, method: Method, record: dict[str, Any], state: State, place: Place) -> dict[str, Any]:
    """What a finished run comes to: the last scores, the sums and the largest of its costs, what is kept."""
    last = record["rounds"][-1] if record["rounds"] else record["start"]
    entries = record["prelude"] + record["rounds"]
    personal = personal_accuracy(federation, method, state, place) if method.mask_of else {}
    return (
        {name: last[name] for name in record["start"] if name != "round"}
        | {name: sum(entry[name] for entry in entries) for name in TOTALS}
        | {f"most_{name}": max((entry[name] for entry in entries), default=0) for name in MAXIMA}
        | {"kept": state.mask.kept, "client_kept": last.get("client_kept", state.mask.total)}
        | personal
    )


def personal_accuracy(federation: Federation, method: Method, state: State, place: Place) -> dict[str, float]:
    """The clients' own models on the scored images, whose classes count as often as they do among a client's samples;
    the mean over the clients that answer with an accuracy, as the entry of the record; none if nobody does. Classes
    without a scored image do not count, and neither does a client that has no other class.

    An exchange of its own: the server measures each model's accuracy class by class, and the client weighs the classes
    by its labels, which stay with it. It is no part of the method, so its bytes are not counted.
    """
    questions = {k: _by_class(federation, method, state, k) for k in range(federation.task.config.clients)}
    replies = sorted((k, reply) for k, reply in place.weigh(questions) if not isinstance(reply, Lost))
    accuracies = [accuracy for _, reply in replies if (accuracy := _accuracy_in(reply)) is not None]
    return {"personal_accuracy": sum(accuracies) / len(accuracies)} if accuracies else {}


def _accuracy_in(reply: bytes) -> float | None:
    """The accuracy that a client sent; None for a reply that is no accuracy, such as NaN."""
    try:
        message = unpack(reply)
        inspect(message, {"accuracy": numbers(dtype=torch.float64, low=0, high=1)})
    except ValueError:
        return None
    return float(message.tensors["accuracy"])


def _by_class(federation: Federation, method: Method, state: State, k: int) -> bytes:
    """The accuracy in each class, float64 [classes], of client k's model as the server knows it; NaN where no image of
    the class is scored.
    """
    server = federation.server
    assert method.mask_of is not None
    load_state(server.model, masked_start(state.weights, method.mask_of(server, state, k)).weights)
    test, task = federation.holdings.test, federation.task
    correct, counts = correct_by_class(server.model, test, task.pixels, task.classes)
    return pack({"accuracy": correct.double() / counts})
