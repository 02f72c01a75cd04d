"""Figures of finished runs: what is drawn equals what is recorded, by numbers a person can check."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from fedtiny_lite.plots import runs
from fedtiny_lite.plots.style import DENSITY
from fedtiny_lite.report import arms
from fedtiny_lite.widgets.runs import curves_panel

FEDTINY = {"method": "fedtiny", "selection": "adaptive", "progressive": "yes"}


def record(accuracies=(0.1, 0.5), **settings) -> dict:
    """A run of two clients with these test accuracies: at the start, then after each round."""
    config = {"dataset": "digits", "model": "cnn", "width": 8, "alpha": 0.5, "clients": 2, "density": 0.02, "seed": 0}
    entries = [
        {"test_accuracy": accuracy, "prunable_density": 0.02, "bytes_down": 4000, "bytes_up": 2000}
        | {"training_flops": 6_000_000 * settings.get("density", 0.02)}
        for accuracy in accuracies
    ]
    return {
        "config": config | FEDTINY | settings,
        "model": {"budget": 20, "prunable": {"a": 400, "b": 600}},
        "prelude": [{"bytes_down": 3000, "bytes_up": 1000}] if settings.get("method", "fedtiny") == "fedtiny" else [],
        "start": entries[0],
        "rounds": entries[1:],
        "final": {"test_accuracy": accuracies[-1]},
    }


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
        ({"selection": "vanilla", "progressive": "no"}, "vanilla"),
        ({"selection": "server"}, "selection=server"),
        ({"selection": "fixed", "progressive": "no"}, "selection=fixed, progressive=no"),
        ({"method": "fedavg"}, "dense"),
        ({"method": "magnitude", "progressive": "no"}, "magnitude"),
    ],
)
def test_a_run_is_called_by_what_sets_it_apart(settings, name):
    assert arms.arm(record(**settings)) == name


def test_arms_come_in_the_order_of_the_legend(records):
    other = record(method="snip")
    assert list(arms.by_arm([other, *records[::-1]])) == ["FedTiny", "magnitude", "SNIP", "dense"]


def test_differences_are_paired_by_seed_and_density(records):
    lone = record((0.1, 0.9), density=0.01, seed=7)  # no magnitude run has this seed
    gaps = arms.paired_differences([*records, lone], "FedTiny", "magnitude")
    assert gaps == {0.05: pytest.approx([0, 0]), 0.01: pytest.approx([0.2, 0.2])}
    assert arms.paired_differences(records, "FedTiny", "random") == {}


def test_budget_used_is_the_fullest_round():
    run = record((0.1, 0.2, 0.3))
    assert arms.budget_used(run) == 1.0  # density 0.02 of 1,000 weights, budget 20
    run["rounds"][0] |= {"prunable_density": 0.03}
    assert arms.budget_used(run) == pytest.approx(1.5)


def test_cost_table_counts_one_client_and_one_round(records):
    head, *lines = (line.split() for line in arms.cost_table(records).splitlines())
    assert head[0] == "density"
    # 2 clients: 4,000 bytes down and 2,000 up a round, 4,000 before; 6 MFLOPs times density, dense at 0.02
    assert lines[0] == ["-", "dense", "0.910", "2.00", "1.00", "0.00", "0.06", "1.000"]
    assert lines[1] == ["0.05", "FedTiny", "0.550", "2.00", "1.00", "2.00", "0.15", "2.500"]
    assert lines[4] == ["0.01", "magnitude", "0.550", "2.00", "1.00", "0.00", "0.03", "0.500"]
    assert len(lines) == 5


def test_rounds_have_a_panel_per_density_and_a_line_per_arm(records):
    fig = runs.accuracy_over_rounds(records)
    assert [ax.get_title() for ax in fig.axes] == ["density 0.05", "density 0.01"]
    for ax in fig.axes:
        assert [line.get_label() for line in ax.lines] == ["FedTiny", "magnitude", "dense"]
        assert "rounds" in ax.get_xlabel()
    assert "accuracy" in fig.axes[0].get_ylabel()
    fedtiny = fig.axes[1].lines[0]
    assert list(fedtiny.get_xdata()) == [0, 1]
    assert list(fedtiny.get_ydata()) == pytest.approx([0.1, 0.75])
    shown = fig.texts[-1].get_text()
    assert "2 seeds" in shown and "measured" in shown


def test_dense_runs_alone_have_rounds_but_no_density(tmp_path):
    alone = [record(method="fedavg")]
    assert [line.get_label() for line in runs.accuracy_over_rounds(alone).axes[0].lines] == ["dense"]
    assert [path.name for path in runs.save_run_figures(alone, tmp_path)] == ["accuracy_over_rounds.png"]


def test_density_figure_has_a_dot_per_run_and_both_axes(records):
    fig = runs.accuracy_over_density(records, weights_per_filter=100)
    ax = fig.axes[0]
    assert ax.get_xlabel() == DENSITY and "accuracy" in ax.get_ylabel()
    assert [axis.get_xlabel() for axis in ax.child_axes] == ["active weights per filter"]
    dots = [
        len(points.get_offsets())
        for points in ax.collections
        if hasattr(points, "get_sizes") and len(points.get_sizes())
    ]
    assert sum(dots) == 8
    assert list(ax.lines[0].get_ydata()) == pytest.approx([0.55, 0.75])
    assert list(ax.lines[2].get_ydata()) == pytest.approx([0.91, 0.91])  # dense: the same at any density


def test_setting_figure_spaces_values_evenly(records):
    skewed = [record((0.1, 0.3), density=0.01, alpha=0.1, seed=seed) for seed in (0, 1)]
    fig = runs.accuracy_over_setting([*skewed, *arms.at_density(records, 0.01)], "alpha", "Dirichlet α")
    [ax] = fig.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.1", "0.5"]
    assert ax.get_xlabel() == "Dirichlet α"
    fedtiny, magnitude, dense = ax.lines
    assert list(fedtiny.get_ydata()) == pytest.approx([0.3, 0.75])
    assert list(magnitude.get_xdata()) == [1] and list(dense.get_ydata()) == pytest.approx([0.91])


def test_paired_dots_are_the_differences(records):
    fig = runs.paired_difference_dots({"one": records, "other": records[:2]}, "FedTiny", "magnitude")
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


def test_panel_shows_the_chosen_runs(records):
    fig = curves_panel(records, interactive=False)
    assert isinstance(fig, Figure)
    assert [[line.get_label() for line in ax.lines] for ax in fig.axes] == [["FedTiny", "magnitude"]]
    runs_control, density, _ = curves_panel(records, interactive=True).children
    assert runs_control.options == ("FedTiny", "magnitude", "dense") and density.options == (0.05, 0.01)


def test_no_figure_stays_open(records):
    runs.accuracy_over_rounds(records)
    runs.accuracy_over_density(records)
    curves_panel(records, interactive=True)
    assert plt.get_fignums() == []
