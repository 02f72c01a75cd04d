"""Figures of notebook 03: what is drawn is what was given."""

import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from fedtiny_lite.model.masks import Mask
from fedtiny_lite.plots import pruning
from fedtiny_lite.widgets.pruning import change_panel, matrices

OLD = {"a.weight": np.array([[True, True, False, False], [False, False, True, False]])}
NEW = {"a.weight": np.array([[True, False, True, False], [False, False, True, False]])}

pytestmark = pytest.mark.usefixtures("no_figure_left_open")


def points(collection):
    return [tuple(point) for point in collection.get_offsets().tolist()]


def test_schedule_marks_adjustment_rounds_and_turns():
    rates, turns = [0.3, 0.2, 0.1, 0.0], {"by adjustment": [None, 0, None, 1], "by round": [None, 1, None, 1]}
    top, bottom = pruning.schedule_figure({"here": (rates, turns, 2)}).axes
    curve, marks = top.lines
    assert curve.get_ydata().tolist() == rates
    assert list(zip(marks.get_xdata(), marks.get_ydata(), strict=True)) == [(1, 0.2), (3, 0.0)]
    assert [points(rule) for rule in bottom.collections] == [[(1, 0), (3, 1)], [(1, 1), (3, 1)]]
    assert [tick.get_text() for tick in bottom.get_yticklabels()] == ["2", "1"]  # unit 0 is the last block
    assert bottom.get_xlabel() == "round" and "block" in bottom.get_ylabel()


def test_schedule_without_any_adjustment():
    fig = pruning.schedule_figure({"here": ([0.3], {"by adjustment": [None]}, 2)})
    assert points(fig.axes[1].collections[0]) == []


def test_change_map_splits_kept_grown_and_pruned():
    [ax] = pruning.change_figure(OLD, NEW, "counted").axes
    kept, grown, pruned = (points(group) for group in ax.collections)
    assert (kept, grown, pruned) == ([(0, 0), (2, 1)], [(2, 0)], [(1, 0)])
    assert ax.get_title(loc="left") == "a: 1 of 3 exchanged"


def test_density_figure_starts_before_training():
    left, right = pruning.density_figure({"a.weight": [0.1, 0.1]}, {"a.weight": [0.0, 0.25]}, "counted").axes
    assert list(left.lines[0].get_xdata()) == [-1, 0] and list(right.lines[0].get_ydata()) == [0.0, 0.25]
    assert "density" in left.get_ylabel() and "replaced" in right.get_ylabel()
    assert left.get_xlabel() == right.get_xlabel() == "round (-1 = before training)"


def test_list_figure_is_in_kilobytes():
    fig = pruning.list_figure({"small": {"a.weight": (4000, 40)}, "large": {"block 1": (8000, 80)}}, "counted")
    assert [bar.get_height() for bar in fig.axes[0].patches] == [4, 0.04]
    assert all(ax.get_yscale() == "log" and ax.get_ylabel() == "kB per client" for ax in fig.axes)


def test_variants_are_compared_seed_by_seed():
    left, right = pruning.variant_figure({"none": [0.5, 0.7], "block": [0.6, 0.6]}, "measured").axes
    dots = [list(line.get_ydata()) for line in right.lines if line.get_marker() == "o"]
    assert np.allclose(dots, [[0.1, -0.1]])
    assert "accuracy" in left.get_ylabel() and "none" in right.get_ylabel()


def test_change_panel_starts_where_something_changed():
    old, new = (Mask({name: torch.from_numpy(keep) for name, keep in mask.items()}) for mask in (OLD, NEW))
    fig = change_panel([old, old, new], False, "counted")
    assert "1 of 3" in fig.axes[0].get_title(loc="left")
    box = change_panel([old, old, new], True, "counted")
    slider = box.children[0]
    assert isinstance(slider, ipywidgets.IntSlider) and (slider.value, slider.max) == (1, 1)


def test_matrices_have_a_row_per_filter():
    mask = Mask({"conv.weight": torch.ones(4, 2, 3, 3, dtype=torch.bool)})
    assert matrices(mask)["conv.weight"].shape == (4, 18)


def test_gradients_of_kept_and_pruned_weights_are_shares():
    fig = pruning.gradient_figure([0.1, 0.2], [0.3, 0.4, 0.5, 0.6], 0.5, "text")
    [ax] = fig.axes
    assert ax.lines[0].get_xdata()[0] == 0.5
    for patch in ax.patches:
        tops = {round(float(y), 6) for _, y in patch.get_xy()} - {0.0}
        assert tops == ({0.5} if patch.get_label() == "kept" else {0.25})


def test_an_exchange_marks_what_went_and_what_came():
    before, after = np.array([[True, False], [True, False]]), np.array([[True, True], [False, False]])
    fig = pruning.exchange_figure([[0.5, 0.0], [0.1, 0.0]], [[0.0, -0.9], [0.0, 0.2]], before, after)
    told = [[text.get_text() for text in ax.texts] for ax in fig.axes]
    assert told == [["0.5", "0.1"], ["-0.9", "0.2"], ["0.5", "0"]]
    coloured = [[to_hex(patch.get_facecolor()) for patch in ax.patches] for ax in fig.axes]
    assert [colours.index(pruning.PRUNED) for colours in coloured[:1]] == [2]
    assert [colours.index(pruning.GROWN) for colours in coloured[1:]] == [1, 1]
