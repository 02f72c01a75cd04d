"""Which pixels a sparse convolution reads: a mask as lists of distances, in both directions.

A 3x3 convolution has padding 1 and a 1x1 one none, so that the output is as large as the input, or half as large at
stride 2. There it works on the input's four phases (`kernels.split_phases`), channel 4 c + 2 py + px holding the
pixels of odd (py = 1) or even rows and columns: input row 2 i + ky - 1 is row i - 1 of the odd rows for ky = 0, row i
of the even ones for ky = 1, row i of the odd ones for ky = 2.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedtiny_lite.sparse.layout import LANES, Geometry


@dataclass(frozen=True, eq=False)
class Pattern:
    """The kept weights of a convolution [C_out, C_in, k, k], K of them, in order of their flat index.

    `index`: flat index of each, int64 [K]. `first`, `tap`: rows of output channels, for `conv_forward`, int32
    [C_out + 1] and [K]. `back_first`, `back_tap`: rows of input channels, for the gradients; their weights come in the
    order `back_order`.
    """

    index: np.ndarray
    first: np.ndarray
    tap: np.ndarray
    back_order: np.ndarray
    back_first: np.ndarray
    back_tap: np.ndarray


def build_pattern(keep: Tensor, stride: int, before: Geometry) -> Pattern:
    """The pattern of the mask `keep`, bool [C_out, C_in, k, k], on inputs (or phases, at stride 2) of `before`.

    Raises ValueError if a distance does not fit 32 bits.
    """
    index = keep.flatten().nonzero().squeeze(1).numpy()
    out, channel, ky, kx = np.unravel_index(index, keep.shape)
    phase, dy, dx = tap_source(ky, kx, keep.shape[-1], stride)
    channel, shift = stride**2 * channel + phase, dy * before.line + dx * LANES
    if max(before.size, keep.shape[0] * before.stride) > np.iinfo(np.int32).max:
        raise ValueError(f"a batch of {before.blocks * LANES} is too large for the sparse engine; take a smaller one")
    order = np.argsort(channel, kind="stable")
    return Pattern(
        index=index,
        first=_row_starts(out, keep.shape[0]),
        tap=(channel * before.stride + shift).astype(np.int32),
        back_order=order.astype(np.int32),
        back_first=_row_starts(channel[order], before.channels),
        back_tap=(out * before.stride - shift)[order].astype(np.int32),
    )


def tap_source(ky, kx, size: int, stride: int):
    """For tap (ky, kx) of a kernel of `size`: the phase it reads (0 at stride 1), and how many rows and columns off."""
    dy, dx, phase = ky - size // 2, kx - size // 2, 0
    if stride == 2:
        phase, dy, dx = 2 * (dy % 2) + dx % 2, dy // 2, dx // 2
    return phase, dy, dx


def _row_starts(row: np.ndarray, rows: int) -> np.ndarray:
    """Where each of `rows` rows begins in the ascending `row`, and where the last one ends."""
    return np.searchsorted(row, np.arange(rows + 1)).astype(np.int32)
