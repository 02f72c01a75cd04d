"""The architectures: CIFAR ResNet18, networks in a row, and the paper's small model, each with its `blocks`.

`blocks` are the names of the prunable weights, grouped and ordered from input to output. Biases, batch normalisation
and the first layer are never prunable, as in the first author's code of 2022.
"""

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

Blocks = tuple[tuple[str, ...], ...]


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
    """The paper's dense small model (recalled): three 3x3 convolutions with bias, a hidden and a linear layer.

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
