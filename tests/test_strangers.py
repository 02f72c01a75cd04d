"""Files that somebody else made or changed: each is read as it was written, or refused in one sentence.

A file that was damaged fails its checksum. What is tried here beside that carries a right one: files that somebody
crafted, and random changes that were sealed again.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.config import load_method
from fedtiny_lite.export.tiny_header import MOST_WEIGHTS_A_BYTE
from fedtiny_lite.export.tiny_model import load_tiny, save_tiny
from fedtiny_lite.federated.memory import digest
from fedtiny_lite.federated.messages import pack, unpack
from fedtiny_lite.model.masks import check_masked
from fedtiny_lite.records import files, schema
from fedtiny_lite.simulation import checkpoint
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import four_clients, interrupted, sealed
from tests.test_tiny_model import same, tiny

CONFIG = four_clients(method="magnitude", rounds=2)
NAN, INF = float("nan"), float("inf")


# --- model.tiny -------------------------------------------------------------------------------------------


@functools.cache
def tiny_file(name: str = "cnn") -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        written = []
        patch.setattr("fedtiny_lite.export.tiny_model.write_bytes", lambda path, data: written.append(data))
        save_tiny("unused", tiny(name))
    return written[0]


def crafted(tensors=None, without=(), **meta) -> bytes:
    """The file of a small model with other values, under a right checksum."""
    whole = unpack(tiny_file())
    kept = {name: value for name, value in (whole.meta | meta).items() if name not in without}
    return pack(whole.tensors | (tensors or {}), **kept)


def changed_value(place: int, value: float) -> dict[str, torch.Tensor]:
    values = unpack(tiny_file()).tensors["values"].clone()
    values[place] = value
    return {"values": values}


def layer_zero(kind: int, kept: int) -> torch.Tensor:
    packed = (0).to_bytes(2, "little") + bytes([kind]) + kept.to_bytes(4, "little")
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


NO_MASK = torch.empty(0, dtype=torch.uint8)
CRAFTED = {
    "a width that takes gigabytes": (crafted(width=4096), "declares a model of .* weights and has"),
    "a width beyond all": (crafted(width=10**12), "width is 10+ in place of a whole number from 1 to 4096"),
    "a width of true": (crafted(width=True), "width is True"),
    "a width of text": (crafted(width="4"), "width is '4'"),
    "a small model of huge images": (crafted(model="small", in_shape=[1, 4096, 4096]), "declares a model"),
    "images beyond all": (crafted(in_shape=[1, 10**9, 10**9]), "in_shape"),
    "images of two sides": (crafted(in_shape=[8, 8]), "in_shape"),
    "images of no pixel": (crafted(in_shape=[1, 0, 8]), "in_shape"),
    "an unknown network": (crafted(model="resnet99"), "does not say model"),
    "a network of no name": (crafted(model=None), "does not say model"),
    "no class": (crafted(classes=[]), "classes"),
    "classes that are numbers": (crafted(classes=[1, 2, 3, 4, 5]), "classes"),
    "a class too few": (crafted(classes=["a", "b", "c", "d"]), "damaged"),
    "a thousand classes": (crafted(classes=[str(k) for k in range(1000)]), "cut short"),
    "folded, and not": (crafted(folded=True), "values: .* in place of"),
    "folded as a number": (crafted(folded=1), "folded"),
    "a mean for no channel": (crafted(mean=[]), "its mean is"),
    "a mean that is NaN": (crafted(mean=[NAN]), "its mean is"),
    "a mean of 400 digits": (crafted(mean=[10**400]), "its mean is"),
    "a spread of 0": (crafted(std=[0]), "its std is"),
    "a spread below 0": (crafted(std=[-1.0]), "its std is"),
    "a spread that float32 takes for 0": (crafted(std=[1e-300]), "its std is"),
    "a spread that is text": (crafted(std=["1"]), "its std is"),
    "another format": (crafted(tiny_model=2), "format 2"),
    "no format": (crafted(without=["tiny_model"]), "no tiny model"),
    **{f"no {name}": (crafted(without=[name]), name) for name in ("width", "mean", "std")},
    **{f"no {name}": (crafted(without=[name]), "does not say") for name in ("model", "classes", "in_shape", "folded")},
    "a weight that is NaN": (crafted(changed_value(0, NAN)), "NaN or infinite"),
    "a weight that is infinite": (crafted(changed_value(-1, INF)), "NaN or infinite"),
    "values of another type": (crafted({"values": unpack(tiny_file()).tensors["values"].double()}), "float64"),
    "no values": (pack({"mask": NO_MASK}, **unpack(tiny_file()).meta), "it holds"),
    "no mask": (pack({"values": torch.zeros(3)}, **unpack(tiny_file()).meta), "it holds"),
    "a tensor more": (crafted({"more": torch.zeros(1)}), "it holds"),
    "a mask of another type": (crafted({"mask": torch.zeros(7)}), "uint8"),
    "four billion kept": (crafted({"mask": layer_zero(1, 2**32 - 1)}), "4294967295 weights kept"),
    "four billion kept of a huge layer": (crafted({"mask": layer_zero(2, 2**32 - 1)}, width=4096), "declares a model"),
    "indices that are not there": (crafted({"mask": layer_zero(1, 200)}), "cut short"),
    "nothing pruned, few values": (crafted({"mask": NO_MASK}), "values: .* in place of"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "word"), CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_model_is_refused_in_one_sentence(data, word, tmp_path):
    path = tmp_path / "model.tiny"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"model\.tiny: .*{word}") as refused:
        load_tiny(path)
    assert len(str(refused.value)) < 400


def test_a_negative_variance_is_refused(tmp_path):
    model = tiny("cnn")
    model.state["bn2.running_var"][1] = -1e-3
    with pytest.raises(ValueError, match=r"bn2\.running_var has negative variances"):
        load_tiny(save_tiny(tmp_path / "model.tiny", model))


MEMORY = """
import resource, sys
from fedtiny_lite.export.tiny_model import load_tiny
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_tiny(path)
    except ValueError:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is told in kilobytes")
def test_a_crafted_model_takes_no_memory(tmp_path):
    """In a process of its own, whose peak memory is looked at: 64 MB for networks without data and for imports."""
    names = [f"{number}.tiny" for number in range(len(CRAFTED))]
    for name, (data, _) in zip(names, CRAFTED.values(), strict=True):
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", MEMORY, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, cwd=files.ROOT, capture_output=True, text=True, check=True)
    taken = [int(line) for line in done.stdout.split()]
    assert len(taken) == len(CRAFTED) and max(taken) < 64_000


@st.composite
def changed(draw, whole: bytes) -> bytes:
    """The bytes with some flipped, cut out or put in, and sealed again or not."""
    raw = bytearray(whole[:-4])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)) | st.integers(0, min(len(raw), 400)))
        raw[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return sealed(bytes(raw)) if draw(st.booleans() | st.just(True)) else bytes(raw) + whole[-4:]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_changed_model_is_refused_or_is_a_model(data, tmp_path_factory):
    """What loads is finite and under its mask, no larger than the file allows, and can be built."""
    whole = tiny_file(data.draw(st.sampled_from(["cnn", "small"])))
    path = tmp_path_factory.getbasetemp() / "model.tiny"
    path.write_bytes(data.draw(changed(whole)))
    try:
        found = load_tiny(path)
    except ValueError:
        return
    assert sum(tensor.numel() for tensor in found.state.values()) <= MOST_WEIGHTS_A_BYTE * path.stat().st_size
    assert all(bool(tensor.isfinite().all()) for tensor in found.state.values())
    check_masked(found.state, found.mask)
    assert same(load_tiny(save_tiny(path, found)), found)
    found.build()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_damaged_model_is_refused(data, tmp_path_factory):
    """The checksum is the old one: a flipped bit or a lost byte never passes."""
    whole, path = tiny_file(), tmp_path_factory.getbasetemp() / "model.tiny"
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (bytes(damaged), whole[: data.draw(st.integers(0, len(whole) - 1))]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"model\.tiny"):
            load_tiny(path)


# --- checkpoints ------------------------------------------------------------------------------------------


@functools.cache
def files_of(method: str, base: Path) -> tuple[bytes, bytes, object]:
    """The checkpoint and the history of a run that was interrupted after its first round, and its task."""
    config = four_clients(method=method, rounds=2)
    interrupted(config, base)
    folder = base / config.run_id
    [of_round] = (folder / "rounds").iterdir()
    return checkpoint.path_in(folder).read_bytes(), of_round.read_bytes(), build_federation(config).task


def loaded(data: bytes, of_round: bytes, task, folder: Path):
    """What is loaded from a checkpoint and a history of one round, which somebody named as it has to be."""
    folder.mkdir(exist_ok=True)
    checkpoint.path_in(folder).write_bytes(data)
    shutil.rmtree(folder / "rounds", ignore_errors=True)
    files.write_bytes(folder / "rounds" / f"{digest(of_round)}.round", of_round)
    return checkpoint.load(folder, task.config, task)


def naming(data: bytes, of_round: bytes) -> bytes:
    """The checkpoint, which names this history."""
    whole = unpack(data)
    return pack(whole.tensors, **whole.meta | {"last": digest(of_round)})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("interrupted")


@pytest.mark.parametrize("method", ["magnitude", "fl_pqsu", "fedrts", "lotteryfl"])
def test_a_checkpoint_that_lacks_anything_is_refused(method, base, tmp_path):
    data, of_round, task = files_of(method, base)
    whole = unpack(data)
    extra = unpack(whole.tensors["extra"].numpy().tobytes()).tensors
    packed = lambda tensors: {"extra": checkpoint._as_tensor(pack(tensors))}  # noqa: E731
    lacking = [
        *(({}, {name: None}) for name in whole.meta),
        *(({}, {"last": name}) for name in ("", "0" * 32, "../rounds", 7)),
        ({}, {"rounds": 2}),
        ({"weights": whole.tensors["weights"][:-1]}, {}),
        ({"weights": whole.tensors["weights"] * NAN}, {}),
        ({"mask": NO_MASK}, {}),
        *((packed({k: v for k, v in extra.items() if k != name}), {}) for name in extra),
        *((packed(extra | {name: torch.zeros(1)}), {}) for name in extra),
    ]
    for tensors, meta in lacking:
        with pytest.raises(ValueError, match=r"checkpoint\.ftl"):
            loaded(pack(whole.tensors | tensors, **whole.meta | meta), of_round, task, tmp_path / "a")
    for name in whole.tensors:
        with pytest.raises(ValueError, match=f"it has no {name}; delete it to start this run over"):
            without = pack({k: v for k, v in whole.tensors.items() if k != name}, **whole.meta)
            loaded(without, of_round, task, tmp_path / "a")
    state = loaded(data, of_round, task, tmp_path / "a").progress.state
    assert load_method(method).extra(task, state.mask).keys() == extra.keys()


@pytest.mark.parametrize("method", ["magnitude", "fl_pqsu", "lotteryfl"])
def test_a_history_that_lacks_anything_is_refused(method, base, tmp_path):
    data, of_round, task = files_of(method, base)
    whole = unpack(of_round)
    record, ledger, rounds = (whole.meta[name] for name in ("record", "ledger", "rounds"))
    lacking = [
        *(({}, {name: None}) for name in whole.meta),
        *(({}, {"record": {k: v for k, v in record.items() if k != name}}) for name in ("run_id", "config", "start")),
        ({}, {"record": record | {"complete": True}}),
        ({}, {"rounds": [{}]}),
        ({}, {"rounds": rounds * 9}),
        ({}, {"rounds": []}),
        *(({}, {"ledger": {k: v for k, v in ledger.items() if k != name}}) for name in ledger),
        *(({}, {"ledger": ledger | {"held": [pair]}}) for pair in ([99, 1], [0, "1"], [0, None], [0], "a", 7)),
        *(({}, {"ledger": ledger | {"samples": [[k, 1]]}}) for k in (-1, "0", None)),
        ({}, {"ledger": ledger | {"memories": [[0, 7]]}}),
        *(({}, {"ledger": ledger | {"versions": [[k, {}]]}}) for k in ("all clients", "0", 0, "4")),
        ({}, {"ledger": ledger | {"versions": [["0" if method == "lotteryfl" else "all clients", None]]}}),
        *(({name: torch.zeros(1)}, {}) for name in (*whole.tensors, "4.mask", "0.other", "-1.mask", "mask", "\u0663.")),
    ]
    for tensors, meta in lacking:
        wrong = pack(whole.tensors | tensors, **whole.meta | meta)
        with pytest.raises(ValueError, match=r"checkpoint\.ftl"):
            loaded(naming(data, wrong), wrong, task, tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"checkpoint\.ftl: .*\.round, which it names, is damaged or missing; delete it"
    ):
        loaded(data, of_round + b" ", task, tmp_path / "a")
    assert (method == "magnitude") == (not loaded(data, of_round, task, tmp_path / "a").progress.state.of_clients)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_changed_checkpoint_or_history_is_refused_or_has_the_shapes_of_the_run(data, base, tmp_path_factory):
    whole, of_round, task = files_of(data.draw(st.sampled_from(["magnitude", "lotteryfl"])), base)
    if data.draw(st.booleans()):
        whole = data.draw(changed(whole))
    else:
        of_round = data.draw(changed(of_round))
        whole = naming(whole, of_round)
    try:
        record, progress, _ = loaded(whole, of_round, task, tmp_path_factory.getbasetemp() / "changed")
    except ValueError:
        return
    assert schema.is_record(record)
    assert {name: tensor.shape for name, tensor in progress.state.weights.items()} == dict(task.state_shapes)
    assert all(bool(tensor.isfinite().all()) for tensor in progress.state.weights.values())
    check_masked(progress.state.weights, progress.state.mask)
    assert progress.ledger.memories.keys() | progress.ledger.held.keys() <= set(range(task.config.clients))


# --- records ----------------------------------------------------------------------------------------------


def test_a_record_that_somebody_changed_is_not_taken_for_finished(tmp_path):
    record = run(CONFIG, tmp_path)
    path = tmp_path / CONFIG.run_id / "record.json"
    stored = json.loads(path.read_text())
    assert {key: value for key, value in stored.items() if key != "checksum"} == record == schema.read_record(path)
    stored["final"]["test_accuracy"] = 1.0
    files.write_json(path, stored)
    for read in (schema.read_record, lambda path: run(CONFIG, tmp_path)):
        with pytest.raises(ValueError, match=r"record\.json was changed after it was written .* delete it and run"):
            read(path)
    with pytest.warns(UserWarning, match=r"skipped: .*record\.json was changed"):
        assert schema.load_records(tmp_path) == []


def test_a_record_without_its_checksum_is_refused(tmp_path):
    path = files.write_json(tmp_path / "record.json", run(CONFIG))
    with pytest.raises(ValueError, match=r"record\.json was changed after it was written .* delete it and run"):
        schema.read_record(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, "\0" * 100, "", "{}", '{"rounds": 3}', '"\udcff"', "[1, 2"],
    ids=["deep lists", "deep objects", "a long number", "zeros", "empty", "an object", "rounds", "no text", "torn"],
)
def test_what_is_no_record_is_refused(text, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"record\.json is "):
        schema.read_record(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "record.json")
    for read in (schema.read_record, load_tiny):
        with pytest.raises(ValueError, match=r"record\.json is not a file"):
            read(tmp_path / "record.json")


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_changed_record_is_refused_or_is_equal(data, tmp_path_factory):
    """Spaces between values may change; nothing that a reader sees."""
    path = tmp_path_factory.getbasetemp() / "record.json"
    record = {"run_id": "a", "config": {"seed": 0}, "rounds": [{"loss": 0.1 + 0.2, "é": None}], "complete": True}
    raw = bytearray(schema.write_record(path, record).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw)))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path.write_bytes(raw)
    try:
        found = schema.read_record(path)
    except ValueError:
        return
    assert found == record


# --- what a killed process leaves -------------------------------------------------------------------------


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_next_write_sweeps_what_killed_processes_left(tmp_path):
    theirs = [tmp_path / f".x.json.7.{files.HOST}.{pid}.tmp" for pid in (gone(), os.getppid(), os.getpid())]
    elsewhere = f".x.json.7.another{files.HOST}.{gone()}.tmp"
    names = (".x.tmp", ".cache", f"x.7.{files.HOST}.1.tmp", f".{files.HOST}.{'9' * 30}.tmp", elsewhere)
    others = [tmp_path / name for name in names]
    for path in (*theirs, *others):
        path.write_text("half of")
    files.write_json(tmp_path / "y.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"y.json", *(path.name for path in (*theirs[1:], *others))}


def test_a_finished_run_sweeps_what_a_killed_process_left(tmp_path):
    folder = tmp_path / CONFIG.run_id
    record = run(CONFIG, tmp_path)
    (folder / f".record.json.7.{files.HOST}.{gone()}.tmp").write_text("half of")
    checkpoint.path_in(folder).write_bytes(b"of a process that was killed before it could delete it")
    assert run(CONFIG, tmp_path) == record
    assert sorted(path.name for path in folder.iterdir()) == ["model.tiny", "record.json"]


def test_bytes_reach_the_disk_before_their_name_does(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        inner = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, inner=inner: calls.append(name) or inner(*given))
    run(replace(CONFIG, rounds=1), tmp_path)
    assert calls == ["fsync", "replace"] * (len(calls) // 2) and len(calls) >= 6  # a checkpoint, the model, the record
