"""The networks: CIFAR ResNet18, VGG11-BN and a small CNN, at any width and input size; and the paper's small model.

Each model declares its `blocks`: the names of the prunable weights, grouped and ordered from input to output. Biases,
batch normalisation and the first layer are never prunable, as in the first author's code of 2022.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODELS = ("cnn", "resnet18", "vgg11")

Blocks = tuple[tuple[str, ...], ...]
BN_STATS = ("running_mean", "running_var")


class PlainNet(nn.Module):
    """Convolutions in a row (3x3, padding 1, no bias, each with BN and ReLU), an average pool and a linear layer.

    Layers are numbered from 1; the linear layer has the last number. `channels`: output channels of each convolution.
    `pool_after`: numbers of the convolutions that a 2x2 max-pool follows; a map with a side of one pixel is not pooled.
    `blocks`: numbers of the layers of each block. `grid`: the last map is averaged to `grid` x `grid` pixels before the
    linear layer.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        pool_after: tuple[int, ...],
        blocks: tuple[tuple[int, ...], ...],
        grid: int,
        classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.depth, self.pool_after, self.grid = len(channels), pool_after, grid
        for number, (before, after) in enumerate(pairwise((in_channels, *channels)), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(before, after, 3, padding=1, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(after))
        self.linear = nn.Linear(channels[-1] * grid**2, classes)
        self.blocks: Blocks = tuple(tuple(self._weight_name(number) for number in block) for block in blocks)

    def _weight_name(self, number: int) -> str:
        return f"conv{number}.weight" if number <= self.depth else "linear.weight"

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to logits [N, classes]."""
        x = images
        for number in range(1, self.depth + 1):
            x = F.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
            if number in self.pool_after and min(x.shape[-2:]) > 1:
                x = F.max_pool2d(x, 2)
        return self.linear(F.adaptive_avg_pool2d(x, self.grid).flatten(1))


class BasicBlock(nn.Module):
    """ResNet's residual unit: two 3x3 convolutions and a shortcut, which is a 1x1 convolution where shapes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = nn.Sequential()
        if stride != 1 or before != after:
            shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNet18(nn.Module):
    """ResNet18 with the CIFAR stem: a 3x3 convolution of stride 1 and no max-pool.

    Weights are named as in torchvision, except that torchvision's `fc` is called `linear`. The blocks are the four
    stages; the linear layer belongs to the last block.
    """

    def __init__(self, width: int, classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, 1)
        self.layer2 = self._stage(width, 2 * width, 2)
        self.layer3 = self._stage(2 * width, 4 * width, 2)
        self.layer4 = self._stage(4 * width, 8 * width, 2)
        self.linear = nn.Linear(8 * width, classes)
        stages = [self._conv_names(f"layer{number}") for number in range(1, 5)]
        self.blocks: Blocks = (*stages[:3], (*stages[3], "linear.weight"))

    @staticmethod
    def _stage(before: int, after: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(before, after, stride), BasicBlock(after, after, 1))

    def _conv_names(self, stage: str) -> tuple[str, ...]:
        modules = self.get_submodule(stage).named_modules(prefix=stage)
        return tuple(f"{name}.weight" for name, module in modules if isinstance(module, nn.Conv2d))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to logits [N, classes]."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


class SmallNet(nn.Module):
    """The paper's dense small model: three 3x3 convolutions with bias, a hidden linear layer, a linear layer; no BN.

    A 2x2 max-pool follows each of the first two convolutions. `in_shape`: (channels, height, width) of one image.
    Convolutions have no padding, so that each takes 2 pixels off a side. An image with a side below 22 pixels would end
    with less than 2x2 pixels; its convolutions have padding 1.
    """

    blocks: Blocks = (("conv2.weight",), ("conv3.weight",), ("hidden.weight", "linear.weight"))
    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv3: nn.Conv2d

    def __init__(self, channels: tuple[int, int, int], hidden: int, classes: int, in_shape: tuple[int, int, int]):
        super().__init__()
        padding = 1 if min(in_shape[1:]) < 22 else 0
        for number, (before, after) in enumerate(pairwise((in_shape[0], *channels)), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(before, after, 3, padding=padding))
        sides = [self._last_side(side, 2 - 2 * padding) for side in in_shape[1:]]
        self.hidden = nn.Linear(channels[-1] * math.prod(sides), hidden)
        self.linear = nn.Linear(hidden, classes)

    @staticmethod
    def _last_side(side: int, lost: int) -> int:
        """Pixels of the last map along a side of the image, when each convolution takes off `lost` pixels."""
        for _ in range(2):
            side = max((side - lost) // 2, 1)
        return side - lost

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to logits [N, classes]."""
        x = images
        for conv in (self.conv1, self.conv2):
            x = F.relu(conv(x))
            x = F.max_pool2d(x, [min(side, 2) for side in x.shape[-2:]])
        x = F.relu(self.conv3(x)).flatten(1)
        return self.linear(F.relu(self.hidden(x)))


Network = PlainNet | ResNet18 | SmallNet


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

    `name`: one of MODELS, or "small" for the SmallNet of that width that `methods.small_model` trains. Raises
    ValueError for an unknown name.
    """
    with torch.device("meta"):  # draws nothing from the global generator
        if name == "small":
            return SmallNet((width, width, width), 8 * width, classes, in_shape)
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
    w = width
    if name == "cnn":
        return PlainNet((w, 2 * w, 4 * w, 4 * w), (2, 4), ((2,), (3,), (4, 5)), 2, classes, in_channels)
    if name == "resnet18":
        return ResNet18(w, classes, in_channels)
    if name == "vgg11":  # consecutive pairs of its nine layers, without the first
        channels = (w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w, 8 * w, 8 * w)
        return PlainNet(channels, (1, 2, 4, 6, 8), ((2,), (3, 4), (5, 6), (7, 8), (9,)), 1, classes, in_channels)
    raise ValueError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")


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

    Without `prune_linear` the last linear layer is left out, and a block that holds nothing else is dropped.
    """
    assert isinstance(model, Network)
    kept_dense = set() if prune_linear else {linear_name(model)}
    blocks = (tuple(name for name in block if name not in kept_dense) for block in model.blocks)
    return tuple(block for block in blocks if block)


def prunable_names(model: nn.Module, prune_linear: bool) -> tuple[str, ...]:
    """Names of all prunable weights, input to output."""
    return tuple(name for block in prunable_blocks(model, prune_linear) for name in block)


def bn_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the running means and variances, in the model's order."""
    return tuple(name for name, _ in model.named_buffers() if name.endswith(BN_STATS))


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
    statistics = {name: buffer for name, buffer in model.named_buffers() if name.endswith(BN_STATS)}
    return dict(model.named_parameters()) | statistics


def _check_names(needed: Iterable[str], given: Iterable[str]) -> None:
    missing, unknown = sorted(set(needed) - set(given)), sorted(set(given) - set(needed))
    if missing or unknown:
        raise ValueError(
            f"state does not fit the model: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}; "
            "pass a state of the same model, width and number of classes"
        )
