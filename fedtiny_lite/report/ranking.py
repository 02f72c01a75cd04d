"""Who ranks the candidates of a pool rightly: each judge's losses before training, beside the accuracy after it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedtiny_lite.experiments.plans import RANKING_JUDGES
from fedtiny_lite.report.intervals import rank_correlation

Records = Sequence[Mapping[str, Any]]


class Ranking(NamedTuple):
    """What judges said of the pools of several seeds, and what became of them.

    `seeds`: the seeds, one pool each. `losses`: by judge, float [seeds, candidates], before training. `accuracy`:
    float [seeds, candidates], test accuracy after training with the candidate's mask fixed.
    """

    seeds: list[int]
    losses: dict[str, np.ndarray]
    accuracy: np.ndarray

    @property
    def correlations(self) -> dict[str, list[float]]:
        """By judge and seed, Spearman's rank correlation of minus loss with accuracy: 1 = the same order."""
        return {
            judge: [rank_correlation(-x, y) for x, y in zip(table, self.accuracy, strict=True)]
            for judge, table in self.losses.items()
        }

    @property
    def gains(self) -> dict[str, list[float]]:
        """By judge and seed, accuracy of the candidate of least loss minus the mean of its pool."""
        return {
            judge: [y[x.argmin()] - y.mean() for x, y in zip(table, self.accuracy, strict=True)]
            for judge, table in self.losses.items()
        }


def rankings(records: Records) -> dict[str, Ranking]:
    """The records of plan digits_ranking by the kind of public set that the server had."""
    kinds = dict.fromkeys(record["config"]["server_set"] for record in records)
    return {kind: _ranking([r for r in records if r["config"]["server_set"] == kind]) for kind in kinds}


def _ranking(records: Records) -> Ranking:
    seeds = sorted({record["config"]["seed"] for record in records})
    judging = [record for record in records if "selection" in (record["prelude"] or [{}])[-1]]
    trained = {
        (r["config"]["seed"], r["config"]["candidate"]): r["final"]["test_accuracy"]
        for r in records
        if r["config"]["selection"] == "fixed"
    }
    candidates = 1 + max(candidate for _, candidate in trained)
    accuracy = np.array([[trained[seed, candidate] for candidate in range(candidates)] for seed in seeds])
    losses = {judge: np.array([_losses(judging, judge, seed) for seed in seeds]) for judge in RANKING_JUDGES}
    return Ranking(seeds, losses, accuracy)


def _losses(judging: Records, judge: str, seed: int) -> list[float]:
    wanted = {"bn_variance": "paper", "seed": seed, **RANKING_JUDGES[judge]}
    [record] = [record for record in judging if wanted.items() <= record["config"].items()]
    return record["prelude"][-1]["selection"]["losses"]


def ranking_claims(found: Mapping[str, Ranking]) -> dict[str, list[float]]:
    """The number of each claim of notebook 02, for every seed; keys as in `study.CLAIMS`."""
    distorted, control = found["distorted"].correlations, found["as_clients"].correlations
    return {
        "02-adaptive-ranks": distorted["adaptive"],
        "02-vanilla-ranks": distorted["vanilla"],
        "02-adaptive-beats-vanilla": _minus(distorted["adaptive"], distorted["vanilla"]),
        "02-server-only-close": _minus(distorted["adaptive"], distorted["server-only"]),
        "02-control-ranks": control["adaptive"],
        "02-control-server-only": _minus(control["adaptive"], control["server-only"]),
    }


def _minus(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]
