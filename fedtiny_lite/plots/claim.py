"""The paper's claim in pictures: accuracy over density and over training FLOPs, and FedTiny's lead over every arm."""

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtiny_lite.experiments.claim import DENSITIES, UNPRUNED, late_accuracy
from fedtiny_lite.plots.comparison import interval_dots
from fedtiny_lite.plots.runs import accuracy_row, styles
from fedtiny_lite.plots.style import figure, subtitle
from fedtiny_lite.report.claim_tables import (
    Runs,
    gaps_at_equal_flops,
    gaps_at_equal_rounds,
    runs_at,
    total_flops,
)
from fedtiny_lite.report.intervals import t_interval
from fedtiny_lite.report.labels import FEDTINY

_DATA = "CIFAR-10 (JPEG copy), ResNet18 of width 16, twenty rounds"


def claim_figure(records: Sequence[Mapping]) -> Figure:
    """Test accuracy of every arm over density (left) and, at the middle density, over rounds (right)."""
    fig = figure((12.5, 5.6))
    left, right = fig.subplots(1, 2)
    shown = {density: runs_at(records, density) for density in DENSITIES.values()}
    arms = styles(dict.fromkeys(arm for runs in shown.values() for arm in runs))
    for arm, (colour, marker, line) in arms.items():
        _over_density(left, arm, shown, color=colour, marker=marker, linestyle=line)
        runs = shown[sorted(shown)[len(shown) // 2]].get(arm, {})
        _over_rounds(right, arm, runs, color=colour, linestyle=line)
    left.set_xscale("log")
    ticks = {density: f"{density:g}\n(paper: {paper:g})" for paper, density in DENSITIES.items()}
    left.set_xticks(list(ticks), list(ticks.values()))
    left.minorticks_off()
    left.set_xlabel("prunable density (kept / all)")
    right.set_xlabel(f"rounds finished, density {sorted(shown)[len(shown) // 2]:g}")
    accuracy_row(fig)
    what = f"{_DATA}, {_seeds(records)}; measured on the test images\n"
    what += "left: mean of the last five rounds; bars: 95 % t interval of the mean over seeds"
    subtitle(fig, "Every method where models are very sparse", what)
    return fig


def _over_density(ax: Axes, arm: str, shown: Mapping[float, Runs], **style: object) -> None:
    found = {d: [late_accuracy(r) for r in runs[arm].values()] for d, runs in shown.items() if arm in runs}
    means = [mean(values) for values in found.values()]
    halves = [t_interval(v)[0] - t_interval(v)[1] if len(v) > 1 else 0.0 for v in found.values()]
    width = 2.6 if arm == FEDTINY else 1.4
    ax.errorbar(list(found), means, halves, label=arm, linewidth=width, elinewidth=1, markersize=5, **style)  # type: ignore[arg-type]


def _over_rounds(ax: Axes, arm: str, runs: Mapping[int, Mapping], **style: object) -> None:
    curves = [[r["start"]["test_accuracy"], *(e["test_accuracy"] for e in r["rounds"])] for r in runs.values()]
    means = [mean(values) for values in zip(*curves, strict=False)]
    ax.plot(range(len(means)), means, label=arm, linewidth=2.6 if arm == FEDTINY else 1.4, **style)  # type: ignore[arg-type]


def flops_figure(records: Sequence[Mapping]) -> Figure:
    """Mean test accuracy over mean training FLOPs of a run, a panel per density, a point per pruned arm."""
    fig = figure((12.5, 4.8))
    for ax, density in zip(fig.subplots(1, len(DENSITIES), sharey=True), DENSITIES.values(), strict=True):
        runs = {arm: found for arm, found in runs_at(records, density).items() if arm != UNPRUNED}
        for arm, (colour, marker, _) in styles(runs).items():
            of_arm = list(runs[arm].values())
            cost, accuracy = mean(map(total_flops, of_arm)), mean(map(late_accuracy, of_arm))
            size = 130 if arm == FEDTINY else 45
            ax.scatter(cost, accuracy, s=size, color=colour, marker=marker or "o", label=arm, zorder=3)
        ax.set_xscale("log")
        ax.set(title=f"density {density:g}", xlabel="training FLOPs of a run (counted)")
    accuracy_row(fig)
    what = f"{_DATA}, {_seeds(records)}; accuracy measured, cost counted\nup and to the left is better"
    subtitle(fig, "The same density is not the same work", what)
    return fig


def lead_figure(records: Sequence[Mapping], at_equal_flops: bool = False) -> Figure:
    """Accuracy of FedTiny minus that of each arm, seed by seed, a panel per density."""
    gaps_of = gaps_at_equal_flops if at_equal_flops else gaps_at_equal_rounds
    shown = {density: runs_at(records, density) for density in DENSITIES.values()}
    rivals = dict.fromkeys(arm for runs in shown.values() for arm in runs if arm not in (FEDTINY, UNPRUNED))
    fig = figure((12.5, 1.9 + 0.32 * len(rivals)))
    for ax, (density, runs) in zip(fig.subplots(1, len(shown), sharey=True), shown.items(), strict=True):
        interval_dots(ax, {arm: gaps_of(runs, arm) if arm in runs else [] for arm in rivals})
        ax.set(title=f"density {density:g}", xlabel="difference in accuracy\n(share of test images)")
    budget = "equal training FLOPs" if at_equal_flops else "equal rounds"
    what = f"{_DATA}, {_seeds(records)}; measured, paired by seed; dots: seeds, bar: mean, line: 95 % t interval"
    subtitle(fig, f"FedTiny minus the others at {budget}", what)
    return fig


def _seeds(records: Sequence[Mapping]) -> str:
    count = len({record["config"]["seed"] for record in records})
    return f"{count} seed{'s' * (count > 1)}"
