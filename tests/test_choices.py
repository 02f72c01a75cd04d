"""The plan of the choices that may decide who is ahead, and what its report computes."""

from fedtiny_lite.experiments.choices import AS_COMPARED, CHANGES, SEEDS, WEAKENED, planned
from fedtiny_lite.experiments.plans import plan_configs

MORE_ROUNDS, MORE_ADJUSTMENTS = "five times the rounds", "five times the rounds and adjustments"


def test_a_change_alters_its_own_settings_alone(tmp_path):
    runs = planned(tmp_path)
    for cell, config in runs.items():
        usual = runs[cell._replace(change=AS_COMPARED)].identity()
        assert config.identity() == usual | {
            name: value for name, value in CHANGES[cell.change].items() if name in usual
        }


def test_masks_that_stay_have_one_run_for_more_adjustments_and_for_none(tmp_path):
    runs = planned(tmp_path)
    same = {
        cell.arm
        for cell in runs
        if cell.change == MORE_ROUNDS and runs[cell] == runs[cell._replace(change=MORE_ADJUSTMENTS)]
    }
    assert same == {"SynFlow", WEAKENED, "magnitude"}
    assert len(plan_configs("digits_choices", tmp_path)) == len(SEEDS) * (3 * 7 + 3 * 6)


def test_longer_training_adjusts_as_often_at_the_same_rates(tmp_path):
    """Rounds 5 to 35 of 40 instead of 1 to 7 of 8: the cosine of the rate is that of r / adjust_until."""
    for change, every in ((AS_COMPARED, 1), (MORE_ROUNDS, 5)):
        (config,) = {run.own for cell, run in planned(tmp_path).items() if cell[:2] == (change, "FedTiny")}
        until, steps = config.adjust_until, range(config.adjust_every, config.adjust_until, config.adjust_every)
        assert [r / until for r in steps] == [n / 8 for n in range(1, 8)]
        assert config.adjust_every == every
