"""The comparison of all methods: numbers that a person can check, and what is drawn equals what is recorded."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
from matplotlib.collections import PathCollection

from fedtiny_lite import config as config_module
from fedtiny_lite.config import load_method, make_config
from fedtiny_lite.experiments.plans import ABLATIONS
from fedtiny_lite.experiments.tuning import trials
from fedtiny_lite.plots import comparison as pictures
from fedtiny_lite.plots import runs
from fedtiny_lite.records.bundles import read_bundle, write_bundle
from fedtiny_lite.report import differences, frames, labels, loading, measures, tables, tuning
from fedtiny_lite.report.frames import run_frame

REFERENCES = ("fedavg", "random", "small_model")
STAY = ("fl_pqsu", "grasp", "magnitude", "snip", "ssfl", "synflow")
CHANGE = ("feddst", "fedmef", "fedrts", "fedtiny", "lotteryfl", "prunefl")
METHODS = tuple(sorted((*REFERENCES, *STAY, *CHANGE)))  # without a reader's own
NAMES = [labels.method_label(method).label for method in (*REFERENCES, *STAY, *CHANGE)]


def record(accuracy: float, rounds=2, cost=1.0, before=0.0, **settings) -> dict:
    """A run of two clients, budget 20 of 1,000 weights, 30 of 1,010 parameters: `cost` GFLOP and MB a way and round."""
    entry = {"test_accuracy": accuracy, "prunable_density": 0.02, "model_density": 0.0297, "empty_layers": []}
    entry |= {"bytes_up": cost * 1e6, "bytes_down": cost * 1e6, "training_flops": cost * 1e9, "client_kept": 20}
    totals = {key: entry[key] * rounds for key in ("bytes_up", "bytes_down")}
    prelude = [{"client_kept": 50, "bytes_up": 0, "bytes_down": 0, "training_flops": before * 1e9}] if before else []
    return {
        "run_id": f"{settings.get('method', 'fedtiny')}-{settings.get('seed', 0)}",
        "config": make_config(clients=2, **settings).identity(),
        "data": {},
        "model": {"parameters": 1010, "prunable": {"a": 400, "b": 600}, "budget": 20, "allowed": 30},
        "prelude": prelude,
        "start": dict(entry),
        "rounds": [dict(entry) for _ in range(rounds)],
        "final": entry | totals | {"training_flops": (rounds * cost + before) * 1e9, "validation_accuracy": accuracy},
        "environment": {"cpu": "a processor", "packages": {"torch": "2"}, "commit": "abcdef012345"},
        "complete": True,
    }


def all_methods(densities=(0.05, 0.01), seeds=3) -> list[dict]:
    """Methods in alphabetical order are 0.01 apart; a seed adds 0.1, FedTiny's lead grows by 0.001 with it."""
    return [
        record(0.3 + 0.01 * place + 0.1 * seed + 0.001 * seed * (method == "fedtiny"), **settings)
        for place, method in enumerate(METHODS)
        for density in (densities if method != "fedavg" else (0.02,))
        for seed in range(seeds)
        for settings in [{"method": method, "density": density, "seed": seed}]
    ]


def mine(*found: dict) -> list[dict]:
    """The same runs, of a reader's own method that has one setting of its own and names itself."""
    named = {"label": "My own", "family": "masks that stay"}
    return [run | {"config": run["config"] | {"method": "mine", "my_rate": 0.5}, "method": named} for run in found]


def test_every_method_of_the_comparison_has_a_style_and_a_panel():
    assert list(frames.by_label(run_frame(all_methods()))) == NAMES
    assert len(set(runs.styles(NAMES).values())) == len(NAMES)
    panels = frames.panels(run_frame(all_methods()))
    assert list(panels) == ["masks that stay", "masks that change"]
    assert sorted(name for names in panels.values() for name in names) == sorted([*NAMES, "dense", "FedTiny"])


def test_a_method_of_ones_own_is_compared_too(monkeypatch):
    """Its file is all that it takes: it stands in its panel and in the tables under its own name."""
    own = replace(load_method("magnitude"), label="My own")
    monkeypatch.setattr(config_module, "METHODS", (*config_module.METHODS, "mine"))
    monkeypatch.setitem(sys.modules, "fedtiny_lite.methods.mine", SimpleNamespace(METHOD=own))
    found = mine(*(record(0.5, method="magnitude", seed=seed) for seed in range(2))) + all_methods((0.02,))
    finished = run_frame(found)
    assert "My own" in frames.panels(finished)["masks that stay"]
    left, right = pictures.rounds_figure(finished, 0.02).axes
    assert ["My own" in [line.get_label() for line in ax.lines] for ax in (left, right)] == [True, False]
    assert "My own" in [dots.get_label() for dots in pictures.pareto_figure(finished).axes[0].collections]
    for table in (
        tables.accuracy_table(finished),
        tables.budget_table(finished),
        tables.cost_table(finished).loc[0.02],
    ):
        assert "My own" in table.index
    assert "my_rate" not in tables.same_for_all(found)
    tried = mine(*(record(0.5, method="magnitude", seed=100, lr=settings["lr"]) for settings in trials("mine")))
    assert tuning.tuning_table(tried).loc["My own", ["tried", "taken"]].tolist() == [6, "lr=0.02 (lowest tried)"]


@pytest.mark.parametrize("method", METHODS)
def test_records_without_a_name_are_named_as_the_method_names_itself(method):
    own = load_method(method)
    assert labels.method_label(method) == labels.Label(own.label, own.family)
    assert own.family in labels.FAMILIES


def test_a_record_keeps_the_name_of_its_method_in_a_bundle(tmp_path):
    path = write_bundle(tmp_path / "b.json", "b", [*mine(record(0.5)), record(0.6)])
    own, other = read_bundle(path)
    assert labels.run_label(own).label == "My own" and "method" not in other


# --- numbers ----------------------------------------------------------------------------------------------


def test_differences_against_all_others_in_the_order_of_the_comparison():
    gaps = differences.against_others(frames.by_setting(run_frame(all_methods()), "density")["density 0.01"])
    assert list(gaps) == [name for name in NAMES if name != "FedTiny"]
    apart = METHODS.index("fedtiny") - METHODS.index("random")
    assert gaps["random"] == pytest.approx([0.01 * apart + 0.001 * seed for seed in range(3)])


def test_groups_by_another_setting():
    skewed = [record(0.5, alpha=alpha, method=m) for alpha in (5.0, 0.1) for m in ("fedtiny", "fedavg")]
    groups = frames.by_setting(run_frame(skewed), "alpha")
    assert {title: list(group["label"]) for title, group in groups.items()} == {
        "alpha 0.1": ["FedTiny", "dense"],
        "alpha 5": ["FedTiny", "dense"],
    }


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([0.01, 0.02, 0.03], 0),  # 0.02 -+ 4.303 * 0.01 / sqrt(3) = 0.0248
        ([0.02, 0.03, 0.04], 1),
        ([-0.02, -0.03, -0.04], -1),
        ([0.0, 0.0], 0),
        ([0.4], 0),
    ],
)
def test_verdict(gaps, expected):
    assert differences.verdict(gaps) == expected


def test_ablations_are_paired_with_the_default():
    tuned = {"lr": 0.1}  # what the tuning chose is not an ablation
    found = [record(0.5 + 0.1 * seed, seed=seed, **tuned) for seed in range(2)]
    found += [record(0.4 + 0.1 * seed, seed=seed, granularity="layer", **tuned) for seed in range(2)]
    found += [
        record(accuracy, method="snip", saliency_scope=scope) for scope, accuracy in (("global", 0.2), ("layer", 0.5))
    ]
    gaps = differences.ablations(run_frame(found))
    assert gaps["granularity"]["layer"] == pytest.approx([-0.1, -0.1])
    assert gaps["granularity"]["block (default)"] == [0, 0] and gaps["granularity"]["entire"] == []
    assert gaps["selection × progressive"].keys() == {
        "adaptive, yes (default)",
        "adaptive, no",
        "vanilla, yes",
        "vanilla, no",
    }
    assert gaps["saliency_scope: layer minus global"] == {"SNIP": pytest.approx([0.3])}
    assert sum(map(len, gaps.values())) == len(ABLATIONS) + 1


def test_pareto_front_by_hand():
    points = [(3, 0.7), (1, 0.5), (2, 0.4), (2, 0.6), (4, 0.7), (1, 0.3)]
    assert tables.pareto_front(*zip(*points, strict=True)) == [(1, 0.5), (2, 0.6), (3, 0.7)]


def test_amortised_cost_counts_what_precedes_training():
    # (2 rounds of 1 GFLOP + 3 before) / 2 clients / 2 rounds
    assert measures.spent(record(0.5, before=3.0))["flops_in_all"] == pytest.approx(1.25e9)


def test_budget_shares_by_hand():
    run = record(0.5, rounds=3, before=1.0)
    run["rounds"][1] |= {"client_kept": 30}
    table = tables.budget_table(run_frame([run, record(0.9, method="fedavg")]))
    assert list(table.index) == ["FedTiny"]
    assert dict(table.loc["FedTiny"]) == {
        "before training": 2.5,
        "first round": 1,
        "any round": 1.5,
        "last round": 1,
        "server's model": 1,  # 0.0297 * 1010 = 30
    }
    text = tables.above_budget_lines(table)
    assert "above 1, any round: FedTiny (1.5 times)" in text and "above 1, last round: none" in text


def test_rounds_above_the_budget():
    run = record(0.5, rounds=3, before=1.0)  # 50 of 20 weights before training
    run["rounds"][1] |= {"client_kept": 21}
    assert measures.above_budget(run) == [0, 2]
    assert measures.above_budget(record(0.5)) == []


# --- statistics -------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # p = 0.0008, 0.0202 and 0.0742
    a, b, c = ([0.02 - step, 0.02, 0.02 + step] for step in (0.001, 0.005, 0.01))
    for rows, kept in (
        ({"a": a, "b": b, "c": c}, "3 comparisons: a, d (+0.020); b, d (+0.020)"),  # 3 * 0.0008, 2 * 0.0202, 0.0742
        ({"a": a, "b": b, "c": c, "0": [0, 0, 0], "1": [0.1]}, "3 comparisons: a, d (+0.020); b, d (+0.020)"),
        ({"a": a, "b": b, "c": c, "e": c}, "4 comparisons: a, d (+0.020)"),  # 3 * 0.0202 > 0.05
        ({"c": c}, "1 comparisons: none"),
    ):
        assert differences.after_holm({"d": rows}).endswith(kept)


# --- tables -----------------------------------------------------------------------------------------------


def test_accuracy_table_marks_emptied_layers():
    found = [record(accuracy, seed=seed) for seed, accuracy in enumerate((0.5, 0.7))]
    found[1]["rounds"][0] |= {"empty_layers": ["b.weight"]}
    table = tables.accuracy_table(run_frame(found))
    assert table.loc["FedTiny"].tolist() == ["0.600 ± 0.141 (2)*"]
    assert tables.marks_explained(table) == "*: a run emptied a layer"
    assert tables.emptied_lines(run_frame(found)) == "FedTiny, density 0.02: b in 1 of 2 runs"
    assert tables.emptied_lines(run_frame(found[:1])) == "no run emptied a layer"


def test_accuracy_table_marks_budgets_and_ends_of_the_grid():
    found = [record(0.5, before=1.0), record(0.5, method="random"), record(0.5, before=1.0, method="fedavg")]
    table = tables.accuracy_table(run_frame(found), {"random": "lowest tried"})
    assert list(table.index) == ["dense", "random ‡", "FedTiny †"]
    assert [line[:2] for line in tables.marks_explained(table).splitlines()] == ["†:", "‡:"]


def test_shares_count_what_precedes_training():
    # dense: 2 rounds of 1 GFLOP and 1 MB a way; FedTiny: 2 of 0.1 and 0.4 before
    found = [record(0.9, method="fedavg"), record(0.5, cost=0.1, before=0.4)]
    table = tables.cost_table(run_frame(found))[["of dense", "FLOPs in all", "bytes in all"]]
    assert table.loc[0.02].to_dict("index") == {
        "dense": {"of dense": 1, "FLOPs in all": 1, "bytes in all": 1},
        "FedTiny": {"of dense": 0.1, "FLOPs in all": 0.3, "bytes in all": 0.1},
    }


def test_what_the_records_say_is_the_same_for_all():
    found = [record(0.5, seed=seed, method=method) for seed in range(2) for method in ("fedtiny", "random")]
    for run in found:
        run["data"] |= {"fingerprint": "f", "label_distance": run["config"]["seed"] / 2}
    text = tables.same_for_all(found)
    assert "differ: method, seed; in no other" in text and "(by fingerprint): 1; rounds finished: [2]" in text
    assert "seeds: 2; partitions within a seed (by skew, sizes and redraws): 1" in text
    found[0]["data"] |= {"label_distance": 0.7}
    assert tables.same_for_all(found).endswith(": 2")


def test_differences_as_text():
    table = differences.differences_table({"d": {"a": [0.02, 0.03, 0.04], "b": [0.1]}})
    assert table.to_dict() == {"d": {"a": "+0.030 ± 0.025 (3/3)", "b": "-"}}


def test_words_name_each_other_method_once():
    [line] = differences.in_words({"density 0.01": frames.at_density(run_frame(all_methods()), 0.01)}).splitlines()
    assert line.startswith("density 0.01: FedTiny is ahead of ")
    for name in NAMES:
        assert line.count(name) == 1
    ahead, behind, open_ = line.split("; ")
    assert "FedMef" in ahead and "random" in behind and open_ == "not told apart from none"


def test_tuning_table_shows_the_choice_and_flags_the_end_of_the_grid():
    found = [
        record(0.5 + settings["lr"], method=method, seed=100, **settings)
        for method in METHODS
        for settings in trials(method)
    ]
    table = tuning.tuning_table(found)
    assert list(table.index) == NAMES
    assert table.loc["dense"].tolist() == [6, "lr=0.14 (highest tried)", 0.64, "0.520 … 0.600"]
    assert tuning.grid_ends(found) == dict.fromkeys(NAMES, "highest tried")
    assert table.loc["PruneFL", "taken"] == "lr=0.1 (highest tried), adjust_rate=0.3"  # the rate, not the knob


def test_personal_accuracy_beside_the_global_one():
    found = [record(0.5, method="lotteryfl", seed=seed) for seed in range(2)]
    for seed, run in enumerate(found):
        run["final"] |= {"personal_accuracy": 0.6 + 0.2 * seed}
    [row] = tables.personal_table(run_frame(found)).itertuples()  # 12.706 * 0.1414 / sqrt(2) = 1.271
    assert tuple(row) == ("density 0.02", "0.500 ± 0.000 (2)", "0.700 ± 0.141 (2)", "+0.200 ± 1.271 (2/2)")


# --- loading ----------------------------------------------------------------------------------------------


def test_a_plan_that_was_not_run_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr("fedtiny_lite.records.bundles.COMMITTED", tmp_path / "none")
    found = loading.load("digits", tmp_path)
    assert (len(found.runs), found.records) == (0, []) and "sweep digits" in found.sentence


def test_diverged_runs_are_named_and_kept_apart(tmp_path):
    stopped = record(0.5, seed=1) | {"complete": False, "stopped": "in round 1", "final": {}}
    write_bundle(tmp_path / "plans" / "digits.json", "digits", [record(0.5), stopped])
    found = loading.load("digits", tmp_path)
    assert [len(found.runs), len(found.records)] == [1, 2]
    assert "a processor" in found.sentence and "diverged, so not among the finished runs: fedtiny-1" in found.sentence


# --- figures ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished():
    return run_frame(all_methods())


def test_rounds_and_densities_have_a_panel_per_family(finished):
    panels = frames.panels(finished)
    for fig in (pictures.rounds_figure(finished, 0.01), runs.accuracy_over_density(finished, 60, panels)):
        assert [ax.get_title() for ax in fig.axes] == list(panels)
        for ax, names in zip(fig.axes, panels.values(), strict=True):
            assert [line.get_label() for line in ax.lines] == names
        [legend] = fig.legends
        assert len(legend.get_texts()) == len(METHODS)


def test_crosses_show_when_an_arm_was_above_its_budget():
    found = [record(0.5, method="lotteryfl", seed=seed) for seed in range(2)] + [record(0.9, method="fedavg")]
    found[0]["rounds"][0] |= {"client_kept": 21, "test_accuracy": 0.7}
    fig = pictures.rounds_figure(run_frame(found), 0.02)
    crosses = [dots.get_offsets().tolist() for dots in fig.axes[1].collections if isinstance(dots, PathCollection)]
    assert crosses == [[[1, pytest.approx(0.6)]]]
    assert "×: a client held more weights than its budget" in fig.texts[-1].get_text()


def test_the_denser_a_point_the_larger(finished):
    left = pictures.pareto_figure(finished).axes[0]
    sizes = {dot.get_label(): [] for dot in left.collections}
    for dot in left.collections:
        sizes[dot.get_label()] += dot.get_sizes().tolist()
    assert sizes.pop("dense") == [48] and set(map(tuple, sizes.values())) == {(16, 32)}


def test_runs_that_emptied_a_layer_are_hollow():
    found = [record(0.5, seed=0), record(0.6, seed=1)]
    found[1]["rounds"][-1] |= {"empty_layers": ["a.weight"]}
    fig = runs.accuracy_over_density(run_frame(found))
    dots = [dot for dot in fig.axes[0].collections if hasattr(dot, "get_sizes") and len(dot.get_sizes())]
    assert [len(dot.get_facecolor()) for dot in dots] == [1, 0]
    assert "hollow" in fig.texts[-1].get_text()


def test_differences_have_a_row_per_method_and_a_dot_per_seed(finished):
    fig = pictures.differences_figure(frames.by_setting(finished, "density"))
    assert [ax.get_title() for ax in fig.axes] == ["density 0.05", "density 0.01"]
    assert len(fig.axes[0].get_yticks()) == len(METHODS) - 1
    dots = [c.get_offsets() for c in fig.axes[1].collections if hasattr(c, "get_sizes") and len(c.get_sizes())]
    assert sum(map(len, dots)) == 3 * (len(METHODS) - 1)


def test_ablations_have_a_panel_per_setting():
    fig = pictures.ablations_figure(run_frame(record(0.5 + 0.01 * seed, seed=seed) for seed in range(3)))
    assert len(fig.axes) == 9 and fig.axes[1].get_title() == "granularity"


def test_cost_figure_has_a_point_per_method_and_density(finished):
    fig = pictures.pareto_figure(finished)
    for ax in fig.axes:
        assert len(ax.collections) == 2 * (len(METHODS) - 1) + 1
        assert ax.get_xscale() == "log" and "counted" in ax.get_xlabel()
    assert plt.get_fignums() == []
