"""A method in a file of one's own: found by its path, told apart by its content, judged before it is raced."""

import json
import pickle
import re
import shlex

import pytest

from fedtiny_lite.__main__ import main
from fedtiny_lite.config import load_method, make_config
from fedtiny_lite.exercises.own_method import check_method
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation.rounds import run

HEAD = """\
from dataclasses import dataclass

import torch

from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.server import pretrained
from fedtiny_lite.federated.state import State, masked_start
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.model.masks import Mask, global_top_mask
from fedtiny_lite.settings import Settings, setting


def start(server):
    weights, task = pretrained(server), server.task
    scores = {name: weights[name].abs() for name in task.sizes}
"""
START = "    return masked_start(weights, global_top_mask(scores, task.budget))\n"
METHOD = '\n\nMETHOD = Method("mine", "masks that stay", start, AVERAGING)\n'
SMALL = dict(width=2, rounds=1, clients=2)


@pytest.fixture
def method(tmp_path):
    """Writes a method's file and returns the name of the method."""

    def write(ending: str = START, method: str = METHOD) -> str:
        path = tmp_path / "my_method.py"
        path.write_text(HEAD + ending + method, encoding="utf-8")
        return f"file:{path}"

    return write


def test_it_runs_like_any_other(method, tmp_path):
    config = make_config("smoke", method=method(), **SMALL)
    record = run(config, tmp_path)
    assert record["complete"] and record["method"] == {"label": "mine", "family": "masks that stay"}
    assert record["config"]["method"] == config.method and record["run_id"].startswith("my_method-digits-cnn2-")
    assert make_config({}, **record["config"]) == config


def test_worker_processes_load_the_file_too(method):
    config = make_config("smoke", method=method(), **SMALL)
    assert pickle.loads(pickle.dumps(config)) == config
    one, two = (run(config.changed(workers=workers))["rounds"][0]["test_loss"] for workers in (1, 2))
    assert one == two


def test_another_content_is_another_run(method):
    before = make_config("smoke", method=method())
    after = make_config("smoke", method=method(START.replace("task.budget", "task.budget // 2")))
    assert before.run_id != after.run_id and before != after
    with pytest.raises(ValueError, match=r"the file has changed; name it file:.*my_method\.py to run it as it is now"):
        make_config("smoke", method=before.method.replace(before.method[-8:], "0" * 8))


def test_settings_of_its_own(method):
    own = """

@dataclass(frozen=True, kw_only=True)
class Own(Settings):
    strength: float = setting(0.5, "how strong", above=0)


METHOD = Method("mine", "masks that stay", start, AVERAGING, settings=Own)
"""
    config = make_config("smoke", method=method(method=own), strength=0.25)
    assert config.identity()["strength"] == 0.25 and pickle.loads(pickle.dumps(config)) == config
    assert config.changed(strength=1).own.strength == 1


def test_the_examples_of_the_page_run_as_they_stand(tmp_path, capsys, monkeypatch):
    """The first is a file of the package; the second is saved as `my_method.py`, and commands and a call run it."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    whole, own, call = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:3]
    commands = re.findall(r"```\n(python.*?)```", page, re.DOTALL)[0]
    assert whole == (ROOT / "fedtiny_lite" / "methods" / "magnitude.py").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_method.py").write_text(own, encoding="utf-8")
    for command in commands.splitlines():
        python, dash, package, *arguments = shlex.split(command)
        assert (python, dash, package) == ("python", "-m", "fedtiny_lite")
        if "--help" in arguments:
            with pytest.raises(SystemExit, match=r"^0$"):
                main(arguments)
        else:
            assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "of file:my_method.py alone\n  power=0.5" in told
    path = tmp_path / told.splitlines()[-1]
    written, found = path.stat().st_mtime_ns, {}
    exec(compile(call, "methods.md", "exec"), found)  # the same run, which is finished
    assert found["record"]["run_id"] == path.parent.name and path.stat().st_mtime_ns == written
    assert found["record"]["config"]["power"] == 0.3 and found["record"]["method"]["label"] == "by spread"


UNDECLARED = 'class Own(Settings):\n    a: int = setting(1, "its help")'
DECLARED = "@dataclass(frozen=True, kw_only=True)\nclass Own(Settings):\n"
WITH_OWN = METHOD.replace("AVERAGING)", "AVERAGING, settings=Own)")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = (", r", line 1: SyntaxError: '\(' was never closed"),
        ("\nimport nothing_of_this_name\n", r", line 2: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def f():\n    1 / 0\n\n\nf()\n", r", line 2: ZeroDivisionError: division by zero"),
        ("raise RuntimeError('x\\ny')", r", line 1: RuntimeError: x y"),
        ("METHOD = 5\n", r": METHOD is of type int; it must be a fedtiny_lite\.federated\.protocol\.Method"),
        ("from torch import nn\nMETHOD = nn.Linear(2, 2)\n", r": METHOD is of type Linear; it must be a fedtiny_lite"),
        (
            f'{HEAD}{START}\n\n{DECLARED}    lr: float = setting(0.9, "its help")\n{WITH_OWN}',
            "settings of mine: lr is a setting that every run has; choose another name",
        ),
        (
            f'{HEAD}{START}\n\n{DECLARED}    nesterov: bool = setting(True, "its help")\n{WITH_OWN}',
            "ValueError: a setting whose default is True: give a whole number, a number or a word",
        ),
        (
            f"{HEAD}{START}\n\nclass Own: ...\n{WITH_OWN}",
            r": give a class that is derived from fedtiny_lite\.settings\.S",
        ),
        (f"{HEAD}{START}\n\n{UNDECLARED}\n{WITH_OWN}", r", with @dataclass\(frozen=True, kw_only=True\) above it"),
        (
            HEAD + START + METHOD.replace("AVERAGING)", 'AVERAGING, knobs={"powr": (1, 2)})'),
            "knobs of mine: powr is no setting of its own; those are none",
        ),
        (
            HEAD + START + METHOD.replace("masks that stay", "mine"),
            "family = 'mine' of mine: choose one of reference, masks that stay, masks that change",
        ),
    ],
)
def test_a_file_that_gives_no_method_is_told_in_one_line(content, said, tmp_path, capsys):
    path = tmp_path / "my_method.py"
    path.write_text(content, encoding="utf-8")
    assert main(["run", "--method", f"file:{path}", "--out", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}") and re.search(said, line), line
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["run", "--method", f"file:{path}", "--help"])
    assert line.removeprefix("error: ") in capsys.readouterr().out


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "my_method.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"my_method\.py': the file is not text in UTF-8$"):
        load_method(f"file:{tmp_path}/my_method.py")


def test_a_path_may_hold_the_sign_before_the_digits(method, tmp_path):
    path = tmp_path / "c#" / "my#method.py"
    path.parent.mkdir()
    path.write_text(HEAD + START + METHOD, encoding="utf-8")
    config = make_config("smoke", method=f"file:{path}", **SMALL)
    assert config.run_id.startswith("my#method-digits-cnn2-") and config.method[:-8] == f"file:{path}#"
    assert pickle.loads(pickle.dumps(config)) == config == make_config("smoke", method=config.method, **SMALL)


def test_what_is_no_method_is_refused(method, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*none\.py"):
        make_config(method=f"file:{tmp_path}/none.py")
    with pytest.raises(ValueError, match=r"the file defines no METHOD; docs/methods\.md shows one"):
        load_method(method(method=""))


def test_the_command_line_takes_it(method, tmp_path, capsys):
    small = [f"{name}={value}" for name, value in SMALL.items()]
    arguments = ["run", "--profile", "smoke", "--method", method(), "--out", str(tmp_path), "--set", *small]
    assert main(arguments) == 0
    with open(capsys.readouterr().out.splitlines()[-1], encoding="utf-8") as record:
        assert json.load(record)["method"]["label"] == "mine"


def test_a_mask_above_the_budget_is_said(method, tmp_path, capsys):
    """A small CNN of width 2 has 18 * 4 + 36 * 8 + 72 * 8 + 320 prunable weights; a tenth of them may be kept."""
    small = [f"{name}={value}" for name, value in (SMALL | {"density": 0.1}).items()]
    arguments = ["run", "--profile", "smoke", "--out", str(tmp_path), "--set", *small, "--method"]
    said = "mine keeps 375 prunable weights at the end, where density 0.1 allows 125"
    assert main([*arguments, method(START.replace("task.budget", "3 * task.budget"))]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == said
    assert main([*arguments, method()]) == main([*arguments, "fedavg"]) == main([*arguments, "ssfl"]) == 0
    assert "prunable weights" not in capsys.readouterr().out
    assert main(["figures", "--out", str(tmp_path)]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("my_method-digits-cnn2-") and line.endswith(f": {said}")


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (START, "✓ Ready: it keeps 53 of at most 53 weights"),
        ("", "✗ start(server) returns a NoneType; end it with `return masked_start(weights, mask)`."),
        ("    return masked_start(weights, mask)\n", "✗ start(server) raises NameError: name 'mask' is not defined"),
        (START.replace("task.budget", "60"), "✗ The mask keeps 60 weights and the budget is 53"),
        ("    return State(weights, global_top_mask(scores, 50))\n", "non-zero weights outside its mask"),
        (START.replace("scores,", "dict(list(scores.items())[1:]),"), "✗ The mask must name conv2.weight, "),
        (START.replace("scores", "{n: torch.rand(s.shape) for n, s in scores.items()}"), "gives another mask"),
        (START.replace("weights,", "{n: w / 2 for n, w in weights.items()},"), "starts from other values"),
    ],
)
def test_a_start_is_judged(method, ending, said, capsys):
    check_method(make_config("smoke", method=method(ending), width=4, density=0.0122, prune_linear="yes"))
    assert said in capsys.readouterr().out
