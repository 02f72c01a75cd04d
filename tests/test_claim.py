"""The plans of the paper's claim: arms that cannot be mixed up, grids that widen, the same settings for all."""

from dataclasses import replace

import pytest

from fedtiny_lite.experiments import claim, plans
from fedtiny_lite.experiments.claim import ARMS, DENSITIES, MIDDLE, RATES, SEEDS, config_of, grid, late_accuracy
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.experiments.sweep import bundle_finished, run_plan
from fedtiny_lite.experiments.tuning import HIGHEST
from fedtiny_lite.federated.task import make_task
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.pruning.bn_selection import usual_pool_size
from fedtiny_lite.pruning.progressive import is_adjustment
from fedtiny_lite.records.bundles import COMMITTED, read_bundle, write_bundle
from fedtiny_lite.simulation.rounds import run
from tests.helpers import three_clients

CLAIM = ("claim_tuning", "claim_pilot", "claim", "claim_devices", "claim_ablations", "claim_wide")
LATER = SEEDS[3]
"""A seed that is run when all else is done, and does not say who leads."""


def scored(arm, rate: float, accuracy: float) -> dict:
    config = config_of({**arm, "lr": rate})
    return {"config": config.identity(), "complete": True, "rounds": [{"validation_accuracy": accuracy}] * 8}


@pytest.fixture
def tuned(monkeypatch):
    """Tuning found 0.05 best for every arm; the main runs gave each arm an accuracy by its place, a later seed's the
    other way round.
    """
    tuning = [scored(arm, rate, float(rate == 0.05)) for arm in ARMS.values() for rate in RATES]
    main = [
        {
            "config": config_of({**arm, "lr": 0.05}, seed=seed).identity(),
            "complete": True,
            "rounds": [{"test_accuracy": 2 * place if seed == LATER else -place}],
        }
        for place, arm in enumerate(ARMS.values())
        for seed in (SEEDS[0], LATER)
    ]
    monkeypatch.setattr(claim, "load_plan", lambda plan, out: ({"claim_tuning": tuning, "claim": main}[plan], plan))
    monkeypatch.setattr(claim, "records_so_far", lambda plan, out: tuning)


def test_no_arm_is_taken_for_another():
    for name, arm in ARMS.items():
        alike = [other for other in ARMS if arm.items() <= config_of(ARMS[other]).identity().items()]
        assert alike == [name]


def test_a_filter_of_width_16_keeps_as_many_weights_as_one_of_width_64_in_the_paper():
    for paper, density in DENSITIES.items():
        assert 16 * 9 * density == pytest.approx(64 * 9 * paper)
        assert claim.POOLS[paper] == usual_pool_size(paper)
        tasks = [
            make_task(config_of(ARMS["magnitude"], **settings), 10, (3, 32, 32), Normalisation((0.5,) * 3, (0.2,) * 3))
            for settings in (claim.at_density(paper), {**claim.at_density(paper), "density": paper, "width": 64})
        ]
        a_filter = [task.budget / sum(shape[0] for shape in task.mask_shapes.values()) for task in tasks]
        assert a_filter[0] == pytest.approx(a_filter[1], rel=0.03)


def test_fedtiny_adjusts_as_often_as_in_the_paper():
    ours = (claim.SETTING["adjust_every"], claim.SETTING["adjust_until"], claim.SETTING["rounds"])
    paper = (10, 100, 300)
    counts = [sum(is_adjustment(r, every, until) for r in range(rounds)) for every, until, rounds in (ours, paper)]
    assert counts == [9, 9]


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (0.05, (0.02, 0.05, 0.1, 0.2)),
        (0.2, (0.02, 0.05, 0.1, 0.2, 0.4)),
        (0.02, (0.01, 0.02, 0.05, 0.1, 0.2)),
    ],
)
def test_a_grid_widens_beyond_an_end_that_is_best(best, expected):
    arm = ARMS["SNIP"]
    found = [scored(arm, rate, float(rate == best)) for rate in RATES]
    beyond = expected[-1] if best > 0.1 else expected[0]
    for records, rates in ((found, expected), ([*found, scored(arm, beyond, 0.5)], expected), (found[:3], RATES)):
        assert grid(records, arm) == [{**arm, "lr": rate} for rate in rates]


def test_accuracy_is_a_mean_over_the_last_rounds():
    rounds = [{"test_accuracy": a, "validation_accuracy": a} for a in (0.9, 0.1, 0.2, 0.3, 0.4, 0.5)]
    record = {"complete": True, "rounds": rounds}
    assert late_accuracy(record) == pytest.approx(0.3)
    assert late_accuracy(record, "validation") == pytest.approx(0.4)
    assert late_accuracy(record | {"complete": False}) == 0.1


def test_an_arm_that_is_not_tuned_yet_waits(monkeypatch):
    """The end of its grid was best, and the rate beyond is still to be tried."""
    found = [scored(arm, rate, float(rate == 0.05)) for arm in ARMS.values() for rate in RATES]
    found = [record for record in found if record["config"]["method"] != "snip"]
    found += [scored(ARMS["SNIP"], rate, rate) for rate in RATES]
    monkeypatch.setattr(claim, "load_plan", lambda plan, out: (found, plan))
    monkeypatch.setattr(claim, "records_so_far", lambda plan, out: found)
    assert ARMS.keys() - claim.tuned("none").keys() == {"SNIP"}
    missing = [config for config in claim.claim_tuning("none") if config.lr == 0.4]
    assert [config.method for config in missing] == ["snip"]


def test_a_grid_ends_somewhere():
    arm, rising = ARMS["SNIP"], []
    for _ in range(20):
        rising = [scored(arm, tried["lr"], tried["lr"]) for tried in grid(rising, arm)]
    assert max(tried["lr"] for tried in grid(rising, arm)) == HIGHEST


def test_the_main_table_compares_arms_alike_and_three_seeds_at_a_time(tuned):
    configs = claim.claim("none")
    assert len(configs) == len(SEEDS) * (3 * (len(ARMS) - 1) + 1) == len(set(configs))
    first = [(c.method, c.density, c.seed) for c in configs[:6]]
    assert first == [(m, DENSITIES[0.01], seed) for m in ("fedtiny", "synflow") for seed in SEEDS[:3]]
    assert {config.seed for config in configs[: len(configs) * 3 // 5]} == set(SEEDS[:3])
    shared = [{key: c.identity()[key] for key in claim.SETTING if key in c.identity()} for c in configs]
    assert all(values.items() <= claim.SETTING.items() for values in shared)
    assert {config.lr for config in configs} == {0.05} and {config.score_on for config in configs} == {"test"}


def test_tuning_sees_no_test_image_and_no_seed_of_the_table(tuned):
    configs = claim.claim_tuning("none")
    assert {config.score_on for config in configs} == {"validation"}
    assert {config.seed for config in configs}.isdisjoint(SEEDS)
    assert {config.density for config in configs} == {DENSITIES[MIDDLE]}


def test_the_pilot_is_a_longer_run_of_the_table_on_images_held_out(tuned):
    """Of a run of the main table it changes the seed, the images that are scored, and how long it goes on."""
    main = {replace(c, seed=100) for c in claim.claim("none") if c.density == DENSITIES[MIDDLE]}
    pilot = claim.claim_pilot("none")
    assert {c.rounds for c in pilot} == {60} and {c.seed for c in pilot}.isdisjoint(SEEDS)
    assert len(pilot) == 2 * len(claim.PILOT) == len(set(pilot))
    assert {replace(c, seed=100, rounds=20, score_on="test") for c in pilot} <= main
    assert {c.score_on for c in pilot} == {"validation"}


def test_the_runs_on_two_devices_differ_in_nothing_else(tuned):
    on_cpu = claim.claim_devices("none")
    assert {config.torch_device for config in on_cpu} == {"cpu"} and len(on_cpu) == 9
    assert {replace(config, torch_device="auto") for config in on_cpu} < set(claim.claim("none"))


def test_leaders_come_from_the_main_table(tuned):
    wide = claim.claim_wide("none")
    assert {(config.width, config.density) for config in wide} == {(64, 0.01)}
    assert {config.method for config in wide} == {"fedtiny", "synflow", "magnitude", "snip"}
    ablations = claim.claim_ablations("none")
    assert len(ablations) == 3 * (3 + 3 * 4) == len(set(ablations))  # FedTiny is among the four


def test_fedtiny_stands_beside_four_other_leaders_under_each_control(tuned, monkeypatch):
    monkeypatch.setattr(claim, "leading", lambda *_: ["SNIP", "GraSP", "random", "FedDST"])
    found = claim.claim_ablations("none")[len(claim.ABLATIONS) :][: 3 * 5]
    assert [(c.method, c.alpha, c.server_set) for c in found[:5]] == [
        (method, 0.1, "as_clients") for method in ("fedtiny", "snip", "grasp", "random", "feddst")
    ]
    assert {(c.alpha, c.server_set) for c in found} == {(0.1, "as_clients"), (5.0, "as_clients"), (0.5, "distorted")}


@pytest.mark.parametrize("plan", [plan for plan in CLAIM if (COMMITTED / f"{plan}.json").exists()])
def test_committed_records_are_runs_of_their_plan(plan):
    """Some may still be missing, and what computed them, a GPU or the sparse engine, is left to the machine."""
    planned = plan_configs(plan, "none")
    for record in (found["config"] for found in read_bundle(COMMITTED / f"{plan}.json")):
        alike = [config for config in planned if config.method == record["method"]]
        assert any(set(config.differing(record)) <= {"torch_device"} for config in alike)


def test_what_has_finished_of_a_sweep_is_bundled_without_running_the_rest(monkeypatch, tmp_path):
    done, left = three_clients(rounds=0), three_clients(rounds=0, seed=1)
    monkeypatch.setitem(plans.PLANS, "two", lambda out: [done, left])
    with pytest.raises(ValueError, match="no finished run"):
        bundle_finished("two", tmp_path)
    run(done, tmp_path / "runs")
    assert [record["config"] for record in read_bundle(bundle_finished("two", tmp_path))] == [done.identity()]


def test_going_on_leaves_out_what_the_bundle_holds_on_whatever_device(monkeypatch, tmp_path):
    first, second = three_clients(rounds=0, torch_device="auto"), three_clients(rounds=0, seed=1, torch_device="auto")
    monkeypatch.setitem(plans.PLANS, "two", lambda out: [first, second])
    on_gpu = run(first) | {"run_id": "made on a GPU"}
    on_gpu["config"] = on_gpu["config"] | {"torch_device": "cuda"}
    write_bundle(tmp_path / "plans" / "two.json", "two", [on_gpu])
    for found in (run_plan("two", tmp_path, 1, go_on=True), bundle_finished("two", tmp_path, go_on=True)):
        assert [record["config"]["torch_device"] for record in read_bundle(found)] == ["cuda", "cpu"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [replace(second, torch_device="cpu").run_id]
    run(replace(first, torch_device="cpu"), tmp_path / "runs")  # for another plan; what the bundle holds stays
    kept = read_bundle(bundle_finished("two", tmp_path, go_on=True))
    assert [record["config"]["torch_device"] for record in kept] == ["cuda", "cpu"]
    again = read_bundle(run_plan("two", tmp_path, 1))
    assert [record["config"]["torch_device"] for record in again] == ["cpu", "cpu"]
