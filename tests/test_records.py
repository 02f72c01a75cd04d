import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtiny_lite.records import claims, environment, files, schema
from fedtiny_lite.simulation.rounds import run
from tests.helpers import four_clients

RECORD = {"run_id": "a", "config": {"seed": 0}, "rounds": [{"loss": 1.5, "seconds": 2.0}], "complete": True}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@pytest.fixture
def bands(tmp_path, monkeypatch):
    """Two claims: `gap` with a band at digits and an open one at smoke, `rank` with a band at digits only."""
    entries = [
        {
            "id": "gap",
            "notebook": "04",
            "claim": "gap " * 30,
            "profiles": {"digits": [0.05, 1], "smoke": [None, 2]},
        },
        {"id": "rank", "notebook": "02", "claim": "rank", "profiles": {"digits": [0.4, 1.0]}},
    ]
    path = tmp_path / "expected.json"
    path.write_text(json.dumps(entries))
    monkeypatch.setattr(claims, "EXPECTED", path)


@given(trees)
def test_what_is_written_is_read_back(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("json") / "a" / "b.json"
    assert files.write_json(path, tree) == path
    assert files.read_json(path) == tree
    assert [file.name for file in path.parent.iterdir()] == ["b.json"]


def test_numpy_and_non_finite_numbers_become_plain_json(tmp_path):
    given = {
        "a": np.float32("nan"),
        "b": np.array([1.0, np.inf]),
        "c": np.int64(3),
        "d": (float("nan"), True),
    }
    path = files.write_json(tmp_path / "x.json", given)
    assert json.loads(path.read_text()) == {"a": None, "b": [1.0, None], "c": 3, "d": [None, True]}


def test_a_failed_write_leaves_the_old_file_and_names_the_path(tmp_path, monkeypatch):
    path = files.write_json(tmp_path / "x.json", {"old": 1})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError, match=r"cannot write it \(No space left on device\).*x\.json"):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_writing_below_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="choose a folder that can be written to"):
        files.write_json(tmp_path / "out" / "x.json", {})


def test_read_record_refuses_what_is_not_one(tmp_path):
    path = schema.write_record(tmp_path / "x.json", RECORD)
    assert schema.read_record(path) == RECORD
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"x\.json is torn"):
        schema.read_record(path)
    files.write_json(path, {"run_id": "a"})
    with pytest.raises(ValueError, match="is not a record of a run"):
        schema.read_record(path)
    with pytest.raises(FileNotFoundError):
        schema.read_record(tmp_path / "none.json")


def test_load_records_takes_complete_ones_and_names_torn_ones(tmp_path):
    schema.write_record(tmp_path / "b" / "r.json", RECORD | {"run_id": "b"})
    schema.write_record(tmp_path / "a" / "r.json", RECORD | {"run_id": "a"})
    schema.write_record(tmp_path / "c.json", RECORD | {"complete": False})
    files.write_json(tmp_path / "claims.json", [{"id": "x"}])
    assert [record["run_id"] for record in schema.load_records(tmp_path)] == ["a", "b"]
    (tmp_path / "torn.json").write_text('{"run_id": "d", "conf')
    with pytest.warns(UserWarning, match=r"torn\.json is torn"):
        assert len(schema.load_records(tmp_path)) == 2


def test_canonical_leaves_out_measured_times_and_the_environment_only():
    record = {"b": [{"seconds": 1.0, "loss": 2.0}], "environment": {"cpu": "x"}, "a": {"environment": 1}}
    assert schema.canonical(record) == b'{"a":{"environment":1},"b":[{"loss":2.0}]}'


@given(st.dictionaries(st.text(max_size=8), trees, max_size=4), st.floats(), st.floats())
def test_canonical_ignores_order_and_times(tree, one, other):
    first = {**tree, "seconds": one, "rounds": [{"seconds": one, "a": 1}]}
    second = {"rounds": [{"a": 1, "seconds": other}], **dict(reversed(tree.items())), "seconds": other}
    if "rounds" not in tree:
        assert schema.canonical(first) == schema.canonical(second)


def test_environment_says_what_a_run_ran_on():
    found = environment.environment()
    assert found["python"] == sys.version.split()[0]
    assert found["packages"]["numpy"] == np.__version__
    assert found["cpu"] and found["cpu_count"] >= 1
    assert str(files.ROOT) not in json.dumps(found)


def test_commit_is_named_in_a_checkout_only(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.environment()["commit"] is None
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*author, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    commit = environment.environment()["commit"]
    assert len(commit) == 40 and int(commit, 16) >= 0
    (tmp_path / "file").write_text("2")
    assert environment.environment()["commit"] == f"{commit}-dirty"


@pytest.mark.parametrize(
    ("claim", "measured", "profile", "ok"),
    [
        ("gap", 0.05, "digits", True),
        ("gap", 0.049, "digits", False),
        ("gap", 1.01, "digits", False),
        ("gap", np.float64(0.5), "digits", True),
        ("gap", float("nan"), "digits", False),
        ("gap", None, "digits", False),
        ("gap", -100, "smoke", True),
        ("gap", 3, "smoke", False),
        ("rank", 0.0, "smoke", None),
    ],
)
def test_check_holds_a_number_against_its_band(bands, claim, measured, profile, ok):
    row = claims.check(claim, measured, profile)
    assert row["ok"] is ok
    assert (row["id"], row["profile"]) == (claim, profile)


def test_check_names_the_known_claims(bands):
    with pytest.raises(ValueError, match=r"unknown claim 'gpa'.*gap, rank"):
        claims.check("gpa", 1, "digits")


def test_claims_table(bands, tmp_path):
    assert claims.claims_table(tmp_path) == "no claims were checked"
    saved = [claims.check("rank", 0.61, "digits"), claims.check("rank", 0.1, "smoke")]
    claims.save_claims(saved, tmp_path, "02_selection")
    claims.save_claims([claims.check("gap", 0.01, "digits")], tmp_path, "04_runs.ipynb")
    lines = claims.claims_table(tmp_path).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["claim", "expected", "measured"],
        ["rank", "≥", "0.4", "and", "≤", "1", "0.61", "ok"],
        ["rank", "-", "0.1", "not", "judged:", "no", "band", "at", "profile", "smoke"],
    ]
    assert lines[3].endswith("0.01  MISS")
    assert max(map(len, lines)) < 130
    assert len(claims.claims_table(tmp_path, ["02_selection"]).splitlines()) == 3


def keys_in(table: str) -> set[str]:
    """The keys in the first column of a table in Markdown."""
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {key for first in rows for key in re.findall(r"`(\w+)`", first)}


def test_the_page_on_runs_describes_every_key_of_a_record(tmp_path):
    """Of a run that is stopped and one whose replies fail more is known: `stopped`, `rejections`, `lost`, `forgot`."""
    text = (files.ROOT / "docs" / "runs.md").read_text(encoding="utf-8").partition("## The record")[2]
    whole, of_a_round = text.split("A round counts from 0 and holds:")
    config = four_clients(method="fedtiny")
    run(config, tmp_path)
    record = files.read_json(tmp_path / config.run_id / "record.json")
    assert record.keys() > schema.RECORD_KEYS and keys_in(whole) == record.keys() | {"stopped"}
    assert keys_in(of_a_round) == set().union(*record["rounds"]) | {"rejections", "lost", "forgot"}
    assert set().union(*record["prelude"]) <= keys_in(of_a_round) | {"exchange", "selection"}
    assert record["start"].keys() <= keys_in(of_a_round)
    named = set(re.findall(r"`(\w+)`", text))
    for part in ("method", "model"):
        assert record[part].keys() <= named, f"docs/runs.md describes {part}, and does not name all of it"
