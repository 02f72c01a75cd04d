"""The task that server and clients share: settings, shapes, blocks, budget, how pixels are normalised. No images.

A client is built from the task and its own samples alone; the server from the task and its public set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedtiny_lite.config import Config, load_method, make_config
from fedtiny_lite.federated.own_networks import check_own
from fedtiny_lite.model.architectures import Blocks
from fedtiny_lite.model.costs import LayerShape, layer_shapes
from fedtiny_lite.model.masks import weight_budget
from fedtiny_lite.model.networks import (
    allocated,
    bn_names,
    empty_model,
    live_state,
    materialise,
    prunable_blocks,
)
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.own_files import FILE
from fedtiny_lite.records.environment import check_memory
from fedtiny_lite.sparse.engine import check_engine

SMALLER = "lower width, batch_size or workers"


@dataclass(frozen=True)
class Task:
    """What server and clients share: `pixels` comes from the survey or the public set, the rest from settings and data.

    `in_shape`: (channels, height, width) of an image. `blocks`: prunable weights by block, input to output.
    `layers`: every convolution and linear layer. `state_shapes`: names and shapes of all that is averaged, in order;
    `mask_shapes`: those of the prunable weights; `stats_shapes`: those of batch norm's running statistics. `budget`:
    weights that the prunable layers may keep together; `allowed`: parameters of all kinds that a pruned model may keep;
    `parameters`: those of the dense `config.model`.
    """

    config: Config
    classes: int
    in_shape: tuple[int, int, int]
    pixels: Normalisation
    blocks: Blocks
    layers: tuple[LayerShape, ...]
    state_shapes: Mapping[str, torch.Size]
    mask_shapes: Mapping[str, torch.Size]
    stats_shapes: Mapping[str, torch.Size]
    budget: int
    allowed: int
    parameters: int

    @property
    def sizes(self) -> dict[str, int]:
        """Weights of each prunable layer."""
        return {name: shape.numel() for name, shape in self.mask_shapes.items()}


def make_task(config: Config, classes: int, in_shape: tuple[int, int, int], pixels: Normalisation) -> Task:
    """The task of a run. Raises ValueError for settings that do not fit each other, such as a density below one weight
    a layer.
    """
    reference = empty_model(config.model, config.width, classes, in_shape)
    if config.model.startswith(FILE):
        check_own(config.model, config.width, classes, in_shape)
    blocks = prunable_blocks(reference, config.prunes_linear)
    sizes = {name: reference.get_parameter(name).numel() for block in blocks for name in block}
    parameters = sum(p.numel() for p in reference.parameters())
    dense = parameters - sum(sizes.values())
    budget = weight_budget(sizes, config.density, dense if config.density_of == "model" else 0)
    network, allowed = _network(config, dense + budget, classes, in_shape), dense + budget
    if load_method(config.method).model:  # a network that is small enough as it is: nothing of it need be pruned
        blocks = prunable_blocks(network, prune_linear=True)
        budget = sum(network.get_parameter(name).numel() for block in blocks for name in block)
    check_engine(config, network)
    check_memory(model_memory(config, network), SMALLER)
    state = {name: tensor.shape for name, tensor in live_state(network).items()}
    return Task(
        config=config,
        classes=classes,
        in_shape=in_shape,
        pixels=pixels,
        blocks=blocks,
        layers=layer_shapes(network, in_shape),
        state_shapes=state,
        mask_shapes={name: state[name] for block in blocks for name in block},
        stats_shapes={name: state[name] for name in bn_names(network)},
        budget=budget,
        allowed=allowed,
        parameters=parameters,
    )


def model_memory(config: Config, network: nn.Module) -> dict[str, int]:
    """Bytes of models that a run surely holds at the same time, by what they are for; its peak is higher.

    The server holds the untrained, the pretrained and the current state. It and each process that clients run in have
    one model to train, with gradients and momentum if torch computes it here.
    """
    state = 4 * sum(tensor.numel() for tensor in live_state(network).values())
    here = config.torch_device != "cuda"
    trained = 3 if here and config.engine == "dense" else int(here)
    return {
        "states of the server": 3 * state,
        "models in training": (1 + min(config.workers, config.clients)) * trained * state,
    }


def batch_memory(config: Config, layers: Sequence[LayerShape], images: int) -> dict[str, int]:
    """Bytes that a backward pass surely needs of a batch, in each process: the output of each layer.

    `images`: those of the client that has most; a batch cannot hold more.
    """
    processes = min(config.workers, config.clients) if config.torch_device != "cuda" else 0
    batch = min(config.batch_size, images)
    outputs = sum(layer.rows * layer.positions for layer in layers)
    return {f"outputs of layers for {batch:,} images": 4 * processes * batch * outputs}


def _network(config: Config, allowed: int, classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """The network that is trained, without data: `config.model`, or the method's own."""
    own = load_method(config.method).model
    if own:
        return own(config, allowed, classes, in_shape)
    return empty_model(config.model, config.width, classes, in_shape)


def new_model(task: Task, generator: torch.Generator | None = None) -> nn.Module:
    """The network that is trained, on the run's device; its weights are drawn from `generator`, or else all 0."""
    model = _network(task.config, task.allowed, task.classes, task.in_shape)
    if generator:
        return materialise(model, generator).to(task.config.torch_device)
    return allocated(model, task.config.torch_device)


def described(task: Task) -> dict[str, Any]:
    """The task as plain JSON, which is what a client on another machine needs beside its samples."""
    pixels = {"mean": list(task.pixels.mean), "std": list(task.pixels.std)}
    return {
        "config": task.config.identity(),
        "classes": task.classes,
        "in_shape": list(task.in_shape),
        "pixels": pixels,
    }


def task_from(description: Mapping[str, Any]) -> Task:
    """The task that `described` gave. Raises KeyError or ValueError for anything else."""
    pixels = Normalisation(tuple(description["pixels"]["mean"]), tuple(description["pixels"]["std"]))
    channels, height, width = description["in_shape"]
    config = make_config({}, **description["config"])
    return make_task(config, description["classes"], (channels, height, width), pixels)
