"""Figures of the pool of allocations: its lead over other arms, and what selection can tell between its candidates.

`python -m fedtiny_lite.plots.allocations` draws them into `results/figures`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fedtiny_lite.experiments.allocations import OURS, OURS_TRIED, RANKED, TRIAL_EPOCHS
from fedtiny_lite.plots.comparison import INTERVAL, interval_dots
from fedtiny_lite.plots.strips import strip
from fedtiny_lite.plots.style import figure, subtitle
from fedtiny_lite.records.bundles import load_plan
from fedtiny_lite.report.allocations import densities, leads, ranked, runs_at

_TRIED = f"tried: each candidate is trained for {TRIAL_EPOCHS} server epochs before it is sent"


def leads_figure(records: Sequence[Mapping]) -> Figure:
    """Accuracy of the pool of allocations minus each other arm's, seed by seed: a panel per density."""
    found = {density: leads(runs_at(records, density)) for density in densities(records)}
    fig = figure((max(8.4, 2.5 + 4.0 * len(found)), 4.8))
    panels = fig.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, (density, gaps) in zip(panels, found.items(), strict=True):
        interval_dots(ax, gaps)
        ax.set(title=f"density {density:g}", xlabel="difference in accuracy\n(share of test images)")
    what = f"digits, cnn of width 8, {_seeds(records)} seeds, measured, paired by seed\n{_TRIED}\n{INTERVAL}"
    subtitle(fig, f"{OURS_TRIED} minus the others", what)
    return fig


def ranking_figure(records: Sequence[Mapping], unjudged: Sequence[Mapping]) -> Figure:
    """What selection can tell, with a trial and without, in the seeds of both: rank correlation, regret, gain over the
    pool's mean.
    """
    tried, untried = (ranked(records, unjudged, arm) for arm in (OURS_TRIED, OURS))
    both = sorted(tried.keys() & untried.keys())
    seeds = {"tried": [tried[seed] for seed in both], "not tried": [untried[seed] for seed in both]}
    measures = {
        "rank correlation of -loss with\nfinal accuracy": lambda seed: seed.correlation,
        "regret: accuracy of the best candidate\nminus that of the chosen": lambda seed: seed.regret,
        "accuracy of the chosen candidate\nminus the pool's mean": lambda seed: seed.gain,
    }
    fig = figure((10.5, 4.4))
    for ax, (name, number) in zip(fig.subplots(1, len(measures)), measures.items(), strict=True):
        strip(ax, {arm: [number(seed) for seed in found] for arm, found in seeds.items()}, name, zero=True)
    what = f"digits, cnn of width 8, density {RANKED:g}, {len(both)} seeds, measured; line: a seed, bar: mean\n"
    subtitle(fig, "What selection can tell between allocations", what + _TRIED)
    return fig


def _seeds(records: Sequence[Mapping]) -> int:
    return len({record["config"]["seed"] for record in records})


def main() -> None:
    """Draw the figures of the records in `results`, or else of those that are committed with the kit."""
    records, unjudged = (load_plan(plan, "results")[0] for plan in ("allocations", "allocations_ranking"))
    folder = Path("results/figures")
    folder.mkdir(parents=True, exist_ok=True)
    for name, fig in (("leads", leads_figure(records)), ("ranking", ranking_figure(records, unjudged))):
        path = folder / f"allocations_{name}.png"
        fig.savefig(path, dpi=150)
        print(path)


if __name__ == "__main__":
    main()
