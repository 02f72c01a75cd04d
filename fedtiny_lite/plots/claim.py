"""The paper's claim in pictures, as far as the plan `claim` has run: accuracy, curves, FedTiny's lead, and work.

Densities, panels and arms without runs are left out, and each picture says how many seeds it shows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import ceil, isnan, nan
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from fedtiny_lite.experiments.claim import ARMS, DENSITIES, LATE, OURS, SETTING, UNPRUNED, late_accuracy
from fedtiny_lite.plots.comparison import INTERVAL, interval_dots
from fedtiny_lite.plots.runs import Style, accuracy_row, styles
from fedtiny_lite.plots.style import DENSITY, PALETTE, figure, subtitle
from fedtiny_lite.records.schema import CHANGE
from fedtiny_lite.report.claim_costs import Spend, arm_of, flops, seconds, total
from fedtiny_lite.report.claim_tables import Runs, gaps_at_equal, gaps_at_equal_rounds, shown_densities
from fedtiny_lite.report.frames import PANELS
from fedtiny_lite.report.labels import FEDTINY, run_label

_DATA = f"CIFAR-10 (JPEG copy), ResNet18 of width {SETTING['width']}, {SETTING['rounds']} rounds"
_OWN_STYLES = {  # a variant has the colour of what it varies
    UNPRUNED: ("#222222", "", ":"),
    OURS: (PALETTE[0], "*", "--"),
    "SynFlow as in the 2022 code": (PALETTE[2], ">", "-."),
}
_BUDGETS: Mapping[str, Callable[[Runs, str], list[float]]] = {
    "equal rounds": gaps_at_equal_rounds,
    "equal training FLOPs": partial(gaps_at_equal, flops),
}
_SPENDS: dict[str, tuple[Spend, float]] = {
    "training FLOPs of a run\n(10¹², counted)": (flops, 1e12),
    "training time of a run\n(minutes: steps × one step's)": (seconds, 60),
}
"""Label of an axis -> what it shows, and its unit."""


def figures(records: Sequence[Mapping]) -> Iterator[tuple[Figure, str, str]]:
    """What can be drawn of these runs, one after the other: figure, name, caption."""
    shown = shown_densities(records)
    if len(shown) > 1:
        yield density_figure(records), "accuracy_over_density", "Accuracy of every arm that has run, over density."
    if shown:
        yield rounds_figure(records), "accuracy_over_rounds", "Accuracy of every arm that has run, after each round."
        yield (
            work_figure(records),
            "accuracy_over_work",
            "Accuracy over work, and over time: up and left is better.",
        )
    if _gaps(records):
        yield lead_figure(records), "leads", "FedTiny minus each other arm, seed by seed, with 95 % intervals."


# --- accuracies -------------------------------------------------------------------------------------------


def density_figure(records: Sequence[Mapping]) -> Figure:
    """Test accuracy over density: masks that stay, masks that change; that of the dense runs at every density."""
    shown = dict(sorted(shown_densities(records).items()))
    panels = _panels(records)
    fig = figure((3.7 + 4.4 * len(panels), 5.2))
    for ax, (title, arms) in zip(_row(fig, len(panels)), panels.items(), strict=True):
        for number, arm in enumerate(arm for arm in arms if arm != UNPRUNED):
            aside = 0.05 * (number - (len(arms) - 1) / 2)  # so that bars do not hide each other
            _over_density(ax, arm, list(shown.values()), aside)
        if UNPRUNED in arms:
            _dense(ax, next(iter(shown.values()))[UNPRUNED])
        paper = {density: paper for paper, density in DENSITIES.items()}
        ax.set_xticks(range(len(shown)), [f"{density:g}\n(paper: {paper[density]:g})" for density in shown])
        ax.set(title=title, xlabel=DENSITY, xlim=(-0.5, len(shown) - 0.5))
    accuracy_row(fig)
    seeds = _seeds(runs[arm] for runs in shown.values() for arm in runs)
    what = f"{_DATA}; measured on the test images, mean of the last {LATE['test']} rounds\n{_bars(seeds)}"
    what += "; arms stand side by side at each density"
    subtitle(fig, "Accuracy where models are very sparse", what)
    return fig


def _dense(ax: Axes, runs: Mapping[int, Mapping]) -> None:
    """A line across all densities, and a band from the lowest to the highest seed."""
    colour, _, line = _styles([UNPRUNED])[UNPRUNED]
    reached = [late_accuracy(run) for run in runs.values()]
    ax.axhline(mean(reached), color=colour, ls=line, lw=_width(UNPRUNED), label=UNPRUNED)
    ax.axhspan(min(reached), max(reached), color=colour, alpha=0.08, linewidth=0)


def _over_density(ax: Axes, arm: str, shown: Sequence[Runs], aside: float) -> None:
    colour, marker, line = _styles([arm])[arm]
    found = {x: [late_accuracy(r) for r in runs[arm].values()] for x, runs in enumerate(shown) if arm in runs}
    means = {x + aside: mean(values) for x, values in found.items()}
    ax.plot(list(means), list(means.values()), color=colour, ls=line, lw=_width(arm), marker=marker, ms=6, label=arm)
    for x, values in found.items():
        ax.vlines(x + aside, min(values), max(values), color=colour, linewidth=1)


def rounds_figure(records: Sequence[Mapping]) -> Figure:
    """Mean test accuracy after each round, at the largest density that has runs."""
    panels = _panels(records)
    density, runs = next(iter(shown_densities(records).items()))
    fig = figure((3.7 + 4.4 * len(panels), 4.8))
    for ax, (title, arms) in zip(_row(fig, len(panels)), panels.items(), strict=True):
        for arm in (arm for arm in arms if arm in runs):
            _over_rounds(ax, arm, runs[arm])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(title=title, xlabel="rounds finished (0: before training)")
    accuracy_row(fig)
    what = f"{_DATA}, density {density:g}; measured on the test images\n{_bands(_seeds(runs.values()))}"
    subtitle(fig, "Accuracy round by round", what)
    return fig


def _over_rounds(ax: Axes, arm: str, runs: Mapping[int, Mapping]) -> None:
    colour, _, line = _styles([arm])[arm]
    whole = [[r["start"], *r["rounds"]] for r in runs.values() if r["complete"]]
    by_round = list(zip(*([entry["test_accuracy"] for entry in entries] for entries in whole), strict=True))
    rounds = range(len(by_round))
    ax.plot(rounds, [mean(values) for values in by_round], color=colour, ls=line, lw=_width(arm), label=arm)
    low, high = [min(values) for values in by_round], [max(values) for values in by_round]
    ax.fill_between(rounds, low, high, color=colour, alpha=0.08, linewidth=0)


# --- work -------------------------------------------------------------------------------------------------


def work_figure(records: Sequence[Mapping]) -> Figure:
    """Mean test accuracy over mean training FLOPs of a run, and over time; a panel per density, a point per pruned arm.

    An arm with a run whose step was not timed has no point in the second row.
    """
    shown = shown_densities(records)
    families = _families(records)
    fig = figure((3.6 + 3.0 * len(shown), 8.4))
    rows = fig.subplots(len(_SPENDS), len(shown), sharex="row", sharey=True, squeeze=False)
    for row, (label, (spend, unit)) in zip(rows, _SPENDS.items(), strict=True):
        for ax, (density, runs) in zip(row, shown.items(), strict=True):
            for arm in (arm for arm in runs if arm != UNPRUNED):
                _point(ax, arm, list(runs[arm].values()), spend, unit, hollow=families[arm] != CHANGE)
            _plain_logarithm(ax)
            ax.set(title=f"density {density:g}", xlabel=label)
    accuracy_row(fig)
    rows[-1][0].set_ylabel(rows[0][0].get_ylabel())
    seeds = _seeds(of_arm for runs in shown.values() for arm, of_arm in runs.items() if arm != UNPRUNED)
    seeds = seeds if seeds == "1 seed" else f"mean over {seeds}"
    what = f"{_DATA}\n{seeds}; accuracy measured, work counted, a step timed; filled: the mask changes"
    subtitle(fig, "The same density is not the same work", what)
    return fig


def _point(ax: Axes, arm: str, runs: Sequence[Mapping], spend: Spend, unit: float, hollow: bool) -> None:
    colour, marker, _ = _styles([arm])[arm]
    costs = [total(run, spend) / unit for run in runs if run["complete"]]
    cost, accuracy = mean(costs) if costs else nan, mean(map(late_accuracy, runs))
    if isnan(cost):
        return
    face = "white" if hollow else colour
    size = 130 if arm == FEDTINY else 70
    ax.scatter(cost, accuracy, s=size, facecolor=face, edgecolor=colour, marker=marker, lw=1.6, label=arm, zorder=3)


def _plain_logarithm(ax: Axes) -> None:
    """A logarithmic axis with few numbers on it, written out."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


# --- leads ------------------------------------------------------------------------------------------------


def lead_figure(records: Sequence[Mapping]) -> Figure:
    """Accuracy of FedTiny minus that of each pruned arm, seed by seed: at equal rounds, and at equal FLOPs.

    Raises ValueError if no seed of FedTiny has a run to be compared with.
    """
    panels = _gaps(records)
    if not panels:
        raise ValueError("no run of FedTiny has one of another arm beside it, at its density and seed")
    rivals = [arm for arm in ARMS if any(gaps.get(arm) for gaps in panels.values())]
    columns = max(2, ceil(len(panels) / len(_BUDGETS)))
    rows = ceil(len(panels) / columns)
    fig = figure((3.0 + 3.2 * columns, 1.7 + rows * (0.9 + 0.3 * len(rivals))))
    axes = fig.subplots(rows, columns, sharex="row" if rows > 1 else False, sharey=True, squeeze=False).flat
    for spare in axes[len(panels) :]:
        spare.remove()
    for ax, (title, gaps) in zip(axes, panels.items(), strict=False):
        interval_dots(ax, {arm: gaps.get(arm, []) for arm in rivals})
        ax.set_title(title, fontsize=10)
    for ax in fig.axes[-columns:]:
        ax.set_xlabel("difference in accuracy\n(share of test images)")
    most = max(len(values) for gaps in panels.values() for values in gaps.values())
    how = INTERVAL if most > 1 else "dots: the one seed of both, so no interval"
    subtitle(fig, "FedTiny minus the others", f"{_DATA}; measured, paired by seed, at most {most} seeds\n{how}")
    return fig


def _gaps(records: Sequence[Mapping]) -> dict[str, dict[str, list[float]]]:
    """Panel -> arm -> FedTiny's lead, a number per seed of both; all densities at one budget, then at the other."""
    found = {
        f"density {density:g}, {budget}": {
            arm: gaps for arm in runs if arm not in (FEDTINY, UNPRUNED) and (gaps := gaps_of(runs, arm))
        }
        for budget, gaps_of in _BUDGETS.items()
        for density, runs in shown_densities(records).items()
    }
    return {title: gaps for title, gaps in found.items() if gaps}


# --- what all of them share -------------------------------------------------------------------------------


def _families(records: Sequence[Mapping]) -> dict[str, str]:
    """Arm -> the family that its method belongs to, in the order of the arms."""
    found = {arm_of(record): run_label(record).family for record in records}
    return {arm: found[arm] for arm in ARMS if arm in found}


def _panels(records: Sequence[Mapping]) -> dict[str, list[str]]:
    """Title -> arms, FedTiny and the dense model in each; a panel of these two alone only where there is no other."""
    families, everywhere = _families(records), {FEDTINY, UNPRUNED}
    parts = {
        f"FedTiny beside {title}": [arm for arm, family in families.items() if family in shown or arm in everywhere]
        for title, shown in PANELS.items()
    }
    return {title: arms for title, arms in parts.items() if {*arms} - everywhere} or {"": list(families)}


def _styles(arms: Sequence[str]) -> dict[str, Style]:
    return {arm: _OWN_STYLES.get(arm) or styles([arm])[arm] for arm in arms}


def _width(arm: str) -> float:
    return 2.8 if arm == FEDTINY else 1.5


def _row(fig: Figure, panels: int) -> list[Axes]:
    return list(fig.subplots(1, panels, sharey=True, squeeze=False)[0])


def _seeds(groups: Iterable[Mapping[int, Mapping]]) -> str:
    """How many seeds these groups of runs have: "3 seeds", or "1 to 3 seeds" where they differ."""
    counts = {len(group) for group in groups}
    low, high = min(counts), max(counts)
    return f"{low} to {high} seeds" if low < high else f"{high} seed{'s' * (high > 1)}"


def _bars(seeds: str) -> str:
    return seeds if seeds == "1 seed" else f"mean over {seeds}, bars and band: lowest to highest seed"


def _bands(seeds: str) -> str:
    return seeds if seeds == "1 seed" else f"line: mean over {seeds}, band: lowest to highest seed"
