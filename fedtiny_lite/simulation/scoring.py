"""What a record says of the server's model: accuracy and loss on the scored images, achieved densities, totals."""

import torch

from fedtiny_lite.federated.protocol import Method, State
from fedtiny_lite.model.masks import check_masked, kept_parameters
from fedtiny_lite.model.networks import load_state
from fedtiny_lite.model.training import correct_by_class
from fedtiny_lite.simulation.setup import Federation
from fedtiny_lite.sparse.engine import engine_for


def score(federation: Federation, state: State) -> dict:
    """Accuracy and loss of the server's model on the images that the run is scored on, and its achieved densities.

    `model_density`: kept / all parameters of `config.model`, where a small model stands in for it too;
    `prunable_density`: kept / all prunable weights of the model that is trained.
    """
    server, on = federation.server, federation.server.config.score_on
    load_state(server.model, state.weights)
    engine = engine_for(server.config, server.model, federation.layers, state.mask.kept)
    found = engine.evaluate(server.model, state.mask, federation.test, server.pixels)
    return {
        f"{on}_accuracy": found.correct / found.count,
        f"{on}_loss": found.loss_sum / found.count,
        "model_density": kept_parameters(state.weights, state.mask) / server.parameters,
        "prunable_density": state.mask.prunable_density,
        "empty_layers": list(state.mask.empty),
    }


def final(federation: Federation, method: Method, record: dict, state: State) -> dict:
    """What a finished run comes to: the last scores, the sums and the largest of its costs, what is kept."""
    last = record["rounds"][-1] if record["rounds"] else record["start"]
    entries = record["prelude"] + record["rounds"]
    totals = ("bytes_up", "bytes_down", "training_flops", "seconds")
    largest = ("client_flops", "client_state_bytes")
    personal = {"personal_accuracy": _personal_accuracy(federation, method, state)} if method.personal else {}
    return (
        {name: last[name] for name in record["start"] if name != "round"}
        | {name: sum(entry[name] for entry in entries) for name in totals}
        | {f"most_{name}": max((entry[name] for entry in entries), default=0) for name in largest}
        | {"kept": state.mask.kept, "client_kept": last.get("client_kept", state.mask.total)}
        | personal
    )


def _personal_accuracy(federation: Federation, method: Method, state: State) -> float:
    """Each client's own model on the scored images, whose classes count as often as they do among its samples; the
    mean over clients.
    """
    server, accuracies = federation.server, []
    for k, split in enumerate(federation.splits):
        weights, mask = method.personal(server, state, k)
        check_masked(weights, mask)
        load_state(server.model, weights)
        correct, counts = correct_by_class(server.model, federation.test, server.pixels, federation.classes)
        share = torch.bincount(split.labels, minlength=federation.classes) / len(split)
        accuracies.append(float((share * correct / counts.clamp(min=1)).sum()))
    return sum(accuracies) / len(accuracies)
