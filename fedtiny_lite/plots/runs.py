"""Finished runs side by side, from the table of `report.frames`: accuracy over rounds, density and any setting."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedtiny_lite.own_files import file_of
from fedtiny_lite.plots.style import DENSITY, GREY, PALETTE, active_weights_axis, figure, subtitle
from fedtiny_lite.report.differences import paired_differences
from fedtiny_lite.report.frames import alike, at_density, by_label, curves, densities

Style = tuple[str, str, str]
"""Colour, marker and line of a label."""
_STYLES: dict[str, Style] = {
    "FedTiny": (PALETTE[0], "o", "-"),
    "selection only": (PALETTE[9], "s", "--"),
    "progressive only": (PALETTE[2], "^", "--"),
    "neither": (PALETTE[4], "D", "--"),
    "dense": ("#222222", "", ":"),
    # masks that stay
    "small model": (PALETTE[5], "s", "--"),
    "random": (PALETTE[7], "X", "-"),
    "magnitude": (PALETTE[1], "v", "-"),
    "SNIP": (PALETTE[3], "P", "--"),
    "SynFlow": (PALETTE[2], "<", "--"),
    "GraSP": (PALETTE[4], "8", "--"),
    "SSFL": (PALETTE[6], "*", "-"),
    "FL-PQSU": (PALETTE[8], "h", "-"),
    # masks that change
    "LotteryFL": (PALETTE[5], "p", "-."),
    "PruneFL": (PALETTE[3], "^", "-."),
    "FedDST": (PALETTE[9], ">", "-."),
    "FedMef": (PALETTE[4], "d", "-."),
    "FedRTS": (PALETTE[1], "H", "-."),
}
_MORE_STYLES = tuple(zip((PALETTE[3], PALETTE[5], PALETTE[6], PALETTE[8]), "h*pd", cycle(["-."]), strict=False))
_BAND = "line: mean, band: lowest to highest seed"


def describe(runs: pd.DataFrame, what: str) -> str:
    """Data, model and number of seeds of these runs, then what the numbers are."""
    setups = {
        f"{Path(dataset).name}, {file_of(model).stem} of width {width}"
        for dataset, model, width in runs[["dataset", "model", "width"]].itertuples(index=False)
    }
    seeds = runs["seed"].nunique()
    return f"{' and '.join(sorted(setups))}, {seeds} seed{'s' * (seeds > 1)}; {what}"


def styles(names: Iterable[str]) -> dict[str, Style]:
    """The style of each of these labels; those without a style of their own take the spare ones."""
    spare = cycle(_MORE_STYLES)
    return {name: _STYLES.get(name) or next(spare) for name in names}


# --- figures ----------------------------------------------------------------------------------------------


def accuracy_over_rounds(runs: pd.DataFrame) -> Figure:
    """Test accuracy after each round, one panel per density: mean over seeds, band from lowest to highest."""
    shown: Sequence[float | None] = densities(runs) or [None]
    fig = figure((max(8.4, 3.6 + 2.6 * len(shown)), 4.3))
    for ax, density in zip(_row(fig, len(shown)), shown, strict=True):
        round_lines(ax, by_label(runs if density is None else at_density(runs, density)))
        ax.set_title("" if density is None else f"density {density:g}")
    accuracy_row(fig)
    subtitle(fig, "Accuracy over rounds", describe(runs, f"measured on the test images; {_BAND}\n"))
    return fig


def round_lines(ax: Axes, groups: Mapping[str, pd.DataFrame]) -> None:
    """Test accuracy after each round, a line and a band per label."""
    for name, (colour, _, line) in styles(groups).items():
        _mean_and_band(ax, curves(groups[name]), name, colour, line)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("rounds finished (0: before training)")


def accuracy_over_density(
    runs: pd.DataFrame,
    weights_per_filter: float | None = None,
    panels: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Final test accuracy over density: mean, band from lowest to highest seed, one dot per run.

    `weights_per_filter`: prunable weights / their filters, for a second axis of active weights per filter. `panels`:
    title -> the labels that are drawn there; None = all in one.
    """
    fig = figure((8.4, 4.9) if panels is None else (12.5, 5.6))
    shown, groups = densities(runs), by_label(runs)
    parts = {"": tuple(groups)} if panels is None else panels
    for ax, (title, names) in zip(_row(fig, len(parts)), parts.items(), strict=True):
        density_lines(ax, {name: groups[name] for name in names if name in groups}, shown)
        ax.set(xlabel=DENSITY, title=title)
        if weights_per_filter:
            _weights_axis(ax, shown, weights_per_filter)
    accuracy_row(fig)
    hollow = ", hollow: a layer kept no weight" * bool(runs["emptied"].map(bool).any())
    # the second line keeps the upper axis away
    what = f"measured on the test images; {_BAND}, dots: runs, set aside{hollow}\n"
    subtitle(fig, "Final accuracy over density", describe(runs, what))
    return fig


def _weights_axis(ax: Axes, shown: Sequence[float], weights_per_filter: float) -> None:
    above = active_weights_axis(ax, weights_per_filter)
    above.set_xticks([d * weights_per_filter for d in shown], [f"{d * weights_per_filter:.2g}" for d in shown])
    above.minorticks_off()


def density_lines(ax: Axes, groups: Mapping[str, pd.DataFrame], shown: Sequence[float]) -> None:
    """Final accuracy at the densities `shown`: a line, a band, dots per label; hollow: a run emptied a layer."""
    for number, (name, (colour, marker, line)) in enumerate(styles(groups).items()):
        held = {d: part for d in shown if len(part := at_density(groups[name], d))}
        final = pd.DataFrame({d: part["accuracy"].reset_index(drop=True) for d, part in held.items()})
        _mean_and_band(ax, final, name, colour, line, marker)
        for density, part in held.items() if marker else ():
            aside = 0.02 * (number + 1) * (len(part) > 1)  # so that dots of different labels do not hide each other
            _density_dots(ax, density * (1 + aside), part, colour, marker)
    ax.set_xscale("log")
    if len(shown) == 1:
        ax.set_xlim(shown[0] / 1.5, shown[0] * 1.5)
    ax.set_xticks(shown, [f"{density:g}" for density in shown])
    ax.minorticks_off()


def _density_dots(ax: Axes, x: float, runs: pd.DataFrame, colour: str, marker: str) -> None:
    for hollow, part in runs.groupby(runs["emptied"].map(bool)):
        size, face = (60, "none") if hollow else (16, colour)
        ax.scatter([x] * len(part), part["accuracy"], size, alpha=0.8, facecolor=face, edgecolor=colour, marker=marker)


def accuracy_over_setting(runs: pd.DataFrame, setting: str, label: str) -> Figure:
    """Final test accuracy over the values of one setting, evenly spaced: mean per label, one dot per run."""
    fig = figure((7.2, 4.2))
    [ax], groups = _row(fig, 1), by_label(runs)
    values = sorted(runs[setting].unique().tolist())
    for number, (name, (colour, marker, line)) in enumerate(styles(groups).items()):
        places, final = groups[name][setting].map(values.index), groups[name]["accuracy"]
        means, aside = final.groupby(places).mean(), final.groupby(places).transform("size").gt(1) * 0.05 * (number + 1)
        ax.plot(means.index, means, color=colour, linestyle=line, marker=marker, markersize=5, label=name)
        ax.scatter(places + aside, final, s=20, color=colour, marker=marker or "_", alpha=0.8)
    ax.set_xticks(range(len(values)), [f"{value:g}" if isinstance(value, float) else str(value) for value in values])
    ax.set_xlabel(label)
    accuracy_row(fig)
    dense = ", ".join(f"density {density:g}" for density in densities(runs))
    subtitle(
        fig, f"Final accuracy over {setting}", describe(runs, f"{dense}; measured; line: mean, dots: runs, set aside")
    )
    return fig


def paired_difference_dots(groups: Mapping[str, pd.DataFrame], first: str, second: str) -> Figure:
    """Accuracy of `first` minus `second` per seed and density, for each named group of runs; bar: mean."""
    fig = figure((7.2, 4.2))
    [ax], everything = _row(fig, 1), pd.concat(groups.values())
    shown = densities(everything)[::-1]
    ax.axhline(0, color=GREY, linewidth=0.8)
    for number, (label, runs) in enumerate(groups.items()):
        colour, shift = PALETTE[(0, 3, 2, 4)[number % 4]], 0.24 * (number - (len(groups) - 1) / 2)
        for density, gaps in paired_differences(runs, first, second).items():
            x, mean = shown.index(density) + shift, sum(gaps) / len(gaps)
            ax.scatter([x] * len(gaps), gaps, s=22, color=colour, alpha=0.8, label=label)
            ax.hlines(mean, x - 0.09, x + 0.09, color=colour, linewidth=2.5)
            label = ""  # one entry in the legend
    ax.set_xticks(range(len(shown)), [f"{density:g}" for density in shown])
    ax.set(xlabel=DENSITY, ylabel="difference in test accuracy (share of images)", xlim=(-0.6, len(shown) - 0.4))
    ax.legend(frameon=False)
    what = "measured; dots: the same seed in both, bar: mean"
    subtitle(fig, f"{first} minus {second}", describe(everything, what))
    return fig


def _row(fig: Figure, panels: int) -> list[Axes]:
    return list(fig.subplots(1, panels, sharey=True, squeeze=False)[0])


def _mean_and_band(ax: Axes, values: pd.DataFrame, name: str, colour: str, line: str, marker: str = "") -> None:
    """One line over the columns of `values`, which hold all seeds at each place."""
    ax.plot(values.columns, values.mean(), color=colour, ls=line, lw=1.8, marker=marker, ms=5, label=name)
    ax.fill_between(values.columns, values.min(), values.max(), color=colour, alpha=0.10, linewidth=0)


def accuracy_row(fig: Figure) -> None:
    """Room above for the title, one label for the row's accuracy axis, and one legend on its right."""
    fig.axes[0].set_ylabel("test accuracy (share of images)")
    entries: dict[str, Artist] = {}
    for ax in fig.axes:
        ax.grid(alpha=0.25)
        handles, labels = ax.get_legend_handles_labels()
        entries |= {label: handle for label, handle in zip(labels, handles, strict=True) if label not in entries}
    fig.legend(entries.values(), entries.keys(), loc="outside right center", frameon=False)


# --- every run below a folder -----------------------------------------------------------------------------


def save_run_figures(records: Iterable[Mapping], folder: str | Path) -> list[Path]:
    """Draw all `records` over rounds and over density below `folder`, and return the files.

    Each group of `frames.alike` has its own pair of figures, named by the settings in which it differs from the usual
    ones; the lower left corner tells the values of all settings in which groups differ.
    """
    paths, groups = [], alike(records)
    told_apart = sorted({setting.partition("=")[0] for odd in groups for setting in odd})
    for odd, runs in groups.items():
        figures = {"rounds": accuracy_over_rounds} | ({"density": accuracy_over_density} if densities(runs) else {})
        for what, draw in figures.items():
            fig = draw(runs)
            values = [f"{name}={value}" for name in told_apart for value in runs[name].dropna().unique()]
            fig.text(0.01, 0.01, ", ".join(values), fontsize=7, color=GREY)
            name = "_".join([f"accuracy_over_{what}", *odd]).replace("/", "-").replace(":", "-")
            paths.append(Path(folder) / f"{_short(name)}.png")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            fig.savefig(paths[-1], dpi=150)
    return paths


def _short(name: str) -> str:
    """A name that a file can have: the end of a long one is replaced by 8 hex digits of the whole."""
    return name if len(name) <= 200 else f"{name[:190]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
