"""Figures of notebook 08: what is drawn is what was given."""

import pytest

from fedtiny_lite.plots import devices

pytestmark = pytest.mark.usefixtures("no_figure_left_open")
ROUNDS = [
    {"round": 0, "asked": [0, 1], "seconds": 2.0, "bytes_down": 3000, "bytes_up": 1000},
    {"round": 1, "asked": [0, 1], "seconds": 9.0, "bytes_down": 2000, "bytes_up": 500, "lost": {"1": "gone"}},
]


def heights(ax):
    return [bar.get_height() for bar in ax.patches]


def test_a_question_is_divided_into_its_parts():
    [ax] = devices.question_figure({"first": {"header": 5, "mask": 3}, "later": {"header": 4}}, "counted").axes
    widths = [[bar.get_width() for bar in group] for group in ax.containers]
    starts = [[bar.get_x() for bar in group] for group in ax.containers]
    assert widths == [[5, 4], [3, 0]] and starts == [[0, 0], [5, 4]]
    assert [text.get_text().strip() for text in ax.texts] == ["8", "4"]


def test_lost_clients_are_told_from_those_that_answered():
    left, middle, right = devices.answers_figure(ROUNDS, "measured").axes
    answered, lost = ([tuple(point) for point in group.get_offsets().tolist()] for group in left.collections)
    assert (answered, lost) == ([(0, 0), (0, 1), (1, 0)], [(1, 1)])
    assert heights(middle) == [2, 9] and heights(right) == [3, 2, 1, 0.5]


def test_a_record_in_which_all_answered_has_no_lost_client():
    left = devices.answers_figure(ROUNDS[:1], "measured").axes[0]
    assert len(left.collections[1].get_offsets()) == 0


def test_kinds_have_two_bars_each():
    fig = devices.kinds_figure({"A": {"round": (10, 5)}, "B": {"survey": (1, 2), "round": (3, 4)}}, "counted")
    assert [[bar.get_width() for bar in ax.patches] for ax in fig.axes] == [[10, 5], [1, 3, 2, 4]]
    assert len({ax.get_xlim() for ax in fig.axes}) == 1, "bars of two panels compare"


def test_a_line_carries_eight_bits_a_byte():
    [ax] = devices.line_figure({"dense": 1e6}, 8e6, "counted").axes
    line = ax.lines[0]
    assert list(line.get_xdata()) == pytest.approx(list(line.get_ydata()))
