"""What a pool of allocations gains, and what selection can tell between allocations: tables of the plans' records.

`python -m fedtiny_lite.report.allocations` prints them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import NamedTuple

import pandas as pd

from fedtiny_lite.experiments.allocations import ARMS, DENSITIES, OURS, OURS_TRIED, RANKED
from fedtiny_lite.records.bundles import load_plan
from fedtiny_lite.report.claim_costs import arm_of, total_flops
from fedtiny_lite.report.claim_tables import final_accuracy
from fedtiny_lite.report.intervals import holm, p_value, rank_correlation
from fedtiny_lite.report.labels import FEDTINY
from fedtiny_lite.report.text import as_markdown, with_interval

Runs = Mapping[str, Mapping[int, Mapping]]
"""Arm -> seed -> record, seeds in rising order."""


def runs_at(records: Sequence[Mapping], density: float) -> Runs:
    """The runs of the plan `allocations` at a density."""
    found: dict[str, dict[int, Mapping]] = {name: {} for name in ARMS}
    for record in sorted(records, key=lambda record: record["config"]["seed"]):
        if record["config"]["density"] == density:
            found[arm_of(record, ARMS)][record["config"]["seed"]] = record
    return {name: of_arm for name, of_arm in found.items() if of_arm}


def densities(records: Sequence[Mapping]) -> list[float]:
    """The densities of the plan at which our pool and the paper's were run."""
    return [density for density in DENSITIES if runs_at(records, density).keys() >= {OURS_TRIED, FEDTINY}]


def gaps(runs: Runs, first: str, second: str) -> list[float]:
    """Accuracy of the arm `first` minus that of `second`, a number per seed of both."""
    return [final_accuracy(runs[first][s]) - final_accuracy(runs[second][s]) for s in runs[first] if s in runs[second]]


def leads(runs: Runs, first: str = OURS_TRIED) -> dict[str, list[float]]:
    """Other arm -> the lead of `first` over it, a number per seed."""
    return {name: gaps(runs, first, name) for name in runs if name != first}


def comparison_table(records: Sequence[Mapping], density: float) -> pd.DataFrame:
    """Per arm: accuracy, the lead of our pool over it with Holm's p over all arms, and its FLOPs against FedTiny's."""
    runs = runs_at(records, density)
    ahead = leads(runs)
    tested = [name for name, values in ahead.items() if len(values) > 1]
    corrected = dict(zip(tested, holm([p_value(ahead[name]) for name in tested]), strict=True))
    paper = mean(map(total_flops, runs[FEDTINY].values()))
    rows = {
        name: {
            "accuracy": with_interval([final_accuracy(record) for record in of_arm.values()]),
            f"{OURS_TRIED} minus it": with_interval(ahead[name], "+") if name in ahead else "",
            "ahead in": f"{sum(gap > 0 for gap in ahead[name])} of {len(ahead[name])}" if name in ahead else "",
            "p (Holm)": _p(corrected[name]) if name in corrected else "",
            "FLOPs / FedTiny's": f"{mean(map(total_flops, of_arm.values())) / paper:.2f}",
            "bytes / FedTiny's": f"{_bytes(of_arm) / _bytes(runs[FEDTINY]):.2f}",
        }
        for name, of_arm in runs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _bytes(of_arm: Mapping[int, Mapping]) -> float:
    """Bytes that crossed in a run, both ways, what precedes training included; the mean over seeds."""
    entries = [[*record["prelude"], *record["rounds"]] for record in of_arm.values()]
    return mean(sum(entry["bytes_up"] + entry["bytes_down"] for entry in of_run) for of_run in entries)


# --- what selection can tell ------------------------------------------------------------------------------


class Ranked(NamedTuple):
    """Selection beside what its candidates reach, in one seed.

    `losses`: of each candidate before training; `reached`: test accuracy of each, trained unjudged; `chosen`: the kind
    of the candidate that selection took.
    """

    losses: list[float]
    reached: list[float]
    chosen: str

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation of minus the loss and the accuracy reached."""
        return rank_correlation([-loss for loss in self.losses], self.reached)

    @property
    def regret(self) -> float:
        """The accuracy of the best candidate minus that of the candidate of least loss."""
        return max(self.reached) - self._taken

    @property
    def gain(self) -> float:
        """The accuracy of the candidate of least loss minus the mean of the pool."""
        return self._taken - mean(self.reached)

    @property
    def _taken(self) -> float:
        return self.reached[self.losses.index(min(self.losses))]


def ranked(records: Sequence[Mapping], unjudged: Sequence[Mapping], arm: str) -> dict[int, Ranked]:
    """Seed -> what an arm's selection said and what its candidates reach.

    `records`: of the plan `allocations`; `unjudged`: of `allocations_ranking`. Seeds without both are left out.
    """
    reached = {
        (record["config"]["seed"], record["config"]["candidate"]): final_accuracy(record)
        for record in unjudged
        if record["config"]["trial_epochs"] == ARMS[arm]["trial_epochs"]
    }
    found = {}
    for seed, record in runs_at(records, RANKED)[arm].items():
        note = record["prelude"][-1]["selection"]
        places = [(seed, number) for number in range(len(note["losses"]))]
        if reached.keys() >= set(places):
            chosen = note["allocations"][note["chosen"]]
            found[seed] = Ranked(note["losses"], [reached[place] for place in places], chosen)
    return found


def ranking_table(records: Sequence[Mapping], unjudged: Sequence[Mapping]) -> pd.DataFrame:
    """Per arm: rank correlation, regret, gain over the pool's mean, and what was chosen how often."""
    rows = {}
    for arm in (OURS_TRIED, OURS):
        seeds = ranked(records, unjudged, arm).values()
        chosen = Counter(seed.chosen for seed in seeds).most_common()
        rows[arm] = {
            "seeds": len(seeds),
            "rank correlation": with_interval([seed.correlation for seed in seeds], "+"),
            "regret": with_interval([seed.regret for seed in seeds]),
            "gain over the pool's mean": with_interval([seed.gain for seed in seeds], "+"),
            "chosen": ", ".join(f"{kind} {times}" for kind, times in chosen),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def candidates_table(records: Sequence[Mapping], unjudged: Sequence[Mapping]) -> pd.DataFrame:
    """Per kind of candidate: the accuracy that it reaches unjudged, after a trial and without, and its forward FLOPs
    against those of the first, which is the paper's.
    """
    columns: dict[str, dict[str, str]] = {}
    for arm in (OURS_TRIED, OURS):
        notes = [record["prelude"][-1]["selection"] for record in runs_at(records, RANKED)[arm].values()]
        seeds, kinds = ranked(records, unjudged, arm).values(), notes[0]["allocations"]
        columns[arm] = {kind: with_interval([seed.reached[c] for seed in seeds]) for c, kind in enumerate(kinds)}
        work = [[flops / note["forward_flops"][0] for flops in note["forward_flops"]] for note in notes]
        columns["forward FLOPs"] = {kind: f"{mean(of_seed[c] for of_seed in work):.2f}" for c, kind in enumerate(kinds)}
    return pd.DataFrame(columns)


def main() -> None:
    """Print the tables of the records in `results`, or else of those that are committed with the kit."""
    records, origin = load_plan("allocations", "results")
    print(origin)
    for density in densities(records):
        print(f"\ndensity {density:g}\n{as_markdown(comparison_table(records, density))}")
    unjudged, _ = load_plan("allocations_ranking", "results")
    for table in (candidates_table(records, unjudged), ranking_table(records, unjudged)):
        print(f"\ndensity {RANKED:g}\n{as_markdown(table)}")


if __name__ == "__main__":
    main()
