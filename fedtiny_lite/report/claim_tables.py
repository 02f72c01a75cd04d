"""The paper's claim in tables: FedTiny against every arm of the plan `claim`, at equal rounds, FLOPs and time.

The verdict that follows is `deciding.of_all`. `python -m fedtiny_lite.report.claim_tables` prints the tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from statistics import mean

import pandas as pd

from fedtiny_lite.experiments.claim import ARMS, DENSITIES, GUESS, UNPRUNED, WIDE, WIDE_ARMS, late_accuracy
from fedtiny_lite.records.bundles import load_plan, records_so_far
from fedtiny_lite.report.claim_costs import Spend, accuracy_within, arm_of, flops, seconds, total, total_flops
from fedtiny_lite.report.intervals import expected_half, holm_of_planned, p_value
from fedtiny_lite.report.labels import FEDTINY
from fedtiny_lite.report.text import as_markdown, with_interval


def final_accuracy(record: Mapping) -> float:
    """Test accuracy after the last round; `GUESS` for a run that diverged."""
    return record["final"]["test_accuracy"] if record["complete"] else GUESS


SPENDS: Mapping[str, Spend] = {"FLOPs": flops, "time": seconds}
"""What a run spends, by the name that the table gives it."""

Runs = Mapping[str, Mapping[int, Mapping]]
"""Arm -> seed -> record."""


def runs_at(records: Sequence[Mapping], density: float) -> Runs:
    """The runs at a density by arm and seed, the dense ones, which stand beside any, among them."""
    found: dict[str, dict[int, Mapping]] = {}
    for record in records:
        arm = arm_of(record)
        if arm == UNPRUNED or record["config"]["density"] == density:
            found.setdefault(arm, {})[record["config"]["seed"]] = record
    return {arm: found[arm] for arm in ARMS if arm in found}


def shown_densities(records: Sequence[Mapping], densities: Iterable[float] = DENSITIES.values()) -> dict[float, Runs]:
    """Those of `densities`, in that order, that have pruned runs, with these and the dense ones."""
    found = {density: runs_at(records, density) for density in densities}
    return {density: runs for density, runs in found.items() if runs.keys() - {UNPRUNED}}


def gaps_at_equal_rounds(runs: Runs, arm: str) -> list[float]:
    """Accuracy of FedTiny minus that of an arm, a number per seed of both."""
    return [late_accuracy(ours) - late_accuracy(theirs) for ours, theirs in pairs(runs, arm)]


def gaps_at_equal(spend: Spend, runs: Runs, arm: str) -> list[float]:
    """The same within what the cheaper of both spends: the other one stops in the round that would exceed it.

    A seed is left out if no round of the other one fits, if a run diverged, or if it is not known what one spends.
    """
    gaps = []
    for ours, theirs in (pair for pair in pairs(runs, arm) if all(run["complete"] for run in pair)):
        budget = min(total(ours, spend), total(theirs, spend))
        gaps.append(accuracy_within(ours, budget, spend) - accuracy_within(theirs, budget, spend))
    return [gap for gap in gaps if not isnan(gap)]


def pairs(runs: Runs, arm: str) -> list[tuple[Mapping, Mapping]]:
    """FedTiny's run and the arm's, for each seed of both."""
    ours, theirs = runs.get(FEDTINY, {}), runs[arm]
    return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


WORK = "FLOPs / FedTiny's"
_COLUMNS = [
    *("seeds", "accuracy", "FedTiny minus it", "p (Holm)", "at equal FLOPs", "at equal time"),
    *(WORK, "time / FedTiny's", "model density"),
]


def claim_table(runs: Runs, planned: int = len(ARMS.keys() - {FEDTINY, UNPRUNED})) -> pd.DataFrame:
    """Per arm, the most accurate first: accuracy, FedTiny's lead with Holm's p over all pruned arms, and cost.

    Holm's correction is for the `planned` rivals, those without runs included. Intervals are 95 % t intervals over
    seeds. FLOPs and time are those of training (`claim_costs`), against FedTiny's.
    """
    rivals = [arm for arm in runs if arm not in (FEDTINY, UNPRUNED)]
    gaps = {arm: gaps_at_equal_rounds(runs, arm) for arm in rivals}
    tested = [arm for arm, found in gaps.items() if len(found) > 1]
    corrected = holm_of_planned([p_value(gaps[arm]) for arm in tested], planned)
    told = dict(zip(tested, corrected, strict=True))
    rows = {arm: _row(runs, arm, told.get(arm, nan)) for arm in runs}
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("mean", ascending=False)
    return table.reindex(columns=_COLUMNS).astype(object).fillna("-")


def resolution_table(runs: Runs, seeds: Sequence[int]) -> pd.DataFrame:
    """Per arm, what a lead of FedTiny must exceed to be told from 0 by a 95 % interval over so many seeds.

    It takes the scatter of the differences seen so far, and no correction for many arms.
    """
    gaps = {arm: gaps_at_equal_rounds(runs, arm) for arm in runs if arm not in (FEDTINY, UNPRUNED)}
    rows = {arm: [expected_half(found, n) for n in seeds] for arm, found in gaps.items() if len(found) > 1}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(seeds)).rename_axis(columns="seeds")


def main_table(records: Sequence[Mapping], densities: Iterable[float] = DENSITIES.values()) -> pd.DataFrame:
    """`claim_table` for each of `densities` that has pruned runs, one below the other; empty without runs."""
    parts = {density: claim_table(runs) for density, runs in shown_densities(records, densities).items()}
    return pd.concat(parts, names=["density", "arm"]) if parts else pd.DataFrame()


def wide_table(records: Sequence[Mapping]) -> pd.DataFrame:
    """`claim_table` at the paper's own width and density, of the plan `claim_wide`; empty without runs."""
    runs = runs_at(records, WIDE["density"])
    return claim_table(runs, WIDE_ARMS - 1) if runs else pd.DataFrame()


def _row(runs: Runs, arm: str, corrected: float) -> dict[str, object]:
    records = list(runs[arm].values())
    accuracies = [late_accuracy(record) for record in records]
    row = {"mean": mean(accuracies), "seeds": len(records), "accuracy": with_interval(accuracies)}
    if arm != FEDTINY:
        row["FedTiny minus it"] = with_interval(gaps_at_equal_rounds(runs, arm), "+")
        row["p (Holm)"] = _unless_nan(corrected, ".3f")
    for what, spend in SPENDS.items():
        ratio = _over_fedtinys(runs, arm, spend)
        row[f"{what} / FedTiny's"] = _unless_nan(ratio, ".2f")
        if arm != FEDTINY and not isnan(ratio):
            row[f"at equal {what}"] = _of_pairs(gaps_at_equal(spend, runs, arm), len(pairs(runs, arm)))
    ends = [last["model_density"] for record in records if (last := [record["start"], *record["rounds"]][-1])]
    return row | {"model density": f"{mean(ends):.4f}" if ends else "-"}


def _of_pairs(gaps: Sequence[float], seeds: int) -> str:
    """Mean and interval, and of how many pairs, where these are fewer than the seeds of both."""
    if seeds and not gaps:
        return "no pair"
    return with_interval(gaps, "+") + f" (n = {len(gaps)})" * (len(gaps) < seeds)


def _over_fedtinys(runs: Runs, arm: str, spend: Spend) -> float:
    """What the arm's finished runs spend over what FedTiny's do, the mean over the seeds of each."""
    spent = [[total(r, spend) for r in runs.get(name, {}).values() if r["complete"]] for name in (arm, FEDTINY)]
    return mean(spent[0]) / mean(spent[1]) if all(spent) else nan


def _unless_nan(number: float, form: str) -> str:
    return "-" if isnan(number) else format(number, form)


def rates_table(records: Sequence[Mapping]) -> pd.DataFrame:
    """Tuning: per arm the validation accuracy at each learning rate tried, and its mean FLOPs over FedTiny's.

    It is empty without runs.
    """
    if not records:
        return pd.DataFrame()
    cells = {(arm_of(r), r["config"]["lr"]): late_accuracy(r, "validation") for r in records}
    table = pd.Series(cells).unstack().reindex([arm for arm in ARMS if any(arm == name for name, _ in cells)])
    spent = {arm: mean(total_flops(r) for r in records if arm_of(r) == arm) for arm in table.index}
    ours = spent.get(FEDTINY, nan)
    return table.round(3).assign(**{WORK: [round(spent[arm] / ours, 2) for arm in table.index]})


def main() -> None:
    """Print the tables of the records in `results`, or else of those that are committed with the kit."""
    tuning, origin = load_plan("claim_tuning", "results")
    rates = rates_table(tuning)
    cells = rates.map(lambda value: f"{value:.3f}" if value == value else "")
    cells[WORK] = rates[WORK].map("{:.2f}".format)
    print(f"{origin}\n\nlearning rates\n{as_markdown(cells)}")
    for density, runs in shown_densities(load_plan("claim", "results")[0]).items():
        print(f"\ndensity {density:g}\n{as_markdown(claim_table(runs))}")
    wide = wide_table(records_so_far("claim_wide", "results"))
    if len(wide):
        print(f"\nwidth {WIDE['width']}, density {WIDE['density']:g}\n{as_markdown(wide)}")


if __name__ == "__main__":
    main()
