"""How each method was tuned: what was tried for it, what was taken, and whether that lies at an end of the grid."""

from collections.abc import Sequence

import pandas as pd

from fedtiny_lite.experiments.tuning import chosen, grid, runs_of, scores
from fedtiny_lite.report.labels import place, run_label


def tuning_table(records: Sequence[dict]) -> pd.DataFrame:
    """Per method: how many settings were tried, which was taken, and the validation accuracies."""
    ends = grid_ends(records)
    rows = {name: _row(records, method, ends.get(name)) for name, method in _methods(records).items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["tried", "taken", "its accuracy", "others"])


def grid_ends(records: Sequence[dict]) -> dict[str, str]:
    """Labels whose learning rate is the lowest or the highest that was tried: a better one may lie outside."""
    ends = {}
    for name, method in _methods(records).items():
        tried = _tried(records, method)
        rates, taken = [settings["lr"] for settings in tried], chosen(records, method, tried)["lr"]
        if taken in (min(rates), max(rates)):
            ends[name] = "lowest tried" if taken == min(rates) else "highest tried"
    return ends


def _tried(records: Sequence[dict], method: str) -> list[dict]:
    """The settings of a method's grid that were run."""
    return [settings for settings in grid(records, method) if runs_of(records, method, settings)]


def _methods(records: Sequence[dict]) -> dict[str, str]:
    """Label -> method, in the order of families and names."""
    found = {run_label(record): record["config"]["method"] for record in records}
    return {label.label: found[label] for label in sorted(found, key=place)}


def _row(records: Sequence[dict], method: str, end: str | None) -> tuple[int, str, float, str]:
    tried = _tried(records, method)
    best, found = chosen(records, method, tried), sorted(scores(records, method, tried))
    rate = f"lr={best['lr']:g}" + (f" ({end})" if end else "")
    taken = ", ".join([rate, *(f"{key}={value:g}" for key, value in best.items() if key != "lr")])
    others = f"{found[0]:.3f} … {found[-2]:.3f}" if len(found) > 1 else "-"
    return len(tried), taken, round(found[-1], 3), others
