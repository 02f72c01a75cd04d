"""Training steps to be timed side by side: dense torch and the sparse engine on noise, and the clock they share."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtiny_lite.model.costs import forward_flops, layer_shapes
from fedtiny_lite.model.masks import Mask, erk_counts, random_mask, uniform_counts
from fedtiny_lite.model.networks import build_model, prunable_names
from fedtiny_lite.sparse.network import SparseNetwork

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 64
LAYOUTS = {
    "dense contiguous": torch.contiguous_format,
    "dense channels_last": torch.channels_last,
    "dense bf16": torch.channels_last,
}
FLOAT32 = ("dense contiguous", "dense channels_last")
SLOW = 10.0
"""Seconds above which a step is timed once only: bfloat16 on a processor without instructions for it."""


@dataclass(frozen=True)
class Case:
    """What takes a step: `engine` is sparse or one of LAYOUTS; a dense one has no mask and no density."""

    model: str
    width: int
    engine: str
    mask: str | None = None
    density: float | None = None
    batch: int = BATCH


@dataclass(frozen=True, eq=False)
class Client:
    """What a client holds while it trains, and its `step`: forward, backward, SGD. Dense ones have no network."""

    model: nn.Module
    mask: Mask | None
    network: SparseNetwork | None
    step: Callable[[], Any]


def prepare(case: Case) -> Client:
    """The model with its own weights, the batch and the optimiser, ready to take steps."""
    model = new_model(case)
    if case.engine != "sparse":
        return Client(model, None, None, _dense_step(case, model))
    mask = new_mask(case, model)
    network = SparseNetwork(model, SHAPE)
    network.load(model, mask)
    return Client(model, mask, network, _sparse_step(case, network))


def new_model(case: Case) -> nn.Module:
    return build_model(case.model, case.width, CLASSES, SHAPE, torch.Generator().manual_seed(0))


def new_mask(case: Case, model: nn.Module) -> Mask:
    """A random mask of all layers but the first, of uniform or of ERK densities."""
    weights = {name: model.get_parameter(name) for name in prunable_names(model, prune_linear=True)}
    budget = int(case.density * sum(weight.numel() for weight in weights.values()))
    if case.mask == "erk":
        counts = erk_counts({name: weight.shape for name, weight in weights.items()}, budget)
    else:
        counts = uniform_counts({name: weight.numel() for name, weight in weights.items()}, budget)
    return random_mask(weights, counts, torch.Generator().manual_seed(1))


def noise(batch: int) -> tuple[Tensor, Tensor]:
    """Images [batch, 3, 32, 32] and labels [batch]: times do not depend on what is in them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *SHAPE, generator=generator)
    return images, torch.randint(CLASSES, (batch,), generator=generator)


def _sgd(parameters) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, foreach=True)


def _dense_step(case: Case, model: nn.Module) -> Callable[[], None]:
    """Dense torch without masking, which would only add to it."""
    layout, (images, labels) = LAYOUTS[case.engine], noise(case.batch)
    model.to(memory_format=layout)
    images, optimiser = images.to(memory_format=layout), _sgd(model.parameters())

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.engine == "dense bf16"):
            loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def _sparse_step(case: Case, network: SparseNetwork) -> Callable[[], None]:
    (images, labels), optimiser = noise(case.batch), _sgd(network.parameters())

    def step() -> None:
        network.backward(images, labels)
        optimiser.step()
        network.mask_linear()

    return step


def counted(case: Case) -> dict:
    """Of one sample's forward pass: `macs` that the mask keeps, and `activations`, values that convolutions put out."""
    model = new_model(case)
    shapes = layer_shapes(model, SHAPE)
    kept = new_mask(case, model).kept if case.density else {}
    convolutions = [shape for shape in shapes if model.get_parameter(shape.name).dim() == 4]
    return {
        "macs": forward_flops(shapes, kept) // 2,
        "activations": sum(shape.rows * shape.positions for shape in convolutions),
    }


def cpu_seconds(call: Callable[[], Any]) -> float:
    """CPU seconds that this thread spends in one call."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def interleaved(steps: Mapping[Any, Callable[[], Any]], turns: int, slow: float = SLOW) -> dict[Any, float]:
    """Median CPU seconds of each step; they take turns, after one that warms up.

    A step that takes more than `slow` seconds to warm up is not repeated: those are its seconds.
    """
    warming = {name: cpu_seconds(step) for name, step in steps.items()}
    times = {name: [] for name in steps if warming[name] <= slow}
    for _ in range(turns):
        for name, values in times.items():
            values.append(cpu_seconds(steps[name]))
    return warming | {name: median(values) for name, values in times.items()}
