"""The sparse twin of a torch model: the same values and gradients, computed from the kept weights alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.networks import PlainNet, ResNet18
from fedtiny_lite.sparse.layers import ConvNorm, MaxPool, Residual
from fedtiny_lite.sparse.layout import LANES, Geometry, Workspace, block_count, pack, unpack

Layer = ConvNorm | MaxPool | Residual


class SparseNetwork:
    """A PlainNet or ResNet18 on batches of at most `batch_size` images of `in_shape` (channels, height, width).

    The network has parameters and running statistics of its own: `load` copies them from a torch model, `store` writes
    them back. The room for a batch is `batch_size` rounded up to a multiple of 16, the `capacity`. The linear layer is
    a dense torch tensor; whoever makes a step calls `mask_linear` after it. Raises ValueError for another model.
    """

    def __init__(self, model: nn.Module, batch_size: int, in_shape: tuple[int, int, int]):
        self.in_shape, self.workspace = in_shape, Workspace()
        self.before = Geometry(*in_shape, block_count(batch_size))
        self.capacity = self.before.blocks * LANES
        self.grid = model.grid if isinstance(model, PlainNet) else 1
        self.layers = _layers(model, self.before, self.workspace)
        self.convs = [conv for layer in self.layers for conv in layer.convs]
        self.convs[0].first, self.momentum = True, self.convs[0].momentum

    def load(self, model: nn.Module, mask: Mask) -> None:
        """Copies the model's state; the pattern of a layer is made anew if the layer's mask changed."""
        for conv in self.convs:
            name = f"{conv.name}.weight"
            conv.load(model, mask[name] if name in mask else torch.ones_like(model.get_parameter(name)).bool())
        self.weight, self.bias = (tensor.clone().requires_grad_() for tensor in _linear_of(model))
        self.pruned = mask.pruned.get("linear.weight")
        self.mask_linear()

    def store(self, model: nn.Module) -> None:
        """Writes parameters and running statistics into the torch model; pruned weights become 0."""
        for conv in self.convs:
            conv.store(model)
        for theirs, own in zip(_linear_of(model), (self.weight, self.bias), strict=True):
            theirs.copy_(own.detach())

    def parameters(self) -> list[Tensor]:
        """All that SGD moves: kept weights, gamma and beta of each norm, and the linear layer."""
        return [p for conv in self.convs for p in conv.parameters()] + [self.weight, self.bias]

    def mask_linear(self) -> None:
        """Sets the linear layer's pruned weights to zero; convolutions do not hold theirs."""
        if self.pruned is not None:
            self.weight.detach().masked_fill_(self.pruned, 0)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W], N of any size, by the running statistics."""
        # The head takes all images at once, because its last bits depend on how many there are.
        parts = images.split(self.capacity)
        return self._head(torch.cat([self._forward(part, momentum=None, keep=False) for part in parts]))

    def recalibrate(self, images: Tensor, momentum: float) -> None:
        """Moves the running statistics towards those of a batch, as torch does in training mode.

        A statistic becomes (1 - momentum) running + momentum batch, with the unbiased variance of the batch. Nothing is
        kept for a backward pass. Raises ValueError for more images than the network has room for.
        """
        self._forward(images, momentum, keep=False)

    def backward(self, images: Tensor, labels: Tensor, down_to: int = 0) -> Tensor:
        """The mean loss of a training batch, a scalar; sets the parameters' `grad` and moves the running statistics.

        `images`: float [N, C, H, W]; `labels`: int64 [N]. `down_to`: number of the layer at which to stop; the layers
        before it get no gradient. Raises ValueError as `recalibrate` does, and where one image leaves a norm one value.
        """
        features = self._forward(images, self.momentum, keep=True).requires_grad_()
        loss = F.cross_entropy(self._head(features), labels)
        of_features, self.weight.grad, self.bias.grad = torch.autograd.grad(loss, (features, self.weight, self.bias))
        z = self.layers[-1].output()
        g = pack(of_features, self.workspace.take(z.geometry, len(images)))
        for number in reversed(range(down_to, len(self.layers))):
            x = self.layers[number - 1].output() if number else self.input
            g, z = self.layers[number].backward(g, x, z) or g, x  # the first layer returns no gradient
        if not down_to:
            self.workspace.give(self.input)
        return loss.detach()

    def _forward(self, images: Tensor, momentum: float | None, keep: bool) -> Tensor:
        """The last map [N, C, H, W]. An activation that no layer keeps goes back to the workspace after its use."""
        if len(images) > self.capacity:
            raise ValueError(f"{len(images)} images in a network for {self.capacity}; give it a larger batch_size")
        self.workspace.clear()  # of what a pass that ended early left out
        x = pack(images, self.workspace.take(self.before, len(images)))
        self.input, kept = x, keep
        for layer in self.layers:
            z = layer.forward(x, momentum, keep)
            if not kept:
                self.workspace.give(x)
            x, kept = z, keep and layer.keeps_output
        features = unpack(x)
        if not kept:
            self.workspace.give(x)
        return features

    def _head(self, features: Tensor) -> Tensor:
        return F.linear(F.adaptive_avg_pool2d(features, self.grid).flatten(1), self.weight, self.bias)


def has_twin(model: nn.Module) -> bool:
    """Whether the sparse engine has this kind of model."""
    return isinstance(model, PlainNet | ResNet18)


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
        layers.append(ConvNorm(model, f"conv{number}", f"bn{number}", before, workspace))
        before = layers[-1].after
        if number in model.pool_after and min(before.height, before.width) > 1:
            layers.append(MaxPool(before, workspace))
            before = layers[-1].after
    return layers


def _resnet_layers(model: ResNet18, before: Geometry, workspace: Workspace) -> list[Layer]:
    layers: list[Layer] = [ConvNorm(model, "conv1", "bn1", before, workspace)]
    for stage in range(1, 5):
        for unit in range(2):
            layers.append(Residual(model, f"layer{stage}.{unit}", layers[-1].after, workspace))
    return layers
