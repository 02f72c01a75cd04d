"""Where FLOPs, bytes and memory go, as `costs` counts them: per layer, per format, over density."""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fedtiny_lite.plots.style import DENSITY, GREY, PALETTE, figure, subtitle

LIGHT = "#bbbbbb"
STYLES = ((LIGHT, "s", "-"), *zip(PALETTE, "ov^DPXv*", ("-", "--", "-.", ":") * 2, strict=False))
"""(colour, marker, line) of the series of a panel in turn; the first is the dense model."""


def layer_figure(
    density: Mapping[str, Mapping[str, float]],
    flops: Mapping[str, Mapping[str, int]],
    pixels: Mapping[str, int],
    totals: Mapping[str, str],
    text: str,
) -> Figure:
    """Each layer's density and training FLOPs of one image under several masks, the dense model first.

    `density[mask][layer]`: kept / all; `flops` likewise. `pixels`: of each layer's output, in the order of the layers.
    `totals`: what each mask comes to, for the legend.
    """
    fig = figure((11.0, 6.2))
    top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=(1, 1.3))
    x, names = np.arange(len(pixels)), list(pixels)
    for i, (mask, (colour, marker, _)) in enumerate(zip(flops, STYLES, strict=False)):
        top.plot(x, [density[mask][name] for name in names], marker, color=colour, markersize=6, label=mask)
        heights = [flops[mask][name] / 1e6 for name in names]
        bottom.bar(x + 0.8 * ((i + 0.5) / len(flops) - 0.5), heights, 0.8 / len(flops), color=colour)
    _pixel_groups(top, bottom, list(pixels.values()))
    top.set(yscale="log", ylabel="layer density\n(kept / all)", ylim=(None, 4))
    bottom.set(
        yscale="log", ylabel="training MFLOPs\nof one image", xlabel="layer, input to output", xlim=(-0.6, x[-1] + 0.6)
    )
    bottom.set_xticks(x, [name.removesuffix(".weight") for name in names], rotation=40, ha="right", fontsize=8)
    for ax in (top, bottom):
        ax.yaxis.set_minor_locator(NullLocator())
    handles = top.get_legend_handles_labels()[0]
    fig.legend(handles, [f"{mask}: {totals[mask]}" for mask in flops], loc="outside lower center", fontsize=9)
    subtitle(fig, "What each layer keeps, and what it costs", text)
    return fig


def _pixel_groups(top: Axes, bottom: Axes, pixels: Sequence[int]) -> None:
    """Shade every second run of layers with maps of one size, and write that size above it."""
    for number, (size, places) in enumerate(groupby(range(len(pixels)), pixels.__getitem__)):
        run = list(places)
        for ax in (top, bottom):
            ax.axvspan(run[0] - 0.5, run[-1] + 0.5, color=GREY, alpha=0.10 * (number % 2), lw=0)
        top.text((run[0] + run[-1]) / 2, 1.6, f"{size:,} px", ha="center", va="bottom", fontsize=8, color=GREY)


def ratio_figure(
    ratios: Mapping[str, Mapping[float, float]], paper: Mapping[str, tuple[float, float]], text: str
) -> Figure:
    """`ratios[what][density]`: training FLOPs of a round / dense; `paper[label] = (density, ratio)`: stars."""
    fig = figure((8.6, 4.4))
    ax = fig.subplots()
    for (what, values), (colour, marker, line) in zip(ratios.items(), STYLES[1:], strict=False):
        ax.plot(list(values), list(values.values()), line, marker=marker, markersize=5, color=colour, label=what)
    ax.plot(*zip(*paper.values(), strict=True), "*", color="black", markersize=12, label="as the paper says")
    for label, (density, ratio) in paper.items():
        ax.annotate(f"{label} {ratio:g}", (density, ratio), xytext=(8, -12), textcoords="offset points", fontsize=8)
    shown = sorted({density for values in ratios.values() for density in values})
    ax.set(xscale="log", yscale="log", xlabel=DENSITY, ylabel="FLOPs of a client's round / dense")
    ax.set_xticks(shown, [f"{density:g}" for density in shown])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    fig.legend(loc="outside right center", fontsize=8, frameon=False)
    subtitle(fig, "What a round costs beside dense training", text)
    return fig


def format_figure(
    layer: Mapping[str, Mapping[float, int]], model: Mapping[str, Mapping[float, int]], name: str, text: str
) -> Figure:
    """Left: bytes of one layer, `layer[format][density]`, and which format wins where. Right: a model one way."""
    fig = figure((11.0, 4.4))
    left, right = fig.subplots(1, 2)
    for ax, series in ((left, layer), (right, model)):
        for (label, values), (colour, marker, line) in zip(series.items(), STYLES, strict=False):
            marker = marker if ax is right else ""
            sizes = [size / 1e6 for size in values.values()]
            ax.plot(list(values), sizes, line, marker=marker, markersize=5, color=colour, label=label, lw=1.8)
        ax.set(xscale="log", yscale="log", xlabel=DENSITY, ylabel="MB")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    for label, first, last in winners(layer):
        colour = STYLES[list(layer).index(label)][0]
        left.axvspan(first, last, color=colour, alpha=0.12, lw=0)
    left.set_title(f"one layer: {name}", fontsize=10)
    right.set_title("the model, one way", fontsize=10)
    subtitle(fig, "Bytes follow the format; shaded: the smallest one", text)
    return fig


def winners(sizes: Mapping[str, Mapping[float, int]]) -> list[tuple[str, float, float]]:
    """(format, first density, last density) of every run of densities where one format is the smallest.

    `sizes[format][density]` with densities ascending; a run ends where the next begins.
    """
    densities = list(next(iter(sizes.values())))
    best = [min(sizes, key=lambda label: sizes[label][density]) for density in densities]
    starts = [i for i in range(len(best)) if i == 0 or best[i] != best[i - 1]]
    return [(best[i], densities[i], densities[j]) for i, j in zip(starts, [*starts[1:], len(best) - 1], strict=True)]


def activation_figure(
    states: Mapping[str, Mapping[float, int]],
    activations: int,
    inputs: Mapping[float, int],
    text: str,
) -> Figure:
    """Left: model state over density beside what one batch saves for backward. Right: FedMef's share of that.

    `states[what][density]`, `activations` and `inputs` in bytes; `inputs[share]`: what convolutions save of their
    inputs where they keep the largest `share`.
    """
    fig = figure((11.0, 4.2))
    left, right = fig.subplots(1, 2)
    for (what, values), (colour, marker, line) in zip(states.items(), STYLES[1:], strict=False):
        sizes = [size / 1e6 for size in values.values()]
        left.plot(list(values), sizes, line, marker=marker, markersize=5, color=colour, label=f"model state, {what}")
    left.set(xscale="log", yscale="log", xlabel=DENSITY, ylabel="MB")
    right.plot(
        list(inputs),
        [size / 1e6 for size in inputs.values()],
        color=PALETTE[2],
        label="inputs of convolutions, counted sparse",
    )
    right.set(xlabel="share of activations kept", ylabel="MB", ylim=(0, 1.15 * activations / 1e6))
    for ax in (left, right):
        ax.axhline(activations / 1e6, color=PALETTE[3], ls="--", label="all that one batch saves for backward")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    subtitle(fig, "Masks shrink the model state, not the activations", text)
    return fig
