"""The claims of notebooks 02, 03 and 04 over the study's seeds: a number for each seed, a mean, an interval, a band.

A claim's number is computed for every seed from that seed's runs alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from fedtiny_lite.experiments.study import DISTORTED, LIKE_CLIENTS, STUDY, Purpose
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.files import read_json, write_json
from fedtiny_lite.report.intervals import rank_correlation, t_interval

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


class Claim(NamedTuple):
    """`label`: the claim in figures and tables. number(runs): its number, from the runs of one seed."""

    label: str
    number: Callable[[Runs], float]


CLAIMS = {
    "02-adaptive-ranks": Claim("ranking, adaptive", lambda runs: correlation(runs, DISTORTED, "adaptive")),
    "02-vanilla-ranks": Claim("ranking, vanilla", lambda runs: correlation(runs, DISTORTED, "vanilla")),
    "02-adaptive-beats-vanilla": Claim("adaptive − vanilla", _lead(DISTORTED, "vanilla")),
    "02-server-only-close": Claim("adaptive − server-only", _lead(DISTORTED, "server")),
    "02-control-ranks": Claim("ranking, adaptive, control", lambda runs: correlation(runs, LIKE_CLIENTS, "adaptive")),
    "02-control-server-only": Claim("adaptive − server-only, control", _lead(LIKE_CLIENTS, "server")),
    "03-adjusting-helps": Claim("block − none", _gap(("variant", "block"), ("variant", "none"))),
    "03-forward": Claim("forward − backward", _gap(("variant", "forward"), ("variant", "block"))),
    "03-layer": Claim("layer − block", _gap(("variant", "layer"), ("variant", "block"))),
    "03-entire": Claim("entire − block", _gap(("variant", "entire"), ("variant", "block"))),
    "04-gap-0.05": Claim("FedTiny − magnitude, 0.05", _part_gap(0.05, "FedTiny", "magnitude")),
    "04-gap-0.02": Claim("FedTiny − magnitude, 0.02", _part_gap(0.02, "FedTiny", "magnitude")),
    "04-gap-0.01": Claim("FedTiny − magnitude, 0.01", _part_gap(0.01, "FedTiny", "magnitude")),
    "04-control-0.02": Claim(
        "the same, server like clients, 0.02", _gap(("control", "fedtiny"), ("control", "magnitude"))
    ),
    "04-progressive-0.02": Claim("progressive only − neither, 0.02", _part_gap(0.02, "progressive only", "neither")),
    "04-progressive-0.01": Claim("progressive only − neither, 0.01", _part_gap(0.01, "progressive only", "neither")),
    "04-selection-0.02": Claim("selection only − neither, 0.02", _part_gap(0.02, "selection only", "neither")),
    "04-selection-0.01": Claim("selection only − neither, 0.01", _part_gap(0.01, "selection only", "neither")),
    "04-alpha": Claim("FedTiny at α 5 − at α 0.1, 0.01", _gap(("alpha", 5.0), ("alpha", 0.1))),
}
"""The claims of the study; their identifiers are those of `notebooks/expected.json`."""


def write_numbers(out: str | Path, by_seed: Mapping[int, Runs]) -> Path:
    """Each claim's number for every seed, as `out`/plans/digits_claims.json."""
    numbers = {name: [claim.number(by_seed[seed]) for seed in by_seed] for name, claim in CLAIMS.items()}
    record = {"study": STUDY, "seeds": list(by_seed), "claims": numbers, "environment": environment()}
    return write_json(Path(out) / "plans" / f"{STUDY}.json", record)


def recorded_numbers() -> dict[str, list[float]]:
    """Claim -> its number for each seed of the committed study."""
    return read_json(COMMITTED / f"{STUDY}.json")["claims"]


def study_table(names: Iterable[str]) -> pd.DataFrame:
    """A row per claim: the mean over the study's seeds, its 95 % t interval, their number, and how many lie above 0."""
    numbers = recorded_numbers()
    rows = [
        {"claim": CLAIMS[name].label}
        | dict(zip(("mean", "low", "high"), t_interval(numbers[name]), strict=True))
        | {"seeds": len(numbers[name]), "seeds above 0": sum(value > 0 for value in numbers[name])}
        for name in names
    ]
    return pd.DataFrame(rows).set_index("claim")


def band(values: Sequence[float], seeds: int) -> tuple[float, float]:
    """Where the mean of `seeds` new draws lies in 99 of 100 cases, as far as these values tell.

    The prediction interval of a mean of n draws, given N: mean -+ t s sqrt(1 / N + 1 / n), t of N - 1 degrees of
    freedom. As `t_interval` it takes the values for draws from a normal distribution.
    """
    count = len(values)
    half = stats.t.ppf((1 + BAND_LEVEL) / 2, count - 1) * np.std(values, ddof=1) * (1 / count + 1 / seeds) ** 0.5
    return float(np.mean(values) - half), float(np.mean(values) + half)


def bands(live: Mapping[str, Sequence[float]], profile: str) -> dict[str, tuple[float, float]]:
    """The band of the mean of each claim's live numbers; none at profiles whose runs are not those of the study."""
    numbers = recorded_numbers()
    return {name: band(numbers[name], len(found)) for name, found in live.items() if profile == "digits" and len(found)}


def finding(name: str) -> str:
    """What the study says of a claim, in words: mean, 95 % t interval, seeds, and on which side of 0 it lies."""
    numbers = recorded_numbers()[name]
    mean, low, high = t_interval(numbers)
    side = "above 0" if low > 0 else "below 0" if high < 0 else "not told apart from 0"
    return f"{CLAIMS[name].label}: {mean:+.3f} [{low:+.3f}, {high:+.3f}] over {len(numbers)} seeds, {side}"
