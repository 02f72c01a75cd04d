"""Pruned activations: what a convolution keeps of its input for the backward pass, and the bytes that it takes.

The forward pass is exact, and so is the gradient that passes through to the input. Only the gradient of the weights is
computed with the small activations set to zero. This is the scaled activation pruning of FedMef (Huang et al., CVPR
2024), as the `mink` strategy of the authors' library FedPruning does it.
"""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fedtiny_lite.model.costs import smallest_bytes
from fedtiny_lite.model.masks import share_of


def kept_activations(elements: int, density: float) -> int:
    """How many of `elements` activations are kept at `density`, rounded down."""
    return share_of(elements, density)


@contextmanager
def pruned_activations(model: nn.Module, density: float) -> Iterator[None]:
    """A context in which each convolution keeps the `density` share of its input, the largest |values| of the batch.

    The share is taken over the whole batch, not image by image.
    """
    saving, handles = ExitStack(), []

    def enter(layer: nn.Conv2d, inputs: tuple) -> None:
        saving.enter_context(saved_tensors_hooks(lambda saved: _pack(saved, layer.weight, density), _unpack))

    def leave(layer: nn.Conv2d, inputs: tuple, output: Tensor) -> None:
        saving.close()

    for layer in _convolutions(model).values():
        handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


Packed = Tensor | tuple[Tensor, Tensor]
"""A saved tensor as it is, or (bool mask of what is kept, the kept values)."""


def _pack(saved: Tensor, weight: Tensor, density: float) -> Packed:
    """What is kept of a tensor that a layer saves: of its input the largest values, of its weight everything."""
    kept = kept_activations(saved.numel(), density)
    if saved.data_ptr() == weight.data_ptr() or kept == saved.numel():
        return saved
    keep = torch.zeros(saved.numel(), dtype=torch.bool, device=saved.device)
    keep[saved.flatten().abs().topk(kept, sorted=False).indices] = True
    keep = keep.view(saved.shape)
    return keep, saved[keep]


def _unpack(packed: Packed) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    keep, values = packed
    return torch.zeros(keep.shape, dtype=values.dtype, device=values.device).masked_scatter_(keep, values)


def saved_input_bytes(model: nn.Module, in_shape: tuple[int, int, int], batch: int, density: float = 1.0) -> int:
    """Bytes of the convolutions' inputs that are kept for the backward pass of `batch` images.

    `in_shape`: (C, H, W) of an image. Each input counts in its smallest format (`costs.smallest_bytes`). The number is
    counted from shapes, traced without data, and not measured. What BN and ReLU keep is not part of the number. In
    torch a ReLU keeps its whole output, which is the very tensor that the next convolution takes, so that torch does
    not save these bytes.
    """
    twin, shapes = copy.deepcopy(model).to("meta").eval(), []
    for layer in _convolutions(twin).values():
        layer.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    twin(torch.zeros(batch, *in_shape, device="meta"))
    rows = [(shape.numel(), shape[0] * shape[1], shape[2] * shape[3]) for shape in shapes]
    return sum(smallest_bytes(n, kept_activations(n, density), maps, pixels) for n, maps, pixels in rows)


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
