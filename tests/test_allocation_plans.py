"""The plans of the allocations, and what their report computes from records."""

import pandas as pd
import pytest

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments import allocations as plans
from fedtiny_lite.experiments.allocations import ARMS, CONTROL, OURS, OURS_TRIED, SEEDS, TUNED
from fedtiny_lite.experiments.plans import PLANS
from fedtiny_lite.plots import allocations as plots
from fedtiny_lite.pruning.allocations import FLOW_MASK, KINDS
from fedtiny_lite.records.bundles import COMMITTED, read_bundle
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.report import allocations as report
from fedtiny_lite.report.claim_costs import arm_of
from fedtiny_lite.report.labels import FEDTINY


def record(arm, seed=4000, accuracy=0.5, density=0.01, flops=100, **more):
    """A finished run of an arm, as small as the report reads it."""
    config = make_config("digits", **{**ARMS[arm], **more}, seed=seed, density=density).identity()
    entry = {"training_flops": flops, "bytes_up": 10, "bytes_down": 30}
    final = {"test_accuracy": accuracy, "validation_accuracy": accuracy}
    return {"config": config, "prelude": [], "rounds": [entry], "final": final, "complete": True, "run_id": arm}


def judged(losses, **settings):
    """A run of our pool whose selection found these losses."""
    chosen = losses.index(min(losses))
    note = {"losses": losses, "chosen": chosen, "allocations": ["a", "b", "c"], "forward_flops": [10, 20, 5]}
    cost = {"training_flops": 0, "bytes_up": 0, "bytes_down": 0}
    return record(OURS_TRIED, **settings) | {"prelude": [{**cost, "selection": note}]}


def unjudged(number, accuracy, seed=4000, epochs=5):
    return record(OURS_TRIED, seed, accuracy, selection="fixed", candidate=number, trial_epochs=epochs)


# --- plans ------------------------------------------------------------------------------------------------


def test_twenty_seeds_that_nothing_was_tuned_on():
    assert tuple(range(4000, 4020)) == SEEDS
    assert not set(SEEDS) & set(plans.TUNING_SEEDS)


def test_tuning_begins_with_as_many_settings_of_each_arm_as_of_any_method(monkeypatch):
    monkeypatch.setattr(plans, "records_so_far", lambda plan, out: [])
    configs = plans.allocations_tuning("nowhere")
    assert len(set(configs)) == len(configs) == len(TUNED) * 6 * 2
    assert {config.score_on for config in configs} == {"validation"}
    assert {config.density for config in configs} == {0.02}


def test_the_control_starts_from_synflows_mask():
    assert KINDS[ARMS[CONTROL]["candidate"]] == FLOW_MASK
    assert len(KINDS) == plans.CANDIDATES


def test_every_arm_runs_at_its_own_tuned_settings(monkeypatch):
    monkeypatch.setattr(plans, "tuned", lambda out: {name: {**arm, "lr": 0.125} for name, arm in ARMS.items()})
    configs = PLANS["allocations"]("nowhere")
    assert len(set(configs)) == len(configs) == 2 * 20 * len(ARMS)
    assert {config.lr for config in configs} == {0.125}
    found = [arm_of({"config": config.identity(), "run_id": ""}, ARMS) for config in configs]
    assert found == list(ARMS) * 40
    assert len(set(PLANS["allocations_ranking"]("nowhere"))) == 20 * 2 * 6


def test_our_arms_are_tuned_by_their_own_trials_and_the_others_by_the_kits(monkeypatch):
    def trial(arm, lr):
        best = 0.9 if lr == 0.1 else 0.1
        return [record(arm, 100, best, 0.02, lr=lr, adjust_rate=rate) for rate in (0.3, 0.5)]

    def loaded(plan, out):
        if plan == "allocations_tuning":
            return [run for arm in TUNED for lr in (0.02, 0.05, 0.1, 0.2) for run in trial(arm, lr)], ""
        rates = {"synflow": 0.1, "fedmef": 0.05, "magnitude": 0.07, "fedtiny": 0.05}
        return [
            record_of(method, settings, float(settings["lr"] == rate))
            for method, rate in rates.items()
            for settings in plans.trials(method)
        ], ""

    def record_of(method, settings, accuracy):
        config = make_config(method=method, **settings).identity()
        return {"config": config, "complete": True, "final": {"validation_accuracy": accuracy}}

    monkeypatch.setattr(plans, "load_plan", loaded)
    rates = {name: arm["lr"] for name, arm in plans.tuned("nowhere").items()}
    assert {rates[name] for name in TUNED} == {0.1}
    assert rates["SynFlow"] == 0.1
    assert rates[FEDTINY] == rates["paper's pool, tried (ours)"] == rates["FedMef"] == 0.05


# --- report -----------------------------------------------------------------------------------------------


def test_the_comparison_worked_by_hand():
    records = [record(OURS_TRIED, seed, 0.5 + lead, flops=150) for seed, lead in ((1, 0.1), (2, 0.3))]
    records += [record("SynFlow", seed, 0.5) for seed in (1, 2)]
    records += [record(FEDTINY, seed, 0.2, flops=100) for seed in (1, 2)]
    records += [record(FEDTINY, 1, 0.9, density=0.02)]
    table = report.comparison_table(records, 0.01)
    assert table.loc["SynFlow", f"{OURS_TRIED} minus it"].startswith("+0.200 [")
    assert table.loc["SynFlow", "ahead in"] == "2 of 2"
    assert table.loc[OURS_TRIED, "FLOPs / FedTiny's"] == "1.50"
    assert table.loc["SynFlow", "bytes / FedTiny's"] == "1.00"
    assert table.loc[FEDTINY, "accuracy"] == "0.200 [0.200, 0.200]"


def test_one_seed_tests_nothing():
    records = [record(OURS_TRIED, 1, 0.6), record(FEDTINY, 1, 0.2), record("SynFlow", 2, 0.5)]
    table = report.comparison_table(records, 0.01)
    assert table["p (Holm)"].tolist() == ["", "", ""]
    assert table.loc["SynFlow", f"{OURS_TRIED} minus it"] == "-"


def test_what_selection_tells_worked_by_hand():
    # Of losses 1, 2, 3 the first is taken, which reaches 0.6; the best reaches 0.7, all of them 0.6 on the mean.
    seed = report.Ranked([1.0, 2.0, 3.0], [0.6, 0.7, 0.5], "a")
    assert seed.regret == pytest.approx(0.1)
    assert seed.gain == pytest.approx(0.0)
    assert seed.correlation == pytest.approx(0.5)  # ranks 3, 2, 1 and 2, 3, 1


def test_candidates_are_ranked_within_their_seed_and_their_trial():
    records = [judged([1.0, 2.0, 3.0], seed=1), judged([3.0, 2.0, 1.0], seed=2)]
    trained = [unjudged(c, value, seed) for seed in (1, 2) for c, value in enumerate((0.9, 0.5, 0.1))]
    untried = record(OURS, 1, 0.0, selection="fixed", candidate=0)
    found = report.ranked(records, [*trained, untried], OURS_TRIED)
    first, second = found[1], found[2]
    assert (first.correlation, first.regret, first.chosen) == (pytest.approx(1), 0, "a")
    assert (second.correlation, second.regret, second.chosen) == (pytest.approx(-1), pytest.approx(0.8), "c")
    assert len(report.ranked(records, trained[:5], OURS_TRIED)) == 1  # a seed without all candidates is left out


# --- figures ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figure_left_open")
def test_leads_have_a_panel_a_density_and_a_row_an_arm():
    records = [
        record(arm, seed, accuracy + seed / 100, density)
        for density in plans.DENSITIES
        for arm, accuracy in ((OURS_TRIED, 0.9), ("SynFlow", 0.7), (FEDTINY, 0.6))
        for seed in (1, 2, 3)
    ]
    fig = plots.leads_figure(records)
    assert [ax.get_title() for ax in fig.axes] == ["density 0.01", "density 0.02"]
    # Arms stand in the order of the plan, FedTiny before SynFlow; each dot is a seed's lead.
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == [FEDTINY, "SynFlow"]
    for ax in fig.axes:
        dots = [c.get_offsets()[:, 0].tolist() for c in ax.collections if len(c.get_offsets()) == 3]
        assert dots == [pytest.approx([0.3] * 3), pytest.approx([0.2] * 3)]
    assert "3 seeds" in fig.texts[0].get_text() + fig.texts[-1].get_text()


@pytest.mark.usefixtures("no_figure_left_open")
def test_what_selection_can_tell_is_drawn_seed_by_seed():
    records, trained = [], []
    for seed in (1, 2):
        records += [judged([1.0, 2.0, 3.0], seed=seed), judged([1.0, 2.0, 3.0], seed=seed, trial_epochs=0)]
        for epochs in (0, 5):
            trained += [unjudged(c, 0.9 - c / 10, seed, epochs) for c in range(3)]
    fig = plots.ranking_figure(records, trained)
    correlation, regret, gain = fig.axes
    assert all("tried" in tick.get_text() for tick in correlation.get_xticklabels())
    assert [line.get_ydata().tolist() for line in correlation.lines[1:3]] == [[1, 1], [1, 1]]
    assert [line.get_ydata().tolist() for line in regret.lines[1:3]] == [[0, 0], [0, 0]]
    assert gain.lines[1].get_ydata().tolist() == pytest.approx([0.1, 0.1])


# --- the committed records --------------------------------------------------------------------------------


def test_the_documented_tables_are_those_of_the_committed_records():
    records, unjudged = (read_bundle(COMMITTED / f"{plan}.json") for plan in ("allocations", "allocations_ranking"))
    tables = [report.comparison_table(records, density) for density in report.densities(records)]
    tables += [report.candidates_table(records, unjudged), report.ranking_table(records, unjudged)]
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    for table in tables:
        _, _, *rows = report.as_markdown(table).splitlines()
        assert all(row in text for row in rows)


def test_a_table_in_markdown():
    table = pd.DataFrame({"gap": ["-0.1"], "n": [3]}, ["arm"])
    assert report.as_markdown(table) == "|  | gap | n |\n| --- | --- | --- |\n| arm | −0.1 | 3 |"
