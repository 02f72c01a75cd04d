"""Where an activation lies in memory: float32 [C, N/16, H, W, 16], sixteen samples of one pixel side by side.

Sixteen samples of one pixel are one or two vector registers, so that a kernel never looks inside a pixel. The last
block's lanes without a sample may hold anything in an activation; in a gradient and in a window they are zero.

A convolution does not read activations as they lie. It works tile by tile, some rows of one block of all channels at a
time, and copies what the tile needs into a window first. A window's rows have a pixel of zeros at their end, and rows
beyond the image are zeros. The pixel left of column 0 is then the zero at the end of the row above. So each tap of a
3x3 convolution is one constant distance in the window, for every pixel of every sample:

    distance(dy, dx) = (dy (W+1) + dx) 16

Example: images 8 pixels wide have lines of (8 + 1) 16 = 144 floats. The pixel above is 144 floats back, the pixel to
the right 16 floats ahead.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedtiny_lite.sparse.pixels import LANES

WINDOW = 2**19
"""Floats of a window, about: 2 MiB. Smaller ones, which a second cache would hold whole, read more rows twice."""
SLAB = 2**26
"""Floats of address space that a workspace asks for at a time: 256 MiB."""


@dataclass(frozen=True)
class Geometry:
    """Shape of an activation: channels, height and width in pixels."""

    channels: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Window:
    """Shape of a window: channels, rows of a tile, pixels of a row, and rows of other tiles `above` and `below`."""

    channels: int
    rows: int
    width: int
    above: int
    below: int

    @cached_property
    def line(self) -> int:
        """Floats of one row of pixels, with its zero pixel."""
        return (self.width + 1) * LANES

    @cached_property
    def stride(self) -> int:
        """Floats from one channel to the next."""
        return (self.above + self.rows + self.below) * self.line

    @cached_property
    def lead(self) -> int:
        """Floats before the first row of the tile in the first channel: the rows above it, after a zero pixel."""
        return self.above * self.line + LANES

    @cached_property
    def size(self) -> int:
        return LANES + self.channels * self.stride

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """(rows, above, stride, line), as the kernels take it."""
        return self.rows, self.above, self.stride, self.line


def window(channels: int, height: int, width: int, above: int, below: int) -> Window:
    """A window of about WINDOW floats for images of this height and width; tiles of one image are about equal."""
    most = max(1, WINDOW // (channels * (width + 1) * LANES) - above - below)
    tiles = -(-height // most)
    return Window(channels, -(-height // tiles), width, above, below)


@dataclass(eq=False)
class Planes:
    """One activation: float32 [C, blocks, H, W, 16], and how many samples it holds.

    `data` is set anew when a workspace lends the memory once more.
    """

    data: np.ndarray
    samples: int

    @property
    def geometry(self) -> Geometry:
        channels, _, height, width, _ = self.data.shape
        return Geometry(channels, height, width)

    def channels(self, first: int, end: int) -> "Planes":
        """A view of some channels."""
        return replace(self, data=self.data[first:end])


class Workspace:
    """Memory that activations of all shapes share. Each takes the end of the lowest gap that it fits into, or else the
    place above all others, and gives it back. (At a gap's end: a step of ResNet18, batch 64, then takes 175 MB in all;
    at its beginning it would take 200.)

    The memory comes in slabs of address space, of which the operating system makes real only what is written. `bytes`
    counts each slab up to the highest place that was ever lent, and the scratch memory of the kernels.
    """

    def __init__(self) -> None:
        self._slabs: list[np.ndarray] = []
        self._high: list[int] = []
        self._lent: dict[Planes, tuple[int, int, int]] = {}  # number of the slab, first float, end
        self._scratch = aligned(0)

    @property
    def bytes(self) -> int:
        return 4 * sum(self._high) + self._scratch.nbytes

    @property
    def lent(self) -> int:
        """How many activations are out."""
        return len(self._lent)

    def take(self, geometry: Geometry, samples: int) -> Planes:
        """An activation that begins at a multiple of 64 bytes and may hold anything."""
        shape = (geometry.channels, block_count(samples), geometry.height, geometry.width, LANES)
        data, place = self._place(shape)
        planes = Planes(data, samples)
        self._lent[planes] = place
        return planes

    def take_again(self, planes: Planes) -> None:
        """Lends memory once more to an activation that was given back; what it held is gone."""
        planes.data, self._lent[planes] = self._place(planes.data.shape)

    def holds(self, planes: Planes) -> bool:
        """Whether the activation is out."""
        return planes in self._lent

    def give(self, planes: Planes) -> None:
        del self._lent[planes]

    def clear(self) -> None:
        """Takes back all that is out."""
        self._lent.clear()

    def scratch(self, floats: int) -> np.ndarray:
        """Memory for the time of one kernel's call, at a multiple of 64 bytes. It may hold anything."""
        if len(self._scratch) < floats:
            self._scratch = aligned(floats)
        return self._scratch

    def _place(self, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Free memory of this shape, and where it lies."""
        number, start, end = place = self._free(prod(shape))
        self._high[number] = max(self._high[number], end)
        return self._slabs[number][start:end].reshape(shape), place

    def _free(self, size: int) -> tuple[int, int, int]:
        lent = sorted(self._lent.values())
        for number, slab in enumerate(self._slabs):
            free = 0
            for start, end in [place[1:] for place in lent if place[0] == number]:
                if free + size <= start:
                    return number, start - size, start
                free = end
            if free + size <= len(slab):
                return number, free, free + size
        self._slabs.append(aligned(max(SLAB, size)))
        self._high.append(0)
        return len(self._high) - 1, 0, size


def aligned(floats: int) -> np.ndarray:
    """Memory that begins at a multiple of 64 bytes."""
    raw = np.empty(floats + LANES, np.float32)  # for this much numpy asks the system for large pages, torch does not
    return raw[-raw.ctypes.data // 4 % LANES :][:floats]


def block_count(samples: int) -> int:
    """How many blocks of 16 hold `samples` samples; the last block may be filled in part."""
    return -(-samples // LANES)


def pack(images: Tensor, planes: Planes) -> Planes:
    """Copies images [N, C, H, W] into `planes`, which is returned; lanes without a sample become zero."""
    full = F.pad(images, (0, 0, 0, 0, 0, 0, 0, -len(images) % LANES))
    blocks = full.unflatten(0, (-1, LANES))  # [blocks, 16, C, H, W]
    torch.from_numpy(planes.data).copy_(blocks.permute(2, 0, 3, 4, 1))
    return planes


def unpack(planes: Planes) -> Tensor:
    """A copy as images [N, C, H, W]."""
    images = torch.from_numpy(planes.data).permute(1, 4, 0, 2, 3).flatten(0, 1)
    return images[: planes.samples].contiguous()


@lru_cache
def in_use(samples: int) -> np.ndarray:
    """1 in the lanes that hold a sample, else 0: float32 [blocks, 16]."""
    lanes = aligned(block_count(samples) * LANES)
    lanes[:] = np.arange(len(lanes)) < samples
    return lanes.reshape(-1, LANES)
