"""All methods side by side, from the tables of named plans: accuracy, paired differences, ablations, cost."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtiny_lite.plots.runs import accuracy_row, describe, round_lines, styles
from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle
from fedtiny_lite.report.differences import ablations, against_others, verdict
from fedtiny_lite.report.frames import at_density, by_label, curves, densities, panels
from fedtiny_lite.report.intervals import t_interval
from fedtiny_lite.report.labels import DENSE, FEDTINY
from fedtiny_lite.report.tables import pareto_front, points

AHEAD, BEHIND, OPEN = PALETTE[0], PALETTE[3], GREY
_TICKS = (-0.5, -0.05, 0, 0.05, 0.5)
INTERVAL = "dots: seeds, bar: mean, line: its 95 % t interval (blue above 0, orange below, grey: 0 is inside)"


def rounds_figure(runs: pd.DataFrame, density: float) -> Figure:
    """Test accuracy after each round at one density: masks that stay, masks that change; × above the budget."""
    here = at_density(runs, density)
    fig, groups = figure((12.5, 4.8)), by_label(here)
    for ax, (title, names) in zip(fig.subplots(1, 2, sharey=True), panels(here).items(), strict=True):
        shown = {name: groups[name] for name in names}
        round_lines(ax, shown)
        _budget_crosses(ax, shown)
        ax.set_title(title)
    accuracy_row(fig)
    what = f"density {density:g}; measured on the test images; line: mean, band: lowest to highest seed\n"
    what += "×: a client held more weights than its budget, in that round or, at 0, before training"
    subtitle(fig, "Accuracy over rounds", describe(here, what))
    return fig


def _budget_crosses(ax: Axes, groups: Mapping[str, pd.DataFrame]) -> None:
    """A cross on a line wherever one of its runs was above the budget; the dense model has none."""
    for runs in (runs for name, runs in groups.items() if name != DENSE):
        over, means = set(runs["above_budget"].explode().dropna()), curves(runs).mean()
        means = means[means.index.isin(over)]
        ax.scatter(means.index, means, s=30, color="black", marker="x", linewidth=1.2, zorder=3)


def differences_figure(groups: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy of FedTiny minus each other label's, seed by seed: a panel per entry of `groups`, a row per label."""
    everything = pd.concat(groups.values())
    names = [name for name in by_label(everything) if name != FEDTINY]
    fig = figure((max(8.4, 2.4 + 2.6 * len(groups)), 1.9 + 0.3 * len(names)))
    for ax, (title, runs) in zip(_axes(fig, 1, len(groups)), groups.items(), strict=True):
        gaps = against_others(runs)
        interval_dots(ax, {name: gaps.get(name, []) for name in names})
        ax.set_xscale("symlog", linthresh=0.05)  # some are tied within 0.02, others 0.5 apart
        ax.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS], fontsize=8)
        ax.minorticks_off()
        ax.set(title=title, xlabel="difference in accuracy\n(share of test images)")
    what = f"measured, paired by seed; axis linear to ±0.05, then logarithmic\n{INTERVAL}"
    subtitle(fig, f"{FEDTINY} minus the others", describe(everything, what))
    return fig


def ablations_figure(runs: pd.DataFrame) -> Figure:
    """FedTiny with one setting changed minus FedTiny's default, seed by seed: a panel per setting."""
    groups = ablations(runs)
    fig = figure((12.5, 8.6))
    for ax, (setting, gaps) in zip(_axes(fig, 3, 3, sharey=False), groups.items(), strict=False):
        interval_dots(ax, gaps)
        ax.set_title(setting, fontsize=10)
    for ax in fig.axes[-3:]:
        ax.set_xlabel("difference in accuracy\n(share of test images)")
    places = ", ".join(f"density {density:g}" for density in densities(runs))
    what = f"{places}; measured, paired by seed\n{INTERVAL}"
    subtitle(
        fig, "FedTiny with one setting changed, minus its default; last panel: saliency methods", describe(runs, what)
    )
    return fig


def interval_dots(ax: Axes, groups: Mapping[str, Sequence[float]]) -> None:
    """A row per group, the first on top: a dot per number, the mean and its t interval, coloured by the verdict."""
    ax.axvline(0, color=GREY, linewidth=0.8)
    for y, gaps in enumerate(groups.values()):
        colour = (OPEN, AHEAD, BEHIND)[verdict(gaps)]
        ax.scatter(gaps, [y] * len(gaps), s=14, color=colour, alpha=0.55, linewidth=0)
        if len(gaps) > 1:
            average, low, high = t_interval(gaps)
            ax.hlines(y, low, high, color=colour, linewidth=1.2)
            ax.vlines(average, y - 0.28, y + 0.28, color=colour, linewidth=2.5)
    ax.set_yticks(range(len(groups)), groups)
    ax.set_ylim(len(groups) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.25)


def pareto_figure(runs: pd.DataFrame) -> Figure:
    """Mean accuracy over what a client spends a round, a point per label and density; no point beats those on the line.

    FLOPs and bytes are totals of a run, what precedes training included, divided by clients and rounds.
    """
    fig, found = figure((12.5, 5.6)), points(runs)
    left, right = fig.subplots(1, 2, sharey=True)
    whole = found.loc[found["label"] == DENSE, "flops_in_all"].item()
    _cloud(left, found.assign(cost=found["flops_in_all"] / whole))
    _cloud(right, found.assign(cost=found["bytes_in_all"] / 1e3))
    left.set_xlabel("training FLOPs per client and round / dense (counted)")
    right.set_xlabel("kB per client and round, both ways (counted)")
    accuracy_row(fig)
    what = "accuracy measured, mean over seeds; cost counted, with what precedes training, over the rounds\n"
    what += "the larger a point, the denser the model; grey line: no cheaper point is as accurate"
    subtitle(fig, "Cost and accuracy", describe(runs, what))
    return fig


def _cloud(ax: Axes, found: pd.DataFrame) -> None:
    front = pareto_front(found["cost"].tolist(), found["accuracy"].tolist())
    levels = sorted(found["density"].unique())
    ax.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1.2, alpha=0.7)
    groups = by_label(found)
    for name, (colour, marker, _) in styles(groups).items():
        own = groups[name].sort_values("density")
        ax.plot(own["cost"], own["accuracy"], color=colour, linewidth=0.7, alpha=0.5)
        for density, cost, accuracy in zip(own["density"], own["cost"], own["accuracy"], strict=True):
            size = 16 + 16 * levels.index(density)
            ax.scatter(cost, accuracy, s=size, color=colour, marker=marker or "*", label=name)
    ax.set_xscale("log")


def _axes(fig: Figure, rows: int, count: int, sharey: bool = True) -> list[Axes]:
    return list(fig.subplots(rows, count, sharex=True, sharey=sharey, squeeze=False).flat)
