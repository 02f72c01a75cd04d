"""Where an activation lies in memory: float32 [C][N/16][(H+1)(W+1)][16], sixteen samples side by side.

Sixteen samples of one pixel are one or two vector registers, so that a kernel never sees the inside of a pixel. A
column of zeros right of each image and a row of zeros below it are the only padding: the pixel left of column 0 is
the zero at the end of the row above, the row above row 0 is the zero row of the block before, and one more such row
and column lie before the first channel. So each tap of a 3x3 convolution is one constant distance in memory, for
every pixel of every sample:

    distance(dy, dx) = (dy (W+1) + dx) 16

All kernels keep one promise: whatever is padding, columns, rows and the lanes of samples that a last block lacks, is
zero. A buffer has room for a fixed number of blocks; a smaller batch leaves the last ones untouched.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LANES = 16
TILE = 8192
"""Floats that a kernel works on at a time: 32 KiB, what a core's nearest cache holds."""


@dataclass(frozen=True)
class Geometry:
    """Shape of a buffer: channels, image size, and room for `blocks` blocks of 16 samples."""

    channels: int
    height: int
    width: int
    blocks: int

    @property
    def line(self) -> int:
        """Floats of one row of pixels, with its zero column."""
        return (self.width + 1) * LANES

    @property
    def stride(self) -> int:
        """Floats from one channel to the next."""
        return self.blocks * (self.height + 1) * self.line

    @property
    def lead(self) -> int:
        """Floats of padding before the first channel."""
        return self.line + LANES

    @property
    def size(self) -> int:
        return self.lead + self.channels * self.stride + LANES  # the last pixel's last tap

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(lead, stride, height, width), as the kernels take it."""
        return self.lead, self.stride, self.height, self.width


@dataclass(frozen=True, eq=False)
class Planes:
    """One activation: its geometry, the floats [geometry.size], and how many samples it holds."""

    geometry: Geometry
    data: np.ndarray
    samples: int

    def images(self) -> Tensor:
        """The blocks in use as a view [C, blocks, H, W, 16]."""
        g, tensor = self.geometry, torch.from_numpy(self.data)
        blocks = block_count(self.samples)
        strides = (g.stride, (g.height + 1) * g.line, g.line, LANES, 1)
        return tensor.as_strided((g.channels, blocks, g.height, g.width, LANES), strides, g.lead)

    def matrix(self, shift: int = 0) -> Tensor:
        """The blocks in use as a view [C, floats], every value `shift` floats further on than it lies."""
        g, tensor = self.geometry, torch.from_numpy(self.data)
        # The last zero row is left out: a view that is moved down a row ends with the buffer.
        length = block_count(self.samples) * (g.height + 1) * g.line - g.line - LANES
        return tensor.as_strided((g.channels, length), (g.stride, 1), g.lead + shift)


class Workspace:
    """Buffers by geometry, handed out and taken back, so that steps and layers share them."""

    def __init__(self):
        self._free: dict[Geometry, list[np.ndarray]] = {}
        self.bytes, self.lent = 0, 0

    def take(self, geometry: Geometry, samples: int) -> Planes:
        """A buffer whose padding is zero and whose pixels hold anything."""
        free = self._free.setdefault(geometry, [])
        if not free:
            self.bytes += 4 * geometry.size
            free.append(torch.zeros(geometry.size).numpy())  # torch aligns to 64 bytes, numpy does not
        self.lent += 1
        return Planes(geometry, free.pop(), samples)

    def give(self, planes: Planes) -> None:
        self.lent -= 1
        self._free[planes.geometry].append(planes.data)


def block_count(samples: int) -> int:
    return -(-samples // LANES)


def pack(images: Tensor, planes: Planes) -> Planes:
    """Copies images [N, C, H, W] into the layout; lanes without a sample become zero."""
    missing = -len(images) % LANES
    full = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images
    blocks = full.unflatten(0, (-1, LANES))  # [blocks, 16, C, H, W]
    planes.images().copy_(blocks.permute(2, 0, 3, 4, 1))
    return planes


def unpack(planes: Planes) -> Tensor:
    """A copy as images [N, C, H, W]."""
    images = planes.images().permute(1, 4, 0, 2, 3).flatten(0, 1)
    return images[: planes.samples].contiguous()


@lru_cache
def tiles(height: int, width: int, samples: int) -> np.ndarray:
    """The rows of pixels of all blocks in use, cut into runs of about TILE floats: int32 [tiles, 2], (first row, rows).

    Rows count through the blocks, each with its zero row. A large image is cut into tiles that skip the zero row; of
    small ones several blocks make one tile, zero rows included.
    """
    blocks, line = block_count(samples), (width + 1) * LANES
    at_once = max(1, TILE // line)
    if at_once < 2 * (height + 1):
        parts = -(-height // at_once)
        cuts = [height * part // parts for part in range(parts + 1)]
        runs = [(block * (height + 1) + a, b - a) for block in range(blocks) for a, b in pairwise(cuts)]
    else:
        step = at_once // (height + 1)
        runs = [(b * (height + 1), min(step, blocks - b) * (height + 1) - 1) for b in range(0, blocks, step)]
    return np.array(runs, np.int32)
