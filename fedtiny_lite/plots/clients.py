"""How clients differ: their images, their labels, their batch-normalisation statistics."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle

MEANS = ".running_mean"
Stats = Mapping[str, np.ndarray]


def label_maps(histograms: Mapping[str, Sequence[Sequence[int]]], title: str, text: str) -> Figure:
    """One panel per partition: images of each class (columns) on each client (rows, with its total)."""
    fig = figure((max(2.1 * len(histograms) + 1.2, 7.0), 3.6))
    panels = fig.subplots(1, len(histograms), squeeze=False)[0]
    top = max(np.max(histogram) for histogram in histograms.values())
    for ax, (name, counts) in zip(panels, histograms.items(), strict=True):
        histogram = np.asarray(counts)
        picture = ax.imshow(histogram, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("class (number)")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        rows = range(0, len(histogram), max(1, len(histogram) // 12))
        ax.set_yticks(rows, [f"{histogram[row].sum()}" for row in rows], fontsize=7.5)
    panels[0].set_ylabel("client, labelled by its images (count)")
    fig.colorbar(picture, ax=panels, label="images (count)", fraction=0.03)
    subtitle(fig, title, text)
    return fig


def image_rows(rows: Mapping[str, np.ndarray], text: str) -> Figure:
    """Sample images, one row per owner, each uint8 [n, C, H, W]; a row with fewer images ends early."""
    count = max(map(len, rows.values()))
    fig = figure((0.7 * count + 1.6, 0.72 * len(rows) + 0.8))
    grid = fig.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=False):
            image = np.moveaxis(image, 0, 2)
            ax.imshow(image if image.shape[2] == 3 else image[:, :, 0], cmap="gray", vmin=0, vmax=255)
        for ax in line:
            ax.set(xticks=[], yticks=[], frame_on=bool(ax.images))
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    subtitle(fig, "Whose images look like what", text)
    return fig


def over_partitions(panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], title: str, text: str) -> Figure:
    """One panel per quantity, a line per series over partitions, as `panels[quantity][series][partition]` = seeds.

    A line joins the means over seeds; the band reaches from the smallest to the largest seed.
    """
    fig = figure((4.0 * len(panels), 3.8))
    for ax, (quantity, series) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (name, values) in enumerate(series.items()):
            seeds = np.array(list(values.values()), float)
            x, colour = np.arange(len(values)), PALETTE[number]
            ax.plot(x, seeds.mean(1), marker="os^Dv"[number % 5], color=colour, label=name)
            ax.fill_between(x, seeds.min(1), seeds.max(1), color=colour, alpha=0.2, lw=0)
            ax.set_xticks(x, list(values))
        ax.set(xlabel="partition (Dirichlet α, or iid)", ylabel=quantity)
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        if len(series) > 1:
            ax.legend(fontsize=8)
    subtitle(fig, title, text)
    return fig


def bn_channels(panels: Mapping[str, Sequence[Stats]], server: Stats, layer: str, text: str) -> Figure:
    """Per partition, each client's running mean of every channel of `layer` (dots) beside the server's (crosses)."""
    fig = figure((4.2 * len(panels), 3.8))
    axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (name, clients) in zip(axes, panels.items(), strict=True):
        means = np.stack([np.asarray(stats[layer + MEANS]) for stats in clients])
        channels = np.arange(means.shape[1])
        ax.plot(channels, means.T, "o", color=PALETTE[0], alpha=0.5, ms=5, label=["client", *[""] * (len(means) - 1)])
        ax.plot(channels, np.asarray(server[layer + MEANS]), "X", color=PALETTE[3], ms=8, label="server, as pretrained")
        ax.set(title=name, xlabel=f"channel of {layer} (number)")
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("running mean (activation units)")
    axes[0].legend(fontsize=8)
    subtitle(fig, f"Statistics of {layer}: clients beside the server", text)
    return fig


def message(text: str) -> Figure:
    """A figure that says why there is none, for sliders set to what cannot be."""
    fig = figure((7.0, 1.6))
    fig.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color=GREY)
    return fig
