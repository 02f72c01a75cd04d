"""Finished runs side by side: accuracy over rounds, density and any setting; paired differences."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedtiny_lite.plots.style import DENSITY, GREY, PALETTE, active_weights_axis, figure, subtitle
from fedtiny_lite.report.arms import accuracies, at_density, by_arm, densities, emptied, grouped, paired_differences

_STYLES = {  # colour, marker, line
    "FedTiny": (PALETTE[0], "o", "-"),
    "selection only": (PALETTE[9], "s", "--"),
    "progressive only": (PALETTE[2], "^", "--"),
    "vanilla": (PALETTE[4], "D", "--"),
    "dense": ("#222222", "", ":"),
    # masks that stay
    "small model": (PALETTE[5], "s", "--"),
    "random": (PALETTE[7], "X", "-"),
    "magnitude": (PALETTE[1], "v", "-"),
    "SNIP": (PALETTE[3], "P", "--"),
    "SynFlow": (PALETTE[2], "<", "--"),
    "GraSP": (PALETTE[4], "D", "--"),
    "SSFL": (PALETTE[6], "*", "-"),
    "FL-PQSU": (PALETTE[8], "h", "-"),
    # masks that change
    "LotteryFL": (PALETTE[5], "p", "-."),
    "PruneFL": (PALETTE[3], "^", "-."),
    "FedDST": (PALETTE[9], ">", "-."),
    "FedMef": (PALETTE[4], "d", "-."),
    "FedRTS": (PALETTE[1], "H", "-."),
}
_MORE_STYLES = tuple(zip((PALETTE[3], PALETTE[5], PALETTE[6], PALETTE[8]), "Pp*h", cycle(["-."]), strict=False))
_NO_GROUP = ("seed", "density", "method", "selection", "candidate", "progressive")
_BAND = "line: mean, band: lowest to highest seed"


def describe(records: Sequence[dict], what: str) -> str:
    """Data, model and number of seeds of these runs, then what the numbers are."""
    configs = [record["config"] for record in records]
    setups = {f"{Path(c['dataset']).name}, {c['model']} of width {c['width']}" for c in configs}
    seeds = len({c["seed"] for c in configs})
    return f"{' and '.join(sorted(setups))}, {seeds} seed{'s' * (seeds > 1)}; {what}"


def styles(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line of each of these arms."""
    spare = cycle(_MORE_STYLES)
    return {name: _STYLES.get(name) or next(spare) for name in names}


# --- figures ----------------------------------------------------------------------------------------------


def accuracy_over_rounds(records: Sequence[dict]) -> Figure:
    """Test accuracy after each round, one panel per density: mean over seeds, band from lowest to highest."""
    shown = densities(records) or [None]
    fig = figure((max(8.4, 3.6 + 2.6 * len(shown)), 4.3))
    for ax, density in zip(_row(fig, len(shown)), shown, strict=True):
        round_lines(ax, by_arm(records if density is None else at_density(records, density)))
        ax.set_title("" if density is None else f"density {density:g}")
    accuracy_row(fig)
    subtitle(fig, "Accuracy over rounds", describe(records, f"measured on the test images; {_BAND}\n"))
    return fig


def round_lines(ax: Axes, arms: Mapping[str, Sequence[dict]]) -> None:
    """Test accuracy after each round, a line and a band per arm."""
    for name, (colour, _, line) in styles(arms).items():
        curves = [[e["test_accuracy"] for e in (r["start"], *r["rounds"])] for r in arms[name]]
        _mean_and_band(ax, range(min(map(len, curves))), list(zip(*curves, strict=False)), name, colour, line)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("rounds finished (0: before training)")


def accuracy_over_density(
    records: Sequence[dict],
    weights_per_filter: float | None = None,
    panels: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Final test accuracy over density: mean, band from lowest to highest seed, one dot per run.

    `weights_per_filter`: prunable weights / their filters, for a second axis of active weights per filter. `panels`:
    title -> the arms that are drawn there; None = all in one.
    """
    fig = figure((8.4, 4.9) if panels is None else (12.5, 5.6))
    shown, arms = densities(records), by_arm(records)
    parts = {"": tuple(arms)} if panels is None else panels
    for ax, (title, names) in zip(_row(fig, len(parts)), parts.items(), strict=True):
        density_lines(ax, {name: arms[name] for name in names if name in arms}, shown)
        ax.set(xlabel=DENSITY, title=title)
        if weights_per_filter:
            above = active_weights_axis(ax, weights_per_filter)
            above.set_xticks([d * weights_per_filter for d in shown], [f"{d * weights_per_filter:.2g}" for d in shown])
            above.minorticks_off()
    accuracy_row(fig)
    hollow = ", hollow: a layer kept no weight" * any(map(emptied, records))
    what = f"measured on the test images; {_BAND}, dots: runs{hollow}\n"  # the second line keeps the upper axis away
    subtitle(fig, "Final accuracy over density", describe(records, what))
    return fig


def density_lines(ax: Axes, arms: Mapping[str, Sequence[dict]], shown: Sequence[float]) -> None:
    """Final accuracy at the densities `shown`: a line, a band and dots per arm; hollow where a run emptied a layer."""
    for number, (name, (colour, marker, line)) in enumerate(styles(arms).items()):
        runs = {density: at_density(arms[name], density) for density in shown}
        held = {density: group for density, group in runs.items() if group}
        _mean_and_band(ax, list(held), [accuracies(group) for group in held.values()], name, colour, line, marker)
        aside = 1 + 0.02 * (number + 1)  # so that dots of different arms do not hide each other
        for density, group in held.items() if marker else ():
            for hollow, part in grouped(group, lambda run: bool(emptied(run))).items():
                style = {"facecolor": "none" if hollow else colour, "edgecolor": colour, "marker": marker}
                ax.scatter([density * aside] * len(part), accuracies(part), s=60 if hollow else 16, alpha=0.8, **style)
    ax.set_xscale("log")
    ax.set_xticks(shown, [f"{density:g}" for density in shown])
    ax.minorticks_off()


def accuracy_over_setting(records: Sequence[dict], setting: str, label: str) -> Figure:
    """Final test accuracy over the values of one setting, evenly spaced: mean per arm, one dot per run."""
    fig = figure((7.2, 4.2))
    [ax], arms = _row(fig, 1), by_arm(records)
    values = sorted({r["config"][setting] for r in records})
    for number, (name, (colour, marker, line)) in enumerate(styles(arms).items()):
        groups = grouped(arms[name], lambda r: r["config"][setting])
        places = [(values.index(value), accuracies(groups[value])) for value in values if value in groups]
        style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 5}
        ax.plot([x for x, _ in places], [mean(runs) for _, runs in places], **style, label=name)
        for x, runs in places:
            aside = x + 0.05 * (number + 1)
            ax.scatter([aside] * len(runs), runs, s=20, color=colour, marker=marker or "_", alpha=0.8)
    ax.set_xticks(range(len(values)), [f"{value:g}" if isinstance(value, float) else str(value) for value in values])
    ax.set_xlabel(label)
    accuracy_row(fig)
    dense = ", ".join(f"density {density:g}" for density in densities(records))
    subtitle(fig, f"Final accuracy over {setting}", describe(records, f"{dense}; measured; line: mean, dots: runs"))
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
    subtitle(fig, f"{first} minus {second}", describe(everything, what))
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


def accuracy_row(fig: Figure) -> None:
    """Room above for the title, one label for the row's accuracy axis, and one legend on its right."""
    fig.axes[0].set_ylabel("test accuracy (share of images)")
    entries = {}
    for ax in fig.axes:
        ax.grid(alpha=0.25)
        handles, labels = ax.get_legend_handles_labels()
        entries |= {label: handle for label, handle in zip(labels, handles, strict=True) if label not in entries}
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
