"""Sixty rounds in place of twenty and a CPU in place of a GPU, on records made by hand."""

from fedtiny_lite.experiments.claim import ROUNDS
from fedtiny_lite.report.claim_checks import ablated_pairs, control_table, devices_table, modules_table, pilot_table
from tests.helpers import claim_record


def test_the_pilot_shows_a_lead_that_turns_with_more_rounds():
    """FedTiny: 0.3 in rounds 1 to 20, then 0.6; SNIP: always 0.5. A run that diverged counts as a guess, 0.1.

    Differences in the main table: -0.1 and 0, so s = 0.0707.
    """

    def long(arm: str, accuracies: list[float], seed: int = 100) -> dict:
        record = claim_record(arm, [0.1, *accuracies], 1, seed)
        rounds = [entry | {"validation_accuracy": entry["test_accuracy"]} for entry in record["rounds"]]
        return record | {"rounds": rounds}

    runs = [long("SNIP", [0.5] * 60), long("FedTiny", [0.3] * 20 + [0.6] * 40), long("GraSP", [0.9] * 19)]
    main = [claim_record(arm, [0.1, 0.1 * k], 1, k) for k, arm in enumerate(["FedTiny", "FedTiny"])]
    main += [claim_record("SNIP", [0.1, 0.1], 1, seed) for seed in (0, 1)]
    table = pilot_table(runs, main)
    assert list(table.index) == ["FedTiny", "SNIP", "GraSP"]
    assert table.loc["SNIP"].tolist() == [1, "0.500", "0.500", "-0.200", "+0.100", "+0.300", "0.141"]
    assert table.loc["FedTiny"].tolist() == [1, "0.300", "0.600", "-", "-", "-", "-"]
    assert table.loc["GraSP", "after 20 rounds"] == "0.100" and table.loc["GraSP", "twice s"] == "-"
    assert len(pilot_table([], [])) == 0


def test_devices_are_compared_by_runs_that_differ_in_nothing_else():
    """Seeds 10 and 11 on both: 0.5 and 0.4 on the CPU, 0.4 and 0.2 on the GPU. Other settings are no pair."""

    def run(accuracy: float, seed: int, device: str, **settings) -> dict:
        return claim_record("random", [0.1] + [accuracy] * ROUNDS, 1, seed, torch_device=device, **settings)

    on_cpu = [run(0.5, 10, "cpu"), run(0.4, 11, "cpu"), run(0.9, 12, "cpu")]
    main = [run(0.4, 10, "cuda"), run(0.2, 11, "cuda"), run(0.1, 12, "cuda", density=0.04), run(0.1, 12, "cpu")]
    table = devices_table(on_cpu, main)
    assert table.loc["random", "seeds"] == 2
    assert table.loc["random", "CPU minus GPU"] == "+0.150 [-0.485, +0.785]"  # 12.706 x 0.0707 / sqrt(2)
    assert len(devices_table([], main)) == len(devices_table(on_cpu, [])) == 0


def lean(accuracy: float, seed: int, **settings) -> dict:
    return claim_record("FedTiny", [0.1, accuracy], 1, seed, **settings)


def test_without_a_module_only_runs_of_the_tables_setting_count():
    """FedTiny 0.5 and 0.4, without selection 0.3 and 0.4: leads of 0.2 and 0. Another partition is no such run."""
    ablated = [lean(0.3, 10, selection="fixed"), lean(0.4, 11, selection="fixed"), lean(0.9, 10, alpha=5.0)]
    ablated += [lean(0.9, 10, selection="fixed", alpha=5.0), lean(0.6, 10, selection="fixed", progressive="no")]
    table = modules_table(ablated, [lean(0.5, 10), lean(0.4, 11), lean(0.9, 11, density=0.04)])
    assert table["seeds"].tolist() == [2, 0, 1]
    assert table.loc["without selection", "FedTiny minus it"] == "+0.100 [-1.171, +1.371]"  # 12.706 x 0.1414 / sqrt(2)
    assert table.loc["without both", "FedTiny minus it"] == "-0.100"


def test_a_module_is_judged_on_one_kind_of_device_where_both_ran_on_it():
    whole = [lean(0.5, 10, torch_device="cuda"), lean(0.4, 10, torch_device="cpu"), lean(0.7, 11, torch_device="cuda")]
    ablated = [lean(0.3, seed, progressive="no", torch_device="cpu") for seed in (10, 11)]
    assert [ours["config"]["torch_device"] for ours, _ in ablated_pairs({"progressive": "no"}, ablated, whole)] == [
        *("cpu", "cuda")
    ]


def test_under_a_control_a_lead_stands_beside_that_of_the_main_table_on_the_same_seeds():
    """Seeds 10 and 11 at alpha 5: FedTiny 0.6 and 0.7, random 0.5 and 0.3, so +0.1 and +0.4. At 0.5 it is behind by 0.1
    and 0.2. So the lead grows by 0.2 and 0.6. Seed 12, SNIP and a distorted server set are no part of it.
    """

    def run(arm: str, accuracy: float, seed: int, **settings) -> dict:
        return claim_record(arm, [0.1, accuracy], 1, seed, **settings)

    ablated = [run("FedTiny", 0.6, 10, alpha=5.0), run("FedTiny", 0.7, 11, alpha=5.0)]
    ablated += [run("random", 0.5, 10, alpha=5.0), run("random", 0.3, 11, alpha=5.0)]
    ablated += [run("random", 0.9, 10, server_set="distorted"), run("FedTiny", 0.9, 10, selection="fixed")]
    main = [run("FedTiny", accuracy, seed) for seed, accuracy in ((10, 0.3), (11, 0.2), (12, 0.9))]
    main += [run("random", 0.4, seed) for seed in (10, 11, 12)]
    table = control_table({"alpha": 5.0}, ablated, [*main, run("SNIP", 0.9, 10)])
    assert list(table.index) == ["FedTiny", "random"] and table["seeds"].tolist() == [2, 2]
    assert [cell.split(" ")[0] for cell in table.loc["random"][1:]] == ["0.400", "0.400", "+0.250", "-0.150", "+0.400"]
    assert table.loc["random", "change"] == "+0.400 [-2.141, +2.941]"  # 12.706 x 0.2828 / sqrt(2)
    assert [cell.split(" ")[0] for cell in table.loc["FedTiny"][1:]] == ["0.650", "0.250", "-", "-", "-"]
    assert len(control_table({"alpha": 0.1}, ablated, main)) == 0
