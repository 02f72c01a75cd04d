"""Lesson: what a notebook does besides teaching."""

import pytest
from PIL import Image

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments.lesson import Lesson, parameter_names
from fedtiny_lite.plots.style import figure
from fedtiny_lite.records.claims import load_claims
from fedtiny_lite.records.files import ROOT

NAME = "03_progressive_pruning"


@pytest.fixture
def lesson(tmp_path):
    values = dict(profile="smoke", out=str(tmp_path), interactive=False, seeds=1, first_seed=2, density=0.02, other=1)
    return Lesson(NAME, values)


def test_parameters_are_those_of_the_tagged_cell(lesson, tmp_path):
    assert parameter_names(ROOT / "notebooks" / f"{NAME}.ipynb") == list(lesson.parameters)
    assert "other" not in lesson.parameters and lesson.parameters["first_seed"] == 2
    assert lesson.profile == "smoke" and lesson.out == tmp_path
    with pytest.raises(ValueError, match="first_seed, density not set: run the parameters cell first"):
        Lesson(NAME, {})


def test_config_is_printed(lesson, capsys):
    config = lesson.config(seed=3)
    assert config == make_config("smoke", seed=3)
    assert capsys.readouterr().out == f"{config}\n"


def test_a_figure_is_kept_with_its_caption(lesson, tmp_path, capsys):
    path = lesson.figure(figure(), "lists", "Lists are short.")
    assert path == tmp_path / "figures" / "03_lists.png"
    assert Image.open(path).text["Description"] == "Lists are short."
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


def test_runs_come_under_their_keys(lesson):
    plan = {name: make_config("smoke", rounds=0, width=2, selection=name) for name in ("vanilla", "server")}
    records = lesson.run_all(plan)
    assert {name: record["config"]["selection"] for name, record in records.items()} == {n: n for n in plan}
