"""Convolutions of a sparse network with their norms: a layer, as `layers` describes it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtiny_lite.model.networks import BN_STATS
from fedtiny_lite.sparse import kernels, norms
from fedtiny_lite.sparse.activations import Activation, Gradient
from fedtiny_lite.sparse.layout import LANES, Geometry, Planes, Workspace, in_use, window
from fedtiny_lite.sparse.patterns import Pattern, build_pattern

Observer = Callable[[Planes, Planes], None]
"""Called with a convolution's input and the gradient of its result, in the backward pass."""


class ConvNorm:
    """One convolution by its kept weights, and its norm: names in the torch model, mask, parameters, statistics.

    `values`, `gamma` and `beta` are views of the network's parameters, the statistics are views of the network's.
    Raises ValueError for a convolution with a bias or another padding than half its kernel.
    """

    values: Tensor
    gamma: Tensor
    beta: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, model: nn.Module, name: str, norm_name: str):
        conv, norm = model.get_submodule(name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if conv.bias is not None or conv.padding != (conv.kernel_size[0] // 2,) * 2:
            raise ValueError(f"the sparse engine has no convolution such as {name}: {conv}")
        self.name, self.norm_name, self.channels, self.stride = name, norm_name, conv.out_channels, conv.stride[0]
        self.eps, self.momentum = norm.eps, norm.momentum
        self.keep = torch.empty(0, dtype=torch.bool)  # nothing is loaded yet
        self.observer: Observer | None = None

    def take_mask(self, keep: Tensor) -> bool:
        """Takes over the mask; whether it is another than before."""
        if torch.equal(self.keep, keep):
            return False
        self.keep, self.index = keep, keep.flatten().nonzero().squeeze(1)
        return True

    def load(self, model: nn.Module) -> list[Tensor]:
        """Kept weights, gamma and beta, running mean and running variance."""
        weight, *norm = self._state_in(model)
        return [weight.flatten()[self.index], *norm]

    def store(self, model: nn.Module) -> None:
        """Writes weights, the norm's parameters and its statistics into the torch model; pruned weights become 0."""
        weight, *norm = self._state_in(model)
        weight.zero_().view(-1)[self.index] = self.values
        for theirs, own in zip(norm, (self.gamma, self.beta, self.running_mean, self.running_var), strict=True):
            theirs.copy_(own)

    def _state_in(self, model: nn.Module) -> list[Tensor]:
        """This layer's tensors in the torch model: weight, gamma, beta, running mean and running variance."""
        parameters = (f"{self.name}.weight", f"{self.norm_name}.weight", f"{self.norm_name}.bias")
        statistics = (f"{self.norm_name}.{name}" for name in BN_STATS)
        return [model.get_parameter(n).detach() for n in parameters] + [model.get_buffer(n) for n in statistics]


class Convolutions:
    """Convolutions that read the same input, each with its norm: one, or a block's first and its shortcut's.

    They are computed as one convolution, whose output channels are theirs in a row. ReLU follows the first one's norm.
    `before`: geometry of the input. `first`: whether this is the network's first layer, whose input needs no gradient.
    """

    def __init__(self, convs: Sequence[ConvNorm], before: Geometry, workspace: Workspace):
        self.convs, self.before, self.workspace, self.first = list(convs), before, workspace, False
        self.stride, channels = convs[0].stride, sum(conv.channels for conv in convs)
        height, width = (-(-side // self.stride) for side in (before.height, before.width))
        self.joint = Geometry(channels, height, width)
        self.after = replace(self.joint, channels=convs[0].channels)
        self.ahead = window(self.stride**2 * before.channels, height, width, 1, 2 - self.stride)
        self.back = window(channels, height, width, 2 - self.stride, 1)
        self.eps = np.concatenate([np.full(conv.channels, conv.eps) for conv in convs])

    # --- parameters -----------------------------------------------------------------------------------------

    def take_masks(self, keeps: Sequence[Tensor]) -> None:
        """Takes over the masks of the convolutions; a pattern is made anew if one of them changed."""
        if any([conv.take_mask(keep) for conv, keep in zip(self.convs, keeps, strict=True)]):
            self.pattern = self.build_pattern()

    def build_pattern(self) -> Pattern:
        """The pattern of all convolutions together; a 1x1 is the middle of a 3x3."""
        size = max(conv.keep.shape[-1] for conv in self.convs)
        keeps = [F.pad(conv.keep, [(size - conv.keep.shape[-1]) // 2] * 4) for conv in self.convs]
        return build_pattern(torch.cat(keeps), self.stride, self.ahead, self.back)

    def load(self, model: nn.Module) -> list[Tensor]:
        """Copies of all kept weights, gammas and betas, running means and running variances."""
        return [torch.cat(tensors) for tensors in zip(*(conv.load(model) for conv in self.convs), strict=True)]

    def bind(self, parameters: Iterator[tuple[Tensor, Tensor]], statistics: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Takes the memory of its parameters and their gradients, and of its running statistics and the last batch's;
        each convolution has a view of its own part.
        """
        with_gradients, with_batch = list(islice(parameters, 3)), list(islice(statistics, 2))
        (self.values, self.gvalues), (self.gamma, self.ggamma), (self.beta, self.gbeta) = map(_arrays, with_gradients)
        self.running, self.batch = zip(*map(_arrays, with_batch), strict=True)
        channels = [conv.channels for conv in self.convs]
        sizes = ([len(conv.index) for conv in self.convs], channels, channels)
        for name, (tensor, grad), parts in zip(("values", "gamma", "beta"), with_gradients, sizes, strict=True):
            for conv, own, its_grad in zip(self.convs, tensor.split(parts), grad.split(parts), strict=True):
                own.grad = its_grad
                setattr(conv, name, own)
        for name, (tensor, _) in zip(BN_STATS, with_batch, strict=True):
            for conv, own in zip(self.convs, tensor.split(channels), strict=True):
                setattr(conv, name, own)

    # --- forward --------------------------------------------------------------------------------------------

    def forward(self, x: Activation, momentum: float | None, keep: bool) -> Activation:
        [z] = self.forward_all(x, momentum)
        return z

    def forward_all(self, x: Activation, momentum: float | None) -> list[Activation]:
        """The output of each convolution's norm."""
        y, p, sums = self.workspace.take(self.joint, x.planes.samples), self.pattern, np.empty((3, self.joint.channels))
        kernels.conv_forward(
            y.data, sums, *x.reading, p.first, p.tap, self.values, in_use(y.samples),
            self._scratch(self.ahead.size), self.ahead.shape, self.stride,
        )  # fmt: skip
        self.x, self.y, self.norm = x, y, np.empty((3, self.joint.channels), np.float32)
        self.mean, self.variance = self._statistics(sums, momentum)
        norms.reading(self.norm, self.mean, self.variance, self.gamma, self.beta, self.eps)
        if len(self.convs) == 1:
            return [Activation(y, self.norm, True, y.data, self.norm[0])]
        return [self._output(self.convs[0], 0, True), self._output(self.convs[1], self.convs[0].channels, False)]

    def _output(self, conv: ConvNorm, at: int, relu: bool) -> Activation:
        """The output of one norm of two: a view of its channels, which begin at channel `at`."""
        planes, norm = self.y.channels(at, at + conv.channels), self.norm[:, at : at + conv.channels].copy()
        return Activation(planes, norm, relu, planes.data, norm[0])

    def _statistics(self, sums: np.ndarray, momentum: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each channel: the running ones, or the batch's, towards which the network moves those.

        The running variance moves towards the unbiased one.
        """
        if momentum is None:
            mean, variance = (statistic.astype(np.float64) for statistic in self.running)
            return mean, variance
        count = self._count()
        if count == 1:
            name = self.convs[0].norm_name
            raise ValueError(f"{name} normalises over one value per channel; train on two images or more")
        mean, variance = np.empty(len(self.eps)), np.empty(len(self.eps))
        norms.moments(mean, variance, sums, count)
        self.batch[0][:], self.batch[1][:] = mean, variance * (count / (count - 1))
        return mean, variance

    def _count(self) -> int:
        """Values of a channel over which the norm goes."""
        return self.y.samples * self.joint.pixels

    def _scratch(self, floats: int) -> np.ndarray:
        return self.workspace.scratch(floats + LANES * self.pattern.longest)

    # --- backward -------------------------------------------------------------------------------------------

    def backward(self, g: Gradient) -> Gradient | None:
        """The gradient of the input; None for the network's first layer."""
        gx = self.backward_all([g])
        self.workspace.give(g.planes)
        return gx

    def backward_all(self, gradients: Sequence[Gradient], onto: Planes | None = None) -> Gradient | None:
        """The gradient of the input, from those of the norms' outputs; added to what lies in `onto`, if given."""
        sums, terms = np.concatenate([g.sums for g in gradients], 1), np.empty((4, self.joint.channels), np.float32)
        norms.gradient_terms(
            terms, self.ggamma, self.gbeta, sums, self.mean, self.variance, self.gamma, self.eps, self._count()
        )
        self._show(gradients, terms)
        gx = None
        if self.first:
            self._weight_gradient(gradients[0], terms)
        else:
            gx = self._both_gradients(gradients, terms, onto)
        self.workspace.give(self.y)
        return gx

    def _weight_gradient(self, g: Gradient, terms: np.ndarray) -> None:
        kernels.weight_gradient(
            self.gvalues, g.planes.data, self.y.data, terms, *self.x.reading, self.pattern.first, self.pattern.tap,
            in_use(self.y.samples), self._scratch(self.ahead.size), self.ahead.shape, self.stride,
        )  # fmt: skip

    def _both_gradients(self, gradients: Sequence[Gradient], terms: np.ndarray, onto: Planes | None) -> Gradient:
        x, p = self.x, self.pattern
        gx = Gradient(onto or self.workspace.take(self.before, self.y.samples), np.empty((2, self.before.channels)))
        gvalue = np.empty_like(self.values)
        kernels.conv_backward(
            gx.planes.data, gvalue, gx.sums, gradients[0].planes.data, gradients[-1].planes.data, self.y.data, terms,
            *x.reading, x.of, x.mean, p.back_first, p.back_tap, self.values[p.back_order], in_use(self.y.samples),
            self._scratch(self.back.size), self.back.shape, self.stride, onto is not None, x.relu,
        )  # fmt: skip
        self.gvalues[p.back_order] = gvalue
        return gx

    def _show(self, gradients: Sequence[Gradient], terms: np.ndarray) -> None:
        """Calls the observers with what they observe, in memory of its own."""
        at = 0
        for conv, g in zip(self.convs, gradients, strict=True):
            end = at + conv.channels
            if conv.observer:
                x, gy = (self.workspace.take(of.geometry, of.samples) for of in (self.x.planes, g.planes))
                norms.apply(x.data, *self.x.reading)
                norms.apply_gradient(gy.data, g.planes.data, self.y.data[at:end], terms[:, at:end].copy())
                gy.data[:, -1, :, :, in_use(gy.samples)[-1] == 0] = 0
                conv.observer(x, gy)
                self.workspace.give(x)
                self.workspace.give(gy)
            at = end


def _arrays(pair: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Both tensors as arrays in the same memory."""
    return pair[0].numpy(), pair[1].numpy()
