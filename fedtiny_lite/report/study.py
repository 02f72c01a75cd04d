"""The claims of notebooks 02, 03 and 04 over the study's seeds: a number for each seed, a mean, an interval, a band.

A claim's number is computed for every seed from that seed's runs alone.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fedtiny_lite.experiments.study import DISTORTED, LIKE_CLIENTS, STUDY, Purpose
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.files import read_json, write_json
from fedtiny_lite.report.intervals import rank_correlation

BAND_LEVEL = 0.99
"""How often the mean of a notebook's few seeds lies inside a band, if they are draws like those of the study."""
Runs = Mapping[Purpose, Mapping[str, Any]]
"""The records of one seed, by what they are for."""


def correlation(runs: Runs, server_set: str, judge: str) -> float:
    """Rank correlation of minus a candidate's loss before training with its accuracy after training."""
    losses = runs["judge", server_set, judge]["prelude"][-1]["selection"]["losses"]
    reached = [accuracy(runs["candidate", server_set, candidate]) for candidate in range(len(losses))]
    return rank_correlation([-loss for loss in losses], reached)


def accuracy(record: Mapping[str, Any]) -> float:
    """The final test accuracy of a run."""
    return record["final"]["test_accuracy"]


def _gap(*keys: tuple[Any, ...]) -> Callable[[Runs], float]:
    """Accuracy of the first of two runs minus that of the second."""
    return lambda runs: accuracy(runs[keys[0]]) - accuracy(runs[keys[1]])


def _lead(server_set: str, other: str) -> Callable[[Runs], float]:
    return lambda runs: correlation(runs, server_set, "adaptive") - correlation(runs, server_set, other)


def _part_gap(density: float, first: str, second: str) -> Callable[[Runs], float]:
    return _gap(("part", density, first), ("part", density, second))


CLAIMS: dict[str, Callable[[Runs], float]] = {
    "02-adaptive-ranks": lambda runs: correlation(runs, DISTORTED, "adaptive"),
    "02-vanilla-ranks": lambda runs: correlation(runs, DISTORTED, "vanilla"),
    "02-adaptive-beats-vanilla": _lead(DISTORTED, "vanilla"),
    "02-server-only-close": _lead(DISTORTED, "server"),
    "02-control-ranks": lambda runs: correlation(runs, LIKE_CLIENTS, "adaptive"),
    "02-control-server-only": _lead(LIKE_CLIENTS, "server"),
    "03-adjusting-helps": _gap(("variant", "block"), ("variant", "none")),
    "03-forward": _gap(("variant", "forward"), ("variant", "block")),
    "03-layer": _gap(("variant", "layer"), ("variant", "block")),
    "03-entire": _gap(("variant", "entire"), ("variant", "block")),
    **{f"04-gap-{density:g}": _part_gap(density, "FedTiny", "magnitude") for density in (0.05, 0.02, 0.01)},
    **{f"04-progressive-{density:g}": _part_gap(density, "progressive only", "vanilla") for density in (0.02, 0.01)},
    **{f"04-selection-{density:g}": _part_gap(density, "selection only", "vanilla") for density in (0.02, 0.01)},
    "04-control-0.02": _gap(("control", "fedtiny"), ("control", "magnitude")),
    "04-alpha": _gap(("alpha", 5.0), ("alpha", 0.1)),
}
"""Claim -> its number, from the runs of one seed."""


def write_numbers(out: str | Path, by_seed: Mapping[int, Runs]) -> Path:
    """Each claim's number for every seed, as `out`/plans/digits_claims.json."""
    numbers = {claim: [number(by_seed[seed]) for seed in by_seed] for claim, number in CLAIMS.items()}
    record = {"study": STUDY, "seeds": list(by_seed), "claims": numbers, "environment": environment()}
    return write_json(Path(out) / "plans" / f"{STUDY}.json", record)


def recorded_numbers() -> dict[str, list[float]]:
    """Claim -> its number for each seed of the committed study."""
    record = read_json(COMMITTED / f"{STUDY}.json")
    return record["claims"]


def band(values: Sequence[float], seeds: int) -> tuple[float, float]:
    """Where the mean of `seeds` new draws lies in 99 of 100 cases, as far as these values tell.

    The prediction interval of a mean of n draws, given N: mean -+ t s sqrt(1 / N + 1 / n), t of N - 1 degrees of
    freedom. As `t_interval` it takes the values for draws from a normal distribution.
    """
    count = len(values)
    half = stats.t.ppf((1 + BAND_LEVEL) / 2, count - 1) * np.std(values, ddof=1) * (1 / count + 1 / seeds) ** 0.5
    return float(np.mean(values) - half), float(np.mean(values) + half)
