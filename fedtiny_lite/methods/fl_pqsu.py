"""FL-PQSU (Xu et al., IEEE Access 2021; code fangvv/FL-PQSU): pruning once, 8-bit exchange, selective upload.

The server prunes the pretrained model by magnitude; both directions then carry one byte a kept value, batch norm
included, with a scale and a zero point per tensor; a client uploads only when its loss has fallen below that of its
last upload, and the server averages everyone's last upload, as the authors' code does.

Deviations: single weights are pruned, at one density in every layer, as in FedTiny's comparison; the authors prune
whole filters. The loss is that of the trained model on the client's development split, not of its last training batch,
so that two rounds are compared on the same images. Averages are weighted by samples.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedtiny_lite.federated.client import Client, receive, remember_mask, remembered_mask, reply, train_locally
from fedtiny_lite.federated.messages import Message, encode_state
from fedtiny_lite.federated.protocol import Exchange, Method, Reply, State
from fedtiny_lite.federated.quantisation import dequantise_parts, quantise_parts
from fedtiny_lite.federated.server import Server, average, masked_start, pretrained, send_model
from fedtiny_lite.model.costs import forward_flops
from fedtiny_lite.model.masks import Mask, magnitude_mask, uniform_counts


def start(server: Server) -> State:
    """The pretrained weights under the uniform magnitude mask; nobody has uploaded yet.

    `uploads`: each client's last upload, float32 [clients, numbers]; `samples`: its images, 0 before its first upload.
    """
    weights, clients = pretrained(server), server.config.clients
    state = masked_start(weights, magnitude_mask(weights, uniform_counts(server.sizes, server.budget)))
    uploads = torch.zeros(clients, sum(lengths(server, state.mask)))
    return replace(state, extra={"uploads": uploads, "samples": torch.zeros(clients, dtype=torch.int64)})


def lengths(holder: Server | Client, mask: Mask) -> list[int]:
    """Numbers that each tensor of the model's state sends."""
    return [mask.kept.get(name, shape.numel()) for name, shape in holder.state_shapes.items()]


def ask(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The model in 8 bits, with its mask the first time."""
    tensors, meta = send_model(server, state, r)
    weights = tensors.pop("weights")
    return tensors | quantise_parts(weights, lengths(server, state.mask)), meta


def answer(client: Client, message: Message) -> Reply:
    """The trained weights in 8 bits, or nothing but the number of samples."""
    if "mask" in message.tensors:
        remember_mask(client, message.tensors["mask"])
    sizes = lengths(client, remembered_mask(client))
    state, mask = receive(client, Message(message.meta, {"weights": dequantise_parts(message.tensors, sizes)}))
    trained, flops = train_locally(client, state, mask)
    worth, judging = worth_uploading(client, mask)
    tensors = quantise_parts(encode_state(trained, mask), sizes) if worth else {}
    return reply(client, tensors, mask, flops + judging)


def worth_uploading(client: Client, mask: Mask) -> tuple[bool, int]:
    """Whether the trained model's loss fell below that of the client's last upload, and the FLOPs of finding out.

    A loss that is no number is uploaded, for the server to reject.
    """
    if client.config.selective_upload == "no":
        return True, 0
    split, last = client.development_split(), client.memory.get("loss")
    loss = torch.tensor(client.engine(mask).evaluate(client.model, mask, split, client.pixels).loss_sum / len(split))
    worth = last is None or not bool(loss >= last)
    if worth:
        client.memory["loss"] = loss
    return worth, forward_flops(client.layers, mask.kept) * len(split)


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The average of the clients' last uploads; the record is told who uploaded."""
    uploads, samples = state.extra["uploads"].clone(), state.extra["samples"].clone()
    sent = {message.meta["client"]: message for message in replies if "codes" in message.tensors}
    for k, message in sent.items():
        uploads[k] = dequantise_parts(message.tensors, lengths(server, state.mask))
        samples[k] = message.meta["samples"]
    last = [Message({"samples": int(samples[k])}, {"weights": uploads[k]}) for k in samples.nonzero().flatten()]
    weights = average(server, state, last)
    return State(weights, state.mask, extra={"uploads": uploads, "samples": samples}), {"uploaded": list(sent)}


METHOD = Method(start, Exchange("train", ask, answer, fold))
