"""Figures of notebook 02: what is drawn is what was given."""

import numpy as np
import pytest

from fedtiny_lite.config import make_config
from fedtiny_lite.plots import candidates
from fedtiny_lite.widgets.candidates import pool_panel

JUDGES = {"adaptive": [0.5, 0.7], "vanilla": [-0.2, 0.0]}

pytestmark = pytest.mark.usefixtures("no_figure_left_open")


def test_pool_shows_layer_densities_and_losses():
    kept = [{"a.weight": 10, "b.weight": 30}, {"a.weight": 20, "b.weight": 20}, {"a.weight": 15, "b.weight": 25}]
    fig = candidates.pool_figure(kept, {"a.weight": 100, "b.weight": 200}, [2.5, 1.5, 2.0], "counted")
    top, bottom, colour_bar = fig.axes
    assert np.array_equal(top.images[0].get_array(), [[0.1, 0.2, 0.15], [0.15, 0.1, 0.125]])
    assert [tick.get_text() for tick in top.get_yticklabels()] == ["a", "b"]
    [points] = bottom.collections
    assert points.get_offsets().tolist() == [[0, 2.5], [1, 1.5], [2, 2.0]]
    colours = points.get_facecolors().tolist()
    assert colours[0] == colours[2] != colours[1]  # the chosen one stands out
    assert "candidate" in bottom.get_xlabel() and "nats" in bottom.get_ylabel()
    assert "density" in colour_bar.get_ylabel()


def test_loss_figure_has_a_panel_a_judge_and_a_cloud_a_seed():
    losses = {judge: [[3.0, 2.0, 1.0]] * 2 for judge in JUDGES}
    fig = candidates.loss_figure(losses, [[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]], JUDGES, [2000, 2001], "measured")
    assert len(fig.axes) == 2
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["seed 2000", "seed 2001"]
    for ax in fig.axes:
        assert [len(cloud.get_offsets()) for cloud in ax.collections] == [3, 3]
        assert "nats" in ax.get_xlabel()
    assert "0.60" in fig.axes[0].get_title() and "accuracy" in fig.axes[0].get_ylabel()


def test_judges_show_every_seed_and_the_mean():
    fig = candidates.judge_figure(JUDGES, JUDGES, "measured")
    left = fig.axes[0]
    dots = [line.get_ydata().tolist() for line in left.lines if line.get_marker() == "o"]
    assert [list(values) for values in dots] == list(JUDGES.values())
    assert [text.get_text() for text in left.texts] == ["0.60", "-0.10"]
    assert "rank correlation" in left.get_ylabel() and "accuracy" in fig.axes[1].get_ylabel()


def test_control_has_a_panel_a_server_set():
    fig = candidates.control_figure({"distorted": JUDGES, "like the clients'": JUDGES}, "measured")
    assert [ax.get_title() for ax in fig.axes] == ["distorted", "like the clients'"]
    assert "rank correlation" in fig.axes[0].get_ylabel()


def test_cost_is_per_client():
    entry = {"bytes_up": 2000, "bytes_down": 6000, "training_flops": 8e6}
    left, right = candidates.cost_figure({"losses": entry, "round": entry}, 2, "counted").axes
    assert [bar.get_height() for bar in left.patches] == [3, 3, 1, 1]  # kB down, then up on top
    assert [text.get_text() for text in left.texts] == ["4.0", "4.0"]
    assert [bar.get_height() for bar in right.patches] == [4, 4]
    assert left.get_ylabel() == "kB per client" and right.get_ylabel() == "MFLOPs per client"


def test_pool_panel_without_sliders_is_a_figure():
    config = make_config("smoke", pool_size=2, pretrain_epochs=0, samples=300)
    fig = pool_panel(config, interactive=False)
    assert fig.axes[0].images[0].get_array().shape == (4, 2)


def test_statistics_stand_channel_by_channel():
    [ax] = candidates.statistics_figure([0.0, 1.0], [[2.0, 3.0], [4.0, 5.0]], [3.0, 4.0], "text").axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert drawn["each client"] == [2, 3] and drawn["combined by the server"] == [3, 4]
    assert drawn["stored before pruning"] == [0, 1]


def test_judged_candidates_stand_under_each_set_of_statistics():
    [ax] = candidates.judged_figure({"stored": [2.0, 1.0, 3.0], "adapted": [0.0, 0.5, 1.0]}, "text").axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[2, 1, 3], [0, 0.5, 1]]
    assert list(ax.get_xticks()) == [0, 1, 2]
