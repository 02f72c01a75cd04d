"""What the claim's table can stand for: sixty rounds in place of twenty, and one device in place of another.

`python -m fedtiny_lite.report.claim_checks` prints the tables.
"""

from collections.abc import Mapping, Sequence
from statistics import mean

import pandas as pd

from fedtiny_lite.experiments.claim import LATE, PILOT_ROUNDS, ROUNDS, late_accuracy
from fedtiny_lite.records.bundles import records_so_far
from fedtiny_lite.report.claim_tables import Runs, arm_of, pairs
from fedtiny_lite.report.labels import FEDTINY
from fedtiny_lite.report.text import as_markdown, with_interval


def _by_arm(records: Sequence[Mapping]) -> Runs:
    runs: dict[str, dict[int, Mapping]] = {}
    for record in records:
        runs.setdefault(arm_of(record), {})[record["config"]["seed"]] = record
    return runs


def pilot_table(records: Sequence[Mapping]) -> pd.DataFrame:
    """Per arm of the pilot, the most accurate first: accuracy on held-out images after the main table's rounds and at
    the end, and FedTiny's lead at both; each accuracy is the mean of five rounds. It is empty without runs.
    """
    runs = _by_arm(records)
    rows = {arm: _pilot_row(runs, arm) for arm in runs}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.sort_values("last", ascending=False).drop(columns="last") if rows else table


def _pilot_row(runs: Runs, arm: str) -> dict[str, object]:
    row: dict[str, object] = {"seeds": len(runs[arm])}
    for rounds in (ROUNDS, PILOT_ROUNDS):
        accuracies = [_accuracy_after(record, rounds) for record in runs[arm].values()]
        gaps = [_accuracy_after(ours, rounds) - _accuracy_after(theirs, rounds) for ours, theirs in pairs(runs, arm)]
        lead = with_interval(gaps, "+") if arm != FEDTINY else "-"
        row |= {f"after {rounds} rounds": with_interval(accuracies), f"FedTiny minus it, {rounds}": lead}
        row["last"] = mean(accuracies)
    return row


def _accuracy_after(record: Mapping, rounds: int) -> float:
    """Mean validation accuracy of the last five of so many rounds; 0.1, a guess, if the run did not come so far."""
    if len(record["rounds"]) < rounds:
        return 0.1
    return mean(entry["validation_accuracy"] for entry in record["rounds"][rounds - LATE["test"] : rounds])


def devices_table(on_cpu: Sequence[Mapping], main: Sequence[Mapping]) -> pd.DataFrame:
    """Per arm of the plan `claim_devices`: accuracy on the CPU, on a GPU, and their difference, paired by seed.

    `main`: runs of the main table; those that a GPU made at the same settings are taken. It is empty without pairs.
    """
    rows = {arm: _device_row(list(runs.values()), main) for arm, runs in _by_arm(on_cpu).items()}
    return pd.DataFrame.from_dict({arm: row for arm, row in rows.items() if row["seeds"]}, orient="index")


def _device_row(on_cpu: Sequence[Mapping], main: Sequence[Mapping]) -> dict[str, object]:
    both = [
        (late_accuracy(here), late_accuracy(there))
        for here in on_cpu
        for there in main
        if there["config"] == here["config"] | {"torch_device": "cuda"}
    ]
    cpu, gpu = ([pair[side] for pair in both] for side in (0, 1))
    gaps = with_interval([here - there for here, there in both], "+")
    return {"seeds": len(both), "CPU": with_interval(cpu), "GPU": with_interval(gpu), "CPU minus GPU": gaps}


def main() -> None:
    """Print the tables of the records in `results`, or else of those that are committed with the kit."""
    pilot, on_cpu, table = (records_so_far(plan, "results") for plan in ("claim_pilot", "claim_devices", "claim"))
    print(f"pilot\n{as_markdown(pilot_table(pilot))}\n\ndevices\n{as_markdown(devices_table(on_cpu, table))}")


if __name__ == "__main__":
    main()
