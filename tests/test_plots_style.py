"""The shared look of figures."""

import matplotlib.pyplot as plt
import pytest

from fedtiny_lite.plots.style import DENSITY, active_weights_axis, figure, subtitle


def test_pyplot_keeps_no_figure():
    figure()
    assert plt.get_fignums() == []


def test_subtitle_sets_title_and_text():
    fig = figure()
    subtitle(fig, "a title", "digits, 5 seeds, measured")
    assert fig.get_suptitle().strip() == "a title"
    assert [text.get_text() for text in fig.texts if "digits" in text.get_text()] == ["digits, 5 seeds, measured"]


def test_active_weights_axis_scales_the_density():
    fig = figure()
    ax = fig.subplots()
    ax.set(xlim=(0.01, 0.1), xlabel=DENSITY)
    axis = active_weights_axis(ax, weights_per_filter=288)
    fig.draw_without_rendering()
    assert axis.get_xlim() == pytest.approx((2.88, 28.8))
    assert axis.get_xlabel() == "active weights per filter"
