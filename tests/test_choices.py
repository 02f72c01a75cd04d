"""The plan of the choices that may decide who is ahead, its tables and its figure."""

from dataclasses import replace

import pytest

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments import allocations
from fedtiny_lite.experiments.choices import ARMS, AS_COMPARED, CHANGES, CONTROL, SEEDS, WEAKENED, planned
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.plots.choices import choices_figure
from fedtiny_lite.records.bundles import COMMITTED, read_bundle
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.report import choices as choices_report
from fedtiny_lite.report import claim_tables
from fedtiny_lite.report.choices import WORTH, accuracies, accuracy_table, lead_table, leads, moved, moved_table
from fedtiny_lite.report.claim_tables import final_accuracy
from fedtiny_lite.report.intervals import t_interval

MORE_ROUNDS, MORE_ADJUSTMENTS = "five times the rounds", "five times the rounds and adjustments"


@pytest.fixture(scope="module")
def runs():
    """The runs of the plan, by what each is for, not tuned."""
    return planned()


# --- the plan -------------------------------------------------------------------------------------------------


def test_a_change_alters_its_own_settings_alone(runs):
    for cell, config in runs.items():
        usual = runs[cell._replace(change=AS_COMPARED)].identity()
        changed = {name: value for name, value in CHANGES[cell.change].items() if name in usual}
        assert config.identity() == usual | changed


def test_masks_that_stay_have_one_run_for_more_adjustments_and_for_none(runs, tmp_path):
    more = [cell for cell in runs if cell.change == MORE_ADJUSTMENTS]
    same = {cell.arm for cell in more if runs[cell] == runs[cell._replace(change=MORE_ROUNDS)]}
    assert same == {"SynFlow", WEAKENED, "magnitude"}
    assert len(plan_configs("digits_choices", tmp_path)) == len(SEEDS) * (3 * 7 + 3 * 6)


def test_longer_training_adjusts_as_often_at_the_same_rates(runs):
    """Rounds 5 to 35 of 40 instead of 1 to 7 of 8: the cosine of the rate is that of r / adjust_until."""
    for change, every in ((AS_COMPARED, 1), (MORE_ROUNDS, 5)):
        (own,) = {config.own for cell, config in runs.items() if (cell.change, cell.arm) == (change, "FedTiny")}
        adjusting = range(own.adjust_every, own.adjust_until, own.adjust_every)
        assert [r / own.adjust_until for r in adjusting] == [n / 8 for n in range(1, 8)]
        assert own.adjust_every == every


# --- what its report computes ---------------------------------------------------------------------------------


def record(config, accuracy):
    """A finished run, as small as the report reads it."""
    return {"config": config.identity(), "final": {"test_accuracy": accuracy}, "complete": True}


def reached(cell):
    """An accuracy that a person can follow: FedTiny gains 0.2 by more rounds, every other arm 0.1."""
    ours = cell.arm == "FedTiny"
    late = cell.change in (MORE_ROUNDS, MORE_ADJUSTMENTS)
    return 0.5 - 0.1 * ours + (0.2 if ours else 0.1) * late + 0.001 * ours * (cell.seed - SEEDS[0])


@pytest.fixture(scope="module")
def found(runs):
    return accuracies([record(config, reached(cell)) for cell, config in runs.items() if cell.seed < SEEDS[3]])


def test_leads_are_paired_by_seed(found):
    assert leads(found, AS_COMPARED)["SynFlow"] == pytest.approx([-0.1, -0.099, -0.098])
    assert leads(found, MORE_ROUNDS)["magnitude"] == pytest.approx([0.0, 0.001, 0.002])
    assert set(leads(found, MORE_ROUNDS)) == {CONTROL, "SynFlow", WEAKENED, "FedMef", "magnitude"}


def test_what_a_change_moves_is_the_lead_under_it_minus_the_lead_as_compared(found):
    assert moved(found, MORE_ROUNDS)["FedMef"] == pytest.approx([0.1, 0.1, 0.1])
    assert moved(found, "five local epochs")["FedMef"] == pytest.approx([0, 0, 0])
    assert moved_table(found).loc[MORE_ROUNDS, "over FedMef"] == "**+0.100 [+0.100, +0.100]**"


def test_a_lead_is_paired_by_seed_where_runs_are_missing(runs):
    """FedTiny has seeds 6000 to 6002 and magnitude 6001 and 6002, the later one first."""
    reached = {("FedTiny", 6000): 0.9, ("FedTiny", 6001): 0.5, ("FedTiny", 6002): 0.7}
    reached |= {("magnitude", 6002): 0.4, ("magnitude", 6001): 0.45}
    found = accuracies([record(runs[AS_COMPARED, *cell], accuracy) for cell, accuracy in reached.items()])
    assert leads(found, AS_COMPARED)["magnitude"] == pytest.approx([0.05, 0.3])
    assert leads(found, AS_COMPARED)["SynFlow"] == []
    assert accuracy_table(found).loc[AS_COMPARED, "SynFlow"] == "-"
    assert len(moved_table(found)) == 0


def test_a_run_counts_for_its_arm_whatever_its_tuning_chose(runs):
    tuned = replace(runs[AS_COMPARED, "magnitude", 6000], lr=0.35)
    assert accuracies([record(tuned, 0.25)])[AS_COMPARED]["magnitude"] == {6000: 0.25}


def test_the_plan_takes_the_settings_that_the_tuning_chose(monkeypatch, tmp_path):
    monkeypatch.setattr(allocations, "tuned", lambda out: {name: {**arm, "lr": 0.3} for name, arm in ARMS.items()})
    assert {config.lr for config in plan_configs("digits_choices", tmp_path)} == {0.3}


def test_what_a_choice_is_worth_is_the_arm_with_it_minus_the_arm_without_it(runs):
    reached = {"FedTiny": 0.2, CONTROL: 0.7, "SynFlow": 0.6, WEAKENED: 0.5}
    found = accuracies([record(runs[AS_COMPARED, arm, 6000], accuracy) for arm, accuracy in reached.items()])
    assert lead_table(found, WORTH).loc[AS_COMPARED].tolist() == ["+0.100", "+0.500", "+0.100"]


def test_a_move_is_sure_only_after_the_correction_for_all_that_are_planned(runs):
    """By 0.1 and 0.103 in two seeds: p = 0.009, not sure of thirty. By 0.1 and 0.0999: p = 0.0003, sure."""
    for step, mark in ((0.003, ""), (-0.0001, "**")):
        records = []
        for arm, seed in ((arm, seed) for arm in ("FedTiny", "magnitude") for seed in (6000, 6001)):
            gain = (0.1 + step * (seed - 6000)) * (arm == "FedTiny")
            records += [record(runs[AS_COMPARED, arm, seed], 0.5), record(runs[MORE_ROUNDS, arm, seed], 0.5 + gain)]
        cell = moved_table(accuracies(records)).loc[MORE_ROUNDS, "over magnitude"]
        assert cell.startswith(f"{mark}+0.1") and cell.endswith(f"]{mark}")


def test_the_figure_has_a_panel_for_each_other_arm_and_a_row_for_each_change(found):
    fig = choices_figure(found)
    assert [ax.get_title().replace("\n", " ") for ax in fig.axes] == [
        f"minus {arm}" for arm in leads(found, AS_COMPARED)
    ]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == list(CHANGES)


@pytest.mark.parametrize(("module", "row"), [(choices_report, "five local epochs"), (claim_tables, "FedTiny")])
def test_the_tables_of_the_documentation_are_printed_from_committed_records(module, row, capsys, monkeypatch, tmp_path):
    """Where no records of one's own are, each table has its heading, a line of dashes and its rows."""
    monkeypatch.chdir(tmp_path)
    module.main()
    tables = capsys.readouterr().out.split("\n\n")[1:]
    assert len(tables) >= 2
    for table in tables:
        title, head, dashes, *rows = table.strip().splitlines()
        assert not title.startswith("|") and set(dashes) == set("| -")
        assert any(line.startswith(f"| {row} |") for line in rows)
        assert {line.count("|") for line in (head, dashes, *rows)} == {head.count("|")}


def test_leads_over_magnitude_of_other_seeds_are_as_the_page_says():
    """Digits, density 0.01, each method at its tuned rate: plans that differ in nothing but their seeds."""
    accuracy = {}  # plan -> method -> settings but for the seed -> seed -> accuracy
    for plan in ("digits", "digits_choices", "allocations"):
        for record in read_bundle(COMMITTED / f"{plan}.json"):
            config = make_config({}, **record["config"])
            if config.method in ("fedtiny", "magnitude") and config.density == 0.01:
                of_plan = accuracy.setdefault(plan, {"fedtiny": {}, "magnitude": {}})[config.method]
                of_plan.setdefault(replace(config, seed=0), {})[config.seed] = final_accuracy(record)
    ours, theirs = (next(iter(accuracy["digits"][method])) for method in ("fedtiny", "magnitude"))
    leads = []
    for found in accuracy.values():
        one, other = found["fedtiny"][ours], found["magnitude"][theirs]
        leads.append([one[seed] - other[seed] for seed in one])
    assert [len(some) for some in leads] == [10, 20, 20]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for some in (*leads[1:], [lead for of_plan in leads for lead in of_plan]):
        mean, low, high = t_interval(some)
        assert f"{mean:.3f} [{low:.3f}, {high:.3f}]" in page
