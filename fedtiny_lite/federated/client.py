"""Everything that may touch a client's samples: what a client holds, receives, trains and returns."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.messages import Message, decode_mask, decode_state, encode_mask, read_mask
from fedtiny_lite.federated.protocol import Reply
from fedtiny_lite.model.costs import LayerShape, model_state_memory, other_sizes, training_flops
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.networks import load_state, state_of
from fedtiny_lite.model.training import Normalisation, OnGradient, epoch_batches, training_batch
from fedtiny_lite.seeding import numpy_generator, torch_generator
from fedtiny_lite.sparse.engine import DENSE, Engine, engine_for


@dataclass
class Client:
    """One client in one exchange.

    `split`: its own samples. `model`: scratch space, filled anew from each message. `state_shapes` and
    `mask_shapes`: names and shapes of the model's state and of its prunable weights, in order. `memory`: what
    the client keeps from one exchange to the next, such as its mask. `augmentation`: the exchange's randomness of
    crops and flips. `trained_on`: names of the engines that trained in this exchange.
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
    augmentation: torch.Generator = field(init=False)
    trained_on: set[str] = field(default_factory=set, init=False)

    def __post_init__(self):
        self.augmentation = self.generator("augment")

    def generator(self, purpose: str) -> torch.Generator:
        """This client's own randomness in this round."""
        return torch_generator(self.config.seed, purpose, self.round, self.id)

    def engine(self, mask: Mask) -> Engine:
        """The engine that computes the client's model under `mask`."""
        return engine_for(self.config, self.model, self.layers, mask.kept)

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


def train_locally(
    client: Client,
    state: dict[str, Tensor],
    mask: Mask,
    schedule: Sequence[Tensor] | None = None,
    on_gradient: OnGradient | None = None,
) -> tuple[dict[str, Tensor], int]:
    """The state after masked SGD over `schedule`, by default the round's, on the CPU, and the FLOPs that it cost.

    `on_gradient` needs dense gradients, so the dense engine.
    """
    schedule = local_schedule(client) if schedule is None else schedule
    load_state(client.model, state)
    kept = mask.to(client.split.images.device)
    engine = DENSE if on_gradient else client.engine(mask)
    engine.train(
        client.model, client.split, client.pixels, kept, client.config, schedule, client.augmentation, on_gradient
    )
    client.trained_on.add(engine.name)
    trained = {name: tensor.cpu() for name, tensor in state_of(client.model).items()}
    return trained, training_flops(client.layers, mask.kept) * sum(map(len, schedule))


def local_schedule(client: Client) -> list[Tensor]:
    """The batches of the round's local epochs, as indices into the client's split."""
    return epoch_batches(client.split, client.config.local_epochs, client.config, client.generator("train"))


def growth_batch(client: Client) -> tuple[Tensor, Tensor]:
    """The images and labels that growth gradients are taken on."""
    generator = client.generator("growth")
    index = torch.randperm(len(client.split), generator=generator)[: client.config.growth_batch]
    return training_batch(client.split, index, client.pixels, client.config.augment, generator)


def reply(
    client: Client,
    tensors: Mapping[str, Tensor],
    mask: Mask,
    flops: int,
    list_entries: int = 0,
    dense_gradient: Collection[str] = (),
) -> Reply:
    """What goes back after training under `mask`.

    `list_entries`: the longest growth list held beside the model; `dense_gradient`: the layers whose gradient the
    client held whole. Both count as memory.
    """
    state_bytes = model_state_memory(client.layers, mask.kept, *other_sizes(client.model), list_entries, dense_gradient)
    return Reply(tensors, {"samples": len(client.split)}, flops, mask.total, state_bytes)
