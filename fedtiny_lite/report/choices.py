"""Which choice of the setting decides who is ahead: tables of the plan `digits_choices`.

`python -m fedtiny_lite.report.choices` prints them.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from fedtiny_lite.config import load_method
from fedtiny_lite.experiments.choices import ARMS, AS_COMPARED, CHANGES, CONTROL, WEAKENED, planned
from fedtiny_lite.records.bundles import load_plan
from fedtiny_lite.report.claim_tables import final_accuracy
from fedtiny_lite.report.intervals import LEVEL, holm_of_planned, p_value
from fedtiny_lite.report.labels import FEDTINY
from fedtiny_lite.report.text import as_markdown, with_interval

Accuracies = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Change -> arm -> seed -> final test accuracy."""


def accuracies(records: Sequence[Mapping]) -> Accuracies:
    """What the runs of the plan reached, as far as they are among `records`, whatever their tuning chose."""
    by_seed: dict[tuple[str, int], list[Mapping]] = {}
    for record in records:
        by_seed.setdefault((record["config"]["method"], record["config"]["seed"]), []).append(record)
    found: dict[str, dict[str, dict[int, float]]] = {change: {arm: {} for arm in ARMS} for change in CHANGES}
    for cell, config in planned().items():
        tuned = {"lr", *load_method(config.method).knobs}
        for record in by_seed.get((config.method, config.seed), []):
            if set(config.differing(record["config"])) <= tuned:
                found[cell.change][cell.arm][cell.seed] = final_accuracy(record)
    return found


def lead(found: Accuracies, change: str, first: str, second: str) -> dict[int, float]:
    """Seed -> accuracy of the arm `first` minus that of `second` under a change, for the seeds of both."""
    one, other = found[change][first], found[change][second]
    return {seed: one[seed] - other[seed] for seed in one if seed in other}


def leads(found: Accuracies, change: str) -> dict[str, list[float]]:
    """Other arm -> accuracy of FedTiny minus that one's under a change, a number per seed of both."""
    return {arm: [*lead(found, change, FEDTINY, arm).values()] for arm in ARMS if arm != FEDTINY}


def moved(found: Accuracies, change: str) -> dict[str, list[float]]:
    """Other arm -> FedTiny's lead under a change minus its lead as compared, a number per seed of both."""
    result = {}
    for arm in leads(found, change):
        usual, changed = (lead(found, under, FEDTINY, arm) for under in (AS_COMPARED, change))
        result[arm] = [changed[seed] - usual[seed] for seed in changed if seed in usual]
    return result


def accuracy_table(found: Accuracies) -> pd.DataFrame:
    """Accuracy of every arm under every change, with its interval."""
    rows = {
        change: {arm: with_interval([*of_arm.values()]) for arm, of_arm in arms.items()}
        for change, arms in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def moved_table(found: Accuracies) -> pd.DataFrame:
    """By how much each change moves FedTiny's lead over each arm; bold where it is sure after Holm's correction."""
    gaps = {(change, arm): values for change in CHANGES for arm, values in moved(found, change).items()}
    tests = {cell: values for cell, values in gaps.items() if len(values) > 1 and cell[0] != AS_COMPARED}
    p_values = holm_of_planned([p_value(values) for values in tests.values()], (len(CHANGES) - 1) * (len(ARMS) - 1))
    corrected = dict(zip(tests, p_values, strict=True))
    rows: dict[str, dict[str, str]] = {}
    for cell in tests:
        change, arm = cell
        sure = "**" * (corrected[cell] <= 1 - LEVEL)
        rows.setdefault(change, {})[f"over {arm}"] = f"{sure}{with_interval(tests[cell], '+')}{sure}"
    return pd.DataFrame.from_dict(rows, orient="index")


WORTH = {
    "SynFlow, published − weakened": ("SynFlow", WEAKENED),
    "SynFlow's mask − paper's pool, then progressive": (CONTROL, FEDTINY),
    "SynFlow's mask, progressive − static": (CONTROL, "SynFlow"),
}
"""What a choice is worth: the arm with it and the arm without it."""


def lead_table(found: Accuracies, pairs: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Under every change, the accuracy of the first arm of each pair minus that of the second, with its interval."""
    rows = {
        change: {name: with_interval([*lead(found, change, *arms).values()], "+") for name, arms in pairs.items()}
        for change in CHANGES
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def main() -> None:
    """Print the tables of the records in `results`, or else of those that are committed with the kit."""
    records, origin = load_plan("digits_choices", "results")
    found = accuracies(records)
    print(origin)
    for title, table in {
        "accuracy": accuracy_table(found),
        "FedTiny minus each": lead_table(found, {f"− {arm}": (FEDTINY, arm) for arm in ARMS if arm != FEDTINY}),
        "what a choice is worth": lead_table(found, WORTH),
        "how far each change moves FedTiny's lead": moved_table(found),
    }.items():
        print(f"\n{title}\n{as_markdown(table)}")


if __name__ == "__main__":
    main()
