"""FLOPs, bytes and memory, counted from the numbers of weights really kept, never from a target density.

The cost model follows the appendix of FedRTS (arXiv 2501.19122), which restates FedTiny's. A multiply-add is 2 FLOPs,
the backward pass costs twice the forward pass, and biases, batch normalisation and activations are free. `kept` maps
parameter names to numbers of kept weights; a layer that `kept` leaves out counts as dense.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedtiny_lite.model.networks import allocated, bn_names

VALUE_BITS = 32


@dataclass(frozen=True)
class LayerShape:
    """One convolution or linear layer: its weight as a matrix [rows, cols], and how often a sample uses each weight."""

    name: str  # of the weight, such as "conv2.weight"
    weights: int
    positions: int  # of the output map, its height times its width; 1 for a linear layer
    rows: int  # output channels
    cols: int  # weights of one output channel


def layer_shapes(model: nn.Module, in_shape: tuple[int, int, int]) -> tuple[LayerShape, ...]:
    """All convolutions and linear layers in the order in which a sample of `in_shape` (C, H, W) passes them.

    Shapes are traced on a copy, so that the model and its BN statistics stay as they are, by a batch of no images,
    which computes nothing.
    """
    twin = allocated(copy.deepcopy(model), "cpu").eval()
    shapes: list[LayerShape] = []
    for name, module in twin.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(_shape_recorder(f"{name}.weight", shapes))
    twin(torch.zeros(0, *in_shape))
    return tuple(shapes)


def _shape_recorder(name: str, shapes: list[LayerShape]) -> Callable:
    def record(module: nn.Conv2d | nn.Linear, _inputs: tuple, output: torch.Tensor) -> None:
        weights, rows = module.weight.numel(), module.weight.shape[0]
        shapes.append(LayerShape(name, weights, output.shape[2:].numel(), rows, weights // rows))

    return record


def other_sizes(model: nn.Module) -> tuple[int, int]:
    """How many values are never compressed: (biases and BN parameters, running means and variances)."""
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters - weights, sum(model.get_buffer(name).numel() for name in bn_names(model))


def forward_flops(shapes: Sequence[LayerShape], kept: Mapping[str, int]) -> int:
    """FLOPs of one sample's forward pass: 2 * positions * kept, summed over the layers.

    Raises ValueError when `kept` names no layer of `shapes` or exceeds a layer's weights.
    """
    return sum(2 * shape.positions * count for shape, count in _counted(shapes, kept))


def training_flops(shapes: Sequence[LayerShape], kept: Mapping[str, int]) -> int:
    """FLOPs of one sample's forward and backward pass under a fixed mask, by the paper's convention: 3 forward passes.

    The backward pass counts as two forward passes in every layer, one for the gradient of the weights and one for the
    gradient of the layer's input. Records carry this number. `executed_training_flops` leaves out what nobody computes.
    Raises ValueError as `forward_flops` does.
    """
    return 3 * forward_flops(shapes, kept)


def executed_training_flops(shapes: Sequence[LayerShape], kept: Mapping[str, int]) -> int:
    """FLOPs of one sample's forward and backward pass that are executed: `training_flops` less one of the first layer.

    Nobody computes the gradient of the images, which is the input gradient of the first layer. `shapes` holds the
    layers in the order of the forward pass, as `layer_shapes` returns them. The number holds for an engine that
    computes kept weights alone; dense torch executes the number of dense layers whatever the mask, and the sparse
    engine computes the last linear layer whole. Raises ValueError as `forward_flops` does.
    """
    first = {name: count for name, count in kept.items() if name == shapes[0].name}
    return training_flops(shapes, kept) - forward_flops(shapes[:1], first)


def growth_flops(shapes: Sequence[LayerShape], kept: Mapping[str, int], block: Iterable[str]) -> int:
    """FLOPs that growth scores add per sample of the adjustment batch, on top of `training_flops`.

    Only the weight gradient of the block's layers is dense: F_d - F_s of the block. The growth batch also takes a
    forward pass of its own and gradients of activations, 2 F_s, which are not in this number. FedRTS's
    formula instead counts 2 F_d + F_s of the whole model for such a sample, in place of 3 F_s. Raises ValueError for a
    name in `block` that is no layer of `shapes`, and as `forward_flops` does.
    """
    names = set(block)
    in_block = [shape for shape in shapes if shape.name in names]
    if len(in_block) < len(names):
        unknown = sorted(names - {shape.name for shape in in_block})
        raise ValueError(f"block names {unknown}, which are no layers of this model")
    here = {name: count for name, count in kept.items() if name in names}
    return forward_flops(in_block, {}) - forward_flops(in_block, here)


def tensor_bytes(elements: int, kept: int, rows: int, cols: int, value_bits: int = VALUE_BITS) -> dict[str, int]:
    """Bytes of a tensor of `elements` values, `kept` of them stored, in each format, rounded up to whole bytes.

    Source: the appendix of FedRTS. For n elements as a matrix of rows x cols, m kept and b bits a value, the bits are:
        dense   n b
        bitmap  n + m b
        coo     m ceil(log2 n) + m b
        csr     m ceil(log2 cols) + rows ceil(log2 m) + m b
    """
    values = kept * value_bits
    bits = {
        "dense": elements * value_bits,
        "bitmap": elements + values,
        "coo": kept * index_bits(elements) + values,
        "csr": kept * index_bits(cols) + rows * index_bits(kept) + values,
    }
    return {name: _whole_bytes(count) for name, count in bits.items()}


def smallest_bytes(elements: int, kept: int, rows: int, cols: int, value_bits: int = VALUE_BITS) -> int:
    """Bytes of a tensor in the smallest format of `tensor_bytes`."""
    return min(tensor_bytes(elements, kept, rows, cols, value_bits).values())


def model_bytes(shapes: Sequence[LayerShape], kept: Mapping[str, int], other_values: int) -> int:
    """Bytes of a model sent one way: each layer in its smallest format, all other values as plain 32-bit values.

    `other_values`: how many values are sent beside the layers; for a whole state, the sum of `other_sizes`. Raises
    ValueError as `forward_flops` does.
    """
    layers = sum(smallest_bytes(s.weights, count, s.rows, s.cols) for s, count in _counted(shapes, kept))
    return layers + _whole_bytes(other_values * VALUE_BITS)


def growth_list_bytes(elements: int, entries: int) -> int:
    """Bytes of a list of `entries` (index, value) pairs over a layer of `elements` weights.

    A pair takes 32 + ceil(log2 elements) bits; the list is rounded up to whole bytes.
    """
    return _whole_bytes(entries * (VALUE_BITS + index_bits(elements)))


def model_state_memory(
    shapes: Sequence[LayerShape],
    kept: Mapping[str, int],
    other_parameters: int,
    bn_stats: int,
    list_entries: int = 0,
    dense_gradient: Collection[str] = (),
) -> int:
    """Bytes of a training client's model state, without activations and momentum.

    It is the paper's memory footprint as far as the ratio recalled for PruneFL tells.

    The count in words of 32 bits:
        a kept weight of a pruned layer        3 (value, index, gradient)
        a weight of a dense layer              2 (value, gradient)
        another parameter                      2 (value, gradient)
        a running statistic                    1
        an entry of the growth list            2 (index, value)
    A layer named in `dense_gradient` holds a gradient of every weight, pruned ones included. 32 bits for each agree
    with the ratio (1 + 2d) / 2 that the paper's figures imply for PruneFL at density d. Raises ValueError as
    `forward_flops` does.
    """
    words = 2 * other_parameters + bn_stats + 2 * list_entries
    for shape, count in _counted(shapes, kept):
        gradients = shape.weights if shape.name in dense_gradient else count
        words += count * (1 if count == shape.weights else 2) + gradients
    return _whole_bytes(words * VALUE_BITS)


def activation_bytes(model: nn.Module, in_shape: tuple[int, int, int], batch: int) -> int:
    """Bytes that a training step on `batch` images of `in_shape` (C, H, W) keeps between forward and backward pass.

    The bytes are those of the tensors that autograd saves, each tensor once, without the model's parameters and
    buffers. They are traced without data. What the loss saves is not part of the number.
    """
    twin = copy.deepcopy(model).to("meta").train()
    own = {tensor.untyped_storage()._cdata for tensor in (*twin.parameters(), *twin.buffers())}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        twin(torch.zeros(batch, *in_shape, device="meta"))
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in own)


def _counted(shapes: Sequence[LayerShape], kept: Mapping[str, int]) -> Iterator[tuple[LayerShape, int]]:
    """Each layer with its number of kept weights. Raises ValueError for an unknown layer or an impossible number."""
    unknown = sorted(set(kept) - {shape.name for shape in shapes})
    if unknown:
        raise ValueError(f"kept counts are given for {unknown}, which are no layers of this model")
    for shape in shapes:
        count = kept.get(shape.name, shape.weights)
        if not 0 <= count <= shape.weights:
            raise ValueError(f"{shape.name} keeps {count} weights; a number from 0 to {shape.weights} is allowed")
        yield shape, count


def index_bits(values: int) -> int:
    """ceil(log2 values): how many bits number `values` things; 0 for one thing or none."""
    return max(values - 1, 0).bit_length()


def _whole_bytes(bits: int) -> int:
    return (bits + 7) // 8
