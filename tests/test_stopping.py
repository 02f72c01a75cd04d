"""Ctrl-C, and a cell that is interrupted: one line says what is kept, and the same call goes on from there."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from fedtiny_lite import __main__ as command_line
from fedtiny_lite.experiments import sweep
from fedtiny_lite.records.schema import canonical
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.stopping import Stopped, stopping
from tests.helpers import four_clients

CONFIG = four_clients(method="random", rounds=3)


def stop_after(r: int):
    def on_round(entry, state):
        if entry["round"] == r:
            raise KeyboardInterrupt

    return on_round


def test_a_stopped_run_says_how_many_rounds_are_kept_and_goes_on(tmp_path):
    with pytest.raises(Stopped) as stop:
        run(CONFIG, tmp_path, stop_after(1))
    kept = f"2 of 3 rounds are kept in {tmp_path / CONFIG.run_id}"
    assert str(stop.value) == f"stopped; {kept}: run the same again to go on from there"
    seen = []
    record = run(CONFIG, tmp_path, lambda entry, state: seen.append(entry["round"]))
    assert seen == [2]
    assert canonical(record) == canonical(run(CONFIG))


def test_a_run_that_is_stopped_before_its_first_round_ends_keeps_none(tmp_path):
    with pytest.raises(Stopped, match=r"^stopped; no round was finished, so the same run begins anew$"):
        run(CONFIG, tmp_path, stop_after(-1))


def test_a_run_without_a_folder_keeps_nothing():
    with pytest.raises(Stopped, match="nothing is kept, because no folder `out` was given"):
        run(CONFIG, None, stop_after(0))


def test_a_stopped_sweep_counts_the_finished_runs(tmp_path, monkeypatch):
    run(CONFIG, tmp_path)

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "_run_side_by_side", stop)
    with pytest.raises(Stopped, match=r"stopped; 1 of 2 runs are finished and kept in .*: run the same again"):
        sweep.run_all([CONFIG, CONFIG.changed(seed=1)], tmp_path)


def test_a_notebook_shows_one_line_and_no_traceback(capsys, monkeypatch):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # IPython warns where another environment is active
    cell = (
        "from fedtiny_lite.simulation.stopping import stopping\n"
        "with stopping(lambda: 'all is kept'):\n"
        "    raise KeyboardInterrupt"
    )
    shell = InteractiveShell()
    assert isinstance(shell.run_cell(cell).error_in_exec, KeyboardInterrupt), "later cells must not run"
    shown = capsys.readouterr()
    assert (shown.out + shown.err).strip() == "stopped; all is kept"


def test_the_innermost_sentence_stays():
    with pytest.raises(Stopped, match="inner"), stopping(lambda: "outer"), stopping(lambda: "inner"):
        raise KeyboardInterrupt


def test_the_command_line_prints_the_sentence(monkeypatch, capsys):
    def stop(options):
        with stopping(lambda: "two are kept"):
            raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "figures_command", stop)
    assert command_line.main(["figures"]) == 130
    assert capsys.readouterr().err == "\nstopped; two are kept\n"
