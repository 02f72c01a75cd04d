"""Bundles: what is kept of many records comes back, shared parts stand once, and a foreign file is named."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.config import make_config
from fedtiny_lite.records import bundles
from fedtiny_lite.records.bundles import load_plan, provenance, read_bundle, write_bundle
from fedtiny_lite.records.files import plain
from fedtiny_lite.simulation.rounds import run

SECTIONS = ("config", "data", "model", "environment")
LEFT_OUT = {"labels", "histogram", "sizes", "effective_classes"}


def record(**parts) -> dict:
    """A record as small as one can be."""
    place = {"cpu": "abacus", "packages": {"torch": "2.9"}, "commit": "0123456789abcdef", "workers": 1}
    parts = {"config": {"seed": 0}, "environment": place} | parts
    empty = {"run_id": "a", "data": {}, "model": {}, "prelude": [], "start": {}, "rounds": [], "final": {}}
    return empty | {"complete": True} | parts


def same(found, given) -> bool:
    """Equal, numbers to 7 digits; what JSON lacks is null."""
    if isinstance(given, dict):
        return found.keys() == given.keys() and all(same(found[key], value) for key, value in given.items())
    if isinstance(given, list):
        return len(found) == len(given) and all(map(same, found, given))
    if isinstance(given, float):
        return found is None if not math.isfinite(given) else math.isclose(found, given, rel_tol=5.01e-7)
    return found == given


def is_column(value) -> bool:
    """Whether a round's entry is kept: a number, a word, nothing, or a list of layers or clients."""
    return not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(v, float) for v in value))


def prelude_kept(entry: dict) -> dict:
    """What is kept of an exchange before training: as of a round, and selection's note but for whole layers."""
    note = {key: value for key, value in entry.get("selection", {}).items() if key != "kept"}
    kept = {key: value for key, value in entry.items() if is_column(value)}
    return kept | ({"selection": note} if note else {})


def holds(found: dict, given: dict) -> bool:
    """Whether `found` is what a bundle keeps of the record `given`."""
    data = {key: value for key, value in given["data"].items() if key not in LEFT_OUT}
    columns = [
        key for key in (given["rounds"] or [{}])[0] if all(key in e and is_column(e[key]) for e in given["rounds"])
    ]
    expected = given | {
        "data": data,
        "prelude": [prelude_kept(entry) for entry in given["prelude"]],
        "rounds": [{key: e[key] for key in columns} for e in given["rounds"]],
    }
    exact = all(found[section] == plain(expected[section]) for section in SECTIONS)
    return exact and same(found, expected)


NUMBERS = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_subnormal=False), st.booleans())
NOTES = st.one_of(
    NUMBERS,
    st.text(max_size=3),
    st.lists(st.sampled_from(["conv1.weight", "linear.weight"]), max_size=2),
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(st.floats(0, 1), min_size=1, max_size=2),
    st.dictionaries(st.sampled_from("xy"), st.integers(), max_size=2),
)


def some(values, names="abc"):
    return st.dictionaries(st.sampled_from(names), values, max_size=len(names))


SECTION = some(st.one_of(st.integers(0, 2), st.floats(0, 1), st.text(max_size=2), some(st.integers(0, 1))))
RECORDS = st.builds(
    record,
    run_id=st.text(max_size=4),
    config=SECTION,
    data=st.builds(lambda kept, gone: kept | gone, SECTION, some(st.just([1]), ("sizes", "labels"))),
    model=SECTION,
    environment=SECTION,
    prelude=st.lists(some(NOTES), max_size=2),
    start=some(NUMBERS),
    rounds=st.lists(some(NOTES), max_size=3).map(lambda notes: [{"round": r} | note for r, note in enumerate(notes)]),
    final=some(st.one_of(NUMBERS, some(NUMBERS))),
)


@settings(deadline=None, max_examples=40)
@given(records=st.lists(RECORDS, min_size=1, max_size=3))
def test_what_a_bundle_keeps_comes_back_to_seven_digits(records, tmp_path_factory):
    path = write_bundle(tmp_path_factory.getbasetemp() / "any.json", "any", records)
    found = read_bundle(path)
    assert len(found) == len(records) and all(map(holds, found, records))
    again = write_bundle(path.with_name("again.json"), "any", found)
    assert read_bundle(again) == found


@pytest.fixture(scope="module")
def measured():
    """Records of two methods, with notes of their own, and of a run that diverged in its second round."""
    tiny = dict(clients=2, rounds=3, pretrain_epochs=0, width=2, density=0.2, samples=300, test_samples=60)
    found = [run(make_config("smoke", **tiny, method=method)) for method in ("fedtiny", "fl_pqsu")]
    stopped = {"rounds": found[0]["rounds"][:1], "final": {}, "complete": False, "stopped": "in round 1: NaN"}
    return [*found, found[0] | stopped]


def test_a_bundle_of_runs_is_what_their_records_say_and_smaller(measured, tmp_path):
    path = write_bundle(tmp_path / "deep" / "some.json", "some", measured)
    assert [file.name for file in path.parent.iterdir()] == ["some.json"]
    found = read_bundle(path)
    assert all(map(holds, found, measured))
    assert path.stat().st_size < 0.6 * sum(len(json.dumps(record, indent=1)) for record in measured)
    assert found[2]["complete"] is False and found[2]["stopped"] == "in round 1: NaN"
    assert not any("stopped" in record for record in found[:2])
    assert [len(record["rounds"]) for record in found] == [3, 3, 1]
    accuracies = [round["test_accuracy"] for round in measured[0]["rounds"]]
    assert [round["test_accuracy"] for round in found[0]["rounds"]] == pytest.approx(accuracies, rel=1e-6)


def test_what_runs_share_stands_once(measured, tmp_path):
    """And each run takes one line, which says where it differs."""
    text = write_bundle(tmp_path / "some.json", "some", measured).read_text()
    assert text.count('"dirichlet"') == text.count('"fingerprint"') == text.count('"cpu_count"') == 1
    *_, first, second, third, _ = text.splitlines()
    assert all(found["run_id"] in line for found, line in zip(measured, (first, second, third), strict=True))
    assert ['"method":"fl_pqsu"' in line for line in (first, second, third)] == [False, True, False]
    assert text.count('"fl_pqsu"') == 1 and text.count('"fedtiny"') == 1


def test_clients_that_were_left_out_and_losses_that_are_no_number_are_kept(tmp_path):
    rounds = [
        {"round": 0, "rejected_clients": [], "test_loss": 1.0},
        {"round": 1, "rejected_clients": [2], "test_loss": math.inf},
    ]
    (found,) = read_bundle(write_bundle(tmp_path / "b.json", "b", [record(rounds=rounds)]))
    assert found["rounds"] == [rounds[0], rounds[1] | {"test_loss": None}]


def test_a_bundle_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="plan some has no finished run"):
        write_bundle(tmp_path / "some.json", "some", [])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_bundle_is_named(tmp_path):
    path = write_bundle(tmp_path / "some.json", "some", [record(rounds=[{"loss": 1}, {"loss": 2}])])
    whole = json.loads(path.read_text())
    shorter, other = json.loads(path.read_text()), json.loads(path.read_text())
    del shorter["runs"][0]["rounds"]["loss"][1]
    other["runs"] = [1]
    for text, said in [
        (path.read_text()[:-9], "is torn or is not JSON"),
        ("", "is torn or is not JSON"),
        ("[]", "is not a bundle of records: those have plan, shared and runs"),
        (json.dumps(record()), "is not a bundle of records"),
        (json.dumps(whole | {"runs": [record()]}), "is not a whole bundle of records"),
        (json.dumps(whole | {"shared": {}}), "is not a whole bundle of records"),
        (json.dumps(whole | {"runs": None}), "is not a whole bundle of records"),
        (json.dumps(shorter), "is not a whole bundle of records"),
        (json.dumps(other), "is not a whole bundle of records"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path} {said}"):
            read_bundle(path)
        assert path.read_text() == text
    with pytest.raises(FileNotFoundError, match="none"):
        read_bundle(tmp_path / "none.json")


def test_own_records_come_before_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "COMMITTED", tmp_path / "kit")
    with pytest.raises(FileNotFoundError, match=r"no records of plan p; .*python -m fedtiny_lite sweep p$"):
        load_plan("p", tmp_path)
    place = "abacus, torch 2.9, commit 012345678"
    write_bundle(tmp_path / "kit" / "p.json", "p", [record(run_id="theirs")])
    records, said = load_plan("p", tmp_path)
    assert [found["run_id"] for found in records] == ["theirs"]
    assert said == f"p: 1 runs loaded from p.json, committed with the kit; {place}"
    write_bundle(tmp_path / "plans" / "p.json", "p", [record(run_id="own"), record(run_id="own too")])
    records, said = load_plan("p", tmp_path)
    assert [found["run_id"] for found in records] == ["own", "own too"]
    assert said == f"p: 2 runs loaded from p.json, measured on this machine; {place}"


def test_provenance_names_every_place_once_and_says_when_files_were_changed():
    places = [
        {"cpu": "loom", "packages": {"torch": "2.9"}, "commit": "b" * 40 + "-dirty"},
        {"cpu": "abacus", "packages": {"torch": "2.8"}, "commit": None},
        {"cpu": "abacus", "packages": {"torch": "2.8"}, "commit": None, "workers": 2},
    ]
    assert provenance([record(environment=place) for place in places]) == (
        "abacus, torch 2.8, commit unknown; loom, torch 2.9, commit bbbbbbbbb-dirty"
    )
