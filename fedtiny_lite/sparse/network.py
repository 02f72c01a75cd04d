"""The sparse twin of a torch model: the same values and gradients, computed from the kept weights alone."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtiny_lite.model.architectures import PlainNet, ResNet18
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.training import gradient
from fedtiny_lite.sparse import norms
from fedtiny_lite.sparse.activations import Activation, Gradient, restore, stored, summed
from fedtiny_lite.sparse.convolutions import ConvNorm, Convolutions
from fedtiny_lite.sparse.layers import Layer, MaxPool, Residual, convolutions_of
from fedtiny_lite.sparse.layout import Geometry, Workspace, pack, unpack

PREDICTED = 64
"""Images that `SparseNetwork.predict` takes at a time: the maps of more would take more memory."""


class SparseNetwork:
    """A PlainNet or ResNet18 on batches of images of `in_shape` (channels, height, width).

    The network has parameters and running statistics of its own: `load` copies them from a torch model, `store` writes
    them back. All parameters lie side by side in one tensor, so that an optimiser moves them at once, and so do all
    running statistics. The linear layer is dense; whoever makes a step calls `mask_linear` after it. Raises
    ValueError for another model.
    """

    def __init__(self, model: nn.Module, in_shape: tuple[int, int, int]):
        self.in_shape, self.workspace = in_shape, Workspace()
        self.before = Geometry(*in_shape)
        self.grid = model.grid if isinstance(model, PlainNet) else 1
        self.layers = _layers(model, self.before, self.workspace)
        self.convolutions = [own for layer in self.layers for own in convolutions_of(layer)]
        self.convolutions[0].first, self.momentum = True, self.convs[0].momentum

    @property
    def convs(self) -> list[ConvNorm]:
        return [conv for joint in self.convolutions for conv in joint.convs]

    def load(self, model: nn.Module, mask: Mask) -> None:
        """Copies the model's state; the pattern of a layer is made anew if the layer's mask changed."""
        parameters, statistics = [], []
        for joint in self.convolutions:
            joint.take_masks([_keep(model, mask, f"{conv.name}.weight") for conv in joint.convs])
            *own, mean, variance = joint.load(model)
            parameters += own
            statistics += [mean, variance]
        self.joined, grad, views = _side_by_side([*parameters, *_linear_of(model)])
        self.joined.grad = grad
        self.running, self.batch, moments = _side_by_side(statistics)
        for joint in self.convolutions:
            joint.bind(views, moments)
        self.weight, self.bias = (self._view(*view, of) for view, of in zip(views, _linear_of(model), strict=True))
        self.pruned = mask.pruned.get("linear.weight")
        self.mask_linear()

    @staticmethod
    def _view(parameter: Tensor, grad: Tensor, of: Tensor) -> Tensor:
        view = parameter.view_as(of)
        view.grad = grad.view_as(of)
        return view

    def store(self, model: nn.Module) -> None:
        """Writes parameters and running statistics into the torch model; pruned weights become 0."""
        for conv in self.convs:
            conv.store(model)
        for theirs, own in zip(_linear_of(model), (self.weight, self.bias), strict=True):
            theirs.copy_(own)

    def parameters(self) -> list[Tensor]:
        """One tensor of all that SGD moves: kept weights, gamma and beta of each norm, and the linear layer."""
        return [self.joined]

    def mask_linear(self) -> None:
        """Sets the linear layer's pruned weights to zero; convolutions do not hold theirs."""
        if self.pruned is not None:
            self.weight.masked_fill_(self.pruned, 0)

    @torch.no_grad()
    def predict(self, images: Tensor, at_once: int = PREDICTED) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W], N of any size, by the running statistics, `at_once` at a time."""
        # The head takes all images at once, because its last bits depend on how many there are.
        parts = [self._features(part, momentum=None) for part in images.split(at_once)]
        return self._head(torch.cat(parts), self.weight, self.bias)

    def recalibrate(self, images: Tensor, momentum: float) -> None:
        """Moves the running statistics towards those of a batch, as torch does in training mode.

        A statistic becomes (1 - momentum) running + momentum batch, with the unbiased variance of the batch. Nothing is
        kept for a backward pass.
        """
        self._features(images, momentum)

    def backward(self, images: Tensor, labels: Tensor, down_to: int = 0) -> Tensor:
        """The mean loss of a training batch, a scalar; sets the parameters' `grad` and moves the running statistics.

        `images`: float [N, C, H, W]; `labels`: int64 [N]. `down_to`: number of the layer at which to stop; the layers
        before it get no gradient. Raises ValueError where one image leaves a norm one value.
        """
        z = self._forward(images, self.momentum, keep=True)
        leaves = [leaf.detach().requires_grad_() for leaf in (self._values_of(z), self.weight, self.bias)]
        loss = F.cross_entropy(self._head(*leaves), labels)
        of_features, *of_linear = torch.autograd.grad(loss, leaves)
        for parameter, own in zip((self.weight, self.bias), of_linear, strict=True):
            gradient(parameter).copy_(own)
        g: Gradient | None = summed(pack(of_features, self.workspace.take(z.planes.geometry, len(images))), z)
        for layer, x in reversed(list(zip(self.layers, self.inputs, strict=True))[down_to:]):
            assert g  # the first layer alone returns no gradient
            restore(x, self.workspace)
            g = layer.backward(g)
        if not down_to:
            self.workspace.give(self.inputs[0].planes)
        return loss.detach()

    def _features(self, images: Tensor, momentum: float | None) -> Tensor:
        """The last map [N, C, H, W]; all memory goes back to the workspace."""
        z = self._forward(images, momentum, keep=False)
        features = self._values_of(z)
        self.workspace.give(z.planes)
        return features

    def _forward(self, images: Tensor, momentum: float | None, keep: bool) -> Activation:
        """The last activation. If not `keep`, activations go back to the workspace after use. A sum always does;
        the backward pass makes it again.
        """
        self.workspace.clear()  # of what a pass that ended early left out
        x, self.inputs = stored(pack(images, self.workspace.take(self.before, len(images)))), []
        for layer in self.layers:
            self.inputs.append(x)
            z = layer.forward(x, momentum, keep)
            if not keep or x.terms:
                self.workspace.give(x.planes)
            x = z
        if momentum is not None:
            self.running.lerp_(self.batch, momentum)
        return x

    def _values_of(self, z: Activation) -> Tensor:
        """What z stands for, as images [N, C, H, W]."""
        values = self.workspace.take(z.planes.geometry, z.planes.samples)
        norms.apply(values.data, *z.reading)
        images = unpack(values)
        self.workspace.give(values)
        return images

    def _head(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.adaptive_avg_pool2d(features, self.grid).flatten(1), weight, bias)


def has_twin(model: nn.Module) -> bool:
    """Whether the sparse engine has this kind of model."""
    return isinstance(model, PlainNet | ResNet18)


def _keep(model: nn.Module, mask: Mask, name: str) -> Tensor:
    return mask[name] if name in mask else torch.ones_like(model.get_parameter(name)).bool()


def _side_by_side(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Iterator[tuple[Tensor, Tensor]]]:
    """All values in one tensor, zeros in another, and each tensor's part of both."""
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    beside, sizes = torch.zeros_like(joined), [tensor.numel() for tensor in tensors]
    return joined, beside, zip(joined.split(sizes), beside.split(sizes), strict=True)


def _linear_of(model: nn.Module) -> list[Tensor]:
    """Weight and bias of the torch model's linear layer."""
    return [model.get_parameter(f"linear.{name}").detach() for name in ("weight", "bias")]


def _layers(model: nn.Module, before: Geometry, workspace: Workspace) -> list[Layer]:
    if isinstance(model, PlainNet):
        return _plain_layers(model, before, workspace)
    if isinstance(model, ResNet18):
        return _resnet_layers(model, before, workspace)
    raise ValueError(f"the sparse engine has no {type(model).__name__}; use the dense engine")


def _plain_layers(model: PlainNet, before: Geometry, workspace: Workspace) -> list[Layer]:
    layers: list[Layer] = []
    for number in range(1, model.depth + 1):
        layers.append(_single(model, f"conv{number}", f"bn{number}", before, workspace))
        before = layers[-1].after
        if number in model.pool_after and min(before.height, before.width) > 1:
            layers.append(MaxPool(before, workspace))
            before = layers[-1].after
    return layers


def _resnet_layers(model: ResNet18, before: Geometry, workspace: Workspace) -> list[Layer]:
    layers: list[Layer] = [_single(model, "conv1", "bn1", before, workspace)]
    for stage in range(1, 5):
        for unit in range(2):
            layers.append(Residual(model, f"layer{stage}.{unit}", layers[-1].after, workspace))
    return layers


def _single(model: nn.Module, name: str, norm_name: str, before: Geometry, workspace: Workspace) -> Convolutions:
    return Convolutions([ConvNorm(model, name, norm_name)], before, workspace)
