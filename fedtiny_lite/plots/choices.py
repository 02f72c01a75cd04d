"""Figure of the choices that may decide who is ahead.

`python -m fedtiny_lite.plots.choices` draws it into `results/figures`.
"""

from pathlib import Path
from textwrap import fill

from matplotlib.figure import Figure

from fedtiny_lite.experiments.choices import CHANGES, DENSITY
from fedtiny_lite.plots.comparison import INTERVAL, interval_dots
from fedtiny_lite.plots.style import figure, subtitle
from fedtiny_lite.records.bundles import load_plan
from fedtiny_lite.report.choices import Accuracies, accuracies, leads


def choices_figure(found: Accuracies) -> Figure:
    """FedTiny's accuracy minus that of each other arm: a panel per arm, a row per change, a dot per seed."""
    gaps = {change: leads(found, change) for change in CHANGES}
    arms = list(next(iter(gaps.values())))
    fig = figure((3.6 + 2.2 * len(arms), 4.0))
    for ax, arm in zip(fig.subplots(1, len(arms), sharex=True, sharey=True), arms, strict=True):
        interval_dots(ax, {change: of_arms[arm] for change, of_arms in gaps.items()})
        ax.set(title=fill(f"minus {arm}", 22), xlabel="difference in accuracy")
    seeds = {seed for arms_of in found.values() for runs in arms_of.values() for seed in runs}
    what = f"digits, cnn of width 8, density {DENSITY:g}, {len(seeds)} seeds, measured, paired by seed\n{INTERVAL}"
    subtitle(fig, "FedTiny minus the others, when one choice of the setting is changed for all", what)
    return fig


def main() -> None:
    """Draw the figure of the records in `results`, or else of those that are committed with the kit."""
    records, _ = load_plan("digits_choices", "results")
    path = Path("results/figures/choices.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    choices_figure(accuracies(records)).savefig(path, dpi=150)
    print(path)


if __name__ == "__main__":
    main()
