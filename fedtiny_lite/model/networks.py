"""The networks of a run: CIFAR ResNet18, VGG11-BN, a small CNN or one's own, at any width and size, and their weights.

How they are built and initialised, which of their weights are prunable, and their state as tensors by name.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fedtiny_lite.config import MODELS
from fedtiny_lite.model.architectures import Blocks, PlainNet, ResNet18, SmallNet
from fedtiny_lite.own_files import FILE, file_of, network_in, stamped
from fedtiny_lite.settings import check_choice

BN_STATS = ("running_mean", "running_var")


def build_model(
    name: str, width: int, classes: int, in_shape: tuple[int, int, int], generator: torch.Generator
) -> nn.Module:
    """Builds a model on the CPU with weights drawn from `generator` alone.

    `width`: channels of the first convolution; `in_shape`: (channels, height, width) of one image. Weights are uniform
    in ±1/sqrt(fan-in), which is torch's own default, and BN is the identity. Raises ValueError for an unknown name or a
    size below 1.
    """
    for what, value in {"width": width, "classes": classes, "input size": min(in_shape)}.items():
        if value < 1:
            raise ValueError(f"{what} of a model is {value}; give a whole number of at least 1")
    return materialise(empty_model(name, width, classes, in_shape), generator)


def empty_model(name: str, width: int, classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """A model without data, on torch's "meta" device.

    `name`: one of `config.MODELS`, file:PATH for the NETWORK of a file of one's own, or "small" for the SmallNet of
    that width that `methods.small_model` trains. Raises ValueError for an unknown name, or a file that gives none.
    """
    with torch.device("meta"):  # draws nothing from the global generator
        if name == "small":
            return SmallNet((width, width, width), 8 * width, classes, in_shape)
        if name.startswith(FILE):
            return _own(name, width, classes, in_shape[0])
        return _layout(name, width, classes, in_shape[0])


def materialise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Moves a model of torch's "meta" device to the CPU, in place, and draws its weights from `generator`."""
    for module in allocated(model, "cpu").modules():
        _initialise(module, generator)
    return model


def allocated(model: nn.Module, device: str) -> nn.Module:
    """A model of torch's "meta" device moved to another, in place; all its numbers are 0.

    `to_empty` would do it too, and import a compiler that nothing here uses.
    """
    state = model.state_dict()
    zeros = {name: torch.zeros(tensor.shape, dtype=tensor.dtype, device=device) for name, tensor in state.items()}
    model.load_state_dict(zeros, assign=True)
    return model


def _layout(name: str, width: int, classes: int, in_channels: int) -> nn.Module:
    check_choice("model", name, MODELS)
    w = width
    if name == "cnn":
        return PlainNet((w, 2 * w, 4 * w, 4 * w), (2, 4), ((2,), (3,), (4, 5)), 2, classes, in_channels)
    if name == "resnet18":
        return ResNet18(w, classes, in_channels)
    # VGG11: consecutive pairs of its nine layers, without the first
    channels = (w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w, 8 * w, 8 * w)
    return PlainNet(channels, (1, 2, 4, 6, 8), ((2,), (3, 4), (5, 6), (7, 8), (9,)), 1, classes, in_channels)


def _own(name: str, width: int, classes: int, in_channels: int) -> nn.Module:
    network = network_in(stamped("model", name), width, classes, in_channels)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{file_of(name)}: NETWORK gives a {type(network).__name__}; it must give a torch.nn.Module")
    return network


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        bound = 1 / math.sqrt(module.weight[0].numel())
        nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        if module.bias is not None:
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()


def linear_name(model: nn.Module) -> str:
    """Parameter name of the weight of the last linear layer."""
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def prunable_blocks(model: nn.Module, prune_linear: bool) -> Blocks:
    """Names of the prunable weights by block, input to output.

    Without `prune_linear` the last linear layer is left out, and a block that holds nothing else is dropped. Raises
    ValueError for a model without `blocks`, whose blocks name what is no parameter of it, or of which nothing is left.
    """
    declared = getattr(model, "blocks", ())
    if not _are_blocks(declared):
        raise ValueError(
            f"{type(model).__name__} cannot be pruned: its `blocks` must be a tuple of blocks, each a tuple of names, "
            'such as (("conv2.weight",), ("conv3.weight", "linear.weight"))'
        )
    missing = {name for block in declared for name in block} - {name for name, _ in model.named_parameters()}
    if missing or not declared:
        wrong = f"its `blocks` name {', '.join(sorted(missing))}, which it has not" if missing else "it has no `blocks`"
        raise ValueError(
            f"{type(model).__name__} cannot be pruned: {wrong}; give it the names of its prunable weights, block by "
            "block, as model/architectures.py does"
        )
    kept_dense = set() if prune_linear else {linear_name(model)}
    blocks = (tuple(name for name in block if name not in kept_dense) for block in declared)
    left = tuple(block for block in blocks if block)
    if not left:
        raise ValueError(f"{type(model).__name__} has nothing to prune but its last layer; set prune_linear=yes")
    return left


def _are_blocks(declared: object) -> bool:
    """Whether these are blocks of names, though there may be none of them."""
    return isinstance(declared, tuple | list) and all(
        isinstance(block, tuple | list) and all(isinstance(name, str) for name in block) for block in declared
    )


def prunable_names(model: nn.Module, prune_linear: bool) -> tuple[str, ...]:
    """Names of all prunable weights, input to output."""
    return tuple(name for block in prunable_blocks(model, prune_linear) for name in block)


def is_statistic(name: str) -> bool:
    """Whether a tensor of a model's state, by its name, is a running mean or variance of batch norm."""
    return name.endswith(BN_STATS)


def bn_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the running means and variances, in the model's order."""
    return tuple(name for name, _ in model.named_buffers() if is_statistic(name))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what is exchanged and averaged: parameters and running BN statistics, no batch counters."""
    return {name: tensor.detach().clone() for name, tensor in live_state(model).items()}


def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copies `state`, of the form that `state_of` returns, into the model in place.

    Raises ValueError, before anything is copied, if a name is missing or unknown or a shape differs.
    """
    live = live_state(model)
    _check_names(live, state)
    for name, tensor in live.items():
        if state[name].shape != tensor.shape:
            given, needed = tuple(state[name].shape), tuple(tensor.shape)
            raise ValueError(f"state holds {name} of shape {given}, but the model needs {needed}")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(state[name])


def live_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's own parameters and running BN statistics, not copies, in the order of `state_of`."""
    statistics = {name: buffer for name, buffer in model.named_buffers() if is_statistic(name)}
    return dict(model.named_parameters()) | statistics


def _check_names(needed: Iterable[str], given: Iterable[str]) -> None:
    missing, unknown = sorted(set(needed) - set(given)), sorted(set(given) - set(needed))
    if missing or unknown:
        raise ValueError(
            f"state does not fit the model: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}; "
            "pass a state of the same model, width and number of classes"
        )
