"""The sparse engine's windows in pictures: where pixels and zeros lie, what a kept weight reads, how planes add up.

A window is float32 [size]; `shape` is its (rows, above, stride, line), as the kernels take it. It holds whole images of
one block. A cell of the pictures is one pixel of sixteen samples, sixteen floats.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle

LANES = 16  # as in sparse.pixels, which needs numba
ZERO, UNUSED, MARKED = "#f3d3a6", "#dddddd", PALETTE[3]
Shape = tuple[int, int, int, int]


def is_pixel(size: int, shape: Shape) -> np.ndarray:
    """Which cells of a window of `size` floats are pixels, bool [cells]; the others are padding."""
    rows, above, stride, line = shape
    place = np.arange(size // LANES) - 1  # one cell of zeros comes first
    row, column = place % (stride // LANES) // (line // LANES) - above, place % (line // LANES)
    return (place >= 0) & (row >= 0) & (row < rows) & (column < line // LANES - 1)


def memory_figure(data: np.ndarray, samples: int, shape: Shape, tap: int, text: str) -> Figure:
    """A whole window as a strip, with what one kept weight reads; below, the nine taps of a 3x3 at three pixels.

    `samples`: lanes in use. `tap`: floats from a pixel of channel 0 to the one that the weight reads.
    """
    fig = figure((11.0, 6.6))
    top, bottom = fig.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.05))[:, 0]
    _strip(top.subplots(), data, samples, shape)
    _arrows(top.axes[0], data.size, shape, tap // LANES)
    pixels = {"inside": (1, 1), "at the left edge": (1, 0), "in the first row": (0, shape[3] // LANES - 2)}
    for ax, (where, (row, column)) in zip(bottom.subplots(1, 3), pixels.items(), strict=True):
        _taps(ax, shape, row, column)
        ax.set_title(f"the nine taps of a pixel {where}", fontsize=9)
    handles = [Patch(color=color) for color in (ZERO, UNUSED)]
    bottom.legend(
        handles, ["padding: always zero", "lanes without a sample: zero"], loc="outside lower center", ncols=2
    )
    subtitle(fig, "One window of the sparse engine: every tap is one distance", text)
    return fig


def _strip(ax: Axes, data: np.ndarray, samples: int, shape: Shape) -> None:
    """All cells side by side, the sixteen lanes of each from top to bottom."""
    cells = data.reshape(-1, LANES)
    ax.imshow(cells.T, cmap="Blues", vmin=0, vmax=float(cells.max()) or 1, aspect="auto", interpolation="nearest")
    pixel = is_pixel(data.size, shape)
    for cell in np.flatnonzero(~pixel).tolist():
        ax.add_patch(Rectangle((cell - 0.5, -0.5), 1, LANES, color=ZERO, lw=0))
    for cell in np.flatnonzero(pixel).tolist():
        ax.add_patch(Rectangle((cell - 0.5, samples - 0.5), 1, LANES - samples, color=UNUSED, lw=0))
    ax.vlines(np.arange(len(cells) + 1) - 0.5, -0.5, LANES - 0.5, color="white", lw=1)
    stride = shape[2] // LANES
    for channel in range(len(cells) // stride):
        first = 1 + channel * stride
        ax.plot([first - 0.4, first + stride - 0.6], [LANES + 0.7] * 2, color=PALETTE[2 * channel], lw=4, clip_on=False)
        ax.text(first + stride / 2, LANES + 2.9, f"channel {channel}", ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.6, len(cells) - 0.4), ylim=(LANES + 4, -21), ylabel="lane (sample)")
    ax.set_yticks((0, samples - 1, LANES - 1))
    ax.set_xlabel("place in memory: cells of 16 floats", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["left"].set_bounds(-0.5, LANES - 0.5)


def _arrows(ax: Axes, size: int, shape: Shape, distance: int) -> None:
    """From each pixel of channel 0 to the cell `distance` cells on; those that end in padding in colour."""
    pixel = is_pixel(size, shape)
    for cell in np.flatnonzero(pixel[: 1 + shape[2] // LANES]).tolist():
        inside = pixel[cell + distance]
        style = dict(color=GREY, alpha=0.5) if inside else dict(color=PALETTE[1])
        ends = ((cell, -0.7), (cell + distance, -0.7))
        rad = -0.42 if distance > 0 else 0.42
        ax.add_patch(
            FancyArrowPatch(*ends, arrowstyle="->", mutation_scale=8, connectionstyle=f"arc3,rad={rad}", **style)
        )
    pixels = shape[0] * (shape[3] // LANES - 1)
    words = f"one kept weight: all {pixels} pixels read {distance:+d} cells on; orange: they read a zero"
    ax.text(0.5, 0.99, words, transform=ax.transAxes, ha="center", va="top", fontsize=9)


def _taps(ax: Axes, shape: Shape, row: int, column: int) -> None:
    """Channel 0 in lines of W + 1 cells, as it lies in memory, with the distances of a 3x3's taps from one pixel."""
    height, line = shape[0], shape[3] // LANES
    width = line - 1
    places = range(-line - 1, (height + 1) * line)  # the padding above comes first
    for place in places:
        y, x = divmod(place, line)
        inside = 0 <= y < height and x < width
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor="white" if inside else ZERO, edgecolor="#bbbbbb"))
    centre = row * line + column
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = divmod(centre + dy * line + dx, line)
            inside = 0 <= y < height and x < width
            ax.text(x + 0.5, y + 0.5, _signed(dy * line + dx), ha="center", va="center", fontsize=9,
                    color="black" if inside else "#9a4b00", fontweight="normal" if inside else "bold")  # fmt: skip
    ax.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=MARKED, lw=2.5))
    ax.set(xlim=(-0.1, line + 0.1), ylim=(height + 1.1, -2.1), aspect="equal")
    ax.axis("off")


def plane(data: np.ndarray, shape: Shape, tap: int = 0, lane: int = 0) -> np.ndarray:
    """One sample's plane in a window, `tap` floats on from channel 0: [H, W + 1], its column of zeros last."""
    rows, above, _, line = shape
    run = data[LANES + above * line + tap :][: rows * line]
    return run.reshape(rows, line // LANES, LANES)[:, :, lane]


def planes_figure(planes: Mapping[int, tuple[float, np.ndarray]], total: np.ndarray, text: str) -> Figure:
    """One output plane of one sample as a sum. `planes[tap]`: a kept weight's value, and the plane it reads [H, W + 1].

    Each plane is drawn times its weight, in the colours of the output. `tap` in floats; `total`: the output [H, W].
    """
    fig = figure((1.9 * (len(planes) + 1) + 1.2, 2.6))
    axes = fig.subplots(1, len(planes) + 1)
    terms = {
        f"{value:+.2f} × plane {_signed(tap // LANES)}".replace("-", "−"): value * read
        for tap, (value, read) in planes.items()
    }
    terms["= output"] = np.pad(total, ((0, 0), (0, 1)))
    largest = max(float(np.abs(values).max()) for values in terms.values()) or 1
    for ax, (label, values) in zip(axes, terms.items(), strict=True):
        image = _plane(ax, values, label, largest)
    bar = fig.colorbar(image, ax=axes, fraction=0.02, pad=0.01)
    bar.set_label("weight × pixel, and their sum", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    subtitle(fig, "A sum of shifted planes", text)
    return fig


def _plane(ax: Axes, values: np.ndarray, label: str, largest: float) -> AxesImage:
    image = ax.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    ax.add_patch(Rectangle((-0.5, -0.5), values.shape[1] - 1, len(values), fill=False, edgecolor="black", lw=1.2))
    ax.set_title(label, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])
    return image


def _signed(cells: int) -> str:
    return f"{cells:+d}" if cells else "0"
