"""Where a step's time goes: kernel by kernel, layer by layer; and what else a client does on the sparse engine."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from numba.core.dispatcher import Dispatcher
from torch import Tensor, nn

from benchmarks.steps import SHAPE, Case, Client, cpu_seconds, interleaved, noise, prepare
from fedtiny_lite.model.costs import layer_shapes
from fedtiny_lite.pruning.progressive import exchange_counts
from fedtiny_lite.sparse import kernels, norms
from fedtiny_lite.sparse.growth import sparse_growth_lists
from fedtiny_lite.sparse.layers import MaxPool, Residual, convolutions_of
from fedtiny_lite.sparse.layout import LANES, Geometry, block_count
from fedtiny_lite.sparse.network import SparseNetwork

GROWTH_RATE = 0.3  # of a layer's kept weights, as in the paper's first adjustment
DIRECTIONS = {"forward_all": "forward", "backward_all": "backward"}
"""Methods of `Convolutions` -> direction."""


def kernel_parts() -> dict[tuple[ModuleType, str], str]:
    """(module, name) of each compiled kernel that Python calls -> part of the step: its name, a norm's `norm_...`."""
    found = {}
    for module in (kernels, norms):
        for name, value in vars(module).items():
            if isinstance(value, Dispatcher) and not name.startswith("_"):
                is_norm = module is norms and not name.startswith("max_pool")
                found[module, name] = f"norm_{name}" if is_norm else name
    return found


@contextmanager
def stopwatch(calls: Mapping[tuple[Any, str], Any]) -> Iterator[Counter]:
    """While open, each call of owner.name adds its CPU seconds to the counter. `calls`: (owner, name) -> its label."""
    spent = Counter()

    def timed(function: Callable, label: Any) -> Callable:
        def call(*args, **kwargs):
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[label] += time.thread_time() - start

        return call

    with ExitStack() as stack:
        for (owner, name), label in calls.items():
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), label)))
        yield spent


def sparse_parts(client: Client, steps: int) -> tuple[dict[str, float], list[dict]]:
    """Mean seconds of a sparse step by part, the rest among them; and of each convolution with its norm.

    What norms and ReLU do to values
    that a convolution reads or writes is in the convolution's kernels.
    """
    parts, layers = kernel_parts(), client.network.convolutions
    methods = {(own, name): (own.convs[0].name, way) for own in layers for name, way in DIRECTIONS.items()}
    with stopwatch(parts | methods) as spent:
        total = sum(cpu_seconds(client.step) for _ in range(steps))
    seconds = {part: spent[part] / steps for part in parts.values() if part in spent}
    return seconds | {"rest": total / steps - sum(seconds.values())}, _layer_rows(client, spent, steps)


def dense_layers(client: Client, steps: int) -> list[dict]:
    """Mean seconds of each convolution with its norm in a dense step, by hooks; ReLU and residual sum are not in it.

    The backward pass of a module begins with the gradient of its output and ends when that of its weight is stored,
    which autograd does before it turns to another module.
    """
    spent, hooks = Counter(), []
    for conv, norm in conv_norms(client.model).items():
        for name in (conv, norm):
            hooks += _watch(client.model.get_submodule(name), row_of(conv), spent)
    for _ in range(steps):
        client.step()
    for hook in hooks:
        hook.remove()
    return _layer_rows(client, spent, steps)


def conv_norms(model: nn.Module) -> dict[str, str]:
    """Name of each convolution -> name of its norm, the module that follows it."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    return dict(zip(names[::2], names[1::2], strict=True))


def _watch(module: nn.Module, label: str, spent: Counter) -> list:
    """Hooks that add the CPU seconds of both passes of a module to spent[label, direction]."""
    start = 0.0

    def begin(*_) -> None:
        nonlocal start
        start = time.thread_time()

    def end_forward(_module, _args, output: Tensor) -> None:
        spent[label, "forward"] += time.thread_time() - start
        output.register_hook(begin)

    def end_backward(_weight) -> None:
        spent[label, "backward"] += time.thread_time() - start

    return [
        module.register_forward_pre_hook(begin),
        module.register_forward_hook(end_forward),
        module.weight.register_post_accumulate_grad_hook(end_backward),
    ]


def _layer_rows(client: Client, spent: Mapping[tuple[str, str], float], steps: int) -> list[dict]:
    kept, rows = client.mask.kept if client.mask else {}, {}
    for shape in layer_shapes(client.model, SHAPE):
        name, count = shape.name.removesuffix(".weight"), kept.get(shape.name, shape.weights)
        if name in conv_norms(client.model):  # the linear layer is not timed
            row = rows.setdefault(row_of(name), Counter())
            row.update(kept=count, macs=count * shape.positions)
    return [
        {"name": name, **row} | {way: spent[name, way] / steps for way in ("forward", "backward")}
        for name, row in rows.items()
    ]


def row_of(conv: str) -> str:
    """The row of a convolution: its name, but a block's shortcut is in the row of the first convolution beside it."""
    return conv.replace("downsample.0", "conv1")


def growth_seconds(case: Case, turns: int) -> dict[str, float]:
    """Seconds of the growth step on the slowest of the model's blocks, and of a training step at the same mask."""
    trained, (images, labels) = prepare(case), noise(case.batch)
    model, mask = trained.model, trained.mask

    def growth(block: tuple[str, ...]) -> Callable[[], None]:
        counts = exchange_counts(mask, block, GROWTH_RATE)
        return lambda: sparse_growth_lists(model, mask, counts, images, labels)

    seconds = interleaved({"step": trained.step} | {block: growth(block) for block in model.blocks}, turns)
    return {"step_seconds": seconds.pop("step"), "seconds": max(seconds.values())}


def pattern_seconds(case: Case, turns: int) -> dict[str, float]:
    """Seconds to build the patterns of all layers."""
    convolutions = prepare(case).network.convolutions

    def build() -> None:
        for own in convolutions:
            own.build_pattern()

    return interleaved({"seconds": build}, turns)


def step_bytes(network: SparseNetwork, samples: int) -> int:
    """Bytes of activations and gradients that a step of the sparse engine reads and writes, each pass counted once."""

    def size(geometry: Geometry) -> int:
        return 4 * LANES * block_count(samples) * geometry.channels * geometry.pixels

    total = 0
    for layer in network.layers:
        for own in convolutions_of(layer):
            # Forward reads x and writes y; backward reads the gradient, y and x, and writes the gradient of x.
            total += 3 * size(own.joint) + (2 if own.first else 3) * size(own.before)
        if isinstance(layer, MaxPool):
            total += 3 * size(layer.after) + 3 * size(layer.before)
        if isinstance(layer, Residual):
            # A sum reads two and writes one, and once more in the backward pass, but for the last block's. Then the
            # gradient of the output is read, with the shortcut's result if that is a convolution.
            sums, shortcut = (1 if layer is network.layers[-1] else 2), (2 if len(layer.conv1.convs) == 2 else 1)
            total += (3 * sums + 1 + shortcut) * size(layer.after)
    return total


def bandwidth(floats: int = 2**25, turns: int = 5) -> float:
    """Bytes a second that one thread reads and writes while it copies more than any cache holds."""
    source, target = torch.ones(floats), torch.empty(floats)
    seconds = min(cpu_seconds(lambda: target.copy_(source)) for _ in range(turns))
    return 2 * source.nbytes / seconds
