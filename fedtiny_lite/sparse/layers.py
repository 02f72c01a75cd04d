"""The layers of a sparse network, forward and backward: convolution with its norm, max-pool, residual block.

Every layer has three methods.
- `forward` takes the input activation and returns the output activation. With a `momentum`, a norm uses the statistics
  of the batch, and the running statistics move towards them by `momentum`; if `momentum` is None, it uses the running
  statistics. If `keep`, the layer keeps for the backward pass what it cannot make again: a convolution keeps its result
  before the norm, a pool and a residual block keep their output.
- `output` returns the output activation once more and hands it over to the caller. A convolution makes it again from
  the result before the norm.
- `backward` takes the gradient g of the output, the input x and the output z, and returns the gradient of x. It gives g
  and z back to the workspace.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fedtiny_lite.model.networks import BN_STATS, BasicBlock
from fedtiny_lite.model.training import gradient
from fedtiny_lite.sparse import kernels, norms
from fedtiny_lite.sparse.layout import Geometry, Planes, Workspace, block_count, tiles
from fedtiny_lite.sparse.patterns import build_pattern

Observer = Callable[[Planes, Planes], None]
"""Called with a convolution's input and the gradient of its result, in the backward pass."""


class ConvNorm:
    """A convolution by its kept weights, then batch norm, the residual sum if there is one, and ReLU if `relu`.

    `name`, `norm_name`: names of the convolution and of the norm in the torch model. `before`: geometry of the input,
    or of its phases at stride 2. `first`: whether this is the network's first layer, whose input needs no gradient.
    Raises ValueError for a convolution with a bias or another padding than half its kernel.
    """

    keeps_output = False

    def __init__(
        self, model: nn.Module, name: str, norm_name: str, before: Geometry, workspace: Workspace, relu: bool = True
    ):
        conv, norm = model.get_submodule(name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if conv.bias is not None or conv.padding != (conv.kernel_size[0] // 2,) * 2:
            raise ValueError(f"the sparse engine has no convolution such as {name}: {conv}")
        self.name, self.norm_name, self.relu, self.first, self.workspace = name, norm_name, relu, False, workspace
        self.before, self.after = before, replace(before, channels=conv.out_channels)
        self.stride, self.eps, self.momentum = conv.stride[0], norm.eps, norm.momentum
        self.keep = torch.empty(0, dtype=torch.bool)  # nothing is loaded yet
        self.observer: Observer | None = None

    @property
    def convs(self) -> list["ConvNorm"]:
        """A list of this layer alone.

        The list is made anew at each call. A list kept as an attribute would be a reference cycle, which keeps a
        dropped network's memory until the garbage collector runs.
        """
        return [self]

    # --- parameters -----------------------------------------------------------------------------------------

    def load(self, model: nn.Module, keep: Tensor) -> None:
        """Copies the weights that `keep` keeps, and the norm's parameters and statistics."""
        if not torch.equal(self.keep, keep):
            self.keep, self.pattern = keep, build_pattern(keep, self.stride, self.before)
        weight, *norm = self._state_in(model)
        self.values = weight.flatten()[torch.from_numpy(self.pattern.index)]
        self.gamma, self.beta, self.running_mean, self.running_var = (tensor.clone() for tensor in norm)
        for parameter in self.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def store(self, model: nn.Module) -> None:
        """Writes weights, the norm's parameters and its statistics into the torch model; pruned weights become 0."""
        weight, *norm = self._state_in(model)
        weight.zero_().view(-1)[torch.from_numpy(self.pattern.index)] = self.values
        for theirs, own in zip(norm, (self.gamma, self.beta, self.running_mean, self.running_var), strict=True):
            theirs.copy_(own)

    def _state_in(self, model: nn.Module) -> list[Tensor]:
        """This layer's tensors in the torch model: weight, gamma, beta, running mean and running variance."""
        parameters = (f"{self.name}.weight", f"{self.norm_name}.weight", f"{self.norm_name}.bias")
        statistics = (f"{self.norm_name}.{name}" for name in BN_STATS)
        return [model.get_parameter(n).detach() for n in parameters] + [model.get_buffer(n) for n in statistics]

    def parameters(self) -> list[Tensor]:
        return [self.values, self.gamma, self.beta]

    # --- forward --------------------------------------------------------------------------------------------

    def forward(self, x: Planes, momentum: float | None, keep: bool, shortcut: Planes | None = None) -> Planes:
        y = self.workspace.take(self.after, x.samples)
        p, shape = self.pattern, self.after.shape
        kernels.conv_forward(y.data, x.data, p.first, p.tap, self.values.numpy(), _tiles(y), shape)
        if momentum is None:
            self.mean, self.inverse = self.running_mean.numpy(), _inverse(self.running_var.numpy(), self.eps)
            z = self._normalise(y, shortcut)
        else:
            z = self._normalise_batch(y, momentum, shortcut)
        if keep:
            self.y = y
        else:
            self.workspace.give(y)
        return z

    def _normalise_batch(self, y: Planes, momentum: float, shortcut: Planes | None) -> Planes:
        """Normalises by the batch's own statistics and moves the running ones, as torch does."""
        count = y.samples * self.after.height * self.after.width
        if count == 1:
            raise ValueError(f"{self.norm_name} normalises over one value per channel; train on two images or more")
        z = self.workspace.take(self.after, y.samples)
        self.mean, variance = np.empty(self.after.channels), np.empty(self.after.channels)
        norms.forward(
            z.data, self.mean, variance, y.data, self.gamma.numpy(), self.beta.numpy(), self.eps,
            (shortcut or y).data, shortcut is not None, self.relu, y.samples, self.after.shape,
        )  # fmt: skip
        self.inverse = _inverse(variance, self.eps)
        self.running_mean.lerp_(torch.from_numpy(self.mean).float(), momentum)
        self.running_var.lerp_(torch.from_numpy(variance * count / (count - 1)).float(), momentum)
        return z

    def _normalise(self, y: Planes, shortcut: Planes | None) -> Planes:
        z = self.workspace.take(self.after, y.samples)
        norms.apply(
            z.data, y.data, np.float64(self.mean), self.gamma.numpy() * self.inverse, self.beta.numpy(),
            (shortcut or y).data, shortcut is not None, self.relu, y.samples, self.after.shape,
        )  # fmt: skip
        return z

    def output(self) -> Planes:
        return self._normalise(self.y, None)

    # --- backward -------------------------------------------------------------------------------------------

    def backward(self, g: Planes, x: Planes, z: Planes) -> Planes | None:
        self.norm_backward(g, z)
        self.workspace.give(g)
        self.workspace.give(z)
        gx = None if self.first else self.workspace.take(self.before, x.samples)
        self.conv_backward(x, gx)
        return gx

    def norm_backward(self, g: Planes, z: Planes) -> None:
        """Replaces the convolution's result by its gradient. If `relu`, g is set to zero where z is zero."""
        norms.backward(
            self.y.data, gradient(self.gamma).numpy(), gradient(self.beta).numpy(), g.data, z.data, self.relu,
            self.mean, self.inverse, self.gamma.numpy(), g.samples, self.after.shape,
        )  # fmt: skip

    def conv_backward(self, x: Planes, gx: Planes | None, add: bool = False) -> None:
        """Sets gx to the gradient of x, or adds it to gx if `add`. gx is None for the first layer, which needs none."""
        gy = self.y
        if self.observer:
            self.observer(x, gy)
        p, gvalue, shape = self.pattern, np.zeros(len(self.values), np.float32), self.before.shape
        if gx is None:
            kernels.weight_gradient(gvalue, gy.data, x.data, p.back_first, p.back_tap, _tiles(x), shape)
        else:
            kernels.conv_backward(
                gx.data, gvalue, gy.data, x.data, p.back_first, p.back_tap,
                self.values.numpy()[p.back_order], _tiles(x), shape, add,
            )  # fmt: skip
        gradient(self.values).numpy()[p.back_order] = gvalue
        self.workspace.give(gy)


class MaxPool:
    """The largest of each 2x2 pixels. The last row or column of an image of odd size is left out."""

    keeps_output, convs = True, ()

    def __init__(self, before: Geometry, workspace: Workspace):
        self.before, self.workspace = before, workspace
        self.after = replace(before, height=before.height // 2, width=before.width // 2)

    def forward(self, x: Planes, momentum: float | None, keep: bool) -> Planes:
        self.z = self.workspace.take(self.after, x.samples)
        norms.max_pool(self.z.data, x.data, x.samples, self.after.shape, self.before.shape)
        return self.z

    def output(self) -> Planes:
        return self.z

    def backward(self, g: Planes, x: Planes, z: Planes) -> Planes:
        gx = self.workspace.take(self.before, x.samples)
        norms.max_pool_backward(gx.data, g.data, x.data, x.samples, self.after.shape, self.before.shape)
        self.workspace.give(g)
        self.workspace.give(z)
        return gx


class Residual:
    """Two convolutions and a shortcut, which is the input itself or, where shapes change, its 1x1 convolution."""

    keeps_output = True

    def __init__(self, model: nn.Module, name: str, before: Geometry, workspace: Workspace):
        unit = model.get_submodule(name)
        assert isinstance(unit, BasicBlock)
        self.workspace, self.wide, self.stride = workspace, before, unit.conv1.stride[0]
        inner = phases_of(before) if self.stride == 2 else before
        self.conv1 = ConvNorm(model, f"{name}.conv1", f"{name}.bn1", inner, workspace)
        self.conv2 = ConvNorm(model, f"{name}.conv2", f"{name}.bn2", self.conv1.after, workspace)
        self.after = self.conv1.after
        self.shortcut: ConvNorm | None = None
        if len(unit.downsample):
            self.shortcut = ConvNorm(model, f"{name}.downsample.0", f"{name}.downsample.1", inner, workspace, False)
        self.convs = [conv for conv in (self.conv1, self.conv2, self.shortcut) if conv]

    def forward(self, x: Planes, momentum: float | None, keep: bool) -> Planes:
        inner = self._split(x)
        z1 = self.conv1.forward(inner, momentum, keep)
        beside = self.shortcut.forward(inner, momentum, keep) if self.shortcut else x
        self._give_split(inner)
        self.z = self.conv2.forward(z1, momentum, keep, beside)
        self.workspace.give(z1)
        if self.shortcut:
            self.workspace.give(beside)
        return self.z

    def output(self) -> Planes:
        return self.z

    def backward(self, g: Planes, x: Planes, z: Planes) -> Planes:
        self.conv2.norm_backward(g, z)
        self.workspace.give(z)
        z1 = self.conv1.output()
        gz1 = self.workspace.take(self.conv2.before, x.samples)
        self.conv2.conv_backward(z1, gz1)
        self.conv1.norm_backward(gz1, z1)
        self.workspace.give(z1)
        self.workspace.give(gz1)
        inner, gx = self._split(x), g
        if self.shortcut:
            self.shortcut.norm_backward(g, g)
            self.workspace.give(g)
            gx = self.workspace.take(self.conv1.before, x.samples)
            self.shortcut.conv_backward(inner, gx)
        self.conv1.conv_backward(inner, gx, add=True)
        self._give_split(inner)
        return self._merge(gx)

    def _split(self, x: Planes) -> Planes:
        if self.stride == 1:
            return x
        inner = self.workspace.take(self.conv1.before, x.samples)
        kernels.split_phases(inner.data, x.data, block_count(x.samples), inner.geometry.shape, self.wide.shape)
        return inner

    def _give_split(self, inner: Planes) -> None:
        if self.stride == 2:
            self.workspace.give(inner)

    def _merge(self, gx: Planes) -> Planes:
        if self.stride == 1:
            return gx
        whole = self.workspace.take(self.wide, gx.samples)
        kernels.merge_phases(whole.data, gx.data, block_count(gx.samples), gx.geometry.shape, self.wide.shape)
        self.workspace.give(gx)
        return whole


def phases_of(wide: Geometry) -> Geometry:
    """Geometry of the phases of `wide`: half the height and width, rounded up, and four times the channels."""
    return replace(wide, channels=4 * wide.channels, height=-(-wide.height // 2), width=-(-wide.width // 2))


def _tiles(planes: Planes) -> np.ndarray:
    return tiles(planes.geometry.height, planes.geometry.width, planes.samples)


def _inverse(variance: np.ndarray, eps: float) -> np.ndarray:
    return 1 / np.sqrt(variance.astype(np.float64) + eps)
