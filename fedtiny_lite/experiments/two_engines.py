"""The sparse engine beside dense torch, on this machine and now: the study of notebook 07."""

import copy
import timeit
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.experiments.counted import PaperModel, kept_by_mask
from fedtiny_lite.export.tiny_model import TinyModel, fold_bn, load_tiny, save_tiny
from fedtiny_lite.model.masks import Mask, apply_mask, magnitude_mask, random_mask
from fedtiny_lite.model.networks import build_model, state_of
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.sparse import kernels
from fedtiny_lite.sparse.activations import stored
from fedtiny_lite.sparse.engine import DENSE, SPARSE
from fedtiny_lite.sparse.layout import Geometry, Planes, Workspace, in_use, pack, window
from fedtiny_lite.sparse.network import SparseNetwork
from fedtiny_lite.sparse.patterns import Pattern, build_pattern

NOISE = Normalisation((0.5,) * 3, (0.25,) * 3)
"""How pixels of noise images are shifted and scaled."""


# --- one convolution --------------------------------------------------------------------------------------


class Convolved(NamedTuple):
    """A 3x3 convolution by the sparse kernel, done once; `run` does it again.

    `window`: what the kernel read last, float32 [size]; `shape`: its (rows, above, stride, line); `pattern`: where the
    kept weights of each output channel read.
    """

    output: Planes
    window: np.ndarray
    shape: tuple[int, int, int, int]
    pattern: Pattern
    run: Callable[[], object]


def convolve(images: Tensor, weight: Tensor, keep: Tensor) -> Convolved:
    """`images` float [N, C, H, W]; `weight` float and `keep` bool [O, C, 3, 3]; stride 1, a frame of zeros."""
    (samples, channels, height, width), outputs = images.shape, len(weight)
    workspace, around = Workspace(), window(channels, height, width, 1, 1)
    x = stored(pack(images, workspace.take(Geometry(channels, height, width), samples)))
    y, memory = workspace.take(Geometry(outputs, height, width), samples), workspace.scratch(around.size)
    pattern = build_pattern(keep, 1, around, window(outputs, height, width, 1, 1))
    call = partial(kernels.conv_forward, y.data, np.empty((3, outputs)), *x.reading, pattern.first, pattern.tap)
    run = partial(call, weight[keep].numpy(), in_use(samples), memory, around.shape, 1)
    run()
    return Convolved(y, memory[: around.size], around.shape, pattern, run)


def least_ms(call: Callable[[], object], turns: int) -> float:
    """Milliseconds of a call, the least of some turns of three; a call before them is not timed."""
    call()
    return 1e3 * min(timeit.repeat(call, number=3, repeat=turns)) / 3


# --- the same results -------------------------------------------------------------------------------------


def masked_model(config: Config, classes: int, in_shape: tuple, generator: torch.Generator) -> tuple[nn.Module, Mask]:
    """The config's model, untrained, under a random mask of ERK densities; its pruned weights are zero."""
    model = build_model(config.model, config.width, classes, in_shape, generator)
    counts = kept_by_mask(config, model)["ERK"]
    mask = random_mask({name: model.get_parameter(name) for name in counts}, counts, generator)
    apply_mask(dict(model.named_parameters()), mask)
    return model, mask


def gap(found: Tensor, right: Tensor) -> float:
    """The largest difference, in the largest value of `right`."""
    return float((found - right).abs().max() / right.abs().max())


def engine_gaps(model: nn.Module, mask: Mask, images: Tensor, labels: Tensor) -> dict[str, float]:
    """What a training step differs by: the `gap` of logits after it, and of gradients in the worst tensor.

    Gradients are those of kept weights and of all that is never pruned. The last entry compares dense torch with itself
    in float64.
    """
    network = SparseNetwork(model, (images.shape[1], images.shape[2], images.shape[3]))
    network.load(model, mask)
    network.backward(images, labels)
    single, double = copy.deepcopy(model), copy.deepcopy(model).double()
    dense, exact = (_dense_gradients(twin, mask, images, labels) for twin in (single, double))
    with torch.no_grad():
        logits = gap(network.predict(images), single.eval()(images))
    return {
        "logits, sparse and dense": logits,
        "gradients, sparse and dense": _worst(_sparse_gradients(network, mask), dense),
        "gradients, dense and dense in float64": _worst(dense, exact),
    }


def _worst(found: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    return max(gap(found[name], right[name]) for name in right)


def _dense_gradients(model: nn.Module, mask: Mask, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    loss = F.cross_entropy(model.train()(images.to(named["linear.weight"])), labels)
    gradients = torch.autograd.grad(loss, list(named.values()))
    return {name: _kept(of, mask, name) for name, of in zip(named, gradients, strict=True)}


def _sparse_gradients(network: SparseNetwork, mask: Mask) -> dict[str, Tensor]:
    found = {"linear.weight": network.weight.grad, "linear.bias": network.bias.grad}
    for conv in network.convs:
        found |= {f"{conv.norm_name}.weight": conv.gamma.grad, f"{conv.norm_name}.bias": conv.beta.grad}
    values = {f"{conv.name}.weight": conv.values.grad for conv in network.convs}
    everything = {name: _kept(of, mask, name) for name, of in found.items() if of is not None}
    return everything | {name: of for name, of in values.items() if of is not None}


def _kept(values: Tensor, mask: Mask, name: str) -> Tensor:
    """Of a pruned layer the kept entries, of another all."""
    return values[mask[name]] if name in mask else values.flatten()


# --- the clock --------------------------------------------------------------------------------------------


def noise_images(in_shape: tuple[int, int, int], count: int, classes: int, generator: torch.Generator) -> Split:
    """`count` uint8 images of noise, labels in turn."""
    images = torch.randint(0, 256, (count, *in_shape), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % classes)


def step_ms(
    config: Config, split: Split, pixels: Normalisation, turns: int, generator: torch.Generator
) -> dict[str, list[float]]:
    """Engine -> milliseconds of a training step, turn by turn: the config's model, a uniform mask, two batches a turn.

    The engines take turns, so that a slow spell of the machine meets both.
    """
    channels, height, width = split.images.shape[1:]
    classes = int(split.labels.max()) + 1
    model = build_model(config.model, config.width, classes, (channels, height, width), generator)
    mask = magnitude_mask(state_of(model), kept_by_mask(config, model)["uniform"])
    schedule = [torch.arange(config.batch_size)] * 2
    calls = {
        engine.name: partial(engine.train, copy.deepcopy(model), split, pixels, mask, config, schedule, generator, None)
        for engine in (DENSE, SPARSE)
    }
    rounds = [{name: timeit.timeit(train, number=1) for name, train in calls.items()} for _ in range(turns + 1)]
    return {name: [1e3 * times[name] / len(schedule) for times in rounds[1:]] for name in calls}  # the first warms up


def gains(turns: Mapping[str, list[float]]) -> dict[str, float]:
    """Of `step_ms`: the least of each engine's turns, their ratio, and that of the medians.

    The least is the turn that other programs disturbed least; the two ratios differ where they disturb.
    """
    least, medians = ({engine: pick(times) for engine, times in turns.items()} for pick in (min, median))
    ratios = [times["dense"] / times["sparse"] for times in (least, medians)]
    return least | dict(zip(("gain", "gain of medians"), ratios, strict=True))


# --- the file ---------------------------------------------------------------------------------------------


def untrained_tiny(subject: PaperModel, density: float) -> TinyModel:
    """The paper's model under a uniform mask, as what a run would export."""
    state = state_of(subject.model)
    mask = magnitude_mask(state, subject.kept(density)["uniform"])
    apply_mask(state, mask)
    names = tuple(map(str, range(subject.classes)))
    return TinyModel(subject.config.model, subject.config.width, names, subject.in_shape, NOISE, state, mask)


def file_bytes(tiny: TinyModel, path: Path) -> dict[str, int]:
    """Bytes of the model: dense, as counted, in a file at `path`, and in one beside it with batch norm folded."""
    file, folded = save_tiny(path, tiny), save_tiny(path.with_suffix(".folded.tiny"), fold_bn(tiny))
    sizes = {"file": file.stat().st_size, "folded": folded.stat().st_size}
    return {"dense": tiny.dense_bytes, "counted": tiny.counted_bytes} | sizes


def read_again(tiny: TinyModel, path: Path) -> bool:
    """Whether the file at `path` holds the model bit for bit."""
    again = load_tiny(path).state
    return again.keys() == tiny.state.keys() and all(torch.equal(tiny.state[name], again[name]) for name in again)
