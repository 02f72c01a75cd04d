"""Figures of finished runs: what is drawn equals what is recorded, by numbers a person can check."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fedtiny_lite.plots import runs
from fedtiny_lite.plots.style import DENSITY
from fedtiny_lite.report import differences, frames, labels, measures, tables
from fedtiny_lite.widgets.runs import curves_panel

SELECTION = {"bytes_down": 3000, "bytes_up": 1000, "training_flops": 0, "client_kept": 20}
FEDTINY = {"method": "fedtiny", "selection": "adaptive", "progressive": "yes"}


def record(accuracies=(0.1, 0.5), **settings) -> dict:
    """A run of two clients with these test accuracies: at the start, then after each round."""
    config = {"dataset": "digits", "model": "cnn", "width": 8, "alpha": 0.5, "clients": 2, "density": 0.02, "seed": 0}
    entries = [
        {"test_accuracy": accuracy, "prunable_density": 0.02, "bytes_down": 4000, "bytes_up": 2000}
        | {"training_flops": 6_000_000 * settings.get("density", 0.02), "client_kept": 20}
        for accuracy in accuracies
    ]
    return {
        "config": config | FEDTINY | settings,
        "model": {"budget": 20, "prunable": {"a": 400, "b": 600}},
        "prelude": [SELECTION] if settings.get("method", "fedtiny") == "fedtiny" else [],
        "start": entries[0],
        "rounds": entries[1:],
        "final": {"test_accuracy": accuracies[-1]},
    }


@pytest.fixture
def finished(records) -> pd.DataFrame:
    return frames.run_frame(records)


@pytest.fixture
def records():
    """FedTiny and magnitude at two densities, dense at none; two seeds of each."""
    lists = [
        [
            record((0.1, 0.50 + gain + 0.1 * seed), method="fedtiny", density=density, seed=seed),
            record((0.1, 0.50 + 0.1 * seed), method="magnitude", density=density, seed=seed),
        ]
        for density, gain in ((0.05, 0.0), (0.01, 0.2))
        for seed in (0, 1)
    ]
    dense = [record((0.1, 0.9 + 0.02 * seed), method="fedavg", density=0.02, seed=seed) for seed in (0, 1)]
    return [run for pair in lists for run in pair] + dense


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "FedTiny"),
        ({"progressive": "no"}, "selection only"),
        ({"selection": "vanilla"}, "progressive only"),
        ({"selection": "vanilla", "progressive": "no"}, "neither"),
        ({"selection": "server"}, "selection=server"),
        ({"selection": "fixed", "progressive": "no"}, "selection=fixed, progressive=no"),
        ({"method": "fedavg"}, "dense"),
        ({"method": "magnitude", "progressive": "no"}, "magnitude"),
    ],
)
def test_a_run_is_called_by_what_sets_it_apart(settings, name):
    assert labels.run_label(record(**settings)).label == name


def test_a_record_says_how_its_method_is_called():
    """And to which family it belongs; of old records that is known, and of a reader's own method at least the name."""
    mine = record(method="mine") | {"method": {"label": "My own", "family": "masks that stay"}}
    assert labels.run_label(mine) == ("My own", "masks that stay")
    assert labels.run_label(record(method="mine")) == ("mine", "masks that change")
    assert labels.run_label(record(method="snip")) == ("SNIP", "masks that stay")
    named = {"method": {"label": "FedTiny 2", "family": "masks that change"}}
    assert labels.run_label(record() | named).label == "FedTiny 2"
    assert labels.run_label(record(selection="vanilla") | named).label == "progressive only"


def test_a_run_without_the_settings_of_other_methods():
    run = record(method="magnitude")
    for name in ("selection", "progressive"):
        del run["config"][name]
    runs = frames.run_frame([run, record()])
    assert list(runs["label"]) == ["magnitude", "FedTiny"] and runs["selection"].isna().tolist() == [True, False]
    assert frames.varying(frames.settings_of([run, record()])) == ["method"]


def test_labels_come_by_family_then_by_name(records):
    others = [record(method=method) for method in ("snip", "small_model", "feddst", "mine")]
    names = list(frames.by_label(frames.run_frame([*others, *records[::-1]])))
    assert names == ["dense", "small model", "magnitude", "SNIP", "FedDST", "FedTiny", "mine"]


def test_differences_are_paired_by_seed_and_density(records):
    lone = record((0.1, 0.9), density=0.01, seed=7)  # no magnitude run has this seed
    runs = frames.run_frame([*records, lone])
    gaps = differences.paired_differences(runs, "FedTiny", "magnitude")
    assert gaps == {0.05: pytest.approx([0, 0]), 0.01: pytest.approx([0.2, 0.2])}
    assert differences.paired_differences(runs, "FedTiny", "random") == {}


def test_budget_used_is_the_fullest_round():
    run = record((0.1, 0.2, 0.3))
    assert measures.weights_held(run)["budget_used"] == 1.0  # density 0.02 of 1,000 weights, budget 20
    run["rounds"][0] |= {"prunable_density": 0.03}
    assert measures.weights_held(run)["budget_used"] == pytest.approx(1.5)


def test_cost_table_counts_one_client_and_one_round(finished):
    table = tables.cost_table(finished)
    assert table.index.names == ["density", "run"]
    # 2 clients: 4,000 bytes down and 2,000 up a round, 4,000 before; 6 MFLOPs times density, dense at 0.02
    assert table.loc[0.05, "dense"].tolist() == [0.91, 2, 1, 0, 0.06, 1, 1, 1]
    assert table.loc[0.05, "FedTiny"].tolist() == [0.55, 2, 1, 2, 0.15, 2.5, 2.5, 1.667]
    assert table.loc[0.01, "magnitude"].tolist() == [0.55, 2, 1, 0, 0.03, 0.5, 0.5, 1]
    assert len(table) == 6


def test_costs_are_those_of_the_clients_that_were_asked():
    """Of ten, two before training, four in the first round and five in the second."""
    run = record((0.1, 0.2, 0.3), clients=10)
    run["prelude"] = [SELECTION | {"asked": [3, 8]}]
    for entry, asked in zip(run["rounds"], ([0, 1, 2, 3], [5, 6, 7, 8, 9]), strict=True):
        entry |= {"asked": asked}
    spent = measures.spent(run)
    assert spent["down_a_round"] == (1000 + 800) / 2 and spent["bytes_before"] == 2000
    assert spent["bytes_in_all"] == (2000 + 1500 + 1200) / 2
    assert measures.asked({}, 10) == 10


def test_rounds_have_a_panel_per_density_and_a_line_per_label(finished):
    fig = runs.accuracy_over_rounds(finished)
    assert [ax.get_title() for ax in fig.axes] == ["density 0.05", "density 0.01"]
    for ax in fig.axes:
        assert [line.get_label() for line in ax.lines] == ["dense", "magnitude", "FedTiny"]
        assert "rounds" in ax.get_xlabel()
    assert "accuracy" in fig.axes[0].get_ylabel()
    fedtiny = fig.axes[1].lines[2]
    assert list(fedtiny.get_xdata()) == [0, 1]
    assert list(fedtiny.get_ydata()) == pytest.approx([0.1, 0.75])
    shown = fig.texts[-1].get_text()
    assert "2 seeds" in shown and "measured" in shown


def _lines(records):
    return runs.accuracy_over_rounds(frames.run_frame(records)).axes[0].lines


def test_dense_runs_alone_have_rounds_but_no_density(tmp_path):
    alone = [record(method="fedavg")]
    assert [line.get_label() for line in _lines(alone)] == ["dense"]
    assert [path.name for path in runs.save_run_figures(alone, tmp_path)] == ["accuracy_over_rounds.png"]


def test_density_figure_has_a_dot_per_run_and_both_axes(finished):
    fig = runs.accuracy_over_density(finished, weights_per_filter=100)
    ax = fig.axes[0]
    assert ax.get_xlabel() == DENSITY and "accuracy" in ax.get_ylabel()
    assert [axis.get_xlabel() for axis in ax.child_axes] == ["active weights per filter"]
    dots = [
        len(points.get_offsets())
        for points in ax.collections
        if hasattr(points, "get_sizes") and len(points.get_sizes())
    ]
    assert sum(dots) == 8
    assert list(ax.lines[2].get_ydata()) == pytest.approx([0.55, 0.75])
    assert list(ax.lines[0].get_ydata()) == pytest.approx([0.91, 0.91])  # dense: the same at any density


def test_no_two_labels_look_alike_and_no_spare_style_is_taken():
    looks = [style[:2] for style in (*runs._STYLES.values(), *runs._MORE_STYLES)]
    assert len(looks) == len(set(looks))


def test_runs_scored_on_other_images_are_not_drawn(records):
    other = [record | {"config": record["config"] | {"score_on": "validation"}} for record in records]
    assert frames.alike(other) == {}


def test_setting_figure_spaces_values_evenly(records):
    skewed = [record((0.1, 0.3), density=0.01, alpha=0.1, seed=seed) for seed in (0, 1)]
    here = frames.at_density(frames.run_frame([*skewed, *records]), 0.01)
    fig = runs.accuracy_over_setting(here, "alpha", "Dirichlet α")
    [ax] = fig.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.1", "0.5"]
    assert ax.get_xlabel() == "Dirichlet α"
    dense, magnitude, fedtiny = ax.lines
    assert list(fedtiny.get_ydata()) == pytest.approx([0.3, 0.75])
    assert list(magnitude.get_xdata()) == [1] and list(dense.get_ydata()) == pytest.approx([0.91])


def test_paired_dots_are_the_differences(records):
    groups = {"one": frames.run_frame(records), "other": frames.run_frame(records[:2])}
    fig = runs.paired_difference_dots(groups, "FedTiny", "magnitude")
    [ax] = fig.axes
    assert ax.get_xlabel() == DENSITY and "difference" in ax.get_ylabel()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.01", "0.05"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "other"]


def test_runs_of_other_settings_are_not_mixed(records, tmp_path):
    skewed = [record(alpha=5.0), record(method="magnitude", alpha=5.0)]
    paths = runs.save_run_figures([*skewed, *records], tmp_path / "figures")
    assert sorted(path.name for path in paths) == [
        "accuracy_over_density.png",
        "accuracy_over_density_alpha=5.0.png",
        "accuracy_over_rounds.png",
        "accuracy_over_rounds_alpha=5.0.png",
    ]
    assert all(path.stat().st_size > 0 for path in paths)


def test_the_default_is_usual_where_a_run_has_it_and_else_what_most_have():
    """Of three runs at α = 5 and one at 0.5, the default, those at 5 are named; so it is with settings of FedTiny."""
    skewed = [record(alpha=5.0, seed=seed) for seed in range(3)]
    assert {key: len(runs) for key, runs in frames.alike([*skewed, record(alpha=0.5)]).items()} == {
        ("alpha=5.0",): 3,
        (): 1,
    }
    assert frames.alike([*skewed, record(alpha=0.1)]).keys() == {(), ("alpha=0.1",)}
    noisy = [record(pool_noise=0.9, seed=seed) for seed in range(3)]
    assert frames.alike([*noisy, record(pool_noise=0.5)]).keys() == {("pool_noise=0.9",), ()}


def test_a_corner_of_each_figure_tells_the_settings_that_keep_groups_apart(records, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Figure, "savefig", lambda fig, *_, **__: told.append(fig.texts[-1].get_text()))
    runs.save_run_figures([record(method="mine", power=power) for power in (0.8, 0.8, 0.5)] + records, tmp_path)
    assert told == ["power=0.8"] * 2 + ["power=0.5"] * 2


def test_runs_that_differ_in_very_much_have_figures_of_names_that_files_can_have(tmp_path):
    many = {f"setting_of_a_long_name_{number}": number for number in range(12)}
    odd = [record(**{name: value + extra for name, value in many.items()}) for extra in (1, 2)]
    paths = runs.save_run_figures([record(**many), record(**many), *odd], tmp_path)
    assert len(set(paths)) == 6 and all(path.exists() and len(path.name) < 210 for path in paths)


def test_a_single_seed_stands_at_its_density_and_several_beside_each_other(finished):
    single = finished[finished["seed"] == 0]
    for runs_shown, apart in ((single, False), (finished, True)):
        ax = runs.accuracy_over_density(runs_shown).axes[0]
        dots = [points.get_offsets()[:, 0] for points in ax.collections if len(points.get_sizes())]
        assert {x in (0.05, 0.01) for of_label in dots for x in of_label} == {not apart}
        [ax] = runs.accuracy_over_setting(runs_shown, "density", "density").axes
        places = [points.get_offsets()[:, 0] for points in ax.collections]
        assert {x in (0, 1, 2) for of_label in places for x in of_label} == {not apart}


def test_a_setting_of_one_method_parts_only_the_runs_that_have_it(records):
    """And runs of a candidate taken unjudged are left out."""
    settings = [{"growth": "slow"}, {"growth": "slow", "seed": 1}, {"growth": "fast"}, {"selection": "fixed"}]
    groups = frames.alike([*records, *(record(method="mine", **each) for each in settings)])
    assert {key: len(runs) for key, runs in groups.items()} == {(): len(records) + 2, ("growth=fast",): 1}


def test_panel_shows_the_chosen_runs(finished):
    fig = curves_panel(finished, interactive=False)
    assert isinstance(fig, Figure)
    assert [[line.get_label() for line in ax.lines] for ax in fig.axes] == [["magnitude", "FedTiny"]]
    runs_control, density, *_ = curves_panel(finished, interactive=True).children
    assert runs_control.options == ("dense", "magnitude", "FedTiny") and density.options == (0.05, 0.01)


def test_no_figure_stays_open(finished):
    runs.accuracy_over_rounds(finished)
    runs.accuracy_over_density(finished)
    curves_panel(finished, interactive=True)
    assert plt.get_fignums() == []
