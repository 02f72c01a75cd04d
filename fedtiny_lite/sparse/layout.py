"""Where an activation lies in memory: float32 [C][N/16][(H+1)(W+1)][16], sixteen samples side by side.

Sixteen samples of one pixel are one or two vector registers, so that a kernel never looks inside a pixel. The only
padding is a column of zeros right of each image and a row of zeros below it. The pixel left of column 0 is then the
zero at the end of the row above. The row above row 0 is the zero row of the block before. One more row and one more
pixel of zeros lie before the first channel. So each tap of a 3x3 convolution is one constant distance in memory, for
every pixel of every sample:

    distance(dy, dx) = (dy (W+1) + dx) 16

Example: images 8 pixels wide have lines of (8 + 1) 16 = 144 floats. The pixel above is 144 floats back, the pixel to
the right 16 floats ahead.

All kernels keep one promise: the padding of what they write is zero. Padding is the zero rows and columns, and the
lanes of the last block that hold no sample. A buffer has room for a fixed number of blocks. Blocks that a smaller batch
does not use may hold anything.
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
SLAB = 2**26
"""Floats of address space that a workspace asks for at a time: 256 MiB."""


@dataclass(frozen=True)
class Geometry:
    """Shape of a buffer: channels, height and width in pixels, and room for `blocks` blocks of 16 samples."""

    channels: int
    height: int
    width: int
    blocks: int

    @property
    def line(self) -> int:
        """Floats of one row of pixels, with its zero pixel."""
        return (self.width + 1) * LANES

    @property
    def stride(self) -> int:
        """Floats from one channel to the next."""
        return self.blocks * (self.height + 1) * self.line

    @property
    def lead(self) -> int:
        """Floats before the first channel that a tap may reach: a row of pixels and one pixel."""
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

    def padded(self) -> Tensor:
        """The blocks in use as a view [C, blocks, H + 1, W + 1, 16]."""
        g, blocks = self.geometry, block_count(self.samples)
        strides = (g.stride, (g.height + 1) * g.line, g.line, LANES, 1)
        shape = (g.channels, blocks, g.height + 1, g.width + 1, LANES)
        return torch.from_numpy(self.data).as_strided(shape, strides, g.lead)

    def images(self) -> Tensor:
        """Without padding, [C, blocks, H, W, 16]."""
        return self.padded()[:, :, :-1, :-1]

    def matrix(self, block: int, row: int, rows: int, column: int = 0) -> Tensor:
        """A view [C, floats] of `rows` rows of a block from pixel (row, column) on, with their zero pixels."""
        g = self.geometry
        at = g.lead + (block * (g.height + 1) + row) * g.line + column * LANES
        return torch.from_numpy(self.data).as_strided((g.channels, rows * g.line), (g.stride, 1), at)

    def clear_borders(self) -> None:
        """Sets to zero what taps read outside the blocks in use: both ends, and the edges of blocks out of use."""
        g, blocks = self.geometry, block_count(self.samples)
        self.data[: g.lead] = 0
        self.data[-LANES:] = 0
        if blocks < g.blocks:
            tensor, end = torch.from_numpy(self.data), g.lead + blocks * (g.height + 1) * g.line
            tensor.as_strided((g.channels, g.lead), (g.stride, 1)).zero_()
            tensor.as_strided((g.channels, LANES), (g.stride, 1), end).zero_()


class Workspace:
    """Memory that activations of all shapes share. Each activation takes the lowest free place and gives it back.

    The memory comes in slabs of address space, of which the operating system makes real only what is written. `bytes`
    counts each slab up to the highest place that was ever lent.
    """

    def __init__(self) -> None:
        self._slabs: list[np.ndarray] = []
        self._high: list[int] = []
        self._lent: dict[Planes, tuple[int, int, int]] = {}  # number of the slab, first float, end

    @property
    def bytes(self) -> int:
        return 4 * sum(self._high)

    @property
    def lent(self) -> int:
        """How many buffers are out."""
        return len(self._lent)

    def take(self, geometry: Geometry, samples: int) -> Planes:
        """A buffer that begins at a multiple of 64 bytes. Its borders are zero, its inside may hold anything."""
        number, start, end = self._lowest(geometry.size)
        planes = Planes(geometry, self._slabs[number][start:end], samples)
        planes.clear_borders()
        self._lent[planes] = number, start, end
        self._high[number] = max(self._high[number], end)
        return planes

    def give(self, planes: Planes) -> None:
        del self._lent[planes]

    def clear(self) -> None:
        """Takes back all that is out."""
        self._lent.clear()

    def _lowest(self, size: int) -> tuple[int, int, int]:
        lent = sorted(self._lent.values())
        for number, slab in enumerate(self._slabs):
            free = 0
            for start, end in [place[1:] for place in lent if place[0] == number] + [(len(slab), 0)]:
                if free + size <= start:
                    return number, free, free + size
                free = end
        self._slabs.append(_aligned(max(SLAB, size)))
        self._high.append(0)
        return len(self._high) - 1, 0, size


def _aligned(floats: int) -> np.ndarray:
    """Memory that begins at a multiple of 64 bytes."""
    raw = np.empty(floats + LANES, np.float32)  # for this much numpy asks the system for large pages, torch does not
    return raw[-raw.ctypes.data // 4 % LANES :][:floats]


def block_count(samples: int) -> int:
    """How many blocks of 16 hold `samples` samples; the last block may be filled in part."""
    return -(-samples // LANES)


def pack(images: Tensor, planes: Planes) -> Planes:
    """Copies images [N, C, H, W] into `planes`, which is returned; lanes without a sample become zero."""
    full = F.pad(images, (0, 1, 0, 1, 0, 0, 0, -len(images) % LANES))
    blocks = full.unflatten(0, (-1, LANES))  # [blocks, 16, C, H + 1, W + 1]
    planes.padded().copy_(blocks.permute(2, 0, 3, 4, 1))
    return planes


def unpack(planes: Planes) -> Tensor:
    """A copy as images [N, C, H, W]."""
    images = planes.images().permute(1, 4, 0, 2, 3).flatten(0, 1)
    return images[: planes.samples].contiguous()


@lru_cache
def tiles(height: int, width: int, samples: int) -> np.ndarray:
    """The rows of pixels of all blocks in use in tiles of about TILE floats: int32 [tiles, 2], (first row, rows).

    Rows are counted through the blocks, each block with its zero row. A large image is cut into several tiles, which
    leave out the zero row. Of small images, several blocks make one tile, with the zero rows between them. Tiles depend
    on the number of samples and not on the room of a buffer.
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
    return np.array(runs, np.int32).reshape(-1, 2)
