"""Rankings: what judges said before training, beside what became of the candidates."""

import numpy as np
import pytest

from fedtiny_lite.experiments.plans import RANKING_JUDGES, RANKING_SEEDS, plan_configs
from fedtiny_lite.report.ranking import ranking_claims, rankings


def recorded(config, losses, accuracy):
    """What is read of a run: a judge's losses, or a candidate's accuracy."""
    judged = config.own.selection != "fixed"
    prelude = [{"selection": {"losses": losses}}] if judged else []
    final = {"test_accuracy": 0.0 if judged else accuracy[config.own.candidate]}
    return {"config": config.identity(), "prelude": prelude, "final": final}


@pytest.fixture(scope="module")
def found():
    """Candidate c ends at accuracy c / 10. Vanilla judges reverse, the others in order; candidate 9 is best."""
    accuracy = [c / 10 for c in range(10)]
    up, down = [float(9 - c) for c in range(10)], [float(c) for c in range(10)]
    configs = plan_configs("digits_ranking", "nowhere")
    return rankings([recorded(c, down if c.own.selection == "vanilla" else up, accuracy) for c in configs])


def test_a_ranking_holds_each_seed_once(found):
    assert {kind: tuple(ranking.seeds) for kind, ranking in found.items()} == RANKING_SEEDS
    for kind, ranking in found.items():
        assert ranking.accuracy.shape == (len(RANKING_SEEDS[kind]), 10)
        assert {judge: table.shape for judge, table in ranking.losses.items()} == dict.fromkeys(
            RANKING_JUDGES, ranking.accuracy.shape
        )


def test_correlation_is_one_in_order_and_minus_one_reversed(found):
    assert found["distorted"].correlations["adaptive"] == pytest.approx([1] * 10)
    assert found["distorted"].correlations["vanilla"] == pytest.approx([-1] * 10)


def test_gain_is_over_the_mean_of_the_pool(found):
    assert np.allclose(found["as_clients"].gains["adaptive"], 0.9 - 0.45)
    assert np.allclose(found["as_clients"].gains["vanilla"], 0.0 - 0.45)


def test_claims_are_numbers_of_each_seed(found):
    numbers = ranking_claims(found)
    assert numbers["02-adaptive-beats-vanilla"] == pytest.approx([2] * 10)
    assert numbers["02-control-server-only"] == pytest.approx([0] * 3)
