"""What a run of the claim's plan spends, and its accuracy within a budget: by hand, and on the committed records."""

from math import isnan, nan

import pytest

from benchmarks import claim_steps
from fedtiny_lite.experiments.claim import ARMS, WIDE
from fedtiny_lite.records.bundles import COMMITTED, read_bundle
from fedtiny_lite.report import claim_costs
from fedtiny_lite.report.claim_costs import accuracy_within, arm_of, seconds, total
from fedtiny_lite.sparse.engine import SPARSE
from tests.helpers import claim_record


def test_each_run_belongs_to_its_arm():
    assert [arm_of(claim_record(arm, [0.1], 1)) for arm in ARMS] == list(ARMS)
    odd = claim_record("SNIP", [0.1], 1)
    odd["config"]["method"] = "lotteryfl"
    with pytest.raises(ValueError, match=r"belongs to no arm.*FedTiny, SynFlow"):
        arm_of(odd)


@pytest.mark.parametrize(("budget", "expected"), [(0, nan), (14, nan), (15, 0.2), (25, 0.3), (55, 0.6), (99, 0.65)])
def test_accuracy_within_a_budget_is_that_of_the_last_quarter_of_the_rounds_inside_it(budget, expected):
    """5 FLOPs before training and 10 a round: after 15 FLOPs one round is done, after 65 all six, a quarter is two."""
    found = accuracy_within(claim_record("SNIP", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 10, before=5), budget)
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.fixture
def timed(monkeypatch):
    """Steps of 10 and, dense, 100 ms, and of 2 and 40 FLOPs; a round has 781.25 of them."""
    sparse, dense = {"seconds": 0.01, "flops": 2}, {"seconds": 0.1, "flops": 40}
    snip, prunefl = (claim_costs._key(claim_record(arm, [0.1], 1)["config"], arm) for arm in ("SNIP", "PruneFL"))
    steps = {snip: {"sparse": sparse}, prunefl: {"sparse": sparse, "dense": dense}}
    monkeypatch.setattr(claim_costs, "_steps", lambda: steps)


def test_time_is_that_of_a_step_times_the_steps(timed):
    """A round takes 7.8125 s whatever its FLOPs are; before the rounds 6 FLOPs are worth 3 steps of 10 ms."""
    assert total(claim_record("SNIP", [0.1, 0.2, 0.3], 1500, before=6), seconds) == pytest.approx(2 * 7.8125 + 0.03)
    assert isnan(total(claim_record("GraSP", [0.1, 0.2], 10), seconds))


def test_of_two_engines_a_costly_round_is_the_dense_ones(timed):
    """A dense round costs 31,250 FLOPs; a quarter of them is 7,812. What precedes the rounds is dense."""
    assert total(claim_record("PruneFL", [0.1, 0.2], 7_000), seconds) == pytest.approx(7.8125)
    assert total(claim_record("PruneFL", [0.1, 0.2], 8_000, before=80), seconds) == pytest.approx(78.125 + 0.2)


def test_accuracy_within_a_time(timed):
    assert accuracy_within(claim_record("SNIP", [0.1, 0.2, 0.3], 1500), 10, seconds) == 0.2


def test_the_engine_is_the_one_that_trained_on_a_cpu():
    """In every round, and before them, of the committed runs that a CPU made."""
    for record in read_bundle(COMMITTED / "claim.json"):
        if record["config"]["torch_device"] != "cuda":
            for entry in (*record["prelude"], *record["rounds"]):
                if entry["trained_on"]:
                    assert [claim_costs._step(record, entry)["engine"]] == entry["trained_on"]


def test_a_rounds_steps_cost_what_the_record_counted():
    """Where a mask stays, a round's FLOPs are those of a step times 781.25 steps, whichever machine made the run."""
    for record in read_bundle(COMMITTED / "claim.json"):
        if record["method"] in ("magnitude", "synflow", "snip", "grasp", "random", "small_model"):
            for entry in record["rounds"]:
                assert entry["training_flops"] == claim_costs.ROUND * claim_costs._step(record, entry)["flops"]


def test_a_run_is_timed_at_its_layers_by_the_engine_of_its_arm(monkeypatch):
    """An arm that a GPU alone has trained is not timed."""
    monkeypatch.setattr(claim_steps, "BATCHES", 1)
    monkeypatch.setattr(claim_steps, "TURNS", 1)
    runs = {arm_of(record): record for record in read_bundle(COMMITTED / "claim.json")}
    engines = claim_steps.engines(list(runs.values()))
    cases = [(runs[arm], engine) for arm in ("magnitude", "small model") for engine in engines[arm]]
    for row, (record, _) in zip(claim_steps.timed(cases), cases, strict=True):
        step = claim_costs._step(record, record["rounds"][0])
        assert row["seconds"] > 0 and {key: row[key] for key in row if key != "seconds"} == {
            key: step[key] for key in step if key != "seconds"
        }
    on_gpu = [record | {"config": record["config"] | {"torch_device": "cuda"}} for record in runs.values()]
    assert claim_steps.engines(on_gpu) == {}


def test_each_run_is_timed_once_a_dense_one_too_and_those_of_width_64_among_themselves():
    """The dense run, of density 0.012, stands beside both densities in the tables. A run that stopped is left out."""
    table = [claim_record("FedTiny", [0.1, 0.5], 1, density=density) for density in (0.012, 0.04)]
    table += [claim_record("FedAvg", [0.1, 0.5], 1), claim_record("SNIP", [0.1, 0.5], 1, complete=False)]
    wide = [claim_record("SynFlow", [0.1, 0.5], 1, **WIDE)]
    for record in (*table, *wide):
        record["rounds"] = [entry | {"trained_on": ["sparse"]} for entry in record["rounds"]]
    found = claim_steps.cases(table, wide)
    names = [[(run["run_id"], run["config"]["density"]) for run, _ in turn] for turn in found]
    assert names == [[("FedTiny", 0.04)], [("FedTiny", 0.012), ("FedAvg", 0.012)], [("SynFlow", 0.01)]]


def test_a_density_that_is_timed_already_is_not_timed_again():
    """Unless a run is new, or the record is of another processor or other packages."""
    here = {"cpu": "a processor", "packages": {"torch": "2"}}
    runs = [(claim_record(arm, [0.1, 0.5], 1), SPARSE) for arm in ("FedTiny", "SNIP")]
    steps = [claim_steps._row(*run) | {"seconds": seconds} for run, seconds in zip(runs, (0.1, 0.2), strict=True)]
    known = {"environment": here, "steps": steps}
    assert claim_steps.held(runs[::-1], known, here) == steps[::-1]
    assert claim_steps.held(runs, known | {"steps": steps[:1]}, here) == claim_steps.held(runs, {}, here) == []
    assert claim_steps.held(runs, known, here | {"cpu": "another"}) == []
