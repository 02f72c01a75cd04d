"""Which pixels a sparse convolution reads: a mask as lists of distances, forward and backward.

A 3x3 convolution has padding 1, and a 1x1 convolution has none: it is the middle of a 3x3. So the output is as large as
the input at stride 1, and half as large at stride 2. At stride 2 the window holds the four phases of the input
(`kernels.fill`): phase channel 4 c + 2 py + px holds the pixels of channel c in odd (py = 1) or even (py = 0) rows, and
in odd or even columns by px. Output row i reads the input rows 2 i + ky - 1. Among the phases these are:
    ky = 0   row i - 1 of the odd rows
    ky = 1   row i of the even rows
    ky = 2   row i of the odd rows
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

from fedtiny_lite.sparse.layout import LANES, Window

Taps = TypeVar("Taps", int, np.ndarray)


@dataclass(frozen=True, eq=False)
class Pattern:
    """The K kept weights of a convolution [C_out, C_in, k, k], in order of their flat index.

    `first`, `tap`: the rows of output channels for `conv_forward`, int32 [C_out + 1] and [K]. `back_first`, `back_tap`:
    the rows of input channels (or phases) for the gradients, int32 [channels + 1] and [K]. `back_order`: the order of
    the weights in these rows, int32 [K]. `longest`: weights of the longest row of either kind.
    """

    first: np.ndarray
    tap: np.ndarray
    back_order: np.ndarray
    back_first: np.ndarray
    back_tap: np.ndarray
    longest: int


def build_pattern(keep: Tensor, stride: int, ahead: Window, back: Window) -> Pattern:
    """The pattern of the mask `keep`, bool [C_out, C_in, k, k].

    `ahead`: the window of the input, or of its phases at stride 2; `back`: that of the output's gradient.
    """
    out, channel, ky, kx = np.unravel_index(keep.flatten().nonzero().squeeze(1).numpy(), keep.shape)
    phase, dy, dx = tap_source(ky, kx, keep.shape[-1], stride)
    channel = stride**2 * channel + phase
    order = np.argsort(channel, kind="stable")
    first, back_first = _row_starts(out, keep.shape[0]), _row_starts(channel[order], ahead.channels)
    return Pattern(
        first=first,
        tap=(channel * ahead.stride + dy * ahead.line + dx * LANES).astype(np.int32),
        back_order=order.astype(np.int32),
        back_first=back_first,
        back_tap=(out * back.stride - dy * back.line - dx * LANES)[order].astype(np.int32),
        longest=int(max(np.diff(first).max(), np.diff(back_first).max())),
    )


def tap_source(ky: Taps, kx: Taps, size: int, stride: int) -> tuple[Taps | int, Taps, Taps]:
    """(phase, dy, dx) of tap (ky, kx) of a kernel of `size`: output (i, j) reads pixel (i + dy, j + dx) of the phase.

    The phase is 0 at stride 1. The arguments ky and kx may be arrays.
    """
    dy, dx = ky - size // 2, kx - size // 2
    if stride == 2:
        return 2 * (dy % 2) + dx % 2, dy // 2, dx // 2
    return 0, dy, dx


def _row_starts(row: np.ndarray, rows: int) -> np.ndarray:
    """Where each of `rows` rows begins in the ascending array `row`, and where the last row ends, int32 [rows + 1]."""
    return np.searchsorted(row, np.arange(rows + 1)).astype(np.int32)
