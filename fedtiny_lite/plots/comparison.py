"""All methods side by side, from the bundles of named plans: accuracy, paired differences, ablations, cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtiny_lite.bundles import load_plan
from fedtiny_lite.config import Config
from fedtiny_lite.plans import ABLATIONS
from fedtiny_lite.plots.arms import (
    above_budget,
    accuracies,
    amortised,
    at_density,
    by_arm,
    by_method,
    densities,
    families,
    grouped,
    paired_differences,
)
from fedtiny_lite.plots.runs import accuracy_row, describe, round_lines, styles
from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle
from fedtiny_lite.statistics import t_interval

AHEAD, BEHIND, OPEN = PALETTE[0], PALETTE[3], GREY
_TICKS = (-0.5, -0.05, 0, 0.05, 0.5)
_INTERVAL = "dots: seeds, bar: mean, line: its 95 % t interval (blue above 0, red below, grey: 0 is inside)"


class Loaded(NamedTuple):
    """The records of a plan: runs that finished, runs that diverged, and a sentence on where they are from."""

    finished: list[dict]
    stopped: list[dict]
    sentence: str


def load(plan: str, out: str | Path) -> Loaded:
    """What `bundles.load_plan` finds; nothing, and how to make it, if the plan was not run."""
    try:
        records, sentence = load_plan(plan, out)
    except FileNotFoundError as error:
        return Loaded([], [], str(error))
    stopped = [record for record in records if not record["complete"]]
    names = ", ".join(record["run_id"] for record in stopped)
    sentence += f"; diverged and left out of means: {names}" if stopped else ""
    return Loaded([record for record in records if record["complete"]], stopped, sentence)


# --- who is compared with whom ----------------------------------------------------------------------------


def columns(records: Sequence[dict], setting: str) -> dict[str, list[dict]]:
    """Records by density, largest first, the dense ones in each; or by the values of another setting."""
    if setting == "density":
        return {f"density {density:g}": at_density(records, density) for density in densities(records)}
    groups = grouped(records, lambda record: record["config"][setting])
    return {f"{setting} {value:g}": groups[value] for value in sorted(groups)}


def against_others(records: Sequence[dict], first: str = "FedTiny") -> dict[str, list[float]]:
    """Other arm -> accuracy of `first` minus that arm's, a number per seed; `records` are of one density."""
    others = [name for name in by_method(records) if name != first]
    gaps = {name: paired_differences(records, first, name) for name in others}
    return {name: values for name, found in gaps.items() for values in found.values()}


def ablations(records: Sequence[dict]) -> dict[str, dict[str, list[float]]]:
    """Setting -> its value -> accuracy of FedTiny with it minus FedTiny's default, a number per seed.

    The last entry is of `saliency_scope`: per saliency method, choosing within each layer minus within the whole model.
    """
    tiny = [record for record in records if record["config"]["method"] == "fedtiny"]
    default, result = _with(tiny, {}), {}
    for settings in ABLATIONS:
        usual = all(getattr(Config(), name) == value for name, value in settings.items())
        label = ", ".join(map(str, settings.values())) + " (default)" * usual
        result.setdefault(" × ".join(settings), {})[label] = _paired(_with(tiny, settings), default)
    return result | {"saliency_scope: layer minus global": _scopes(records)}


def _with(records: Sequence[dict], settings: Mapping) -> list[dict]:
    """The runs that have `settings`, and the default of whatever else the ablations change."""
    names, default = {name for changed in ABLATIONS for name in changed}, Config()
    wanted = {name: settings.get(name, getattr(default, name)) for name in names}
    return [record for record in records if wanted.items() <= record["config"].items()]


def _scopes(records: Sequence[dict]) -> dict[str, list[float]]:
    others = by_method(record for record in records if record["config"]["method"] != "fedtiny")
    scopes = {name: grouped(runs, lambda r: r["config"]["saliency_scope"]) for name, runs in others.items()}
    return {name: _paired(by.get("layer", []), by.get("global", [])) for name, by in scopes.items()}


def _paired(runs: Sequence[dict], others: Sequence[dict]) -> list[float]:
    one, other = ({r["config"]["seed"]: r["final"]["test_accuracy"] for r in group} for group in (runs, others))
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def verdict(gaps: Sequence[float]) -> int:
    """1 if the 95 % t interval of the mean lies above 0, -1 if below, else 0; 0 for fewer than two seeds."""
    if len(gaps) < 2:
        return 0
    _, low, high = t_interval(gaps)
    return (low > 0) - (high < 0)


# --- figures ----------------------------------------------------------------------------------------------


def rounds_figure(records: Sequence[dict], density: float) -> Figure:
    """Test accuracy after each round at one density: masks that stay, masks that change; × above the budget."""
    fig, arms = figure((12.5, 4.8)), by_arm(at_density(records, density))
    for ax, (title, names) in zip(fig.subplots(1, 2, sharey=True), families(records).items(), strict=True):
        shown = {name: arms[name] for name in names if name in arms}
        round_lines(ax, shown)
        _budget_crosses(ax, shown)
        ax.set_title(title)
    accuracy_row(fig)
    what = f"density {density:g}; measured on the test images; line: mean, band: lowest to highest seed\n"
    what += "×: a client held more weights than its budget, in that round or, at 0, before training"
    subtitle(fig, "Accuracy over rounds", describe(at_density(records, density), what))
    return fig


def _budget_crosses(ax: Axes, arms: Mapping[str, Sequence[dict]]) -> None:
    """A cross on a line wherever one of its runs was above the budget; the dense model has none."""
    for runs in (runs for name, runs in arms.items() if name != "dense"):
        over = sorted({r for run in runs for r in above_budget(run)})
        heights = [mean((run["start"], *run["rounds"])[r]["test_accuracy"] for run in runs) for r in over]
        ax.scatter(over, heights, s=30, color="black", marker="x", linewidth=1.2, zorder=3)


def differences_figure(groups: Mapping[str, Sequence[dict]], first: str = "FedTiny") -> Figure:
    """Accuracy of `first` minus each other arm's, seed by seed: a panel per entry of `groups`, a row per arm."""
    everything = [record for records in groups.values() for record in records]
    names = [name for name in by_method(everything) if name != first]
    fig = figure((max(8.4, 2.4 + 2.6 * len(groups)), 1.9 + 0.3 * len(names)))
    for ax, (title, records) in zip(_panels(fig, 1, len(groups)), groups.items(), strict=True):
        gaps = against_others(records, first)
        interval_dots(ax, {name: gaps.get(name, []) for name in names})
        ax.set_xscale("symlog", linthresh=0.05)  # some are tied within 0.02, others 0.5 apart
        ax.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS], fontsize=8)
        ax.minorticks_off()
        ax.set(title=title, xlabel="difference in accuracy\n(share of test images)")
    what = f"measured, paired by seed; axis linear to ±0.05, then logarithmic\n{_INTERVAL}"
    subtitle(fig, f"{first} minus the others", describe(everything, what))
    return fig


def ablations_figure(records: Sequence[dict]) -> Figure:
    """FedTiny with one setting changed minus FedTiny's default, seed by seed: a panel per setting."""
    groups = ablations(records)
    fig = figure((12.5, 8.6))
    for ax, (setting, gaps) in zip(_panels(fig, 3, 3, sharey=False), groups.items(), strict=False):
        interval_dots(ax, gaps)
        ax.set_title(setting, fontsize=10)
    for ax in fig.axes[-3:]:
        ax.set_xlabel("difference in accuracy\n(share of test images)")
    places = ", ".join(f"density {density:g}" for density in densities(records))
    what = f"{places}; measured, paired by seed\n{_INTERVAL}"
    subtitle(fig, "FedTiny with one setting changed, minus its default", describe(records, what))
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


def pareto_figure(records: Sequence[dict]) -> Figure:
    """Mean accuracy over what a client spends a round, a point per arm and density; no point beats those on the line.

    FLOPs and bytes are totals of a run, what precedes training included, divided by clients and rounds.
    """
    fig = figure((12.5, 5.6))
    dense = by_arm(records)["dense"]
    flops, bytes_ = (_costs(records, what) for what in (("training_flops",), ("bytes_up", "bytes_down")))
    whole = amortised(dense, "training_flops")
    left, right = fig.subplots(1, 2, sharey=True)
    _cloud(left, {key: (cost / whole, accuracy) for key, (cost, accuracy) in flops.items()})
    _cloud(right, {key: (cost / 1e3, accuracy) for key, (cost, accuracy) in bytes_.items()})
    left.set_xlabel("training FLOPs per client and round / dense (counted)")
    right.set_xlabel("kB per client and round, both ways (counted)")
    accuracy_row(fig)
    what = "accuracy measured, mean over seeds; cost counted, with what precedes training, over the rounds\n"
    what += "the larger a point, the denser the model; grey line: no cheaper point is as accurate"
    subtitle(fig, "Cost and accuracy", describe(records, what))
    return fig


def _costs(records: Sequence[dict], what: Sequence[str]) -> dict[tuple[str, float], tuple[float, float]]:
    """(arm, density) -> (cost of a client and round, mean accuracy); the dense model has density 1."""
    groups = {
        (name, 1.0 if name == "dense" else density): runs
        for density in densities(records)
        for name, runs in by_method(at_density(records, density)).items()
    }
    return {key: (sum(amortised(runs, part) for part in what), mean(accuracies(runs))) for key, runs in groups.items()}


def _cloud(ax: Axes, points: Mapping[tuple[str, float], tuple[float, float]]) -> None:
    front = pareto_front(list(points.values()))
    ax.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1.2, alpha=0.7)
    names, levels = list(dict.fromkeys(name for name, _ in points)), sorted({density for _, density in points})
    for name, (colour, marker, _) in styles(names).items():
        own = sorted((density, point) for (other, density), point in points.items() if other == name)
        ax.plot(*zip(*(point for _, point in own), strict=True), color=colour, linewidth=0.7, alpha=0.5)
        for density, point in own:
            size = 16 + 16 * levels.index(density)
            ax.scatter(*point, s=size, color=colour, marker=marker or "*", label=name)
    ax.set_xscale("log")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy) those that no other point beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def _panels(fig: Figure, rows: int, count: int, sharey: bool = True) -> list[Axes]:
    return list(fig.subplots(rows, count, sharex=True, sharey=sharey, squeeze=False).flat)
