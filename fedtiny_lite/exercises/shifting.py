"""Exercises of notebook 07: a convolution as a sum of shifted planes, one for each kept weight."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from fedtiny_lite.exercises.judging import Exercise, whole_number


def _plane_and_step(generator: Generator) -> tuple[Tensor, int, int]:
    plane = torch.randn(4, 5, generator=generator)
    return plane, whole_number(generator, -1, 1), whole_number(generator, -1, 1)


def _shift(plane: Tensor, down: int, right: int) -> Tensor:
    rows, columns = plane.shape
    return F.pad(plane, (1, 1, 1, 1))[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]


def _other_way(plane: Tensor, down: int, right: int) -> Tensor:
    """Your plane moves the other way; pixel (y, x) of the result reads (y + down, x + right)."""
    return _shift(plane, -down, -right)


def _wrapped(plane: Tensor, down: int, right: int) -> Tensor:
    """Your plane wraps around; beyond the edge there are zeros, not the other side of the image."""
    return plane.roll((-down, -right), (0, 1))


def _clamped(plane: Tensor, down: int, right: int) -> Tensor:
    """Your plane repeats its edge; beyond it there are zeros."""
    padded = F.pad(plane[None], (1, 1, 1, 1), mode="replicate")[0]
    return padded[1 + down : 1 + down + len(plane), 1 + right : 1 + right + plane.shape[1]]


def _swapped(plane: Tensor, down: int, right: int) -> Tensor:
    """Your function exchanges rows and columns; `down` moves along the first axis."""
    return _shift(plane, right, down)


_SHIFT = Exercise(
    inputs=_plane_and_step,
    right=_shift,
    parts=("plane",),
    mistakes=(_other_way, _wrapped, _clamped, _swapped),
    hints=(
        "Pad the plane by one zero on each side; the result is a window of it.",
        "`F.pad(plane, (1, 1, 1, 1))`, then rows from `1 + down` on and columns from `1 + right` on.",
    ),
)


def _image_and_weights(generator: Generator) -> tuple[Tensor, Tensor]:
    """An image and kernels; by chance, inf in a channel that no kept weight reads, so that a product with 0 is NaN."""
    weight, image = torch.randn(2, 3, 3, 3, generator=generator), torch.randn(3, 5, 5, generator=generator)
    weight *= torch.rand(weight.shape, generator=generator) < 0.3
    unread = whole_number(generator, 0, 5)
    if unread < len(image):
        weight[:, unread], image[unread] = 0, torch.inf
    return image, weight


def _convolved(image: Tensor, weight: Tensor) -> Tensor:
    """By torch, which multiplies by zeros too, so channels that no kept weight reads are emptied first."""
    read = weight.ne(0).any(3).any(2).any(0)
    return _multiplied_by_zeros(torch.where(read[:, None, None], image, 0), weight)


def _multiplied_by_zeros(image: Tensor, weight: Tensor) -> Tensor:
    """Your function multiplies by pruned weights too: 0 times an inf of the image is NaN. Visit kept weights only."""
    return F.conv2d(image[None], weight, padding=1)[0]


def _summed(weight: Tensor, shape: torch.Size, read: Callable[[int, int, int], Tensor]) -> Tensor:
    """The planes `read(c, i, j)` times the kept weights, summed: [output channels, *shape]."""
    out = torch.zeros(len(weight), *shape)
    for o, c, i, j in weight.nonzero().tolist():
        out[o] += weight[o, c, i, j] * read(c, i, j)
    return out


def _flipped(image: Tensor, weight: Tensor) -> Tensor:
    """Your kernel is turned around; in deep learning, weight (i, j) reads the pixel at (y + i − 1, x + j − 1)."""
    return _summed(weight, image.shape[1:], lambda c, i, j: _shift(image[c], 1 - i, 1 - j))


def _not_centred(image: Tensor, weight: Tensor) -> Tensor:
    """Your planes are shifted by (i, j); the weight in the middle, (1, 1), reads the pixel itself."""
    rows, columns = image.shape[1:]
    framed = F.pad(image, (0, 2, 0, 2))
    return _summed(weight, image.shape[1:], lambda c, i, j: framed[c, i : i + rows, j : j + columns])


def _transposed(image: Tensor, weight: Tensor) -> Tensor:
    """Your kernel has rows and columns exchanged; i counts rows, j columns."""
    return _summed(weight, image.shape[1:], lambda c, i, j: _shift(image[c], j - 1, i - 1))


def _channels_summed(image: Tensor, weight: Tensor) -> Tensor:
    """Your weights meet the sum of all input channels; weight (o, c, i, j) reads channel c alone."""
    return _summed(weight, image.shape[1:], lambda c, i, j: _shift(image.sum(0), i - 1, j - 1))


_SHIFT_AND_ADD = Exercise(
    inputs=_image_and_weights,
    right=_convolved,
    parts=("output",),
    mistakes=(_multiplied_by_zeros, _flipped, _not_centred, _transposed, _channels_summed),
    hints=(
        "Loop over `weight.nonzero()`: each kept weight (o, c, i, j) adds a shifted plane of channel c to output o.",
        "`out[o] += weight[o, c, i, j] * shifted(image[c], i - 1, j - 1)`",
    ),
)


def _mask_and_map(generator: Generator) -> tuple[Tensor, int, int]:
    side = int(torch.randint(4, 33, (), generator=generator))
    return torch.rand(4, 3, 3, 3, generator=generator) < 0.2, side, side + 1


def _kept_at_pixels(keep: Tensor, height: int, width: int) -> int:
    return int(keep.sum()) * height * width


def _all_at_pixels(keep: Tensor, height: int, width: int) -> int:
    """Your function counts all weights, as a dense routine computes them; count the kept ones."""
    return keep.numel() * height * width


def _pruned_at_pixels(keep: Tensor, height: int, width: int) -> int:
    """Your function counts pruned weights; True means kept."""
    return int((~keep).sum()) * height * width


def _weights_once(keep: Tensor, height: int, width: int) -> int:
    """Your function counts each kept weight once; it is used at every pixel of its map."""
    return int(keep.sum())


def _two_flops(keep: Tensor, height: int, width: int) -> int:
    """Your result is in FLOPs; a multiply-add is one of these, and two of those."""
    return 2 * _kept_at_pixels(keep, height, width)


_MULTIPLY_ADDS = Exercise(
    inputs=_mask_and_map,
    right=_kept_at_pixels,
    parts=("multiply-adds",),
    mistakes=(_all_at_pixels, _pruned_at_pixels, _weights_once, _two_flops),
    hints=(
        "A kept weight adds one shifted plane; how many pixels has a plane?",
        "`keep.sum() * height * width`",
    ),
)

EXERCISES = {"multiply_adds": _MULTIPLY_ADDS, "shift": _SHIFT, "shift_and_add": _SHIFT_AND_ADD}
