"""One dot a seed: what a mean over a few seeds hides."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from fedtiny_lite.plots.style import GREY, PALETTE


def strip(ax: Axes, groups: Mapping[str, Sequence[float]], ylabel: str, zero: bool = False) -> None:
    """A column of dots per group, one dot a seed, the seeds joined by thin lines; a bar and a number = the mean.

    Every group holds the seeds in the same order. `zero`: draw a line at 0.
    """
    if zero:
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    for seed in zip(*groups.values(), strict=True):
        ax.plot(range(len(seed)), seed, color=GREY, alpha=0.35, linewidth=0.8)
    for x, (values, colour) in enumerate(zip(groups.values(), PALETTE, strict=False)):
        mean = sum(values) / len(values)
        ax.plot([x] * len(values), values, "o", color=colour, markersize=5)
        ax.hlines(mean, x - 0.28, x + 0.28, color=colour, linewidth=2.5)
        ax.annotate(f"{mean:.2f}", (x + 0.3, mean), ha="left", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(len(groups)), groups)
    ax.set_xlim(-0.5, len(groups) - 0.25)
    ax.set_ylabel(ylabel)
