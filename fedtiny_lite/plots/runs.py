"""Finished runs side by side: accuracy over rounds, density and any setting; paired differences."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedtiny_lite.plots.arms import accuracies, at_density, by_arm, densities, grouped, paired_differences
from fedtiny_lite.plots.style import DENSITY, GREY, PALETTE, active_weights_axis, figure, subtitle

_STYLES = {  # colour, marker, line
    "FedTiny": (PALETTE[0], "o", "-"),
    "selection only": (PALETTE[9], "s", "--"),
    "progressive only": (PALETTE[2], "^", "--"),
    "vanilla": (PALETTE[4], "D", "--"),
    "magnitude": (PALETTE[1], "v", "-"),
    "random": (PALETTE[7], "X", "-"),
    "dense": ("#222222", "", ":"),
}
_MORE_STYLES = tuple(zip((PALETTE[3], PALETTE[5], PALETTE[6], PALETTE[8]), "Pp*h", cycle(["-."]), strict=False))
_NO_GROUP = ("seed", "density", "method", "selection", "candidate", "progressive")
_BAND = "line: mean, band: lowest to highest seed"


def _describe(records: Sequence[dict], what: str) -> str:
    """Data, model and number of seeds of these runs, then what the numbers are."""
    configs = [record["config"] for record in records]
    setups = {f"{Path(c['dataset']).name}, {c['model']} of width {c['width']}" for c in configs}
    seeds = len({c["seed"] for c in configs})
    return f"{' and '.join(sorted(setups))}, {seeds} seed{'s' * (seeds > 1)}; {what}"


def _styles(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    spare = cycle(_MORE_STYLES)
    return {name: _STYLES.get(name) or next(spare) for name in names}


# --- figures ----------------------------------------------------------------------------------------------


def accuracy_over_rounds(records: Sequence[dict]) -> Figure:
    """Test accuracy after each round, one panel per density: mean over seeds, band from lowest to highest."""
    shown = densities(records) or [None]
    fig = figure((max(8.4, 3.6 + 2.6 * len(shown)), 4.3))
    for ax, density in zip(_row(fig, len(shown)), shown, strict=True):
        arms = by_arm(records if density is None else at_density(records, density))
        for name, (colour, _, line) in _styles(arms).items():
            curves = [[e["test_accuracy"] for e in (r["start"], *r["rounds"])] for r in arms[name]]
            _mean_and_band(ax, range(min(map(len, curves))), list(zip(*curves, strict=False)), name, colour, line)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="rounds finished (0: before training)", title="" if density is None else f"density {density:g}")
    _accuracy_row(fig)
    subtitle(fig, "Accuracy over rounds", _describe(records, f"measured on the test images; {_BAND}\n"))
    return fig


def accuracy_over_density(records: Sequence[dict], weights_per_filter: float | None = None) -> Figure:
    """Final test accuracy over density: mean, band from lowest to highest seed, one dot per run.

    `weights_per_filter`: prunable weights / their filters, for a second axis of active weights per filter.
    """
    fig = figure((8.4, 4.9))
    [ax], arms = _row(fig, 1), by_arm(records)
    shown = densities(records)
    for number, (name, (colour, marker, line)) in enumerate(_styles(arms).items()):
        runs = [accuracies(at_density(arms[name], density)) for density in shown]
        held = [(density, values) for density, values in zip(shown, runs, strict=True) if values]
        _mean_and_band(ax, [d for d, _ in held], [values for _, values in held], name, colour, line, marker)
        aside = 1 + 0.02 * (number + 1)  # so that dots of different arms do not hide each other
        for density, values in held if marker else ():
            ax.scatter([density * aside] * len(values), values, s=16, color=colour, marker=marker, alpha=0.8)
    ax.set_xscale("log")
    ax.set_xticks(shown, [f"{density:g}" for density in shown])
    ax.minorticks_off()
    ax.set_xlabel(DENSITY)
    if weights_per_filter:
        above = active_weights_axis(ax, weights_per_filter)
        above.set_xticks([d * weights_per_filter for d in shown], [f"{d * weights_per_filter:.2g}" for d in shown])
        above.minorticks_off()
    _accuracy_row(fig)
    what = f"measured on the test images; {_BAND}, dots: runs\n"  # the second line keeps the upper axis away
    subtitle(fig, "Final accuracy over density", _describe(records, what))
    return fig


def accuracy_over_setting(records: Sequence[dict], setting: str, label: str) -> Figure:
    """Final test accuracy over the values of one setting, evenly spaced: mean per arm, one dot per run."""
    fig = figure((7.2, 4.2))
    [ax], arms = _row(fig, 1), by_arm(records)
    values = sorted({r["config"][setting] for r in records})
    for number, (name, (colour, marker, line)) in enumerate(_styles(arms).items()):
        groups = grouped(arms[name], lambda r: r["config"][setting])
        places = [(values.index(value), accuracies(groups[value])) for value in values if value in groups]
        style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 5}
        ax.plot([x for x, _ in places], [mean(runs) for _, runs in places], **style, label=name)
        for x, runs in places:
            aside = x + 0.05 * (number + 1)
            ax.scatter([aside] * len(runs), runs, s=20, color=colour, marker=marker or "_", alpha=0.8)
    ax.set_xticks(range(len(values)), [f"{value:g}" if isinstance(value, float) else str(value) for value in values])
    ax.set_xlabel(label)
    _accuracy_row(fig)
    dense = ", ".join(f"density {density:g}" for density in densities(records))
    subtitle(fig, f"Final accuracy over {setting}", _describe(records, f"{dense}; measured; line: mean, dots: runs"))
    return fig


def paired_difference_dots(groups: dict[str, Sequence[dict]], first: str, second: str) -> Figure:
    """Accuracy of `first` minus `second` per seed and density, for each named group of records; bar: mean."""
    fig = figure((7.2, 4.2))
    [ax] = _row(fig, 1)
    everything = [record for records in groups.values() for record in records]
    shown = densities(everything)[::-1]
    ax.axhline(0, color=GREY, linewidth=0.8)
    for number, (label, records) in enumerate(groups.items()):
        colour, shift = PALETTE[(0, 3, 2, 4)[number % 4]], 0.24 * (number - (len(groups) - 1) / 2)
        for density, gaps in paired_differences(records, first, second).items():
            x = shown.index(density) + shift
            ax.scatter([x] * len(gaps), gaps, s=22, color=colour, alpha=0.8, label=label)
            ax.hlines(mean(gaps), x - 0.09, x + 0.09, color=colour, linewidth=2.5)
            label = None  # one entry in the legend
    ax.set_xticks(range(len(shown)), [f"{density:g}" for density in shown])
    ax.set(xlabel=DENSITY, ylabel="difference in test accuracy (share of images)", xlim=(-0.6, len(shown) - 0.4))
    ax.legend(frameon=False)
    what = "measured; dots: the same seed in both, bar: mean"
    subtitle(fig, f"{first} minus {second}", _describe(everything, what))
    return fig


def _row(fig: Figure, panels: int) -> list[Axes]:
    return list(fig.subplots(1, panels, sharey=True, squeeze=False)[0])


def _mean_and_band(
    ax: Axes, x: Sequence[float], runs: list[Sequence[float]], name: str, colour: str, line: str, marker: str = ""
) -> None:
    """One line over `x`: `runs` holds the values of all seeds at each place."""
    style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 5}
    ax.plot(x, [mean(values) for values in runs], **style, linewidth=1.8, label=name)
    ax.fill_between(x, [min(v) for v in runs], [max(v) for v in runs], color=colour, alpha=0.10, linewidth=0)


def _accuracy_row(fig: Figure) -> None:
    """Room above for the title, one label for the row's accuracy axis, and one legend on its right."""
    fig.axes[0].set_ylabel("test accuracy (share of images)")
    entries = {}
    for ax in fig.axes:
        ax.grid(alpha=0.25)
        handles, labels = ax.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
    fig.legend(entries.values(), entries.keys(), loc="outside right center", frameon=False)


# --- every run below a folder -----------------------------------------------------------------------------


def save_run_figures(records: Sequence[dict], folder: str | Path) -> list[Path]:
    """Draw all `records` over rounds and over density below `folder`, and return the files.

    Runs without a round, or of a candidate taken unjudged, are left out. Runs that differ in more than seed, density
    and method are not mixed: each such group has its own pair of figures, named by the settings in which it differs
    from the largest group.
    """
    trained = [r for r in records if r["rounds"] and r["config"]["selection"] != "fixed"]
    groups = grouped(trained, lambda r: tuple((k, v) for k, v in sorted(r["config"].items()) if k not in _NO_GROUP))
    usual = set(max(groups, key=lambda key: len(groups[key]), default=()))
    paths = []
    for key, runs in groups.items():
        odd = [f"{name}={value}" for name, value in key if (name, value) not in usual]
        figures = {"rounds": accuracy_over_rounds} | ({"density": accuracy_over_density} if densities(runs) else {})
        for what, draw in figures.items():
            fig = draw(runs)
            fig.text(0.01, 0.01, ", ".join(odd), fontsize=7, color=GREY)
            name = "_".join([f"accuracy_over_{what}", *odd]).replace("/", "-").replace(":", "-")
            paths.append(Path(folder) / f"{name}.png")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            fig.savefig(paths[-1], dpi=150)
    return paths
