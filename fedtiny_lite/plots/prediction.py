"""What a step's time follows: a line through recorded steps, and what it says of any density."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from fedtiny_lite.plots.sparse import LIGHT, MASKS, log_axes
from fedtiny_lite.plots.style import DENSITY, GREY, PALETTE, figure, subtitle
from fedtiny_lite.report.engines import mask_name


def prediction_figure(
    macs: Mapping[str, Mapping[int, int]],
    recorded: Mapping[str, Mapping[float, float]],
    predicted: Mapping[str, Mapping[float, float]],
    density: float,
    text: str,
) -> Figure:
    """Left: multiply-adds of one image by size of the map, `macs[mask][pixels]`, the dense model first.

    Right: times as fast as dense over density, `predicted[mask]` as lines and `recorded[mask]` as markers; the chosen
    `density`, which each line must hold, is marked.
    """
    fig = figure((11.0, 4.2))
    left, right = fig.subplots(1, 2)
    styles = {"dense": (LIGHT, "s", "-")} | {mask: (PALETTE[i], *MASKS[mask]) for i, mask in enumerate(MASKS)}
    for mask, counts in macs.items():
        colour, marker, line = styles[mask]
        heights = [count / 1e6 for count in counts.values()]
        names = [f"{size:,}" for size in counts]
        left.plot(names, heights, color=colour, marker=marker, ls=line, label=mask_name(mask))
    left.set(yscale="log", xlabel="pixels of a layer's output map", ylabel="million multiply-adds\nof one image")
    for mask, speeds in predicted.items():
        colour, marker, line = styles[mask]
        points = zip(*recorded[mask].items(), strict=True)
        right.plot(list(speeds), list(speeds.values()), color=colour, ls=line, label=f"{mask_name(mask)}, fitted")
        right.plot(*points, marker, color=colour, label=f"{mask_name(mask)}, recorded")
        right.plot(density, speeds[density], "*", color=colour, ms=14, mec="black")
    right.axvline(density, color=GREY, lw=1, ls=":")
    log_axes(right, DENSITY)
    right.set_ylabel("times as fast as the best\ndense float32 step")
    left.yaxis.set_major_formatter("{x:g}")
    left.grid(alpha=0.3)
    for ax in (left, right):
        ax.legend(fontsize=8)
    subtitle(fig, "What a density saves: multiply-adds, and time", text)
    return fig
