"""The comparison of all methods in tables: what runs share, budgets, accuracies, costs against the dense model."""

from collections.abc import Callable, Collection, Sequence

import pandas as pd

from fedtiny_lite.report.differences import difference
from fedtiny_lite.report.frames import at_density, by_label, densities, each_density, run_frame, settings_of, varying
from fedtiny_lite.report.labels import DENSE
from fedtiny_lite.report.measures import split

HELD = {
    "held_before": "before training",
    "held_first": "first round",
    "held_most": "any round",
    "held_last": "last round",
    "server_held": "server's model",
}
"""Columns of `run_frame` -> what they are called in tables of budgets."""

MARKS = {
    "*": "*: a run emptied a layer",
    "†": "†: a client held more than its budget, before training or in a round",
    "‡": "‡: its learning rate is at an end of the grid that was tried; a better one may lie outside",
}


def same_for_all(records: Sequence[dict]) -> str:
    """What the records say of what runs share: the settings in which they differ, data, partitions, rounds."""
    runs, seeds = run_frame(records), settings_of(records)["seed"]
    parts = runs[list(split({}))].astype(str).agg(tuple, axis=1)
    lines = (
        f"settings in which the runs differ: {', '.join(varying(settings_of(records)))}; in no other",
        f"data (by fingerprint): {runs['fingerprint'].nunique(dropna=False)}; "
        f"rounds finished: {sorted(runs['rounds_finished'].unique().tolist())}",
        f"seeds: {seeds.nunique()}; partitions within a seed (by skew, sizes and redraws): "
        f"{parts.groupby(seeds).nunique().max()}",
    )
    return "\n".join(lines)


# --- budgets ----------------------------------------------------------------------------------------------


def budget_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What the runs of each pruned method held, each the largest of all: 1 = all that it may."""
    pruned = runs[runs["label"] != DENSE]
    return _plain(pruned.groupby("label", observed=True)[list(HELD)].max().rename(columns=HELD))


def above_budget_lines(shares: pd.DataFrame) -> str:
    """Who was above the budget when; `shares` as `budget_table` gives them."""
    over = {when: [f"{name} ({x:.3g} times)" for name, x in column.items() if x > 1] for when, column in shares.items()}
    return "\n".join(f"above 1, {when}: {', '.join(names) or 'none'}" for when, names in over.items())


def emptied_lines(runs: pd.DataFrame) -> str:
    """Per label and density the layers that runs emptied, and in how many runs."""
    lines = []
    for name, part in by_label(runs).items():
        for density in densities(part):
            found = at_density(part, density)["emptied"]
            layers = ", ".join(sorted({layer.removesuffix(".weight") for names in found for layer in names}))
            if layers:
                lines.append(f"{name}, density {density:g}: {layers} in {sum(map(bool, found))} of {len(found)} runs")
    return "\n".join(lines) or "no run emptied a layer"


# --- accuracies -------------------------------------------------------------------------------------------


def accuracy_table(runs: pd.DataFrame, ends: Collection[str] = ()) -> pd.DataFrame:
    """Mean ± standard deviation of final accuracy per label and density, the number of seeds, and its marks.

    `ends`: the labels of `tuning.grid_ends`.
    """
    shown = densities(runs)
    groups = {name + _marks(name, part, ends): part for name, part in by_label(runs).items()}
    cells = {f"density {d:g}": [_accuracy(at_density(part, d)) for part in groups.values()] for d in shown}
    return pd.DataFrame(cells, list(groups))


def _marks(name: str, runs: pd.DataFrame, ends: Collection[str]) -> str:
    return " †" * bool(name != DENSE and runs["above_budget"].map(bool).any()) + " ‡" * (name in ends)


def _accuracy(runs: pd.DataFrame) -> str:
    return _spread(runs["accuracy"]) + "*" * bool(runs["emptied"].map(bool).any())


def _spread(values: pd.Series) -> str:
    if values.empty:
        return "-"
    spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread} ({len(values)})"


def marks_explained(table: pd.DataFrame) -> str:
    """A line for each of the `MARKS` that stand in a table of accuracies."""
    text = table.to_string()
    return "\n".join(note for mark, note in MARKS.items() if mark in text)


def personal_table(runs: pd.DataFrame) -> pd.DataFrame:
    """LotteryFL's global and personal accuracy per density, mean ± standard deviation, and their paired difference."""
    found = runs[runs["personal_accuracy"].notna()].assign(gap=lambda r: r["personal_accuracy"] - r["accuracy"])
    columns = {"accuracy": "global", "personal_accuracy": "personal", "gap": "personal minus global"}
    cells: dict[str, Callable[..., str]] = {"accuracy": _spread, "personal_accuracy": _spread, "gap": difference}
    table = found.groupby("density").agg(cells).rename(columns=columns)
    return table[::-1].rename(lambda density: f"density {density:g}").rename_axis(None)


# --- costs ------------------------------------------------------------------------------------------------


def cost_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Per density and label the mean accuracy and counted cost of a client that is asked, against the dense model.

    kB are those of packed messages, "before": ahead of the first round. Shares of the dense model's are of the rounds
    alone, and "in all", with what precedes training.
    """
    means = each_density(runs).groupby(["at", "label"], observed=True, sort=True).mean(numeric_only=True)
    dense = runs[runs["label"] == DENSE].mean(numeric_only=True)
    columns = {
        "accuracy": means["accuracy"].round(3),
        "down kB/round": (means["down_a_round"] / 1e3).round(2),
        "up kB/round": (means["up_a_round"] / 1e3).round(2),
        "before kB": (means["bytes_before"] / 1e3).round(2),
        "MFLOPs/round": (means["flops_a_round"] / 1e6).round(2),
        "of dense": (means["flops_a_round"] / dense["flops_a_round"]).round(3),
        "FLOPs in all": (means["flops_in_all"] / dense["flops_in_all"]).round(3),
        "bytes in all": (means["bytes_in_all"] / dense["bytes_in_all"]).round(3),
    }
    table = pd.DataFrame(columns).rename_axis(["density", "run"])
    return table.sort_index(level="density", ascending=False, sort_remaining=False)


def points(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy and cost in all per label and density, a row each; the dense model has density 1."""
    names = ["accuracy", "flops_in_all", "bytes_in_all"]
    placed = runs.assign(density=runs["density"].where(runs["label"] != DENSE, 1.0))
    return placed.groupby(["label", "density"], observed=True)[names].mean().reset_index()


def pareto_front(costs: Sequence[float], accuracy: Sequence[float]) -> list[tuple[float, float]]:
    """Of (cost, accuracy) those that no other point beats in both, by rising cost."""
    found = pd.DataFrame({"cost": costs, "accuracy": accuracy}).sort_values(
        ["cost", "accuracy"], ascending=[True, False]
    )
    best = found[found["accuracy"] > found["accuracy"].cummax().shift(fill_value=float("-inf"))]
    return list(best.itertuples(index=False, name=None))


def dashed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a dash wherever it has no number, for display."""
    return table.astype(object).where(table.notna(), "-")


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """The table with rows of plain names."""
    return table.set_axis(list(table.index), axis=0)
