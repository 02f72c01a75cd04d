"""FL-PQSU (Xu et al., IEEE Access 2021; code fangvv/FL-PQSU): pruning once, 8-bit exchange, selective upload.

The server prunes the pretrained model by magnitude; both directions then carry one byte a kept value, batch norm
included, with a scale and a zero point per tensor; a client uploads only when its loss has fallen below that of its
last upload, and the server averages everyone's last upload, as the authors' code does.

Deviations: single weights are pruned, at one density in every layer, as in FedTiny's comparison; the authors prune
whole filters. The loss is that of the trained model on the client's development split, not of its last training batch,
so that two rounds are compared on the same images. Averages are weighted by samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedtiny_lite.federated.checks import Check, model_values, numbers
from fedtiny_lite.federated.client import Client, evaluate_locally, reply, train_locally
from fedtiny_lite.federated.messages import Message, decode_state, encode_state, state_lengths
from fedtiny_lite.federated.privacy import disturb
from fedtiny_lite.federated.protocol import Exchange, Method, Note
from fedtiny_lite.federated.quantisation import dequantise_parts, quantise_parts
from fedtiny_lite.federated.server import Server, average
from fedtiny_lite.federated.state import Question, Reply, State
from fedtiny_lite.federated.task import Task
from fedtiny_lite.methods import magnitude
from fedtiny_lite.methods._settings import Development
from fedtiny_lite.model.costs import forward_flops
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(Development):
    """FL-PQSU's own setting, and how many images a client judges its upload on."""

    selective_upload: str = setting(
        "yes", "whether clients upload only when their loss fell since their last upload", choices=("yes", "no")
    )


def start(server: Server) -> State:
    """The pretrained weights under the uniform magnitude mask; nobody has uploaded yet.

    `of_clients`: the `upload`, float32 [numbers], that a client sent last, and its `samples`, int64 [].
    """
    return magnitude.start(server)


def lengths(task: Task, mask: Mask) -> list[int]:
    """Numbers that each tensor of the model's state sends."""
    return state_lengths(mask, task.state_shapes)


def ask(server: Server, state: State, r: int) -> Question:
    """The model in 8 bits."""
    weights = encode_state(state.weights, state.mask)
    return Question(quantise_parts(weights, lengths(server.task, state.mask)), with_model=False)


def answer(client: Client, message: Message) -> Reply:
    """The trained weights in 8 bits, or no tensor. With `clip_norm` the update is clipped before it is rounded."""
    mask = client.mask
    sizes = lengths(client.task, mask)
    state = decode_state(dequantise_parts(message.tensors, sizes), mask, client.task.state_shapes)
    trained, flops = train_locally(client, state, mask)
    worth, judging = worth_uploading(client, trained, mask)
    sent = disturb(client, state, {"weights": encode_state(trained, mask)})["weights"]
    return reply(client, quantise_parts(sent, sizes) if worth else {}, mask, flops + judging)


def worth_uploading(client: Client, trained: dict[str, Tensor], mask: Mask) -> tuple[bool, int]:
    """Whether the trained model's loss fell below that of the client's last upload, and the FLOPs of finding out.

    A loss that is no number is uploaded, for the server to reject.
    """
    own = client.config.of(Settings)
    if own.selective_upload == "no":
        return True, 0
    split, last = client.development_split(own.dev_fraction), client.memory.get("loss")
    loss = torch.tensor(evaluate_locally(client, trained, mask, split).loss_sum / len(split))
    worth = last is None or not bool(loss >= last)
    if worth:
        client.memory["loss"] = loss
    return worth, forward_flops(client.task.layers, mask.kept) * len(split)


def expect(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """Codes with a scale and a zero point per tensor, or nothing from a client that does not upload.

    Finite scales can still make infinite numbers or negative variances, so what the codes stand for is checked too.
    """
    if not reply.tensors and server.task.config.of(Settings).selective_upload == "yes":
        return {}
    sizes = lengths(server.task, state.mask)
    codes, per_tensor = numbers(sum(sizes), dtype=torch.uint8), numbers(len(sizes))

    def zeros(tensor: Tensor) -> None:  # the last that is looked at: codes and scales are right by then
        per_tensor(tensor)
        model_values(server.task, state.mask)(dequantise_parts(reply.tensors, sizes))

    return {"codes": codes, "scales": numbers(len(sizes), low=0), "zeros": zeros}


def weights_in(task: Task, mask: Mask, reply: Message) -> Tensor | None:
    """The weights that the codes stand for, if the client uploads."""
    return dequantise_parts(reply.tensors, lengths(task, mask)) if reply.tensors else None


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The average of the clients' last uploads; the record is told who uploaded."""
    uploads = ((reply, weights_in(server.task, state.mask, reply)) for reply in replies)
    sent = {
        reply.meta["client"]: {"upload": upload, "samples": torch.tensor(reply.meta["samples"])}
        for reply, upload in uploads
        if upload is not None
    }
    known = replace(state, of_clients={**state.of_clients, **sent})
    last = last_uploads(known)
    weights = average(server, state, last) if last else state.weights
    return replace(known, weights=weights), {"uploaded": list(sent)}


def last_uploads(state: State) -> Sequence[Message]:
    """The last upload of each client that ever uploaded, as a message, in order of client number."""
    held = [state.of_clients[k] for k in sorted(state.of_clients)]
    return [Message({"samples": int(of_one["samples"])}, {"weights": of_one["upload"]}) for of_one in held]


def of_client(task: Task, mask: Mask) -> Mapping[str, Check]:
    """The checks of what the server keeps of a client."""
    return {"upload": numbers(sum(lengths(task, mask))), "samples": numbers(dtype=torch.int64, low=1)}


METHOD = Method(
    "FL-PQSU",
    "masks that stay",
    start,
    Exchange("train", ask, answer, expect, fold, weights_in=weights_in),
    settings=Settings,
    of_client=of_client,
)
