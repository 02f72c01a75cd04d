"""Panels: controls above a picture, busy while they draw, and the buttons that train and stop."""

import base64
import io
import re
import threading

import numpy as np
import pytest
from ipywidgets import FloatSlider
from matplotlib.image import imread

from fedtiny_lite.config import make_config
from fedtiny_lite.methods._selection import Selection
from fedtiny_lite.plots.rounds import round_figure, training_figure
from fedtiny_lite.plots.style import figure, subtitle
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.widgets import candidates
from fedtiny_lite.widgets.panel import BUSY, SCREEN_DPI, as_html, panel
from fedtiny_lite.widgets.runs import round_panel
from fedtiny_lite.widgets.training import train_panel
from tests.helpers import four_clients

pytestmark = pytest.mark.usefixtures("no_figure_left_open")


def pixels(picture: str) -> np.ndarray:
    """Of an <img> as `as_html` gives it."""
    return imread(io.BytesIO(base64.b64decode(re.search('base64,([^"]*)"', picture)[1])))


def drawn(height: float):
    """A figure with one bar."""
    fig = figure((4.0, 3.0))
    fig.subplots().bar([0], [height])
    subtitle(fig, f'height "{height:g}"', "counted\n& measured")
    return fig


# --- a panel ----------------------------------------------------------------------------------------------


def test_a_move_says_busy_and_then_shows_another_picture():
    slider, said = FloatSlider(1.0, min=1, max=5), []
    control, busy, picture = panel(drawn, True, height=slider).children
    first = picture.value
    busy.observe(lambda change: said.append((change.new, picture.value == first)), "value")
    slider.value = 3.0
    assert control is slider and said == [(BUSY, True), ("", False)]


def test_a_picture_has_the_size_of_the_screen_and_its_words_for_those_who_cannot_see_it():
    picture = as_html(drawn(1), {})
    assert pixels(picture).shape[:2] == (3 * SCREEN_DPI, 4 * SCREEN_DPI)
    assert 'alt="height &quot;1&quot; counted &amp; measured"' in picture


def test_later_pictures_are_laid_out_like_the_first():
    places, first, again = {}, drawn(2), drawn(2)
    as_html(first, places), as_html(again, places)
    assert [ax.get_position().bounds for ax in again.axes] == [ax.get_position().bounds for ax in first.axes]


# --- the pool ---------------------------------------------------------------------------------------------


def test_another_legend_is_laid_out_anew():
    def draw(words: str):
        fig = figure((4, 3))
        fig.subplots().plot([0, 1], label=words)
        fig.legend(loc="outside right")
        return fig

    places: dict = {}
    for words in ("a", "a very long name of a method", "a"):
        as_html(draw(words), places)
    assert len(places) == 2


def test_a_pool_begins_with_the_candidates_of_any_smaller_one():
    """So the panel judges no candidate twice."""
    config = four_clients(rounds=0, pool_noise=0.5)
    small, large = (candidates.judge(config.changed(pool_size=size)) for size in (2, 5))
    assert large["kept"][:2] == small["kept"] and large["losses"][:2] == small["losses"]


def test_moving_the_pools_size_down_judges_nothing(monkeypatch):
    judged, judge = [], candidates.judge
    monkeypatch.setattr(candidates, "judge", lambda config: judged.append(config) or judge(config))
    size, noise, *_ = candidates.pool_panel(four_clients(pool_size=3), True).children
    size.value, noise.value, size.value = 2, 0.25, 1
    assert [(one.of(Selection).pool_size, one.of(Selection).pool_noise) for one in judged] == [(3, 0.5), (2, 0.25)]


# --- rounds -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return run(make_config("smoke", rounds=3, adjust_until=3))


@pytest.mark.parametrize("finished", [0, 1, 2, 3])
def test_round_figure_shows_what_the_record_says(record, finished):
    top, bottom = (fig := round_figure(record, finished)).axes
    entry = [record["start"], *record["rounds"]][finished]
    accuracies = [one["test_accuracy"] for one in (record["start"], *record["rounds"])]
    assert top.lines[0].get_ydata().tolist() == accuracies
    assert sum(bar.get_height() for bar in bottom.patches) == sum(
        sum(one.get("adjusted", {}).values()) for one in record["rounds"]
    )
    assert f"{finished} of 3 rounds: test accuracy {entry['test_accuracy']:.3f}" in fig.get_suptitle()
    assert all(f"{count} in {name[:-7]}" in fig.get_suptitle() for name, count in entry.get("adjusted", {}).items())


def test_a_run_that_noted_no_growth_says_nothing_of_its_mask():
    """LotteryFL's masks shrink in this round; the record holds densities and no grown weights."""
    record = run(four_clients(method="lotteryfl", lottery_accuracy=0.0, rounds=1, pretrain_epochs=0))
    assert record["rounds"][0]["prunable_density"] < record["start"]["prunable_density"]
    fig, accuracy = round_figure(record, 1), record["final"]["test_accuracy"]
    assert fig.get_suptitle().splitlines()[0] == f"1 of 1 rounds: test accuracy {accuracy:.3f}"
    assert [text.get_text() for text in fig.axes[1].texts] == ["no round noted grown weights"]


def test_of_what_was_pruned_nothing_is_said(record):
    """PruneFL grows and prunes different numbers of weights and notes the first alone."""
    entry = next(entry for entry in record["rounds"] if entry.get("adjusted"))
    fig = round_figure(record, entry["round"] + 1)
    assert "; grown: " in fig.get_suptitle() and "pruned" not in fig.get_suptitle()
    assert fig.axes[1].get_ylabel() == "weights grown"


def test_the_panel_of_rounds_starts_where_weights_first_grew(record):
    slider, *_ = round_panel(record, True).children
    first = next(entry["round"] for entry in record["rounds"] if entry.get("adjusted"))
    assert (slider.value, slider.min, slider.max) == (first + 1, 0, 3)
    with pytest.raises(ValueError, match="no rounds to step through; give the record of a run with rounds"):
        round_panel(record | {"rounds": []}, True)


def test_training_figure_colours_what_the_round_made_of_each_weight():
    """A pruned, a pruned just now, a grown and a kept weight."""
    before, now = np.array([[False, True, False, True]]), np.array([[False, False, True, True]])
    entries = [{"round": -1, "test_accuracy": 0.25}, {"round": 0, "test_accuracy": 0.5}]
    left, right = training_figure(entries, 4, "test", "", "a.weight", before, now).axes
    assert left.lines[0].get_xydata().tolist() == [[0, 0.25], [1, 0.5]]
    assert right.images[0].get_array().tolist() == [[0, 1, 2, 3]]
    assert right.get_title() == "a: 2 of 4 kept, 1 grown in this round"
    _, right = training_figure(entries, 4, "test", "", "a.weight", None, now).axes
    assert right.images[0].get_array().tolist() == [[0, 0, 3, 3]]
    assert right.get_title() == "a: 2 of 4 kept"


# --- training ---------------------------------------------------------------------------------------------


def timeless(record) -> dict:
    """A record without what depends on the clock."""
    if isinstance(record, dict):
        return {key: timeless(value) for key, value in record.items() if key != "seconds"}
    return [timeless(value) for value in record] if isinstance(record, list) else record


class Pressed:
    """A train panel, its parts by name, and what it said, in order."""

    def __init__(self, config, out):
        buttons, self.bar, self.told, self.picture = train_panel(config, out, True).children
        self.train, self.stop = buttons.children
        self.said, self.idle = [], threading.Event()
        self.told.observe(lambda change: self.said.append(change.new), "value")
        self.stop.observe(lambda change: self.idle.set() if change.new else None, "disabled")

    def press_train(self):
        self.idle.clear()
        self.train.click()
        assert self.idle.wait(60)


def test_train_it_trains_the_run_that_a_plain_call_trains(tmp_path):
    config = four_clients(rounds=2)
    pressed = Pressed(config, tmp_path / "panel")
    pressed.press_train()
    assert pressed.said == ["training …", "finished"] and pressed.bar.value == 2
    assert (pressed.train.disabled, pressed.stop.disabled) == (False, True)
    assert timeless(run(config, tmp_path / "panel")) == timeless(run(config, tmp_path / "plain"))


def test_stop_keeps_the_finished_rounds_and_train_it_goes_on_after_them(tmp_path):
    config = four_clients(rounds=3)
    pressed = Pressed(config, tmp_path / "panel")
    pressed.bar.observe(lambda change: pressed.stop.click() if change.new == 1 else None, "value")
    pressed.press_train()
    assert pressed.bar.value == 1
    assert pressed.said[-1] == "stopped; 1 of 3 rounds are kept, and “train it” goes on after them"
    again, values = Pressed(config, tmp_path / "panel"), []  # as after a restart of the kernel
    assert again.bar.value == 1 and again.picture.value
    again.bar.observe(lambda change: values.append(change.new), "value")
    again.press_train()
    assert values == [2, 3] and again.said[-1] == "finished"
    assert timeless(run(config, tmp_path / "panel")) == timeless(run(config, tmp_path / "plain"))


def test_a_finished_run_is_shown_and_starts_anew(tmp_path):
    config, values = four_clients(rounds=2), []
    run(config, tmp_path)
    pressed = Pressed(config, tmp_path)
    assert pressed.bar.value == 2 and pressed.picture.value
    pressed.bar.observe(lambda change: values.append(change.new), "value")
    pressed.press_train()
    assert values == [0, 1, 2]


def test_an_output_that_cannot_be_written_is_said_in_the_panel(tmp_path):
    (tmp_path / "file").touch()
    pressed = Pressed(four_clients(), tmp_path / "file")
    pressed.press_train()
    assert "choose a folder that can be written to" in pressed.told.value and not pressed.train.disabled


def test_not_interactive_trains_and_gives_the_figure(tmp_path):
    config = four_clients(rounds=2)
    left, _ = train_panel(config, tmp_path, interactive=False).axes
    record = run(config, tmp_path)
    expected = [entry["test_accuracy"] for entry in (record["start"], *record["rounds"])]
    assert left.lines[0].get_ydata().tolist() == expected
