"""The plan of the choices that may decide who is ahead, its tables and its figure."""

import pytest

from fedtiny_lite.experiments.choices import AS_COMPARED, CHANGES, CONTROL, SEEDS, WEAKENED, planned
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.plots.choices import choices_figure
from fedtiny_lite.report.choices import accuracies, accuracy_table, leads, moved, moved_table

MORE_ROUNDS, MORE_ADJUSTMENTS = "five times the rounds", "five times the rounds and adjustments"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The runs of the plan, by what each is for."""
    return planned(tmp_path_factory.mktemp("results"))


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
def found(runs, tmp_path_factory):
    records = [record(config, reached(cell)) for cell, config in runs.items() if cell.seed < SEEDS[3]]
    return accuracies(records, tmp_path_factory.mktemp("results"))


def test_leads_are_paired_by_seed(found):
    assert leads(found, AS_COMPARED)["SynFlow"] == pytest.approx([-0.1, -0.099, -0.098])
    assert leads(found, MORE_ROUNDS)["magnitude"] == pytest.approx([0.0, 0.001, 0.002])
    assert set(leads(found, MORE_ROUNDS)) == {CONTROL, "SynFlow", WEAKENED, "FedMef", "magnitude"}


def test_what_a_change_moves_is_the_lead_under_it_minus_the_lead_as_compared(found):
    assert moved(found, MORE_ROUNDS)["FedMef"] == pytest.approx([0.1, 0.1, 0.1])
    assert moved(found, "five local epochs")["FedMef"] == pytest.approx([0, 0, 0])
    assert moved_table(found).loc[MORE_ROUNDS, "over FedMef"] == "**+0.100 [+0.100, +0.100]**"


def test_a_run_that_is_missing_leaves_its_seed_out(runs, tmp_path):
    """Nothing has run but two seeds of FedTiny and one of magnitude."""
    of = {cell: config for cell, config in runs.items() if cell.change == AS_COMPARED}
    some = [record(of[AS_COMPARED, *cell], 0.5) for cell in (("FedTiny", 6000), ("FedTiny", 6001), ("magnitude", 6001))]
    found = accuracies(some, tmp_path)
    assert leads(found, AS_COMPARED)["magnitude"] == [0.0]
    assert leads(found, AS_COMPARED)["SynFlow"] == []
    assert accuracy_table(found).loc[AS_COMPARED, "SynFlow"] == "-"
    assert len(moved_table(found)) == 0


def test_the_figure_has_a_panel_for_each_other_arm_and_a_row_for_each_change(found):
    fig = choices_figure(found)
    assert [ax.get_title().replace("\n", " ") for ax in fig.axes] == [
        f"minus {arm}" for arm in leads(found, AS_COMPARED)
    ]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == list(CHANGES)
