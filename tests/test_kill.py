"""A few of the kills of `benchmarks.kill`: at some file operations, and at random moments."""

import os
import random

import pytest

from benchmarks.kill import attempt as tried
from benchmarks.kill import contents, dying_at, kill
from fedtiny_lite.records.files import write_bytes, write_json

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")


def test_a_process_dies_at_the_operation_that_is_named(tmp_path):
    """Of one file: folder, bytes, disk, name, and the deletion of what is not there any more."""
    write = lambda: write_bytes(tmp_path / "a", b"1234")  # noqa: E731
    left = []
    for number in range(1, 6):
        assert not tried(dying_at(number, write))
        left.append([(path.name == "a", path.read_bytes()) for path in tmp_path.iterdir()])
        for path in tmp_path.iterdir():
            path.unlink()
    assert left == [[], [(False, b"12")], [(False, b"1234")], [(False, b"1234")], [(True, b"1234")]]
    assert tried(dying_at(6, write)) and contents(tmp_path) == {"a": b""}


def test_an_attempt_that_fails_is_not_taken_for_killed():
    with pytest.raises(RuntimeError, match="an attempt failed"):
        tried(lambda: 1 / 0)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["one process", "two workers", "a sweep"])
def test_killed_runs_go_on_to_the_same_record(place, tmp_path):
    """Every seventh file operation of a run in one process, and random moments."""
    operations = iter(range(3, 60, 7) if place == "one process" else ())
    found = kill(place, tmp_path, 3, operations, random.Random(1))
    assert found.operations >= (5 if place == "one process" else 0) and found.moments >= 3
    assert found.differing == 0 and found.folders >= 2


def test_contents_tell_records_and_leftovers(tmp_path):
    write_json(tmp_path / "a.json", {})
    (tmp_path / ".a.json.1.2.tmp").write_bytes(b"half of")
    assert contents(tmp_path) == {".a.json.1.2.tmp": b"", "a.json": b""}
