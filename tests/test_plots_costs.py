"""Figures and tables of notebook 06: what is drawn is what was counted or measured; its density panel."""

from dataclasses import replace

import ipywidgets
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments import counted
from fedtiny_lite.experiments.counted import kept_by_mask
from fedtiny_lite.model.costs import forward_flops
from fedtiny_lite.plots import client_costs, costs
from fedtiny_lite.report import exchanges, tables
from fedtiny_lite.widgets.costs import density_panel, draw_layers

CONFIG = make_config("smoke", density=0.05)

pytestmark = pytest.mark.usefixtures("no_figure_left_open")


def widths(ax, y):
    """Lengths of the bars drawn at height `y`."""
    return [bar.get_width() for bar in ax.patches if abs(bar.get_y() + bar.get_height() / 2 - y) < 0.01]


# Counted


def test_layer_figure_draws_a_point_and_a_bar_per_layer_and_mask():
    density = {"dense": {"a.weight": 1.0, "b.weight": 1.0}, "uniform": {"a.weight": 1.0, "b.weight": 0.1}}
    flops = {"dense": {"a.weight": 6_000_000, "b.weight": 3_000_000}, "uniform": {"a.weight": 6_000_000, "b.weight": 9}}
    totals = {"dense": "all", "uniform": "less"}
    fig = costs.layer_figure(density, flops, {"a.weight": 64, "b.weight": 1}, totals, "counted")
    top, bottom = fig.axes
    assert [list(line.get_ydata()) for line in top.lines] == [[1.0, 1.0], [1.0, 0.1]]
    assert [bar.get_height() for bars in bottom.containers for bar in bars] == [6, 3, 6, 9e-6]
    assert [tick.get_text() for tick in bottom.get_xticklabels()] == ["a", "b"]
    assert [text.get_text() for text in top.texts] == ["64 px", "1 px"]
    assert [text.get_text() for text in fig.legends[0].texts] == ["dense: all", "uniform: less"]


def test_ratio_figure_has_a_line_per_method_and_the_papers_numbers():
    ratios = {"static": {0.1: 0.2, 0.01: 0.02}, "PruneFL": {0.1: 0.4, 0.01: 0.3}}
    [ax] = costs.ratio_figure(ratios, {"PruneFL": (0.01, 0.34)}, "counted").axes
    static, prunefl, stars = (list(zip(*line.get_data(), strict=True)) for line in ax.lines)
    assert (static, prunefl, stars) == ([(0.1, 0.2), (0.01, 0.02)], [(0.1, 0.4), (0.01, 0.3)], [(0.01, 0.34)])
    assert ax.texts[0].get_text() == "PruneFL 0.34"


def test_winners_are_runs_of_densities():
    sizes = {"bitmap": {0.1: 3, 0.2: 4, 0.5: 7, 1.0: 11}, "csr": {0.1: 2, 0.2: 3, 0.5: 8, 1.0: 15}}
    assert costs.winners(sizes) == [("csr", 0.1, 0.5), ("bitmap", 0.5, 1.0)]
    assert costs.winners({"dense": {0.1: 1, 1.0: 1}}) == [("dense", 0.1, 1.0)]


def test_format_figure_shades_the_smallest_format():
    layer = {"dense": {0.1: 4_000_000, 0.5: 4_000_000, 1.0: 4_000_000}, "coo": {0.1: 1, 0.5: 5_000_000, 1.0: 9_000_000}}
    left, right = costs.format_figure(layer, {"dense": {0.1: 8_000_000}}, "a", "counted").axes
    assert list(left.lines[0].get_ydata()) == [4, 4, 4] and list(right.lines[0].get_ydata()) == [8]
    assert [patch.get_x() for patch in left.patches] == [0.1, 0.5]
    assert [to_hex(patch.get_facecolor()) for patch in left.patches] == [line.get_color() for line in left.lines[::-1]]


def test_activation_figure_sets_states_beside_activations():
    left, right = costs.activation_figure(
        {"static": {0.01: 2_000_000}}, 30_000_000, {0.5: 5e6, 1.0: 1e7}, "counted"
    ).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[2], [30, 30]]
    assert [list(line.get_ydata()) for line in right.lines] == [[5, 10], [30, 30]]


# What a client paid, from a record


def entry(flops=10, state=100, peak=1000, up=None, down=None):
    return {
        "flops": flops,
        "state_bytes": state,
        "peak_bytes": peak,
        "bytes_up": sum((up or {}).values()),
        "bytes_down": sum((down or {}).values()),
        "up": up or {},
        "down": down or {},
    }


WEIGHTS = {"weights": 200_000}
POOL = {"exchange": "bn_statistics"} | entry(state=50, up={"stats": 7}, down=WEIGHTS | {"mask": 3, "pool": 3})
METHODS = {
    "fedavg": {
        "prelude": [],
        "ordinary": entry(1000, 2000, up={"weights": 4_000_000}, down={"weights": 4_000_000}),
        "adjusting": None,
    },
    "prunefl": {
        "prelude": [],
        "first": entry(up=WEIGHTS, down=WEIGHTS | {"mask": 100_000}),
        "ordinary": entry(up=WEIGHTS, down=WEIGHTS),
        "adjusting": entry(340, 1000, up=WEIGHTS | {"squares": 4_000_000}, down=WEIGHTS),
    },
    "fedtiny": {
        "prelude": [POOL, {"exchange": "candidate_losses"} | entry(up={"loss": 16, "correct": 16}, down={"stats": 7})],
        "first": entry(up=WEIGHTS, down=WEIGHTS | {"mask": 100_000}),
        "ordinary": entry(up=WEIGHTS, down=WEIGHTS),
        "adjusting": entry(340, 120, up=WEIGHTS | {"growth list": 100_000}, down=WEIGHTS),
    },
}


def test_bytes_by_content_lose_nothing():
    before = METHODS["fedtiny"]["prelude"]
    down, up = (exchanges.by_content(before, way) for way in ("down", "up"))
    assert {content: size for content, size in down.items() if size} == {
        "weights": 200_000,
        "mask": 3,
        "candidates' masks": 3,
        "BN statistics": 7,
    }
    assert {content: size for content, size in up.items() if size} == {"BN statistics": 7, "losses": 32}


def test_a_tensor_that_the_figure_does_not_know_is_refused():
    with pytest.raises(ValueError, match="unpack"):
        exchanges.by_content([entry(up={"secret": 1})], "up")


def test_message_figure_stacks_what_is_sent_and_cuts_long_bars():
    fig = client_costs.message_figure(METHODS, 0.5, "counted")
    before, first, ordinary, adjusting = fig.axes
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == ["before training", "first round", "ordinary round", "adjusting round"]
    assert widths(ordinary, -0.19) == widths(ordinary, 0.19) == [0.5]  # dense: 4 MB, cut off
    assert widths(first, 1 - 0.19) == pytest.approx([0.2, 0.1]) and widths(first, 1 + 0.19) == [0.2]
    assert widths(adjusting, 1 + 0.19) == pytest.approx([0.2, 0.3])  # PruneFL's squares, cut off
    assert widths(adjusting, 2 + 0.19) == pytest.approx([0.2, 0.1])  # FedTiny's list, whole
    assert [text.get_text() for text in ordinary.texts[:2]] == ["4.0 ▸", "4.0 ▸"]
    assert [tick.get_text() for tick in before.get_yticklabels()] == ["dense", "PruneFL", "FedTiny"]


def test_message_figure_names_what_is_too_small_to_be_seen():
    [legend] = client_costs.message_figure(METHODS, 0.5, "counted").legends
    assert [text.get_text() for text in legend.texts] == [
        "weights",
        "mask",
        "growth list or votes",
        "dense gradients or scores",
    ]
    unseen = "candidates' masks (3 bytes at most), BN statistics (7 bytes at most), losses (32 bytes at most)"
    assert legend.get_title().get_text() == f"too small to be seen: {unseen}"


def test_largest_tells_rounds_from_what_was_before_them():
    assert exchanges.largest(METHODS["fedtiny"], "state_bytes") == 120
    assert exchanges.largest(METHODS["fedtiny"], "state_bytes", before=True) == 100
    assert exchanges.largest(METHODS["fedavg"], "state_bytes", before=True) == 0


def test_adjusting_costs_more_in_one_batch_of_a_round_but_in_every_one_of_prunefl():
    assert exchanges.round_flops("fedavg", METHODS["fedavg"], 5) == 5 * 1000
    assert exchanges.round_flops("fedtiny", METHODS["fedtiny"], 5) == 4 * 10 + 340
    assert exchanges.round_flops("prunefl", METHODS["prunefl"], 5) == 5 * 340
    assert exchanges.run_flops("fedtiny", METHODS["fedtiny"], 5, rounds=10, adjusting=2) == 8 * 5 * 10 + 2 * (
        4 * 10 + 340
    )


def test_headline_table_has_paper_formula_and_record_side_by_side():
    table = exchanges.headline_table(METHODS, 5, {"fedtiny": (0.0133, 0.0187)}, {"prunefl": (0.34, 0.51)})
    assert table.columns.get_level_values(0).tolist() == ["FLOPs"] * 4 + ["memory"] * 4
    cells = dict(zip(table.index, tables.dashed(table).to_numpy().tolist(), strict=True))
    assert cells["dense"] == ["-", "-", 1, 1, "-", "-", 1, "-"]
    assert cells["PruneFL"] == [0.34, "-", 0.01, 0.34, 0.51, "-", 0.5, "-"]
    assert cells["FedTiny"] == ["-", 0.0133, 0.01, 0.076, "-", 0.0187, 0.06, 0.05]


def test_methods_stand_in_the_order_of_families_and_may_name_themselves():
    mine = {"label": "A method", "family": "masks that stay"}
    found = exchanges.in_order(METHODS | {"mine": METHODS["fedtiny"] | mine})
    assert list(found) == ["fedavg", "mine", "fedtiny", "prunefl"]
    assert exchanges.label_of("mine", mine).label == "A method" and exchanges.label_of("fedrts").label == "FedRTS"


def test_memory_figure_has_a_bar_per_way_and_a_diamond_where_something_came_before():
    ways = ("state", "with activations", "peak")
    memory = {way: {"fedavg": 2e6 * 10**i, "fedtiny": 1e6 * 10**i} for i, way in enumerate(ways)}
    [ax] = client_costs.memory_figure(memory, {"fedavg": 0, "fedtiny": 5e5}, "counted and measured").axes
    assert [bar.get_width() for bars in ax.containers for bar in bars] == [2, 1, 20, 10, 200, 100]
    assert list(ax.lines[0].get_xdata()) == [0.5] and ax.get_xscale() == "linear" and ax.get_xlim()[0] == 0


# The panel


def test_masks_keep_the_budget_and_flops_are_those_of_costs(model, layers):
    kept = kept_by_mask(CONFIG, model)
    total = sum(kept["dense"].values())
    assert all(sum(counts.values()) <= CONFIG.density * total for mask, counts in kept.items() if mask != "dense")
    legend = [text.get_text() for text in draw_layers(CONFIG, model, layers).legends[0].texts]
    for line, (mask, counts) in zip(legend, kept.items(), strict=True):
        share = forward_flops(layers, counts) / forward_flops(layers, {})
        assert line.startswith(f"{mask}: {share:.4f} of the dense FLOPs")


def test_the_last_layer_is_dense_where_the_config_says_so(model):
    assert "linear.weight" in kept_by_mask(CONFIG, model)["ERK"]
    assert "linear.weight" not in kept_by_mask(replace(CONFIG, prune_linear="no"), model)["ERK"]


def test_density_panel_is_a_slider_or_a_plain_figure(model, layers):
    assert isinstance(density_panel(CONFIG, model, layers, interactive=False), Figure)
    slider = density_panel(CONFIG, model, layers, interactive=True).children[0]
    assert isinstance(slider, ipywidgets.FloatLogSlider) and slider.value == CONFIG.density


def test_a_density_that_leaves_nothing_says_why(model, layers):
    fig = draw_layers(replace(CONFIG, density=0.0001), model, layers, predict=True)
    assert "density" in fig.texts[0].get_text()


def test_the_panel_of_the_papers_model_predicts_speed():
    """At 0.01 a sparse step of ResNet18 w64 is measured 16.5 times as fast; the line predicts about that."""
    subject = counted.paper_model((3, 32, 32), 10)
    paper = replace(subject.config, density=0.01, prune_linear="yes")
    legend = density_panel(paper, subject.model, subject.layers, interactive=False).legends[0]
    [dense, *masked] = [text.get_text() for text in legend.texts]
    assert "predicted" not in dense and all("; sparse engine, predicted: " in line for line in masked)
    uniform = float(masked[0].split("predicted: ")[1].split(" ")[0])
    assert uniform == pytest.approx(16.5, rel=0.1)
