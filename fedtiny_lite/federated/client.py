"""A client in one round: what it holds, receives, trains and returns."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.formats import decode_mask, encode_mask, read_mask
from fedtiny_lite.federated.messages import Message, decode_state, pack, unpack
from fedtiny_lite.federated.state import Reply
from fedtiny_lite.federated.task import Task, new_model
from fedtiny_lite.model.costs import growth_flops, model_state_memory, other_sizes, training_flops
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.networks import load_state, state_of
from fedtiny_lite.model.training import Evaluation, OnGradient, epoch_batches, training_batch
from fedtiny_lite.pruning.progressive import GrowthList
from fedtiny_lite.seeding import numpy_generator, torch_generator
from fedtiny_lite.sparse.engine import DENSE, Engine, engine_for

EMPTY_MEMORY = pack({}, version=0)
"""The memory of a client that was never asked."""


@dataclass
class Client:
    """One client in one exchange.

    `split`: its own samples. `model`: scratch space; whatever computes with it loads the state first. `memory`: the
    tensors that the method keeps at the client from one exchange to the next. `packed_mask`, `version`: the mask that
    the client holds and which one it is (0 = none). `trained_on`: names of the engines that trained in this exchange.
    """

    task: Task
    id: int
    round: int
    split: Split
    model: nn.Module
    memory: dict[str, Tensor]
    packed_mask: Tensor | None
    version: int
    augmentation: torch.Generator = field(init=False)
    trained_on: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.augmentation = self.generator("augment")

    @property
    def config(self) -> Config:
        """The run's settings."""
        return self.task.config

    @property
    def mask(self) -> Mask:
        """The mask that the client holds. Raises ValueError if it holds none."""
        if self.packed_mask is None:
            raise ValueError(f"client {self.id} holds no mask yet; the server sends it with the first question")
        return read_mask(self.packed_mask.numpy().tobytes(), tuple(self.task.mask_shapes.items()))

    def hold_own_mask(self, mask: Mask) -> None:
        """Exchange the mask for one of the client's own making, which it must send to the server."""
        self.packed_mask, self.version = encode_mask(mask, list(self.task.mask_shapes)), self.version + 1

    def generator(self, purpose: str) -> torch.Generator:
        """This client's own randomness in this round."""
        return torch_generator(self.config.seed, purpose, self.round, self.id)

    def engine(self, mask: Mask) -> Engine:
        """The engine that computes the client's model under `mask`."""
        return engine_for(self.config, self.model, self.task.layers, mask.kept)

    def development_split(self, fraction: float) -> Split:
        """The share of its samples that judges candidates, the same in every exchange; they still train later."""
        order = numpy_generator(self.config.seed, "development", self.id).permutation(len(self.split))
        return self.split.take(order[: development_samples(len(self.split), fraction)])


def development_samples(samples: int, fraction: float) -> int:
    """Images in the development split of a client with so many samples: at least two, for BN statistics."""
    return max(2, round(fraction * samples))


def build_client(
    task: Task, k: int, r: int, split: Split, memory: bytes = EMPTY_MEMORY, model: nn.Module | None = None
) -> Client:
    """Client k in round r, from the task, its own samples and what it remembers.

    `model`: scratch space to use again, for a process in which many clients take turns.
    """
    remembered = unpack(memory)
    tensors = dict(remembered.tensors)
    mask = tensors.pop("held mask", None)
    model, version = model or new_model(task), remembered.meta["version"]
    return Client(task, k, r, laid_out(split), model, tensors, mask, version)


def laid_out(split: Split) -> Split:
    """The same samples in one layout of memory, however they were read.

    Torch chooses among kernels, which differ in last bits, by strides, and those of a single channel may be any.
    """
    images = split.images.contiguous()
    if images.shape[1] == 1:
        images = images.reshape(len(images), *images.shape[2:], 1).permute(0, 3, 1, 2)
    return Split(images, split.labels)


def packed_memory(client: Client) -> bytes:
    """What the client keeps until the next exchange, as bytes for `build_client`."""
    mask = {} if client.packed_mask is None else {"held mask": client.packed_mask}
    return pack(client.memory | mask, version=client.version)


def take_mask(client: Client, message: Message) -> bool:
    """Bring the client's mask to the version that the message names; whether that succeeded.

    The message holds the layers that the server thinks are lacking. They do not suffice if the client forgot the rest.
    """
    sent, known = message.tensors.get("mask"), message.meta.get("known", 0)
    layers = {} if sent is None else decode_mask(sent, client.task.mask_shapes)
    if len(layers) < len(client.task.mask_shapes):
        if client.version != known:
            return False
        layers = dict(client.mask) | layers
    if sent is not None:
        order = list(client.task.mask_shapes)
        client.packed_mask = encode_mask({name: layers[name] for name in order}, order)
    client.version = message.meta["version"]
    return True


def receive(client: Client, message: Message) -> tuple[dict[str, Tensor], Mask]:
    """The model's state that a message holds, and the mask under which it came."""
    mask = client.mask
    return decode_state(message.tensors["weights"], mask, client.task.state_shapes), mask


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
    kept, split, task = mask.to(client.split.images.device), client.split, client.task
    engine = DENSE if on_gradient else client.engine(mask)
    engine.train(client.model, split, task.pixels, kept, task.config, schedule, client.augmentation, on_gradient)
    client.trained_on.add(engine.name)
    trained = {name: tensor.cpu() for name, tensor in state_of(client.model).items()}
    return trained, training_flops(task.layers, mask.kept) * sum(map(len, schedule))


def local_schedule(client: Client) -> list[Tensor]:
    """The batches of the round's local epochs, as indices into the client's split."""
    return epoch_batches(client.split, client.config.local_epochs, client.config, client.generator("train"))


def evaluate_locally(client: Client, state: dict[str, Tensor], mask: Mask, split: Split) -> Evaluation:
    """Loss and accuracy of `state` on some of the client's images."""
    load_state(client.model, state)
    return client.engine(mask).evaluate(client.model, mask, split, client.task.pixels)


def growth_batch(client: Client, size: int) -> tuple[Tensor, Tensor]:
    """The images and labels that growth gradients are taken on, at most `size`."""
    generator = client.generator("growth")
    index = torch.randperm(len(client.split), generator=generator)[:size]
    return training_batch(client.split, index, client.task.pixels, client.config.augment, generator)


def list_gradients(
    client: Client, state: dict[str, Tensor], mask: Mask, counts: Mapping[str, int], batch: int
) -> tuple[dict[str, GrowthList], int]:
    """The largest gradients of pruned positions at `state` on one batch, and the FLOPs they cost beside training."""
    if not counts:
        return {}, 0
    images, labels = growth_batch(client, batch)
    load_state(client.model, state)
    lists = client.engine(mask).growth_lists(client.model, mask.to(images.device), counts, images, labels)
    return lists, growth_flops(client.task.layers, mask.kept, tuple(counts)) * len(images)


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
    others = other_sizes(client.model)
    state_bytes = model_state_memory(client.task.layers, mask.kept, *others, list_entries, dense_gradient)
    return Reply(tensors, flops, mask.total, state_bytes)
