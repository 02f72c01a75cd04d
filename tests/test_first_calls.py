"""What stands in the package itself: a few calls, each brought when it is asked for, and nothing before that."""

import ast
import json
import subprocess
import sys

import pytest

import fedtiny_lite
from fedtiny_lite.records.files import ROOT


def in_a_fresh_process(code: str) -> str:
    """The last line that `code` prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, text=True, check=True, capture_output=True).stdout.splitlines()[-1]


@pytest.mark.parametrize("name", fedtiny_lite.__all__)
def test_a_call_is_the_one_of_its_module(name):
    found = getattr(fedtiny_lite, name)
    assert callable(found) and found.__name__ == name and found.__doc__
    assert found is getattr(sys.modules[found.__module__], name)


def test_all_checkers_and_readers_are_told_the_same_names():
    tree = ast.parse((ROOT / "fedtiny_lite" / "__init__.py").read_text())
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module.removeprefix("fedtiny_lite.") for node in guarded.body for alias in node.names}
    assert typed == fedtiny_lite._HOMES
    assert sorted(typed) == fedtiny_lite.__all__
    assert set(fedtiny_lite.__all__) <= set(dir(fedtiny_lite))


def test_star_brings_the_calls():
    found: dict = {}
    exec("from fedtiny_lite import *", found)
    assert found.keys() - {"__builtins__"} == set(fedtiny_lite.__all__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'fedtiny_lite' has no attribute 'train'$"):
        _ = fedtiny_lite.train
    with pytest.raises(ImportError, match="train"):
        from fedtiny_lite import train  # noqa: F401


def test_importing_the_package_imports_nothing_of_it_and_nothing_heavy():
    code = (
        "import json, sys; known = set(sys.modules); import fedtiny_lite; print(json.dumps([*{*sys.modules} - known]))"
    )
    found = json.loads(in_a_fresh_process(code))
    assert [name for name in found if name.startswith("fedtiny_lite")] == ["fedtiny_lite"]
    assert {name.split(".")[0] for name in found} - {"fedtiny_lite"} <= set(sys.stdlib_module_names)


def test_records_are_read_without_torch():
    names = "load_plan, load_records, read_record, run_frame"
    code = f"import sys; from fedtiny_lite import {names}; print('torch' in sys.modules)"
    assert in_a_fresh_process(code) == "False"


def test_a_first_run():
    code = """
from fedtiny_lite import make_config, run
tiny = dict(rounds=1, pretrain_epochs=0, width=2, density=0.2, clients=2, samples=200, server_shots=2)
print(run(make_config("smoke", method="magnitude", **tiny))["complete"])
"""
    assert in_a_fresh_process(code) == "True"
