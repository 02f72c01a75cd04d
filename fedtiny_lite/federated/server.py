"""Everything that may not touch a client's samples: the public set, pretraining, aggregation."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.messages import Message, decode_state
from fedtiny_lite.federated.state import State
from fedtiny_lite.federated.task import Task, new_model
from fedtiny_lite.model.masks import Mask, union_of
from fedtiny_lite.model.networks import load_state, state_of
from fedtiny_lite.model.training import epoch_batches, one_thread, train
from fedtiny_lite.progress_bar import progress_bar
from fedtiny_lite.seeding import torch_generator


@dataclass(frozen=True)
class Server:
    """What the server has: the task, its public set, a scratch model, and the untrained weights."""

    task: Task
    public: Split
    model: nn.Module
    initial: dict[str, Tensor]


def build_server(task: Task, public: Split) -> Server:
    """The server of a run, its untrained weights drawn from the run's seed."""
    model = new_model(task, torch_generator(task.config.seed, "initial_weights"))
    initial = {name: tensor.cpu() for name, tensor in state_of(model).items()}
    return Server(task, public.to(task.config.torch_device), model, initial)


def full_mask(shapes: Mapping[str, torch.Size]) -> Mask:
    """A mask that keeps every weight."""
    return Mask({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})


def pretrained(server: Server) -> dict[str, Tensor]:
    """The state that every method starts from: trained densely on the public set alone.

    The last few are remembered in the process, as the runs of a sweep mostly share them.
    """
    key = _pretraining_key(server)
    if key not in _PRETRAINED:
        while len(_PRETRAINED) >= REMEMBERED:
            del _PRETRAINED[next(iter(_PRETRAINED))]
        _PRETRAINED[key] = _pretrain(server)
    return {name: tensor.clone() for name, tensor in _PRETRAINED[key].items()}


REMEMBERED = 10
_PRETRAINED: dict[tuple[object, ...], dict[str, Tensor]] = {}


def _pretraining_key(server: Server) -> tuple[object, ...]:
    """All that pretraining depends on: settings, and a digest of the initial weights and the public set."""
    config, digest = server.task.config, hashlib.sha256()
    for tensor in (*server.initial.values(), server.public.images, server.public.labels):
        digest.update(tensor.cpu().contiguous().numpy().data)
    names = ("seed", "pretrain_epochs", "pretrain_lr", "batch_size", "momentum", "weight_decay", "augment")
    pixels = server.task.pixels
    return config.model, digest.digest(), config.torch_device, pixels, *(getattr(config, name) for name in names)


def _pretrain(server: Server) -> dict[str, Tensor]:
    mask, epochs = full_mask(server.task.mask_shapes), server.task.config.pretrain_epochs
    return train_on_public(server, server.initial, mask, epochs, "pretrain")


def train_on_public(
    server: Server, weights: dict[str, Tensor], mask: Mask, epochs: int, purpose: str
) -> dict[str, Tensor]:
    """The state after `epochs` epochs of masked SGD from `weights` on the public set, at the rate of pretraining.

    `purpose` names the source of the batches' order (`seeding`), the same for every mask.
    """
    task = server.task
    config, generator = replace(task.config, lr=task.config.pretrain_lr), torch_generator(task.config.seed, purpose)
    mask = mask.to(server.public.images.device)
    load_state(server.model, weights)
    schedule = epoch_batches(server.public, epochs, config, generator)
    steps = progress_bar(schedule, f"{purpose} on the server", "step", delay=1)
    with one_thread():  # a run finds what was remembered before it began
        train(server.model, server.public, task.pixels, mask, config, steps, generator)
    return {name: tensor.cpu() for name, tensor in state_of(server.model).items()}


def shares(replies: Sequence[Message]) -> list[float]:
    """Each client's share |D_k| / |D| of the images behind these replies."""
    total = math.fsum(reply.meta["samples"] for reply in replies)
    return [reply.meta["samples"] / total for reply in replies]


def average(server: Server, state: State, replies: Sequence[Message]) -> dict[str, Tensor]:
    """The clients' states averaged by their number of images, in float64, zero outside the mask.

    Batch norm's scale, shift and running statistics are averaged like the weights.
    """
    mean = torch.zeros(len(replies[0].tensors["weights"]), dtype=torch.float64)
    for reply, share in zip(replies, shares(replies), strict=True):
        mean.add_(reply.tensors["weights"].double(), alpha=share)
    return decode_state(mean.float(), state.mask, server.task.state_shapes)


def weighted_mean(replies: Sequence[Message], name: str) -> Tensor:
    """The mean of one tensor of the replies, float64, clients weighted by their number of images."""
    mean = torch.zeros_like(replies[0].tensors[name], dtype=torch.float64)
    for reply, share in zip(replies, shares(replies), strict=True):
        mean += reply.tensors[name].double() * share
    return mean


def average_over_holders(
    server: Server, replies: Sequence[Message], masks: Sequence[Mask]
) -> tuple[dict[str, Tensor], Mask]:
    """Per coordinate, the mean over the clients whose mask keeps it, by their images; and the union of their masks.

    `masks`: one per reply, under which its `weights` are packed. What is never pruned is averaged over all.
    Example: of clients of 30 and 10 images the first holds 2 at a coordinate and the mask of the second prunes it: the
    average is 2, not 1.5.
    """
    union = union_of(masks)
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in server.task.state_shapes.items()}
    held = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in server.task.mask_shapes.items()}
    for reply, mask, share in zip(replies, masks, shares(replies), strict=True):
        for name, tensor in decode_state(reply.tensors["weights"], mask, server.task.state_shapes).items():
            total[name].add_(tensor.double(), alpha=share)
        for name, keep in mask.items():
            held[name].add_(keep, alpha=share)
    for name, keep in union.items():
        total[name] /= held[name].where(keep, 1)
    return {name: tensor.float() for name, tensor in total.items()}, union
