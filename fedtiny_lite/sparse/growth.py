"""Growth lists on the sparse engine: the largest gradients at pruned positions, with no dense layer gradient."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fedtiny_lite.masks import Mask
from fedtiny_lite.progressive import GrowthList, keep_largest
from fedtiny_lite.sparse.layers import ConvNorm
from fedtiny_lite.sparse.layout import Planes
from fedtiny_lite.sparse.patterns import tap_source
from fedtiny_lite.sparse.training import sparse_twin

TILE_VALUES = 65536
"""Gradient values computed at a time, 256 KiB: whole matrix products, yet no layer's dense gradient."""


def sparse_growth_lists(
    model: nn.Module, mask: Mask, counts: Mapping[str, int], images: Tensor, labels: Tensor, batch_size: int
) -> dict[str, GrowthList]:
    """`progressive.growth_lists` on the sparse engine; the model stays as it is.

    One pass forward and backward; where it comes by a named layer, that layer's list is made from the layer's input
    and output gradient as they lie in the workspace. `batch_size`: of the twin, at least the images'.
    """
    network = sparse_twin(model, mask, max(batch_size, len(images)), tuple(images.shape[1:]))
    lists = {}
    for conv in network.convs:
        name = f"{conv.name}.weight"
        if name in counts:
            conv.observer = _collector(lists, name, conv, counts[name])
    try:
        network.backward(images, labels)
    finally:
        for conv in network.convs:
            conv.observer = None
    if "linear.weight" in counts:
        gradient = network.weight.grad
        lists["linear.weight"] = _largest_pruned(
            [(torch.arange(gradient.numel()), gradient.flatten())], mask["linear.weight"], counts["linear.weight"]
        )
    return {name: lists[name] for name in counts}


def _collector(lists: dict[str, GrowthList], name: str, conv: ConvNorm, count: int):
    def collect(x: Planes, gy: Planes) -> None:
        lists[name] = _largest_pruned(_gradient_tiles(conv, x, gy), conv.keep, count)

    return collect


def _gradient_tiles(conv: ConvNorm, x: Planes, gy: Planes) -> Iterator[tuple[Tensor, Tensor]]:
    """The dense weight gradient in tiles: flat indices and values.

    For one tap and a run of output channels it is the matrix product of the gradients with all inputs, shifted by the
    tap: the padding between images is zero in both, so that rows may be multiplied as they lie.
    """
    c_out, c_in, size, _ = conv.keep.shape
    rows = max(1, TILE_VALUES // c_in)
    for ky in range(size):
        for kx in range(size):
            phase, shift = tap_source(ky, kx, size, conv.stride, conv.before)
            inputs = x.matrix(shift)[phase :: conv.stride**2]
            for top in range(0, c_out, rows):
                gradient = gy.matrix()[top : top + rows] @ inputs.T
                out = torch.arange(top, top + len(gradient)).unsqueeze(1)
                flat = ((out * c_in + torch.arange(c_in)) * size + ky) * size + kx
                yield flat.flatten(), gradient.flatten()


def _largest_pruned(tiles, keep: Tensor, count: int) -> GrowthList:
    """The `count` largest |values| of all tiles where `keep` is False, ascending by index."""
    keep = keep.flatten()
    index, value = torch.empty(0, dtype=torch.int64), torch.empty(0)
    for flat, gradient in tiles:
        eligible = ~keep[flat]
        if len(value) == count:
            eligible &= gradient.abs() >= value.abs().min()
        index, value = keep_largest(torch.cat([index, flat[eligible]]), torch.cat([value, gradient[eligible]]), count)
    return index, value
