"""What the paper's model costs a client, counted layer by layer: the study of notebook 06. Nothing is trained."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fedtiny_lite.config import Config, make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated import formats, messages
from fedtiny_lite.federated.state import masked_start
from fedtiny_lite.methods import small_model
from fedtiny_lite.methods._settings import Adjustment
from fedtiny_lite.model import costs, masks
from fedtiny_lite.model.networks import build_model, load_state, prunable_blocks, prunable_names, state_of
from fedtiny_lite.model.training import Normalisation, train
from fedtiny_lite.pruning.activations import saved_input_bytes
from fedtiny_lite.pruning.progressive import exchange_count
from fedtiny_lite.seeding import torch_generator

LayerCounts = dict[str, dict[str, int]]


@dataclass(frozen=True, eq=False)
class PaperModel:
    """ResNet18 as in the paper, untrained. `in_shape`: (channels, height, width) of an image; `layers`: its layers."""

    config: Config
    model: nn.Module
    in_shape: tuple[int, int, int]
    classes: int
    layers: tuple[costs.LayerShape, ...]
    others: tuple[int, int]

    @property
    def name(self) -> str:
        """Model, width, image and classes in words."""
        size = "×".join(map(str, self.in_shape))
        return f"{self.config.model} width {self.config.width}, {size}, {self.classes} classes"

    @property
    def last_block(self) -> tuple[str, ...]:
        """The layers of the block that is adjusted first."""
        return prunable_blocks(self.model, prune_linear=True)[-1]

    @cached_property
    def dense_flops(self) -> int:
        """F_d: FLOPs of one image's forward pass, nothing pruned."""
        return costs.forward_flops(self.layers, {})

    def kept(self, density: float, prune_linear: str = "yes") -> LayerCounts:
        """`kept_by_mask` at this density; `prune_linear`: as the setting of that name."""
        return kept_by_mask(replace(self.config, density=density, prune_linear=prune_linear), self.model)

    def list_entries(self, density: float) -> dict[str, int]:
        """Entries of each layer's growth list, under a uniform mask and at the paper's rate."""
        kept, rate = self.kept(density), self.config.of(Adjustment).adjust_rate
        return {name: exchange_count(kept["uniform"][name], size, rate) for name, size in kept["dense"].items()}

    def exact(self, density: float) -> dict[str, Any]:
        """Every layer but the first at exactly this density, parts of a weight included."""
        return {layer.name: density * layer.weights for layer in self.layers[1:]}


def paper_model(in_shape: Sequence[int], classes: int) -> PaperModel:
    """The model of profile `paper` for images of `in_shape` (C, H, W)."""
    config, (channels, height, width) = make_config("paper", torch_device="cpu"), in_shape
    shape, generator = (channels, height, width), torch_generator(config.seed, "initial_weights")
    model = build_model(config.model, config.width, classes, shape, generator)
    return PaperModel(config, model, shape, classes, costs.layer_shapes(model, shape), costs.other_sizes(model))


def kept_by_mask(config: Config, model: nn.Module) -> LayerCounts:
    """Weights kept per prunable layer of `model` at the config's density: dense (nothing is pruned), uniform, ERK.

    Raises ValueError if the density does not leave a weight for each layer.
    """
    shapes = {name: model.get_parameter(name).shape for name in prunable_names(model, config.prunes_linear)}
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    budget = masks.weight_budget(sizes, config.density)
    return {"dense": sizes, "uniform": masks.uniform_counts(sizes, budget), "ERK": masks.erk_counts(shapes, budget)}


# --- FLOPs ------------------------------------------------------------------------------------------------


def flops_at(subject: PaperModel, density: float, batches: int) -> dict[str, float]:
    """FLOPs of a client's round of `batches` at this density / dense; from "FedTiny" on, of an adjusting round.

    "exact", "whole" and "kit" are static uniform masks: every layer but the first at exactly this density, rounded down
    to whole weights, and as the kit prunes.
    """
    layers, dense, whole = subject.layers, subject.dense_flops, subject.kept(density)
    exact = subject.exact(density)
    sparse, grown = costs.forward_flops(layers, exact), costs.growth_flops(layers, exact, subject.last_block)
    return {
        "exact": sparse / dense,
        "whole": costs.forward_flops(layers, whole["uniform"]) / dense,
        "kit": costs.forward_flops(layers, subject.kept(density, "auto")["uniform"]) / dense,
        "ERK": costs.forward_flops(layers, whole["ERK"]) / dense,
        "FedTiny": (3 * sparse + grown / batches) / (3 * dense),
        "FedRTS's formula": (3 * sparse * (batches - 1) + 2 * dense + sparse) / (3 * dense * batches),
        "PruneFL": (2 * sparse + dense) / (3 * dense),
    }


def executed_at(subject: PaperModel, density: float) -> float:
    """FLOPs of training that are executed under a static uniform mask / those executed in dense training."""
    executed = costs.executed_training_flops(subject.layers, subject.exact(density))
    return executed / costs.executed_training_flops(subject.layers, {})


def erk_of_all_layers(subject: PaperModel, density: float) -> float:
    """F_s / F_d under an ERK mask of every layer, the first included."""
    shapes = {layer.name: subject.model.get_parameter(layer.name).shape for layer in subject.layers}
    budget = masks.weight_budget({layer.name: layer.weights for layer in subject.layers}, density)
    return costs.forward_flops(subject.layers, masks.erk_counts(shapes, budget)) / subject.dense_flops


# --- bytes ------------------------------------------------------------------------------------------------

ONE_WAY = ("dense", "smallest format, positions in every message", "the kit: kept values", "the kit: mask, when new")


def one_way_at(subject: PaperModel, density: float) -> dict[str, int]:
    """Bytes of the model one way, by `ONE_WAY`: two by the cost model, two by packing what the kit sends."""
    kept, weights = subject.kept(density)["uniform"], state_of(subject.model)
    state = masked_start(weights, masks.magnitude_mask(weights, kept))
    sizes = (
        costs.model_bytes(subject.layers, {}, sum(subject.others)),
        costs.model_bytes(subject.layers, kept, sum(subject.others)),
        len(messages.pack({"weights": messages.encode_state(state.weights, state.mask)})),
        formats.encode_mask(state.mask, list(state.mask)).nbytes,
    )
    return dict(zip(ONE_WAY, sizes, strict=True))


def list_bytes(subject: PaperModel) -> dict[str, int]:
    """Bytes of growth lists at the paper's density and rate, and of the dense gradient that one stands for."""
    entries = subject.list_entries(subject.config.density)
    sizes = {layer.name: costs.growth_list_bytes(layer.weights, entries[layer.name]) for layer in subject.layers[1:]}
    dense = sum(4 * layer.weights for layer in subject.layers if layer.name in subject.last_block)
    last = sum(sizes[name] for name in subject.last_block)
    return {"last block": last, "all layers": sum(sizes.values()), "dense gradient of the last block": dense}


# --- memory -----------------------------------------------------------------------------------------------


def states_at(subject: PaperModel, density: float) -> dict[str, int]:
    """Bytes of model state, as the paper counts it, under a uniform mask: three ways to adjust."""
    kept, (parameters, statistics) = subject.kept(density)["uniform"], subject.others
    entries = subject.list_entries(density)
    grown = sum(entries[name] for name in subject.last_block)

    def held(list_entries: int = 0, dense_gradient: Collection[str] = ()) -> int:
        return costs.model_state_memory(subject.layers, kept, parameters, statistics, list_entries, dense_gradient)

    return {"PruneFL, adjusting": held(0, tuple(kept)), "FedTiny, adjusting": held(grown), "static mask": held()}


def dense_state(subject: PaperModel) -> int:
    """Bytes of the dense model's state."""
    return costs.model_state_memory(subject.layers, {}, *subject.others)


def saved_inputs(subject: PaperModel, batch: int, shares: Sequence[float]) -> dict[float, int]:
    """Bytes that convolutions save of their inputs for one batch, where they keep the largest share of the values."""
    return {share: saved_input_bytes(subject.model, subject.in_shape, batch, share) for share in shares}


def saved_by_method(subject: PaperModel, methods: Collection[str], batch: int, every: int) -> dict[str, int]:
    """Bytes of activations that one batch saves in each method; `every`: in all but FedMef and the small model."""
    share = make_config("paper", method="fedmef").identity()["activation_density"]
    inputs = saved_inputs(subject, batch, (1.0, share))
    sizes = subject.kept(subject.config.density)["dense"]
    budget = masks.weight_budget(sizes, subject.config.density)
    allowed = sum(p.numel() for p in subject.model.parameters()) - sum(sizes.values()) + budget
    small = small_model.model(subject.config, allowed, subject.classes, subject.in_shape)
    own = {
        "fedmef": every - (inputs[1.0] - inputs[share]),
        "small_model": costs.activation_bytes(small, subject.in_shape, batch),
    }
    return {method: own.get(method, every) for method in methods}


# --- the clock --------------------------------------------------------------------------------------------


def step_seconds(subject: PaperModel, images: int, turns: int) -> dict[str, float]:
    """Seconds of one optimiser step in dense torch on `images` images of noise, with and without a mask.

    Measured in turn, `turns` times after one that warms up; the least of each.
    """
    generator = torch_generator(subject.config.seed, "client_costs")
    noise = torch.randint(0, 256, (images, *subject.in_shape), dtype=torch.uint8, generator=generator)
    split, channels = Split(noise, torch.arange(images) % subject.classes), subject.in_shape[0]
    pixels, weights = Normalisation((0.5,) * channels, (0.25,) * channels), state_of(subject.model)
    kept = subject.kept(subject.config.density)
    taken: dict[str, list[float]] = {"dense": [], "masked": []}
    for _ in range(1 + turns):
        for what, counts in zip(taken, (kept["dense"], kept["uniform"]), strict=True):
            load_state(subject.model, weights)
            mask = masks.magnitude_mask(weights, counts)
            began = time.perf_counter()
            train(subject.model, split, pixels, mask, subject.config, [torch.arange(images)], generator)
            taken[what].append(time.perf_counter() - began)
    return {what: min(seconds[1:]) for what, seconds in taken.items()}
