"""Arms compared: the records of a plan, differences seed by seed, ablations, cost beside accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from fedtiny_lite.config import Config
from fedtiny_lite.experiments.plans import ABLATIONS
from fedtiny_lite.records.bundles import load_plan
from fedtiny_lite.report.arms import (
    accuracies,
    amortised,
    at_density,
    by_method,
    densities,
    grouped,
    paired_differences,
)
from fedtiny_lite.report.statistics import t_interval


class Loaded(NamedTuple):
    """The records of a plan: runs that finished, runs that diverged, and a sentence on where they are from."""

    finished: list[dict]
    stopped: list[dict]
    sentence: str


def load(plan: str, out: str | Path) -> Loaded:
    """What `bundles.load_plan` finds; nothing, and how to make it, if the plan was not run."""
    try:
        records, sentence = load_plan(plan, out)
    except FileNotFoundError as error:
        return Loaded([], [], str(error))
    stopped = [record for record in records if not record["complete"]]
    names = ", ".join(record["run_id"] for record in stopped)
    sentence += f"; diverged and left out of means: {names}" if stopped else ""
    return Loaded([record for record in records if record["complete"]], stopped, sentence)


def columns(records: Sequence[dict], setting: str) -> dict[str, list[dict]]:
    """Records by density, largest first, the dense ones in each; or by the values of another setting."""
    if setting == "density":
        return {f"density {density:g}": at_density(records, density) for density in densities(records)}
    groups = grouped(records, lambda record: record["config"][setting])
    return {f"{setting} {value:g}": groups[value] for value in sorted(groups)}


def against_others(records: Sequence[dict], first: str = "FedTiny") -> dict[str, list[float]]:
    """Other arm -> accuracy of `first` minus that arm's, a number per seed; `records` are of one density."""
    others = [name for name in by_method(records) if name != first]
    gaps = {name: paired_differences(records, first, name) for name in others}
    return {name: values for name, found in gaps.items() for values in found.values()}


def ablations(records: Sequence[dict]) -> dict[str, dict[str, list[float]]]:
    """Setting -> its value -> accuracy of FedTiny with it minus FedTiny's default, a number per seed.

    The last entry is of `saliency_scope`: per saliency method, choosing within each layer minus within the whole model.
    """
    tiny = [record for record in records if record["config"]["method"] == "fedtiny"]
    default, result = _with(tiny, {}), {}
    for settings in ABLATIONS:
        usual = all(getattr(Config(), name) == value for name, value in settings.items())
        label = ", ".join(map(str, settings.values())) + " (default)" * usual
        result.setdefault(" × ".join(settings), {})[label] = _paired(_with(tiny, settings), default)
    return result | {"saliency_scope: layer minus global": _scopes(records)}


def _with(records: Sequence[dict], settings: Mapping) -> list[dict]:
    """The runs that have `settings`, and the default of whatever else the ablations change."""
    names, default = {name for changed in ABLATIONS for name in changed}, Config()
    wanted = {name: settings.get(name, getattr(default, name)) for name in names}
    return [record for record in records if wanted.items() <= record["config"].items()]


def _scopes(records: Sequence[dict]) -> dict[str, list[float]]:
    others = by_method(record for record in records if record["config"]["method"] != "fedtiny")
    scopes = {name: grouped(runs, lambda r: r["config"]["saliency_scope"]) for name, runs in others.items()}
    return {name: _paired(by.get("layer", []), by.get("global", [])) for name, by in scopes.items()}


def _paired(runs: Sequence[dict], others: Sequence[dict]) -> list[float]:
    one, other = ({r["config"]["seed"]: r["final"]["test_accuracy"] for r in group} for group in (runs, others))
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def verdict(gaps: Sequence[float]) -> int:
    """1 if the 95 % t interval of the mean lies above 0, -1 if below, else 0; 0 for fewer than two seeds."""
    if len(gaps) < 2:
        return 0
    _, low, high = t_interval(gaps)
    return (low > 0) - (high < 0)


def costs_and_accuracies(records: Sequence[dict], what: Sequence[str]) -> dict[tuple[str, float], tuple[float, float]]:
    """(arm, density) -> (cost of a client and round, mean accuracy); the dense model has density 1."""
    groups = {
        (name, 1.0 if name == "dense" else density): runs
        for density in densities(records)
        for name, runs in by_method(at_density(records, density)).items()
    }
    return {key: (sum(amortised(runs, part) for part in what), mean(accuracies(runs))) for key, runs in groups.items()}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy) those that no other point beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front
