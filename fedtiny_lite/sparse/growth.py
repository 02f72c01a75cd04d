"""Growth lists on the sparse engine: the largest gradients at pruned positions, with no dense layer gradient."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fedtiny_lite.data.datasets import image_shape
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.training import gradient
from fedtiny_lite.pruning.progressive import GrowthList, check_growth_batch, keep_largest
from fedtiny_lite.sparse.convolutions import ConvNorm, Observer
from fedtiny_lite.sparse.layers import convolutions_of
from fedtiny_lite.sparse.layout import Planes
from fedtiny_lite.sparse.patterns import tap_source
from fedtiny_lite.sparse.training import sparse_twin


def sparse_growth_lists(
    model: nn.Module, mask: Mask, counts: Mapping[str, int], images: Tensor, labels: Tensor
) -> dict[str, GrowthList]:
    """`progressive.growth_lists` on the sparse engine; the model stays as it is.

    The network makes one forward pass, and a backward pass down to the first named layer. When the backward pass
    reaches a named layer, the layer's list is made from its input and its output gradient.
    Raises ValueError for fewer than two images.
    """
    check_growth_batch(images)
    network = sparse_twin(model, mask, image_shape(images))
    lists: dict[str, GrowthList] = {}
    down_to = len(network.layers)
    for number, layer in reversed([*enumerate(network.layers)]):
        for conv in [conv for joint in convolutions_of(layer) for conv in joint.convs]:
            name = f"{conv.name}.weight"
            if name in counts:
                conv.observer, down_to = _collector(lists, name, conv, counts[name]), number
    try:
        network.backward(images, labels, down_to)
    finally:
        for conv in network.convs:
            conv.observer = None
    if "linear.weight" in counts:
        keep, count = mask["linear.weight"], counts["linear.weight"]
        lists["linear.weight"] = _largest_pruned([gradient(network.weight)], keep, count)
    return {name: lists[name] for name in counts}


def _collector(lists: dict[str, GrowthList], name: str, conv: ConvNorm, count: int) -> Observer:
    def collect(x: Planes, gy: Planes) -> None:
        size = conv.keep.shape[-1]
        gradients = (_tap_gradient(conv, x, gy, ky, kx) for ky in range(size) for kx in range(size))
        lists[name] = _largest_pruned(gradients, conv.keep, count)

    return collect


def _tap_gradient(conv: ConvNorm, x: Planes, gy: Planes, ky: int, kx: int) -> Tensor:
    """The dense gradient [C_out, C_in] of tap (ky, kx): the sum, over all pixels, of gy times the pixel of x it reads.

    Lanes without a sample are zero in `gy`. A block is multiplied at a time, for less memory.
    """
    phase, dy, dx = tap_source(ky, kx, conv.keep.shape[-1], conv.stride)
    read = torch.from_numpy(x.data)[:, :, phase // 2 :: conv.stride, phase % 2 :: conv.stride]
    ours, theirs = torch.from_numpy(gy.data), read
    for axis, shift in ((2, dy), (3, dx)):  # the pixels of gy whose pixel of x lies in the image
        first = max(0, -shift)
        count = min(ours.shape[axis], theirs.shape[axis] - shift) - first
        ours, theirs = ours.narrow(axis, first, count), theirs.narrow(axis, first + shift, count)
    total = torch.zeros(conv.keep.shape[:2])
    for block in range(ours.shape[1]):
        total.addmm_(ours[:, block].flatten(1), theirs[:, block].flatten(1).T)
    return total


def _largest_pruned(gradients: Iterable[Tensor], keep: Tensor, count: int) -> GrowthList:
    """The `count` largest |values| where `keep` is False, ascending by index.

    `gradients`: the gradient [C_out, C_in] of each tap, in order. Of each tap, only values that are not below the
    `count` largest so far are kept.
    """
    keep = keep.reshape(*keep.shape[:2], -1).flatten(0, 1)  # [C_out C_in, taps]
    top, least, chosen = torch.empty(0), 0.0, []
    for tap, of_tap in enumerate(gradients):
        values = of_tap.flatten()
        magnitude = values.abs().masked_fill_(keep[:, tap], -1)  # below every candidate
        pairs = (~(magnitude < least)).nonzero().squeeze(1)  # NaN is listed, as by the dense engine
        top = torch.cat([top, magnitude[pairs]])
        if len(top) > count:
            top = top.topk(count, sorted=False).values
            least = float(top.min())
            pairs = pairs[~(magnitude[pairs] < least)]
        chosen.append((pairs * keep.shape[1] + tap, values[pairs]))
    index, value = (torch.cat(parts) for parts in zip(*chosen, strict=True))
    return keep_largest(index, value, count)
