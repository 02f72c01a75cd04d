"""Notebook 01's figures, and the distance between batch-normalisation statistics that they show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtiny_lite.experiments.drift import bn_distance
from fedtiny_lite.plots import clients

pytestmark = pytest.mark.usefixtures("no_figure_left_open")


def stats(mean, variance):
    return {"bn1.running_mean": np.array(mean), "bn1.running_var": np.array(variance)}


def test_bn_distance_by_hand():
    """sigma = 2: means off by one sigma and by none; variances by half and by none."""
    reference = stats([0.0, 1.0], [4.0, 4.0])
    [(mean, variance)] = bn_distance([stats([2.0, 1.0], [6.0, 4.0])], reference).values()
    assert mean == pytest.approx(np.sqrt(1 / 2), rel=1e-4)
    assert variance == pytest.approx(0.5 * np.sqrt(1 / 2), rel=1e-4)


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_bn_distance_has_no_unit(scale, shift, seed):
    """Scaling and shifting what a layer puts out changes neither distance (variances far above epsilon)."""
    rng = np.random.default_rng(seed)
    sets = [stats(rng.normal(size=3), rng.uniform(10, 20, 3)) for _ in range(4)]
    moved = [stats(scale * s["bn1.running_mean"] + shift, scale**2 * s["bn1.running_var"]) for s in sets]
    before, after = (bn_distance(group[1:], group[0])["bn1"] for group in (sets, moved))
    assert after == pytest.approx(before, rel=1e-3)


def test_bn_distance_survives_a_dead_channel():
    [(mean, variance)] = bn_distance([stats([0.0], [0.0])], stats([0.0], [0.0])).values()
    assert (mean, variance) == (0, 0)


def test_label_maps_show_every_count():
    histograms = {"a": [[1, 2], [3, 4], [0, 6]], "b": [[5, 5], [5, 1], [0, 0]]}
    fig = clients.label_maps(histograms, "title", "counted")
    for ax, histogram in zip(fig.axes, histograms.values(), strict=False):
        assert ax.images[0].get_array().tolist() == histogram
        assert [label.get_text() for label in ax.get_yticklabels()] == [str(sum(row)) for row in histogram]
        assert ax.get_xlabel()
    assert fig.axes[0].get_ylabel() and fig.axes[-1].get_ylabel() == "images (count)"


@pytest.mark.parametrize("channels", [1, 3])
def test_image_rows_show_every_image(channels):
    rows = {name: np.zeros((n, channels, 8, 8), np.uint8) for name, n in (("client 0", 5), ("server", 3))}
    fig = clients.image_rows(rows, "digits")
    assert sum(len(ax.images) for ax in fig.axes) == 8
    assert [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()] == ["client 0", "server"]


def test_over_partitions_joins_the_means_of_the_seeds():
    series = {"bn1": {"0.1": [1.0, 3.0], "iid": [0.0, 1.0]}, "bn2": {"0.1": [4.0, 4.0], "iid": [2.0, 0.0]}}
    fig = clients.over_partitions({"distance (σ)": series}, "title", "2 seeds")
    [ax] = fig.axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[2.0, 0.5], [4.0, 1.0]]
    assert ax.get_ylabel() == "distance (σ)" and ax.get_xlabel()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "iid"]


def test_bn_channels_draw_a_dot_per_client_and_channel():
    groups = {"α = 0.1": [stats([0, 1], [1, 1]), stats([2, 3], [1, 1]), stats([4, 5], [1, 1])]}
    [ax] = clients.bn_channels(groups, stats([7, 8], [1, 1]), "bn1", "measured").axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0, 1], [2, 3], [4, 5], [7, 8]]
    assert len(ax.get_legend().get_texts()) == 2
