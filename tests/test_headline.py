"""The paper's headline by formula: ResNet18 of width 64 at density 0.01."""

import pytest

from fedtiny_lite.experiments.counted import dense_state, paper_model
from fedtiny_lite.experiments.headline import PAPER, headline
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.files import ROOT, read_json
from fedtiny_lite.report.exchanges import run_flops


def test_shares_of_the_dense_model_worked_by_hand_in_the_cost_model():
    """F_s / F_d = 0.01315; PruneFL's round costs (2 F_s + F_d) / 3 F_d, its memory is (1 + 2 d) / 2 of dense."""
    shares = headline(0.01, 395)
    static = shares.loc["uniform static mask", "FLOPs"]
    assert static == pytest.approx(0.01315, abs=1e-5)
    assert shares.loc["PruneFL", "FLOPs"] == pytest.approx((2 * static + 1) / 3)
    assert shares.loc["PruneFL", "memory"] == pytest.approx(0.51, abs=0.002)
    assert shares.loc["FedTiny", "FLOPs"] == pytest.approx(0.01336, abs=1e-5)
    assert (shares.loc["uniform static mask"] < shares.loc["FedTiny"]).all()


def test_fedtiny_holds_its_longest_growth_list_beside_the_static_model():
    """layer4 and the last layer: 0.3 of 11,796 + 3 x 23,592 + 1,310 + 51 kept weights, each layer's rounded down."""
    entries = 3538 + 3 * 7077 + 393 + 15
    shares = headline(0.01, 395)["memory"]
    held = (shares["FedTiny"] - shares["uniform static mask"]) * dense_state(paper_model((3, 32, 32), 10))
    assert held == pytest.approx(8 * entries)  # a position and a value of 4 bytes each


def test_a_longer_round_hides_the_growth_batch():
    growth = [headline(0.01, batches).loc["FedTiny", "FLOPs"] - 0.0131464 for batches in (100, 200)]
    assert growth[0] == pytest.approx(2 * growth[1], rel=0.01)


def test_the_formula_of_prunefl_gives_what_the_paper_says():
    found = headline(0.01, 395).loc["PruneFL"].round(2).tolist()
    assert found == PAPER.loc["PruneFL"].tolist()


def test_what_prunefl_spends_before_its_rounds_is_as_the_page_says():
    """Of ten clients one prunes before the rounds; the page states both numbers."""
    costs = read_json(COMMITTED / "client_costs.json")["methods"]
    rounds, before = {}, {}
    for method in ("prunefl", "fedtiny"):
        rounds[method] = run_flops(method, costs[method], 395, 300, 9)
        before[method] = 395 * sum(exchange["flops"] for exchange in costs[method]["prelude"])
    share = before["prunefl"] / rounds["prunefl"]
    saved = 1 - (rounds["fedtiny"] + before["fedtiny"]) / (rounds["prunefl"] + before["prunefl"] / 10)
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"prunes at {share:.2f} times" in page and f"saves **{100 * saved:.0f} %** of what" in page
