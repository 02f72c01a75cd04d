"""Notebook 00's figures: everything given is drawn, and every axis says what it shows."""

import numpy as np
import pytest

from fedtiny_lite.plots import method

CONFIG = {"dataset": "digits", "model": "cnn", "width": 8, "density": 0.02, "clients": 10, "seed": 3}
RECORD = {
    "config": CONFIG,
    "start": {"test_accuracy": 0.1},
    "prelude": [{"exchange": "bn_statistics", "bytes_up": 900, "bytes_down": 2000}],
    "rounds": [{"round": r, "test_accuracy": 0.5 + r / 10, "bytes_up": 1000, "bytes_down": 1500} for r in range(3)],
}

pytestmark = pytest.mark.usefixtures("no_figure_left_open")


def test_method_picture_draws_both_sides_of_every_stage_and_every_message():
    ax = method.method_picture().axes[0]
    written = [text.get_text() for text in ax.texts]
    assert len(ax.patches) == 2 * len(method.STAGES)
    for title, server, clients, messages in method.STAGES:
        assert {title, server, clients, *(label for _, label in messages)} <= set(written)


def test_one_run_shows_every_round_and_every_exchange():
    fig = method.one_run(RECORD)
    left, right = fig.axes
    assert left.lines[0].get_ydata() == pytest.approx([0.1, 0.5, 0.6, 0.7])
    heights = [bar.get_height() for bar in right.patches]
    assert heights == pytest.approx([2.0, 1.5, 1.5, 1.5, 0.9, 1.0, 1.0, 1.0])
    assert [label.get_text() for label in right.get_xticklabels()] == ["bn\nstatistics", "1", "2", "3"]
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    assert any("seed 3" in text.get_text() for text in fig.texts)


def test_density_panel_shows_mask_densities_and_flops():
    mask = np.zeros((4, 10), bool)
    mask[0, :2] = True
    sizes, kept = {"conv1.weight": 5, "conv2.weight": 40}, {"conv2.weight": 2}
    fig = method.density_panel(mask, "conv2.weight", kept, sizes, [(100, 100), (300, 20)], "counted")
    picture, densities, costs = fig.axes
    assert picture.images[0].get_array().sum() == 2
    assert [bar.get_width() for bar in densities.patches] == pytest.approx([1.0, 0.05])
    assert [bar.get_width() for bar in costs.patches] == pytest.approx([0.1, 0.3, 0.1, 0.02])
    assert costs.get_title() == "forward FLOPs: 0.300 of dense"
    assert fig.get_suptitle().strip() == "What prunable density 0.0500 means"
