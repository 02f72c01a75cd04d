"""Lesson: what a notebook does besides teaching."""

import pytest
import torch
from PIL import Image

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments.lesson import Lesson
from fedtiny_lite.plots.style import figure
from fedtiny_lite.records.claims import load_claims
from fedtiny_lite.records.explored import standard_parameters

NAME = "03_progressive_pruning"


def parameters(folder, **changed):
    """The namespace of a notebook whose parameters cell has run."""
    return standard_parameters(NAME) | dict(profile="smoke", out=str(folder), other=1) | changed


@pytest.fixture
def lesson(tmp_path):
    return Lesson(NAME, parameters(tmp_path))


def test_parameters_are_those_of_the_tagged_cell(lesson, tmp_path):
    assert list(lesson.parameters) == list(standard_parameters(NAME))
    assert lesson.profile == "smoke" and lesson.out == lesson.folder == tmp_path and lesson.changed == []
    with pytest.raises(ValueError, match="first_seed, density not set: run the parameters cell first"):
        Lesson(NAME, {})


def test_what_is_computed_by_hand_is_computed_with_the_threads_of_a_run(tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Lesson(NAME, parameters(tmp_path))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_config_is_printed_by_group(lesson, capsys):
    config = lesson.config(method="fedrts", seed=3)
    assert config == make_config("smoke", method="fedrts", seed=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run:            method=fedrts seed=3 score_on=test"
    assert lines[-1].startswith("fedrts alone:   ") and "thompson_weight=10" in lines[-1]
    text = " ".join(lines)
    assert all(f" {name}={value}" in text for name, value in config.identity().items())


def test_a_method_without_settings_of_its_own_has_none(lesson, capsys):
    lesson.config(method="magnitude")
    assert capsys.readouterr().out.endswith("magnitude alone: none\n")


def test_a_figure_is_kept_with_its_caption(lesson, tmp_path, capsys):
    lesson.figure(figure(), "lists", "Lists are short.")
    assert Image.open(tmp_path / "figures" / "03_lists.png").text["Description"] == "Lists are short."
    assert "Lists are short.\n" in capsys.readouterr().out


def test_claims_are_saved_once_and_printed(lesson, tmp_path, capsys):
    lesson.claim("03-no-block-skipped", 1)
    lesson.claim("03-no-block-skipped", 0)
    lesson.claim("03-forward", 0.5, band=(0, 0.1))
    lesson.finish()
    assert [(row["id"], row["ok"]) for row in load_claims(tmp_path)] == [
        ("03-no-block-skipped", True),
        ("03-forward", False),
    ]
    assert "MISS" in capsys.readouterr().out


def test_changed_parameters_leave_the_standard_run_alone(tmp_path):
    lesson = Lesson(NAME, parameters(tmp_path, density=0.5))
    lesson.claim("03-no-block-skipped", 7)
    lesson.finish()
    assert load_claims(tmp_path) == []
    [row] = load_claims(lesson.folder)
    assert row["ok"] is None and row["why"] == "density differs"


def test_runs_come_under_their_keys(lesson):
    plan = {name: make_config("smoke", rounds=0, width=2, selection=name) for name in ("vanilla", "server")}
    records = lesson.run_all(plan)
    assert {name: record["config"]["selection"] for name, record in records.items()} == {n: n for n in plan}
