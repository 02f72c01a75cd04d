"""FedTiny against each arm at equal rounds, FLOPs and time, on records made by hand."""

import pandas as pd
import pytest

from fedtiny_lite.experiments.claim import WIDE
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.report import claim_checks, claim_tables
from fedtiny_lite.report.claim_costs import flops, total_flops
from fedtiny_lite.report.claim_tables import (
    claim_table,
    gaps_at_equal,
    gaps_at_equal_rounds,
    main_table,
    rates_table,
    resolution_table,
    runs_at,
    wide_table,
)
from fedtiny_lite.report.text import as_markdown, with_interval
from tests.helpers import claim_record


def test_an_arm_that_costs_twice_as_much_stops_half_way():
    """It rises by 0.04 in a round, FedTiny by 0.03, and after twenty rounds of FedTiny's it has done ten.

    The last five rounds of twenty: 0.82 on the mean against 0.64. The last two of ten, a quarter: 0.48 against 0.64.
    """
    runs = runs_at(
        [
            claim_record("FedTiny", [0.1 + 0.03 * r for r in range(21)], 10),
            claim_record("SynFlow", [0.1 + 0.04 * r for r in range(21)], 20),
        ],
        0.012,
    )
    assert total_flops(runs["SynFlow"][10]) == 400
    assert gaps_at_equal_rounds(runs, "SynFlow") == [pytest.approx(0.64 - 0.82)]
    assert gaps_at_equal(flops, runs, "SynFlow") == [pytest.approx(0.64 - 0.48)]


def test_where_no_round_of_the_costlier_run_fits_nothing_is_compared():
    """In one of two seeds the other run spends 50 FLOPs before its first round, as much as FedTiny in all."""
    rows = [claim_record("FedTiny", [0.1, 0.5, 0.5], 25, seed) for seed in (10, 11)]
    rows += [claim_record("PruneFL", [0.1, 0.4, 0.4], 20, seed, before=before) for seed, before in ((10, 50), (11, 30))]
    assert gaps_at_equal(flops, runs_at(rows, 0.012), "PruneFL") == [pytest.approx(0.1)]


def test_the_table_says_of_how_many_pairs_an_equal_budget_is():
    """PruneFL spends before its first round what FedTiny spends in all: in one of two seeds, then in both."""
    rows = [claim_record("FedTiny", [0.1, 0.5, 0.5], 25, seed) for seed in (10, 11)]
    some = [claim_record("PruneFL", [0.1, 0.4, 0.4], 20, seed, before=before) for seed, before in ((10, 50), (11, 30))]
    none = [claim_record("PruneFL", [0.1, 0.4, 0.4], 20, seed, before=50) for seed in (10, 11)]
    cells = [claim_table(runs_at(rows + other, 0.012)).loc["PruneFL", "at equal FLOPs"] for other in (some, none)]
    assert cells == ["+0.100 (n = 1)", "no pair"]


def test_a_time_that_nobody_measured_is_left_out():
    """No step of seeds 98 and 99 was timed."""
    rows = [claim_record(arm, [0.1, 0.5, 0.5], 25, seed) for arm in ("FedTiny", "SNIP") for seed in (98, 99)]
    found = claim_table(runs_at(rows, 0.012)).loc["SNIP"]
    assert found["at equal FLOPs"] == "+0.000 [+0.000, +0.000]"
    assert found["at equal time"] == found["time / FedTiny's"] == "-"


def test_a_run_that_diverged_is_a_guess_at_equal_rounds_and_of_no_known_cost():
    """SNIP ends with 0.4 in one seed and diverges in the other, there after one round, and once before any."""
    rows = [claim_record("FedTiny", [0.1, 0.5, 0.5], 10, seed) for seed in (10, 11)]
    rows.append(claim_record("SNIP", [0.1, 0.4, 0.4], 30, 10))
    stopped = claim_record("SNIP", [0.1, 0.4], 30, 11, complete=False)
    for diverged in (stopped, stopped | {"start": {}, "rounds": []}):
        for order in ([*rows, diverged], [diverged, *rows]):
            found = claim_table(runs_at(order, 0.012)).loc["SNIP"]
            assert found["accuracy"].startswith("0.250 [") and found["FedTiny minus it"].startswith("+0.250 [")
            assert found["FLOPs / FedTiny's"] == "3.00" and found["model density"] == "0.0100"
            assert found["at equal FLOPs"].endswith("no pair")


def test_the_density_of_an_arm_is_the_mean_of_its_runs():
    rows = [claim_record("FedTiny", [0.1, 0.5], 1, seed) for seed in (10, 11)]
    rows[0]["rounds"][-1]["model_density"] = 0.03
    assert claim_table(runs_at(rows, 0.012)).loc["FedTiny", "model density"] == "0.0200"


def test_what_a_lead_must_exceed_follows_from_the_scatter_so_far():
    """Differences 0.1 and 0.3: s = 0.1414; over two seeds t = 12.706, so 12.706 s / √2 = 1.2706."""
    runs = runs_at(
        [claim_record("FedTiny", [0.1, 0.5 + 0.2 * seed], 1, seed=seed) for seed in (0, 1)]
        + [claim_record("SNIP", [0.1, 0.4], 1, seed=seed) for seed in (0, 1)],
        0.012,
    )
    table = resolution_table(runs, (2, 8))
    assert table.loc["SNIP", 2] == pytest.approx(1.2706, abs=1e-3)
    assert table.loc["SNIP", 8] == pytest.approx(2.3646 * 0.1414 / 8**0.5, abs=1e-3)


def test_only_seeds_of_both_are_compared_and_only_at_the_density():
    runs = runs_at(
        [
            claim_record("FedTiny", [0.1, 0.5], 1, seed=10),
            claim_record("FedTiny", [0.1, 0.6], 1, seed=11),
            claim_record("SNIP", [0.1, 0.4], 1, seed=11),
        ],
        0.012,
    )
    assert gaps_at_equal_rounds(runs, "SNIP") == [pytest.approx(0.2)]
    assert runs_at([claim_record("SNIP", [0.1], 1)], 0.04) == {}
    assert list(runs_at([claim_record("FedAvg", [0.1], 1)], 0.04)) == ["FedAvg"]


def many(arm: str, accuracies: list[float]) -> list[dict]:
    return [claim_record(arm, [0.1, accuracy], 1, seed) for seed, accuracy in enumerate(accuracies)]


def test_the_table_puts_the_most_accurate_first_and_a_diverged_run_at_a_guess():
    rows = [*many("FedTiny", [0.5, 0.52]), *many("SNIP", [0.6, 0.61]), *many("FedAvg", [0.8, 0.8])]
    rows += [claim_record("GraSP", [0.1, 0.3], 1, seed, complete=False) for seed in (0, 1)]
    table = claim_table(runs_at(rows, 0.012))
    assert list(table.index) == ["FedAvg", "SNIP", "FedTiny", "GraSP"]
    assert table.loc["GraSP", "accuracy"] == "0.100 [0.100, 0.100]"
    assert table.loc["FedAvg", "p (Holm)"] == "-"


def test_rivals_without_runs_count_in_the_correction():
    """Differences of 0.02 and 0.03: t = 5, one degree of freedom, p = 0.1257, times the eleven rivals of the plan."""
    runs = runs_at([*many("FedTiny", [0.52, 0.53]), *many("SNIP", [0.5, 0.5])], 0.012)
    assert claim_table(runs).loc["SNIP", "p (Holm)"] == "1.000"
    surely = runs_at([*many("FedTiny", [0.6, 0.6001]), *many("SNIP", [0.5, 0.5])], 0.012)
    assert claim_table(surely).loc["SNIP", "p (Holm)"] == "0.003"  # 11 x 0.000318


def test_at_width_64_three_rivals_count_in_the_correction():
    rows = [
        claim_record(arm, [0.1, accuracy], 1, seed, **WIDE)
        for arm, accuracies in {"FedTiny": (0.6, 0.6001), "SNIP": (0.5, 0.5)}.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    assert wide_table(rows).loc["SNIP", "p (Holm)"] == "0.001"  # 3 x 0.000318
    assert wide_table([]).empty


def test_tables_of_no_runs_and_of_runs_without_fedtiny():
    assert len(main_table([])) == len(rates_table([])) == len(main_table(many("FedAvg", [0.5]))) == 0
    table = main_table(many("SNIP", [0.5]))
    assert list(table.index) == [(0.012, "SNIP")]
    assert table.loc[(0.012, "SNIP"), ["accuracy", "FedTiny minus it", "FLOPs / FedTiny's"]].tolist() == [
        *("0.500", "-", "-")
    ]


def test_fedtiny_alone_is_compared_with_nothing():
    table = claim_table(runs_at(many("FedTiny", [0.3, 0.4]), 0.012))
    assert set(table.loc["FedTiny", ["FedTiny minus it", "p (Holm)", "at equal FLOPs", "at equal time"]]) == {"-"}


def test_the_page_shows_what_the_commands_print(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where nobody has made runs
    claim_tables.main()
    claim_checks.main()
    page = (ROOT / "docs" / "resnet18.md").read_text(encoding="utf-8")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row for row in rows if row not in page] == []
    names = {row.split(" | ")[0] for row in rows} - {"| "}
    assert [line for line in page.splitlines() if line.split(" | ")[0] in names and line not in rows] == []


def test_a_table_as_the_documentation_has_it():
    table = pd.DataFrame({"seeds": [3, 2], "lead": ["-0.045 [-1.149, +0.058]", "-"]}, ["FL-PQSU", "GraSP"])
    assert as_markdown(table).splitlines() == [
        "|  | seeds | lead |",
        "| --- | --- | --- |",
        "| FL-PQSU | 3 | −0.045 [−1.149, +0.058] |",
        "| GraSP | 2 | - |",
    ]


def test_an_interval_in_one_cell():
    assert with_interval([]) == "-" and with_interval([0.25]) == "0.250"
    assert with_interval([0.1, 0.2, 0.3], "+") == "+0.200 [-0.048, +0.448]"


def test_tuning_in_a_table_names_arms_rates_and_work():
    def tried(arm: str, rate: float, accuracy: float, flops: int) -> dict:
        found = claim_record(arm, [0.1] * 4, flops)
        rounds = [entry | {"validation_accuracy": accuracy} for entry in found["rounds"]]
        return found | {"config": found["config"] | {"lr": rate}, "rounds": rounds}

    rows = [tried("SNIP", 0.1, 0.25, 30), tried("FedTiny", 0.05, 0.5, 10), tried("FedTiny", 0.1, 0.75, 10)]
    table = rates_table(rows)
    assert list(table.index) == ["FedTiny", "SNIP"] and list(table.columns) == [0.05, 0.1, "FLOPs / FedTiny's"]
    assert table.loc["FedTiny"].tolist() == [0.5, 0.75, 1.0]
    assert table.loc["SNIP", 0.1] == 0.25 and table.loc["SNIP", "FLOPs / FedTiny's"] == 3.0
