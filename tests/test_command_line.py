"""The command line as a person meets it: last lines, help, and errors that say what is allowed."""

import json
import re
import subprocess
import sys

import pytest

from fedtiny_lite.__main__ import main
from fedtiny_lite.config import METHODS, Config, make_config, own_settings, parse_settings
from fedtiny_lite.experiments.plans import PLANS
from fedtiny_lite.experiments.study import STUDY
from fedtiny_lite.export.tiny_model import load_tiny
from fedtiny_lite.plots import verdicts as plots_verdicts
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.report import verdicts as report_verdicts
from fedtiny_lite.report.pages import site
from fedtiny_lite.settings import defaults, names, rules
from fedtiny_lite.simulation.rounds import run

TINY = ["rounds=1", "pretrain_epochs=0", "width=2", "density=0.1", "clients=2"]


def test_run_prints_the_path_of_its_record_last_and_figures_draws_it(tmp_path, capsys):
    arguments = ["run", "--method", "magnitude", "--seed", "3", "--set", *TINY, "--out", str(tmp_path)]
    assert main(arguments) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    with open(path) as file:
        record = json.load(file)
    assert record["complete"] and record["config"]["seed"] == 3 and record["config"]["method"] == "magnitude"
    assert set(record) >= {"run_id", "config", "rounds", "final", "environment", "complete"}
    assert main(["figures", "--out", str(tmp_path)]) == 0
    drawn = capsys.readouterr().out.split("\n")[:-1]
    assert drawn and all(name.endswith(".png") for name in drawn)


def test_report_computes_the_verdicts_that_it_prints_and_writes_once(tmp_path, monkeypatch, capsys):
    asked, written = [], []
    monkeypatch.setattr(report_verdicts, "verdicts", lambda out: asked.append(out) or [])
    monkeypatch.setattr(plots_verdicts, "verdicts_figure", lambda found: None)
    monkeypatch.setattr(site, "write_site", lambda out, found, *rest: written.append(found) or out / "index.html")
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert (asked, written) == ([tmp_path], [[]])
    assert capsys.readouterr().out == f"{tmp_path / 'index.html'}\n"


def helped(arguments, capsys) -> str:
    """What help says."""
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 0
    return capsys.readouterr().out


def settings_in(text: str) -> set[str]:
    """The settings that a text of help explains."""
    return set(re.findall(r"^  (\w+)=", text, re.MULTILINE))


def test_help_names_every_setting_and_method_and_how_to_see_those_of_one(capsys):
    text = helped(["run", "--help"], capsys)
    assert settings_in(text) == names(Config)
    assert all(method in text for method in METHODS)
    assert "of one method: run --method NAME --help" in text
    assert all(f"\n{rule.metadata['group']}\n" in text for rule in rules(Config))


@pytest.mark.parametrize("method", METHODS)
def test_help_of_a_method_names_its_own_settings_with_their_defaults(method, capsys):
    for arguments in (["run", "--method", method, "--help"], ["run", f"--method={method}", "-h"]):
        every, own = helped(arguments, capsys).split(f"\nof {method} alone\n")
        assert settings_in(every) == names(Config)
        assert settings_in(own) == names(own_settings(method))
        assert all(f"  {name}={value} " in own for name, value in defaults(own_settings(method)).items())
        assert own.strip() == "none" or names(own_settings(method))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "fedprox"], f"method = 'fedprox': choose one of {', '.join(METHODS)}"),
        (["--method=file:none.py"], "method = 'file:none.py': there is no file none.py"),
        (["--method"], "of one method: run --method NAME --help"),
    ],
)
def test_help_of_an_unknown_method_is_that_of_all_and_says_what_is_wrong(arguments, said, capsys):
    text = helped(["run", "--help", *arguments], capsys)
    assert settings_in(text) == names(Config)
    assert "of one method: run --method NAME --help" in text and text.endswith(f"{said}\n")


@pytest.mark.parametrize("command", [[], ["run"], ["sweep"], ["notebooks"], ["figures"], ["export"]])
def test_help_answers_at_once(command):
    """Torch and what draws take seconds to import, and no help needs them."""
    code = (
        "import sys; from fedtiny_lite.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*{'torch', 'pandas', 'matplotlib', 'scipy', 'numba'} & set(sys.modules), sep='\\n')"
    )
    call = [sys.executable, "-c", code, *command, "--help"]
    done = subprocess.run(call, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m fedtiny_lite")
    assert done.stdout.endswith("\n\n"), f"help imported {done.stdout.splitlines()[-1]}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "huge"], "profile = 'huge': choose one of smoke, digits, laptop, paper"),
        (["--method", "fedprox"], "method = 'fedprox': choose one of"),
        (["--set", "dataset=mnist"], "dataset = 'mnist': choose one of digits, "),
        (["--set", "densty=0.1"], "densty is not a setting; did you mean density or density_of? `python -m fedtiny_l"),
        (["--set", "min_replies=9", "clients=5"], "min_replies = 9: 5 clients are asked; it must be at most that"),
        (
            ["--method", "magnitude", "--set", "thompson_weight=2"],
            "thompson_weight is a setting of fedrts; those of magnitude alone are: none",
        ),
        (["--set", "method=snip", "pool_size=2"], "pool_size is a setting of fedtiny; those of snip alone are: "),
        (["--set", "clients_per_round=11"], "clients_per_round = 11: there are 10 clients; it must be at most that"),
        (["--set", "selection_clients=11"], "selection_clients = 11: there are 10 clients; 0 asks all"),
        (["--set", "density"], "write a setting as key=value"),
        (["--set", "density=2"], "density = 2.0: it must be above 0 and at most 1"),
        (["--set", "density=nan"], "density = nan: it must be above 0 and at most 1"),
        (["--set", "clients=100000"], "100000"),
        (["--set", "alpha=0"], "alpha = 0.0: it must be above 0"),
        (["--set", "adjust_blocks=9"], "adjust_blocks = '9': this model has blocks 1 to 3"),
        (["--set", "density_of=model", "density=0.01"], "always dense"),
        (["--set", "engine=fast"], "engine = 'fast': choose one of dense"),
        (["--set", "torch_device=cuda"], "torch sees no GPU here"),
        (["--seed", "1", "--set", "seed=2"], "--seed 1 and --set seed=2 are both given; give one"),
        (
            ["--method", "snip", "--set", "method=grasp"],
            "--method snip and --set method=grasp are both given; give one",
        ),
        (["--set", "lr=0.1", "rounds=1", "--set", "lr=0.2"], "lr is set twice, to '0.1' and to '0.2'; set it once"),
    ],
)
def test_bad_input_is_explained_and_exits_with_1(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["run", *arguments, "--out", str(tmp_path)]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.glob("runs/*")) == [], "a refused run left something behind"


def test_figures_without_records_says_how_to_make_one(tmp_path, capsys):
    assert main(["figures", "--out", str(tmp_path)]) == 1
    assert "python -m fedtiny_lite run" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [["rounds=0"], ["rounds=1", "selection=fixed", "progressive=no"]])
def test_figures_leave_out_runs_that_compare_with_no_other(settings, tmp_path, capsys):
    """A judged pool and a candidate taken unjudged are no results of a method."""
    assert main(["run", "--set", *TINY[1:], *settings, "--out", str(tmp_path)]) == 0
    assert main(["figures", "--out", str(tmp_path)]) == 1
    assert "no finished run" in capsys.readouterr().err


# --- sweep ----------------------------------------------------------------------------------------------------


def test_a_sweep_of_an_unknown_plan_exits_with_1_and_names_the_known_ones(tmp_path, capsys):
    assert main(["sweep", "everything", "--out", str(tmp_path)]) == 1
    assert f"error: plan = 'everything': choose one of {', '.join(PLANS)}, {STUDY}\n" == capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_study_has_no_bundle_of_its_runs(tmp_path, capsys):
    assert main(["sweep", STUDY, "--finished", "--out", str(tmp_path)]) == 1
    assert f"plan = '{STUDY}': its runs have no bundle; leave --finished and --go-on out" in capsys.readouterr().err


def test_a_sweep_before_its_tuning_says_what_to_run_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fedtiny_lite.records.bundles.COMMITTED", tmp_path)
    assert main(["sweep", "digits", "--out", str(tmp_path)]) == 1
    assert "python -m fedtiny_lite sweep digits_tuning" in capsys.readouterr().err


@pytest.mark.parametrize("processes", ["0", "-2"])
def test_a_sweep_in_no_process_is_refused(processes, tmp_path, capsys):
    assert main(["sweep", "digits_tuning", "--processes", processes, "--out", str(tmp_path)]) == 1
    assert f"error: processes = {processes}: it must be at least 1\n" == capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["sweep"], ["sweep", "digits", "--processes", "many"], ["sweep", "a", "b"], []])
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2 and "usage:" in capsys.readouterr().err


def test_help_of_sweep_names_every_plan(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(plan in text for plan in PLANS)


# --- export ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The path of a finished run's record."""
    config = make_config(**parse_settings(TINY), method="magnitude")
    out = tmp_path_factory.mktemp("runs")
    run(config, out)
    return out / config.run_id / "record.json"


@pytest.mark.parametrize(
    ("wishes", "name"),
    [
        ([], "model.tiny"),
        (["--fold-bn"], "model.folded.tiny"),
        (["--onnx"], "model.onnx"),
        (["--fold-bn", "--onnx"], "model.onnx"),
    ],
)
def test_export_prints_sizes_and_the_path_last(wishes, name, finished, capsys):
    assert main(["export", str(finished.parent), *wishes]) == 0
    sizes, dense, *_, last = capsys.readouterr().out.splitlines()
    assert last == str(finished.with_name(name))
    tiny = "model.folded.tiny" if "--fold-bn" in wishes else "model.tiny"
    model = load_tiny(finished.with_name(tiny))
    assert model.folded is ("--fold-bn" in wishes)
    assert sizes == f"{tiny}: {finished.with_name(tiny).stat().st_size:,} bytes; counted {model.counted_bytes:,}"
    assert dense == f"dense float32: {model.dense_bytes:,} bytes"


def test_export_takes_the_line_that_run_prints(finished, capsys):
    assert main(["export", str(finished)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(finished.with_name("model.tiny"))


def test_export_without_a_model_says_what_to_do(tmp_path, capsys):
    assert main(["export", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'none'} holds no model.tiny" in error and "run it again" in error
    assert list(tmp_path.iterdir()) == []


def test_export_of_a_torn_model_names_it(tmp_path, capsys):
    (tmp_path / "model.tiny").write_bytes(b"FTL1 and no more")
    assert main(["export", str(tmp_path)]) == 1
    assert "model.tiny: these bytes are not a whole message" in capsys.readouterr().err


def test_ctrl_c_is_no_traceback(tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedtiny_lite.simulation.rounds.run", stopped)
    assert main(["run", "--out", str(tmp_path)]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
