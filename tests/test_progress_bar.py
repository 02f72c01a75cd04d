"""Progress as a person sees it: a bar in a terminal, lines in a log, and nothing from workers and threads."""

import io
import multiprocessing
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedtiny_lite import progress_bar as module
from fedtiny_lite.progress_bar import progress_bar
from fedtiny_lite.simulation.rounds import run
from tests.helpers import four_clients, interrupted

LINE = re.compile(r"(\w+): (\d+) of (\d+) rounds, (?:\?|\d\d:\d\d) left, test accuracy (0\.\d{4}|1\.0000)")


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_at_the_start_and_after_each_round(capsys):
    record = run(four_clients(rounds=2, pretrain_epochs=0))
    found = [LINE.fullmatch(line).groups() for line in capsys.readouterr().err.splitlines()]
    accuracies = [entry["test_accuracy"] for entry in (record["start"], *record["rounds"])]
    assert found == [("fedtiny", str(done), "2", f"{accuracy:.4f}") for done, accuracy in enumerate(accuracies)]


def test_a_run_that_goes_on_tells_of_the_rounds_that_were_left(tmp_path, capsys):
    config = four_clients(rounds=3, pretrain_epochs=0)
    interrupted(config, tmp_path, after=0)
    capsys.readouterr()
    run(config, tmp_path)
    assert [line.split(" of")[0] for line in capsys.readouterr().err.splitlines()] == ["fedtiny: 2", "fedtiny: 3"]


def test_the_time_left_follows_from_the_steps_of_this_call(monkeypatch):
    """Two of ten steps were done before; the third took four seconds, so the seven others take 28."""
    with progress_bar(10, "runs", "run") as bar:
        bar.initial, bar.n = 2, 3
        monkeypatch.setattr(bar, "_time", lambda: bar.start_t + 4)
        assert str(bar) == "runs: 3 of 10 runs, 00:28 left"


def test_steps_of_a_schedule_are_told_once_in_a_while(monkeypatch, capsys):
    assert list(progress_bar("abc", "pretraining", "step")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress_bar("abc", "pretraining", "step")) == ["a", "b", "c"]
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"pretraining: {done} of 3 steps" for done in (1, 2, 3)
    ]


def test_a_terminal_gets_a_bar_that_vanishes(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(four_clients(rounds=2, pretrain_epochs=0))
    shown = sys.stderr.getvalue()
    assert "\n" not in shown and shown.endswith("\r")
    assert re.search(r"fedtiny:  50%\|.*\| 1/2 \[.*, test accuracy \d\.\d{4}\]", shown)


@pytest.mark.parametrize("terminal", [True, False])
def test_workers_threads_and_nothing_to_do_show_nothing(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    list(progress_bar([], "nothing", "step"))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: list(progress_bar(range(3), "thread", "step"))).result() == [0, 1, 2]
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "another")
    with progress_bar(2, "worker", "step") as bar:
        bar.update()
    assert sys.stderr.getvalue() == ""
