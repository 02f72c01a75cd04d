"""Named plans: every run is valid, all methods are tuned and compared alike, and tuning sees no test image."""

import json
from dataclasses import replace
from functools import cache
from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, sampled_from

from fedtiny_lite.config import METHODS, PROFILES, Config, load_method, make_config, own_settings
from fedtiny_lite.experiments import choices, plans
from fedtiny_lite.experiments.allocations import TUNING_SEEDS
from fedtiny_lite.experiments.plans import (
    DENSITIES,
    PLANS,
    RANKING_JUDGES,
    RANKING_SEEDS,
    SEEDS,
    plan_configs,
)
from fedtiny_lite.experiments.study import STUDY
from fedtiny_lite.experiments.sweep import run_plan
from fedtiny_lite.experiments.tuning import (
    HIGHEST,
    LEARNING_RATES,
    LOWEST,
    TRIALS,
    chosen,
    finished,
    grid,
    scores,
    trials,
    widened,
)
from fedtiny_lite.federated import server as server_module
from fedtiny_lite.records import bundles
from fedtiny_lite.records.bundles import read_bundle, records_so_far
from fedtiny_lite.records.schema import canonical
from fedtiny_lite.settings import defaults, names
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation

TUNING = ("digits_tuning",)
CLAIM = ("claim_tuning", "claim_pilot", "claim", "claim_devices", "claim_ablations", "claim_wide")
"""Plans with a protocol of their own, tested in test_claim.py."""
ALLOCATIONS = ("allocations_tuning", "allocations", "allocations_ranking")
"""Plans of arms instead of methods, tested in test_allocation_plans.py."""
USUAL = [plan for plan in PLANS if plan not in CLAIM + ALLOCATIONS]
RESULTS = tuple(sorted(set(USUAL) - set(TUNING)))
KNOBS = {method: load_method(method).knobs for method in METHODS}


def scored(config: Config, accuracy: float | None) -> dict:
    """What is read of a tuning run; accuracy None: it diverged."""
    final = {} if accuracy is None else {"validation_accuracy": accuracy}
    return {"config": config.identity(), "complete": accuracy is not None, "final": final}


@pytest.fixture
def tuned(monkeypatch):
    """Tuning is done, and a trial in the middle was best for each method; returns these settings by method."""
    best = {method: trials(method)[TRIALS // 2] for method in METHODS}

    @cache
    def load_plan(plan, out):
        runs = plan_configs(plan, out)
        return [scored(c, float(best[c.method].items() <= c.identity().items())) for c in runs], plan

    monkeypatch.setattr(plans, "load_plan", load_plan)
    monkeypatch.setattr(plans, "records_so_far", lambda plan, out: [])
    return best


def unlike(configs: list[Config]) -> set[str]:
    """The settings in which these runs differ, as far as they have them."""
    values: dict[str, set] = {}
    for name, value in (item for config in configs for item in config.identity().items()):
        values.setdefault(name, set()).add(value)
    return {name for name, found in values.items() if len(found) > 1}


# --- the plans ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", USUAL)
def test_every_run_of_a_plan_is_valid_and_stands_once(plan, tuned, tmp_path):
    configs = plan_configs(plan, tmp_path)
    assert configs and len({config.run_id for config in configs}) == len(configs)
    assert configs == plan_configs(plan, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_plan_is_refused_and_all_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"plan = 'all': choose one of {', '.join(PLANS)}, {STUDY}$"):
        plan_configs("all", tmp_path)


@pytest.mark.parametrize("plan", ["digits", "digits_alpha", "digits_ablations"])
def test_a_plan_without_its_tuning_says_what_to_run_first(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "COMMITTED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m fedtiny_lite sweep digits_tuning$"):
        plan_configs(plan, tmp_path)


def settings_of(runs: list[dict], known) -> list[str]:
    """Of each run the settings that its method has and that are `known`, in an order that does not depend on theirs.

    Records that are older than methods' own settings hold those of every method.
    """
    own = {method: known & (names(Config) | names(own_settings(method))) for method in METHODS}
    return sorted(json.dumps({name: run[name] for name in sorted(own[run["method"]])}) for run in runs)


@pytest.mark.parametrize("plan", [plan for plan in USUAL if (bundles.COMMITTED / f"{plan}.json").exists()])
def test_committed_records_are_the_runs_of_their_plan(plan, tmp_path, monkeypatch):
    """At the settings that the committed tuning chose. A setting that is newer than the records has its default.

    A reader's own method has no committed records.
    """
    known = {record["config"]["method"] for record in read_bundle(bundles.COMMITTED / "digits.json")}
    monkeypatch.setattr(plans, "METHODS", [method for method in METHODS if method in known])
    found = [record["config"] for record in read_bundle(bundles.COMMITTED / f"{plan}.json")]
    configs = plan_configs(plan, tmp_path)
    recorded = {name for settings in found for name in settings}
    assert settings_of([config.identity() for config in configs], recorded) == settings_of(found, recorded)
    for config in configs:
        newer = config.identity().keys() - recorded
        usual = defaults(Config) | defaults(own_settings(config.method))
        assert all(config.identity()[name] == usual[name] for name in newer)


# --- fairness -------------------------------------------------------------------------------------------------


def test_every_method_begins_with_the_same_number_of_trials(tuned, tmp_path):
    configs = plan_configs("digits_tuning", tmp_path)
    for method in METHODS:
        settings = [tuple(sorted(trial.items())) for trial in trials(method)]
        own = [config for config in configs if config.method == method]
        assert len(set(settings)) == TRIALS and len(own) == TRIALS * len(TUNING_SEEDS)
        assert unlike(own) == {"seed", *(name for trial in trials(method) for name in trial)}
    assert unlike(configs) == {"method", "seed", "lr", *(knob for knobs in KNOBS.values() for knob in knobs)}


@pytest.mark.parametrize("method", METHODS)
def test_the_knobs_of_a_method_are_settings_of_its_own_and_it_runs_at_their_defaults(method):
    """Else the tuned method would be another than the one that a plain run has."""
    usual = defaults(own_settings(method))
    assert KNOBS[method].keys() <= usual.keys()
    assert all(usual[name] in values for name, values in KNOBS[method].items())


def test_knobs_that_do_not_leave_the_same_number_of_trials_are_refused(monkeypatch):
    for values, said in (((1, 2, 3, 4), "4"), (tuple(range(7)), "7")):
        uneven = replace(load_method("feddst"), knobs={"adjust_every": values})
        monkeypatch.setattr("fedtiny_lite.methods.feddst.METHOD", uneven)
        with pytest.raises(ValueError, match=f"^feddst has {said} settings of its knobs to try; 6 must be a multiple"):
            trials("feddst")


def test_two_knobs_are_tried_in_all_their_combinations(monkeypatch):
    two = replace(load_method("feddst"), knobs={"adjust_rate": (0.3, 0.5), "adjust_every": (1, 2, 3)})
    monkeypatch.setattr("fedtiny_lite.methods.feddst.METHOD", two)
    assert trials("feddst") == [
        {"lr": LEARNING_RATES[0], "adjust_rate": rate, "adjust_every": every}
        for rate in (0.3, 0.5)
        for every in (1, 2, 3)
    ]


@pytest.mark.parametrize("method", [method for method in METHODS if KNOBS[method]])
def test_all_values_of_knobs_are_different_runs(method):
    """Else a method would have fewer trials than the others."""
    tiny = dict(clients=2, rounds=5, adjust_until=4, pretrain_epochs=1, width=2, density=0.2, samples=300)
    tiny = PROFILES["smoke"] | tiny | dict(test_samples=60)
    tried = [settings for settings in trials(method) if settings["lr"] == trials(method)[0]["lr"]]
    found = [run(make_config(tiny, method=method, **settings | {"lr": 0.05})) for settings in tried]
    for record in found:
        del record["run_id"], record["config"]
    assert len(set(map(canonical, found))) == len(tried) > 1


def test_tuning_looks_at_no_test_image_and_has_seeds_of_its_own(tuned, tmp_path):
    assert not set(TUNING_SEEDS) & set(SEEDS)
    for plan in TUNING:
        configs = plan_configs(plan, tmp_path)
        assert {config.score_on for config in configs} == {"validation"}
        assert {config.seed for config in configs} <= set(TUNING_SEEDS)
    for plan in RESULTS:
        configs = plan_configs(plan, tmp_path)
        assert {config.score_on for config in configs} == {"test"}
        own = {"digits_ranking": RANKING_SEEDS["distorted"], "digits_choices": choices.SEEDS, "paper": [Config().seed]}
        seeds = own.get(plan, SEEDS)
        assert {config.seed for config in configs} <= set(seeds) - set(TUNING_SEEDS)


def test_ranking_trains_each_candidate_of_a_pool_and_lets_each_judge_see_it(tmp_path):
    of_one = [c for c in plan_configs("digits_ranking", tmp_path) if (c.seed, c.server_set) == (2001, "distorted")]
    judging, trained = (of_one[: len(RANKING_JUDGES)], of_one[len(RANKING_JUDGES) :])
    assert {config.rounds for config in judging} == {0}
    assert [config.own.candidate for config in trained] == list(range(10))
    assert unlike(trained) == {"candidate"} and {config.own.progressive for config in trained} == {"no"}
    assert unlike(judging) == {"selection", "bn_variance"}


def test_every_method_runs_at_its_tuned_settings_with_every_density_and_seed(tuned, tmp_path):
    configs = plan_configs("digits", tmp_path)
    for method in METHODS:
        own = [config for config in configs if config.method == method]
        densities = DENSITIES if method != "fedavg" else (Config().density,)
        assert {(c.density, c.seed) for c in own} == {(density, seed) for density in densities for seed in SEEDS}
        assert len(own) == len(densities) * len(SEEDS)
        assert all(tuned[method].items() <= config.identity().items() for config in own)


def test_compared_runs_differ_in_what_is_compared_alone(tuned, tmp_path):
    """Methods that have the same knob are tuned to the same value of it here."""
    assert unlike(plan_configs("digits", tmp_path)) == {"method", "seed", "density", "lr"}
    assert unlike(plan_configs("digits_alpha", tmp_path)) == {"method", "seed", "alpha", "lr"}
    assert unlike(plan_configs("paper", tmp_path)) == {"method"}
    changed = {name for settings in plans.ABLATIONS for name in settings}
    fedtiny = [config for config in plan_configs("digits_ablations", tmp_path) if config.method == "fedtiny"]
    assert unlike(fedtiny) == {"seed"} | changed


def test_all_runs_on_digits_start_from_the_same_pretrained_weights(tuned, tmp_path):
    """But for the small model, which is another network; one run of each method, density and skew."""
    digits, skewed = (plan_configs(plan, tmp_path) for plan in ("digits", "digits_alpha"))
    one = {c.method: c for c in digits} | {c.density: c for c in digits} | {c.alpha: c for c in skewed}
    configs = [replace(config, seed=0) for config in one.values()]
    keys = {config: server_module._pretraining_key(build_federation(config).server) for config in configs}
    assert len({key for config, key in keys.items() if config.method != "small_model"}) == 1
    assert len({key[2:] for key in keys.values()}) == 1


def test_pretraining_gives_two_methods_at_other_learning_rates_the_same_weights(monkeypatch):
    found = []
    for method, lr, density in (("magnitude", 0.14, 0.1), ("feddst", 0.02, 0.01)):
        monkeypatch.setattr(server_module, "_PRETRAINED", {})
        config = make_config(method=method, lr=lr, density=density, width=2, server_shots=4, pretrain_epochs=1)
        found.append(server_module.pretrained(build_federation(config).server))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


# --- the choice -----------------------------------------------------------------------------------------------


def test_the_choice_by_hand():
    """Means of two seeds: 0.5, 0.6, and 0.45 where one of two diverged."""
    tried = [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.4}]
    base = make_config(method="snip", score_on="validation")
    accuracies = {0.1: (0.2, 0.8), 0.2: (0.6, 0.6), 0.4: (None, 0.9)}
    found = [
        scored(replace(base, lr=lr, seed=seed), accuracy)
        for lr, pair in accuracies.items()
        for seed, accuracy in zip(TUNING_SEEDS, pair, strict=True)
    ]
    of_another = [scored(base.changed(method="grasp", lr=lr), 1.0) for lr in (0.1, 0.4)]
    assert scores(found + of_another, "snip", tried) == pytest.approx([0.5, 0.6, 0.45])
    assert chosen(found + of_another, "snip", tried) == {"lr": 0.2}


def test_of_equals_the_first_is_chosen_even_if_all_diverged():
    tried = trials("fedtiny")
    base = make_config(method="fedtiny", score_on="validation")
    for accuracy in (0.5, None):
        found = [scored(base.changed(**settings), accuracy) for settings in tried]
        assert chosen(found[::-1], "fedtiny", tried) == tried[0]


@settings(max_examples=200)
@given(best=floats(0.001, 2.0), method=sampled_from(["snip", "feddst"]))
def test_a_grid_is_widened_until_its_best_is_inside_or_no_further_rate_is_allowed(best, method):
    """Accuracy falls with the distance from one best learning rate; trials are run whenever the grid asks for them."""
    base, found = make_config(method=method, score_on="validation"), []
    while not finished(found, method, tried := grid(found, method)):
        found = [scored(base.changed(**trial), -abs(log(trial["lr"] / best))) for trial in tried]
    rates = sorted({trial["lr"] for trial in tried})
    taken, knobs = chosen(found, method, tried)["lr"], len(trials(method)) // len({t["lr"] for t in trials(method)})
    assert rates[0] < taken < rates[-1] or (best < 2 * LOWEST or best > HIGHEST / 3)
    assert len(tried) == len(rates) * knobs
    assert min(abs(log(rate / best)) for rate in rates) == abs(log(taken / best))


def test_the_settings_beyond_an_end_are_all_that_were_tried_there():
    base, tried = make_config(method="feddst", score_on="validation"), trials("feddst")
    found = [scored(base.changed(**trial), trial["lr"]) for trial in tried]
    assert grid(found, "feddst") == [*tried, *({"lr": 0.2, "adjust_rate": rate} for rate in (0.3, 0.5))]
    found = [scored(base.changed(**trial), -trial["lr"]) for trial in tried]
    assert grid(found, "feddst") == [*({"lr": 0.01, "adjust_rate": rate} for rate in (0.3, 0.5)), *tried]


@pytest.mark.slow
def test_a_tuning_whose_grid_widens_goes_on_until_nothing_is_added(monkeypatch, tmp_path):
    """The highest of three rates is the best of the first round of trials, and the next one is worse."""
    base = make_config("smoke", method="magnitude", score_on="validation", rounds=1)
    tried = [{"lr": rate} for rate in (0.0025, 0.005, 0.01)]

    def plan(out):
        return [base.changed(**trial) for trial in widened(records_so_far("rates", out), "magnitude", tried, by_rate)]

    def by_rate(record):
        return min(record["config"]["lr"], 0.03 - record["config"]["lr"])

    monkeypatch.setitem(PLANS, "rates", plan)
    rates = [record["config"]["lr"] for record in read_bundle(run_plan("rates", tmp_path, processes=1))]
    assert rates == [0.0025, 0.005, 0.01, 0.02]


def test_a_trial_that_was_not_run_is_named():
    """Rather than counted as bad: a run of the tuning plan failed, or the committed records are older."""
    base = make_config(method="lotteryfl", score_on="validation")
    found = [scored(base.changed(**settings), 0.5) for settings in trials("lotteryfl")[:-1]]
    with pytest.raises(
        ValueError, match=r"no tuning run of lotteryfl with .*'lottery_accuracy': 0.3.*repeat its tuning"
    ):
        chosen(found, "lotteryfl", trials("lotteryfl"))
