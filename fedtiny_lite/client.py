"""Everything that may touch a client's samples: what a client holds, receives, trains and returns."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.costs import LayerShape, training_flops
from fedtiny_lite.data import Split
from fedtiny_lite.masks import Mask
from fedtiny_lite.messages import Message, decode_mask, decode_state, encode_mask, read_mask
from fedtiny_lite.models import load_state, state_of
from fedtiny_lite.seeding import numpy_generator, torch_generator
from fedtiny_lite.training import Normalisation, train


@dataclass
class Client:
    """One client in one exchange.

    `split`: its own samples. `model`: scratch space, filled anew from each message. `state_shapes` and
    `mask_shapes`: names and shapes of the model's state and of its prunable weights, in order. `memory`: what
    the client keeps from one exchange to the next, such as its mask.
    """

    id: int
    round: int
    config: Config
    split: Split
    pixels: Normalisation
    model: nn.Module
    layers: tuple[LayerShape, ...]
    state_shapes: Mapping[str, torch.Size]
    mask_shapes: Mapping[str, torch.Size]
    memory: dict[str, Tensor]

    def generator(self, purpose: str) -> torch.Generator:
        """This client's own randomness in this round."""
        return torch_generator(self.config.seed, purpose, self.round, self.id)

    def development_split(self) -> Split:
        """The share of its samples that judges candidates, the same in every exchange; they still train later."""
        size = max(2, round(self.config.dev_fraction * len(self.split)))
        order = numpy_generator(self.config.seed, "development", self.id).permutation(len(self.split))
        return self.split.take(order[:size])


def receive(client: Client, message: Message) -> tuple[dict[str, Tensor], Mask]:
    """The model's state and mask of a message; a changed mask is remembered for the messages to come."""
    if "mask" in message.tensors:
        remember_mask(client, message.tensors["mask"])
    mask = remembered_mask(client)
    return decode_state(message.tensors["weights"], mask, client.state_shapes), mask


def remember_mask(client: Client, packed: Tensor) -> None:
    """Exchange the layers that `packed` holds in the client's mask."""
    layers = decode_mask(packed, client.mask_shapes)
    if len(layers) < len(client.mask_shapes):
        layers = dict(remembered_mask(client)) | layers
    client.memory["mask"] = encode_mask(layers, list(client.mask_shapes))


def remembered_mask(client: Client) -> Mask:
    """The mask the client holds."""
    return read_mask(client.memory["mask"].numpy().tobytes(), tuple(client.mask_shapes.items()))


def train_locally(client: Client, state: dict[str, Tensor], mask: Mask) -> tuple[dict[str, Tensor], int]:
    """The state after the round's local epochs of masked SGD, on the CPU, and the FLOPs they cost."""
    load_state(client.model, state)
    config, device = client.config, client.split.images.device
    train(
        client.model,
        client.split,
        client.pixels,
        mask.to(device),
        config,
        config.local_epochs,
        client.generator("train"),
    )
    samples = config.local_epochs * len(client.split)
    trained = {name: tensor.cpu() for name, tensor in state_of(client.model).items()}
    return trained, training_flops(client.layers, mask.kept) * samples
