"""The study: its plan, a claim's number from one seed's runs, bands from intervals, and the notebooks that use it."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from fedtiny_lite.experiments.study import LIKE_CLIENTS, PARTS, SEEDS, planned
from fedtiny_lite.records import claims
from fedtiny_lite.records.files import read_json
from fedtiny_lite.report import study


def record(accuracy: float, losses=()) -> dict:
    return {"final": {"test_accuracy": accuracy}, "prelude": [{}, {"selection": {"losses": list(losses)}}]}


def test_the_seeds_are_thirty_and_none_is_a_notebooks_or_a_tunings():
    assert len(SEEDS) == len(set(SEEDS)) == 30
    assert min(SEEDS) > 101


def test_a_plan_is_of_one_seed_and_names_what_its_runs_are_for():
    plan = planned(SEEDS[0])
    assert {config.seed for config in plan.values()} == {SEEDS[0]}
    assert {key[2] for key in plan if key[0] == "part"} == {*PARTS, "magnitude"}
    assert plan["judge", LIKE_CLIENTS, "server"].server_set == LIKE_CLIENTS
    assert plan["variant", "none"] == plan["part", 0.02, "selection only"]


def test_a_claims_number_comes_from_one_seeds_runs():
    runs = {("part", 0.01, "FedTiny"): record(0.75), ("part", 0.01, "magnitude"): record(0.5)}
    assert study.CLAIMS["04-gap-0.01"].number(runs) == 0.25
    losses = {
        ("judge", "distorted", "adaptive"): record(0, [3, 2, 1]),
        ("judge", "distorted", "vanilla"): record(0, [1, 2, 3]),
    }
    reached = {("candidate", "distorted", c): record(value) for c, value in enumerate((0.1, 0.2, 0.3))}
    assert study.CLAIMS["02-adaptive-ranks"].number(losses | reached) == pytest.approx(1)
    assert study.CLAIMS["02-adaptive-beats-vanilla"].number(losses | reached) == pytest.approx(2)


def test_a_band_by_hand():
    """Numbers 0 and 2: mean 1, s = sqrt(2), one degree of freedom; the mean of two more varies by sqrt(1/2 + 1/2)."""
    low, high = study.band([0.0, 2.0], 2)
    half = stats.t.ppf(0.995, 1) * math.sqrt(2)
    assert (low, high) == pytest.approx((1 - half, 1 + half))


def test_a_band_holds_the_mean_of_new_draws_in_99_of_100_cases():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        low, high = study.band(rng.normal(0.3, 0.2, 30), 5)
        inside += low <= rng.normal(0.3, 0.2, 5).mean() <= high
    assert 0.983 < inside / 2000 < 0.997  # 0.99 -+ 3 standard errors


def test_claims_are_judged_by_the_studys_band_at_profile_digits_alone():
    live = {"04-gap-0.02": [0.05, 0.06, 0.04, 0.05, 0.05], "04-gap-0.05": []}
    assert study.bands(live, "smoke") == {}
    assert study.bands(live, "digits").keys() == {"04-gap-0.02"}
    row = claims.check("04-gap-0.02", 0.05, "digits", (0.0, 0.1))
    assert (row["low"], row["high"], row["ok"]) == (0.0, 0.1, True)
    assert claims.check("04-gap-0.02", 0.2, "digits", (0.0, 0.1))["ok"] is False
    assert claims.check("04-gap-0.02", 0.05, "smoke")["ok"] is None


def test_the_committed_study_has_every_claim_over_every_seed():
    found = read_json(study.COMMITTED / "digits_claims.json")
    assert found["seeds"] == list(SEEDS)
    assert found["claims"].keys() == study.CLAIMS.keys() <= claims.expected_bands().keys()
    assert all(len(values) == len(SEEDS) and np.isfinite(values).all() for values in found["claims"].values())


def test_the_table_gives_mean_interval_and_number():
    table = study.study_table(["04-gap-0.02"])
    values = study.recorded_numbers()["04-gap-0.02"]
    row = table.loc["FedTiny − magnitude, 0.02"]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["seeds"] == 30
    assert row["low"] < row["mean"] < row["high"]


def test_numbers_are_written_by_claim_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "CLAIMS", {"x": study.Claim("x", lambda runs: runs["a"]["final"]["test_accuracy"])})
    path = study.write_numbers(tmp_path, {7: {"a": record(0.5)}, 8: {"a": record(0.25)}})
    assert json.loads(path.read_text())["claims"] == {"x": [0.5, 0.25]}


def test_a_finding_says_on_which_side_of_zero_the_interval_lies(monkeypatch):
    numbers = {"02-vanilla-ranks": [1.0, 2.0, 3.0], "03-forward": [-1.0, 1.0], "03-layer": [-2.0, -2.0]}
    monkeypatch.setattr(study, "recorded_numbers", lambda: numbers)
    assert (
        study.finding("02-vanilla-ranks")
        == "ranking, vanilla: +2.000 [-0.484, +4.484] over 3 seeds, not told apart from 0"
    )
    assert study.finding("03-forward").endswith("over 2 seeds, not told apart from 0")
    assert study.finding("03-layer") == "layer − block: -2.000 [-2.000, -2.000] over 2 seeds, below 0"
