"""Verdicts: the rules by hand, and what they say of the committed records and of a plan that is under way."""

from functools import cache

import numpy as np
import pandas as pd
import pytest

from fedtiny_lite.experiments import claim
from fedtiny_lite.plots.verdicts import verdicts_figure
from fedtiny_lite.records import bundles
from fedtiny_lite.records.bundles import COMMITTED, read_bundle, write_bundle
from fedtiny_lite.report import deciding
from fedtiny_lite.report.arms import WHOLE, lead_by_seed, progress
from fedtiny_lite.report.findings import digits_lead
from fedtiny_lite.report.frames import run_frame
from fedtiny_lite.report.verdicts import METHOD, in_short, resnet_table, verdict_table, verdicts

AHEAD, BEHIND, UNSURE = [0.10, 0.11, 0.12], [-0.10, -0.11, -0.12], [-0.1, 0.0, 0.2]


@pytest.mark.parametrize(
    ("values", "outcome"),
    [(AHEAD, "holds"), (BEHIND, "does not hold"), (UNSURE, "cannot be told"), ([0.1], "not tested yet")],
)
def test_one_difference(values, outcome):
    assert deciding.of_one(values) == outcome


@pytest.mark.parametrize(
    ("outcomes", "outcome"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "cannot be told"], "partly"),
        (["partly", "does not hold"], "partly"),
        (["does not hold", "cannot be told"], "does not hold"),
        (["holds", "not tested yet"], "holds so far"),
        (["does not hold", "not tested yet"], "does not hold"),
        ([], "not tested yet"),
    ],
)
def test_a_claim_with_parts(outcomes, outcome):
    assert deciding.of_parts(outcomes) == outcome


@pytest.mark.parametrize(
    ("gaps", "planned", "outcome"),
    [
        ({"A": AHEAD, "B": AHEAD}, (), "holds"),
        ({"A": AHEAD, "B": AHEAD}, ("A", "C"), "holds so far against A, B"),
        ({"A": AHEAD, "B": BEHIND}, (), "does not hold"),
        ({"A": AHEAD, "B": UNSURE}, (), "holds against A only"),
        ({"B": UNSURE}, (), "cannot be told"),
        ({"A": [0.1]}, (), "not tested yet"),
        ({"A": AHEAD, "B": BEHIND[:2]}, ("A", "B"), "holds so far against A"),  # two seeds are too few for a verdict
    ],
)
def test_all_baselines_at_once(gaps, planned, outcome):
    assert deciding.of_all(gaps, planned) == outcome


def test_the_lead_over_one_baseline_does_not_survive_many_others():
    """A p value of 0.03 alone is 0.3 among ten."""
    just = [0.0, 0.1, 0.2, 0.1, 0.08]  # mean 0.096, standard error 0.032: t = 3.0, p = 0.04
    assert deciding.ahead_of({"A": just}) == ["A"]
    assert deciding.ahead_of({"A": just} | {f"B{i}": UNSURE for i in range(9)}) == []


def test_shares_saved():
    assert deciding.of_shares({"A": 0.96, "B": -0.1}, 0.95) == "holds against A only"
    assert deciding.of_shares({"A": 0.96, "B": 0.95}, 0.95) == "holds"
    assert deciding.of_shares({"A": 0.94}, 0.95) == "does not hold"


def test_numbers_have_their_interval_and_n():
    assert deciding.in_numbers([0.0, 0.2]) == "+0.100 [−1.171, +1.371], n = 2"  # t = 12.706, error 0.1
    assert deciding.in_numbers([0.1]) == "n = 1"


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    return {found.claim: found for found in verdicts(tmp_path_factory.mktemp("nothing"))}


def test_every_claim_has_a_verdict_with_numbers(committed):
    assert sum(found.source != METHOD for found in committed.values()) == 5
    for found in committed.values():
        assert found.claim.endswith(".") and found.decisive.numbers and found.decisive.where
        assert any(map(len, found.decisive.shown.values()))


def test_what_the_records_on_digits_say(committed):
    """At 0.01 FedMef is ahead: 0.719 against 0.580 on the mean of ten seeds."""
    accuracy = next(found for claim, found in committed.items() if "more accurate than every baseline" in claim)
    digits = accuracy.findings[-1]
    assert digits.outcome == "does not hold"
    assert "FedTiny − FedMef, the best: −0.139 [−0.220, −0.059], n = 10; surely ahead of 7 of 13" in digits.numbers
    assert digits.where.endswith("density 0.01 (the paper's 0.001 by weights a filter)")
    rival = next(found for claim, found in committed.items() if "uniform magnitude" in claim)
    assert rival.decisive.outcome == "partly" and "FedTiny − magnitude, 0.01: +0.029" in rival.decisive.numbers


def test_savings_are_against_dense_gradients_only(committed):
    flops, memory = (next(f for c, f in committed.items() if what in c) for what in ("computation", "memory"))
    assert flops.decisive.outcome == "holds against PruneFL only"
    assert "PruneFL 96.16 %" in flops.decisive.numbers and "magnitude −0.06 %" in flops.decisive.numbers
    assert memory.decisive.shown["magnitude"] == [pytest.approx(-0.1355, abs=1e-4)]


def test_the_lead_is_over_the_baseline_of_the_best_mean():
    """A: 0.5, B: 0.6 on the mean; in seed 1 A is ahead of B, and still B is the one that counts."""
    reached = pd.DataFrame({"FedTiny": [0.5, 0.6], "A": [0.3, 0.7], "B": [0.7, 0.5]}, index=[0, 1])
    assert lead_by_seed(reached) == {0: pytest.approx(-0.2), 1: pytest.approx(0.1)}
    assert lead_by_seed(reached.iloc[:0]) == {}


def test_the_table_of_verdicts_names_each_claim_once_and_has_every_finding(committed):
    table = verdict_table(list(committed.values()))
    assert [claim for claim in table["claim"] if claim] == list(committed)
    assert len(table) == sum(len(found.findings) + len(found.beside) for found in committed.values())


def test_the_short_answer_names_the_sparser_densities(tmp_path):
    """FedTiny is behind at 0.012, ahead at 0.004, and level with all others at 0.04."""
    lead = {0.003: -0.1, 0.001: 0.1}
    found = verdicts(plan_of(tmp_path, lambda arm, paper: 0.5 + (arm == "FedTiny") * lead.get(paper, 0)))
    assert "density 0.04, the paper's 0.01; at 0.012: **does not hold**; at 0.004: **holds**). 95.91" in in_short(found)
    told = resnet_table(found)["found on"]
    assert sum(told.str.contains("density 0.012, the paper's 0.003")) == 1
    alike = verdicts(plan_of(tmp_path / "alike", lambda arm, paper: 0.5))
    assert "the paper's 0.01; at 0.012, 0.004: the same). 95.91" in in_short(alike)
    few = plan_of(tmp_path / "few", lambda arm, paper: 0.5, arms=FIRST, papers=(0.01,))
    assert "the paper's 0.01). 95.91" in in_short(verdicts(few))


@cache
def run_on_digits():
    return next(r for r in read_bundle(COMMITTED / "digits.json") if r["config"]["method"] == "fedtiny")


def run_of(config, label, accuracy):
    """A record with this accuracy after every round; the rest is that of a run on digits."""
    record = run_on_digits()
    rounds = [entry | {"test_accuracy": accuracy} for entry in record["rounds"]]
    method = {"label": label, "family": "masks that change"}
    final = record["final"] | {"test_accuracy": accuracy}
    return record | {"config": config.identity(), "rounds": rounds, "final": final, "method": method}


def plan_of(folder, accuracy, seeds=(10, 11, 12), arms=tuple(claim.ARMS), papers=tuple(claim.DENSITIES)):
    """A bundle of the plan `claim` in which accuracy(arm, paper's density) + a little noise was reached."""
    rng, records = np.random.default_rng(0), []
    for seed in seeds:
        for name in arms:
            for paper in papers if name != claim.UNPRUNED else (claim.MIDDLE,):
                config = claim.config_of(claim.ARMS[name], seed=seed, **claim.at_density(paper))
                records.append(run_of(config, name, accuracy(name, paper) + 1e-3 * rng.normal()))
    write_bundle(folder / "plans" / "claim.json", "claim", records)
    return folder


def accuracy_verdicts(folder):
    return [found.findings[0] for found in verdicts(folder)[:2]]


def test_a_verdict_found_on_digits_alone_says_so(tmp_path):
    """ResNet18 has runs at one density, so that no lead can grow there; the digits have two."""
    plan_of(tmp_path, lambda arm, paper: 0.5, arms=("FedTiny", "SNIP"), papers=(0.01,))
    found = {row.claim: row for row in verdicts(tmp_path)}
    growth = next(row for claim, row in found.items() if "extremely sparse" in claim)
    assert growth.answer == "does not hold on digits"
    assert "growth of the lead: −0.130 [−0.211, −0.050]" in growth.decisive.numbers
    accuracy = next(row for claim, row in found.items() if "more accurate than every baseline" in claim)
    assert accuracy.answer == accuracy.findings[0].outcome


def test_the_verdict_fills_itself_from_the_plan(tmp_path):
    better = plan_of(tmp_path, lambda arm, paper: 0.5 + (arm == "FedTiny") * (0.02 if paper > 0.001 else 0.1))
    lead, growth = accuracy_verdicts(better)
    assert lead.outcome == growth.outcome == "holds"
    assert len(lead.shown) == len(claim.ARMS) - 3, "neither FedAvg nor FedTiny with either pool is a baseline"
    assert "n = 3" in lead.numbers and "density 0.04" in lead.where
    assert np.mean(growth.shown["growth of the lead"]) == pytest.approx(0.08, abs=0.005)


def test_a_better_baseline_ends_the_claim(tmp_path):
    worse = plan_of(tmp_path, lambda arm, paper: 0.5 + 0.1 * (arm == "SynFlow as in the 2022 code"))
    lead, _ = accuracy_verdicts(worse)
    assert lead.outcome == "does not hold"
    assert "FedTiny − SynFlow as in the 2022 code, the best: −0.1" in lead.numbers


def test_one_seed_is_no_verdict(tmp_path):
    lead, growth = accuracy_verdicts(plan_of(tmp_path, lambda arm, paper: 0.5, seeds=(10,)))
    assert lead.outcome == growth.outcome == "not tested yet"
    assert lead.numbers == f"{3 * (len(claim.ARMS) - 1) + 1} of {WHOLE} runs finished"


FIRST = ("FedTiny", "SynFlow", "magnitude")


def test_a_verdict_on_few_baselines_says_that_others_are_missing(tmp_path):
    """0.1 ahead with a scatter of 0.001: sure among ten baselines, of which two have run."""
    few = plan_of(tmp_path, lambda arm, paper: 0.5 + 0.1 * (arm == "FedTiny"), arms=FIRST, papers=(0.01,))
    found = verdicts(few)
    lead = found[0].decisive
    assert lead.outcome == "holds so far against SynFlow, magnitude" and lead.where.endswith(
        "density 0.04, the paper's 0.01"
    )
    assert "n = 3; surely ahead of 2 of 2, 8 more to run; 9 of " in lead.numbers
    assert [row.where.split(",")[0] for row in found[1].findings if row.outcome != "not tested yet"] == ["CNN"]


def test_what_is_sure_of_few_baselines_is_corrected_for_those_to_come():
    just = [0.0, 0.1, 0.2, 0.1, 0.08]
    assert deciding.ahead_of({"A": just}) == ["A"] and deciding.ahead_of({"A": just}, "ABC") == []
    assert deciding.of_all({"A": just}, "ABC") == "cannot be told"


def test_a_lead_grows_over_the_same_baselines_only(tmp_path):
    """SNIP, far ahead, has run at the sparsest density only; the lead over the two others stays as it is."""
    accuracy = lambda arm, paper: {"FedTiny": 0.6, "SNIP": 0.9}.get(arm, 0.5)  # noqa: E731
    few = plan_of(tmp_path, accuracy, arms=FIRST, papers=(0.001, 0.01))
    more = read_bundle(few / "plans" / "claim.json")
    snip = read_bundle(plan_of(tmp_path / "b", accuracy, arms=("SNIP",), papers=(0.001,)) / "plans" / "claim.json")
    write_bundle(few / "plans" / "claim.json", "claim", [*more, *snip])
    growth = verdicts(few)[1].findings[0]
    assert growth.outcome == "cannot be told" and "over 2 of 10 baselines" in growth.numbers
    assert "; at 0.004 FedTiny − SNIP, the best: −0." in growth.numbers
    assert np.mean(growth.shown["growth of the lead"]) == pytest.approx(0, abs=0.005)


def test_how_far_the_main_table_is(monkeypatch, tmp_path):
    monkeypatch.setattr(bundles, "COMMITTED", tmp_path)
    monkeypatch.setattr(claim, "tuned", lambda out: claim.ARMS)
    assert progress(tmp_path).endswith("make them with: python -m fedtiny_lite sweep claim")
    plan_of(tmp_path, lambda arm, paper: 0.5, arms=FIRST, papers=(claim.MIDDLE,), seeds=(10, 11))
    told = progress(tmp_path)
    assert told.startswith(f"6 of {WHOLE} runs of the main table are there, at density 0.012: 3 of 13 arms, 2 runs of")
    assert told.endswith("go on with: python -m fedtiny_lite sweep claim --go-on")
    plan_of(tmp_path, lambda arm, paper: 0.5, seeds=claim.SEEDS)
    assert progress(tmp_path).startswith(f"All {WHOLE} runs")


def test_the_command_for_the_main_table_says_which_arms_it_leaves_out(monkeypatch, tmp_path):
    monkeypatch.setattr(bundles, "COMMITTED", tmp_path)
    monkeypatch.setattr(claim, "tuned", lambda out: {name: claim.ARMS[name] for name in FIRST})
    assert progress(tmp_path).endswith("sweep claim (10 arms wait for their learning rate: sweep claim_tuning first)")


def test_baselines_on_digits_that_are_still_to_run_are_counted():
    """A hundred seeds ahead of one baseline, as sure as can be, say nothing of the twelve others."""
    record = run_on_digits()
    method = {"label": "magnitude", "family": "masks that stay"}
    rival = {"config": record["config"] | {"method": "magnitude"}, "method": method}
    both = [
        run | {"config": run["config"] | {"seed": seed, "density": 0.1}, "final": {**run["final"], "test_accuracy": a}}
        for seed in range(3)
        for run, a in ((record, 0.9 + seed / 1000), (record | rival, 0.5))
    ]
    found = digits_lead(run_frame(both), 0.1)
    assert found.outcome == "holds so far against magnitude"
    assert found.numbers.endswith("surely ahead of 1 of 1, 12 more to run")


def test_figure_of_the_verdicts_has_a_panel_for_each_setting_and_one_for_costs(tmp_path):
    few = plan_of(tmp_path, lambda arm, paper: 0.5, arms=FIRST, papers=(0.01,))
    first, *others, costs = verdicts_figure(verdicts(few)).axes
    assert len(first.get_yticklabels()) == 2
    assert [len(ax.get_yticklabels()) for ax in others] == [13, 13]
    assert "LotteryFL" not in [label.get_text() for label in costs.get_yticklabels()]
    bold = [{label.get_text() for label in ax.get_yticklabels() if label.get_weight() == "bold"} for ax in others]
    assert bold[0] == {"small model", "GraSP"} and len(bold[1]) == 7  # surely ahead of 2 and of 7 of 13


def test_figure_of_the_verdicts_draws_every_density_of_the_papers_model_and_three_costs(committed):
    *leads, costs = verdicts_figure(list(committed.values())).axes
    densities = [ax.get_title().partition("density ")[2].split(",")[0].split("\n")[0] for ax in leads]
    assert densities == ["0.04", "0.012", "0.004", "0.1", "0.01"]
    names, bars = [text.get_text() for text in costs.get_legend().get_texts()], costs.containers
    assert names == ["computation, an adjusting round", "computation, 300 rounds", "memory"]
    labels = [label.get_text() for label in costs.get_yticklabels()]
    saved = [bar[labels.index("PruneFL")].get_width() for bar in bars]
    assert saved == [pytest.approx(share, abs=5e-5) for share in (0.9616, 0.4535, 0.9634)]


def test_the_table_of_the_papers_model_leaves_out_digits(committed):
    table = resnet_table(list(committed.values()))
    assert set(table["claim"]) == {found.claim for found in committed.values() if found.source != METHOD}
    assert table["found on"].str.startswith("ResNet18").all()


def test_modules_are_judged_by_the_plan_of_ablations(tmp_path):
    plan_of(tmp_path, lambda arm, paper: 0.5)
    fedtiny, lost = claim.ARMS["FedTiny"], {"progressive": 0.1, "selection": 0.0}
    changes = {"progressive": {"progressive": "no"}, "selection": {"selection": "fixed"}, "other": {"alpha": 5.0}}
    records = [
        run_of(claim.config_of({**fedtiny, **changed}, seed=seed), "x", 0.5 - lost.get(name, 0.3) + 1e-3 * (seed % 2))
        for name, changed in changes.items()
        for seed in (10, 11, 12)
    ]
    write_bundle(tmp_path / "plans" / "claim_ablations.json", "claim_ablations", records)
    found = verdicts(tmp_path)[4].findings[0]
    assert found.outcome == "partly"
    assert [np.mean(values) for values in found.shown.values()] == [
        pytest.approx(0.1, abs=0.01),
        pytest.approx(0, abs=0.01),
    ]
