"""Beside the claim's table: FedTiny without its modules, other partitions, sixty rounds, one device for another.

`python -m fedtiny_lite.report.claim_checks` prints the tables.
"""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

import pandas as pd

from fedtiny_lite.experiments.claim import (
    ABLATIONS,
    ARMS,
    CONTROLS,
    DENSITIES,
    GUESS,
    LATE,
    MIDDLE,
    PILOT_ROUNDS,
    ROUNDS,
    SETTING,
    Values,
    late_accuracy,
)
from fedtiny_lite.records.bundles import records_so_far
from fedtiny_lite.report.claim_tables import Runs, gaps_at_equal_rounds, pairs, runs_at
from fedtiny_lite.report.labels import FEDTINY
from fedtiny_lite.report.text import as_markdown, with_interval

MODULES = dict(zip(("without selection", "without progressive pruning", "without both"), ABLATIONS, strict=True))
UNCHANGED = {"selection": "adaptive", "progressive": "yes"} | {name: SETTING[name] for name in ("alpha", "server_set")}
"""The usual values of what the plan `claim_ablations` changes. In a run without a module nothing else is changed."""


def ablated_pairs(
    changed: Values, ablated: Sequence[Mapping], whole: Sequence[Mapping]
) -> list[tuple[Mapping, Mapping]]:
    """FedTiny's run at the middle density and that with these settings `changed`, for each seed of both.

    `ablated`: runs of the plan `claim_ablations`; `whole`: those of the main table and of `claim_devices`. Of two runs
    of a seed the one on the changed run's kind of device is taken, as on another device the pool is another one.
    """
    usual = {**ARMS[FEDTINY], **UNCHANGED}
    wanted, plain = {**usual, **changed}, {**usual, "density": DENSITIES[MIDDLE]}
    found = []
    for theirs in sorted((run for run in ablated if wanted.items() <= run["config"].items()), key=_seed):
        ours = [run for run in whole if plain.items() <= run["config"].items() and _seed(run) == _seed(theirs)]
        alike = [run for run in ours if run["config"]["torch_device"] == theirs["config"]["torch_device"]]
        found += [(run, theirs) for run in [*alike, *ours][:1]]
    return found


def _seed(run: Mapping) -> int:
    return run["config"]["seed"]


def modules_table(ablated: Sequence[Mapping], whole: Sequence[Mapping]) -> pd.DataFrame:
    """FedTiny without its modules at the middle density, beside FedTiny on the same seeds. See `ablated_pairs`."""
    rows = {}
    for name, changed in MODULES.items():
        both = ablated_pairs(changed, ablated, whole)
        ours, theirs = ([late_accuracy(pair[side]) for pair in both] for side in (0, 1))
        lead = with_interval([first - second for first, second in zip(ours, theirs, strict=True)], "+")
        rows[name] = {
            "seeds": len(both),
            "accuracy": with_interval(theirs),
            "FedTiny": with_interval(ours),
            "FedTiny minus it": lead,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def control_table(control: Values, ablated: Sequence[Mapping], table: Sequence[Mapping]) -> pd.DataFrame:
    """Per arm that ran under one of `CONTROLS`, the most accurate first: its accuracy, and FedTiny's lead over it.

    Beside both stand those of the main `table` on the same seeds. `change`: the lead here less that in the main table.
    The table is empty without runs.
    """
    changed = [record for record in ablated if control.items() <= record["config"].items()]
    runs, usual = (runs_at(found, DENSITIES[MIDDLE]) for found in (changed, table))
    rows = {arm: _control_row(runs, usual, arm) for arm in runs}
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.sort_values("accuracy", ascending=False) if rows else found


def _control_row(runs: Runs, usual: Runs, arm: str) -> dict[str, object]:
    seeds = [seed for seed in sorted(runs[arm]) if seed in usual.get(arm, {})]
    now, before = ([late_accuracy(found[arm][seed]) for seed in seeds] for found in (runs, usual))
    row: dict[str, object] = {
        "seeds": len(seeds),
        "accuracy": with_interval(now),
        "accuracy, main table": with_interval(before),
    }
    leads = [_lead_by_seed(found, arm) for found in (runs, usual)]
    both = [(leads[0][seed], leads[1][seed]) for seed in seeds if all(seed in lead for lead in leads)]
    if arm == FEDTINY or not both:
        return row | dict.fromkeys(("FedTiny minus it", "FedTiny minus it, main table", "change"), "-")
    change = with_interval([lead - usually for lead, usually in both], "+")
    shown = [with_interval([pair[side] for pair in both], "+") for side in (0, 1)]
    return row | {"FedTiny minus it": shown[0], "FedTiny minus it, main table": shown[1], "change": change}


def _lead_by_seed(runs: Runs, arm: str) -> dict[int, float]:
    return {_seed(ours): late_accuracy(ours) - late_accuracy(theirs) for ours, theirs in pairs(runs, arm)}


def pilot_table(records: Sequence[Mapping], table: Sequence[Mapping]) -> pd.DataFrame:
    """Per arm of the pilot, the most accurate first: accuracy on held-out images after the main table's rounds and at
    the end, and FedTiny's lead at both; each accuracy is the mean of five rounds. It is empty without runs.

    `change`: how much the lead grows. `twice s`: twice the standard deviation of the lead between seeds of the main
    `table` at the pilot's density; a lead that changes by more is said to move.
    """
    runs, main = (runs_at(found, DENSITIES[MIDDLE]) for found in (records, table))
    rows = {arm: _pilot_row(runs, arm, gaps_at_equal_rounds(main, arm) if arm in main else []) for arm in runs}
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.sort_values(f"after {PILOT_ROUNDS} rounds", ascending=False) if rows else found


def _pilot_row(runs: Runs, arm: str, scatter: Sequence[float]) -> dict[str, object]:
    row: dict[str, object] = {"seeds": len(runs[arm])}
    for rounds in (ROUNDS, PILOT_ROUNDS):
        accuracies = [_accuracy_after(record, rounds) for record in runs[arm].values()]
        row[f"after {rounds} rounds"] = with_interval(accuracies)
    early, late = (_leads(runs, arm, rounds) for rounds in (ROUNDS, PILOT_ROUNDS))
    if arm == FEDTINY or not early:
        return row | dict.fromkeys(("FedTiny minus it", "then", "change", "twice s"), "-")
    change = with_interval([last - first for first, last in zip(early, late, strict=True)], "+")
    twice = f"{2 * stdev(scatter):.3f}" if len(scatter) > 1 else "-"
    leads = {"FedTiny minus it": with_interval(early, "+"), "then": with_interval(late, "+")}
    return row | leads | {"change": change, "twice s": twice}


def _leads(runs: Runs, arm: str, rounds: int) -> list[float]:
    """FedTiny's accuracy minus the arm's after so many rounds, a number per seed of both."""
    return [_accuracy_after(ours, rounds) - _accuracy_after(theirs, rounds) for ours, theirs in pairs(runs, arm)]


def _accuracy_after(record: Mapping, rounds: int) -> float:
    """Mean validation accuracy of the last five of so many rounds; `GUESS` if the run did not come so far."""
    if len(record["rounds"]) < rounds:
        return GUESS
    return mean(entry["validation_accuracy"] for entry in record["rounds"][rounds - LATE["test"] : rounds])


def devices_table(on_cpu: Sequence[Mapping], main: Sequence[Mapping]) -> pd.DataFrame:
    """Per arm of the plan `claim_devices`: accuracy on the CPU, on a GPU, and their difference, paired by seed.

    `main`: runs of the main table; those that a GPU made at the same settings are taken. It is empty without pairs.
    """
    rows = {arm: _device_row(list(runs.values()), main) for arm, runs in runs_at(on_cpu, DENSITIES[MIDDLE]).items()}
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
    parts = ("", "_devices", "_ablations", "_pilot")
    table, on_cpu, ablated, pilot = (records_so_far(f"claim{part}", "results") for part in parts)
    print(f"modules\n{as_markdown(modules_table(ablated, [*table, *on_cpu]))}\n")
    for control in CONTROLS:
        found = control_table(control, ablated, table)
        if len(found):
            print(f"{', '.join(f'{name} = {value}' for name, value in control.items())}\n{as_markdown(found)}\n")
    print(f"devices\n{as_markdown(devices_table(on_cpu, table))}\n\npilot\n{as_markdown(pilot_table(pilot, table))}")


if __name__ == "__main__":
    main()
