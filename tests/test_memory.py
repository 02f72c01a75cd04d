"""What clients remember: it stays with them, the server knows digests, and who forgets is sent everything again."""

import json
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtiny_lite.config import METHODS
from fedtiny_lite.federated.client import EMPTY_MEMORY
from fedtiny_lite.federated.memory import NOTHING, Memories, digest
from fedtiny_lite.federated.messages import unpack
from fedtiny_lite.federated.protocol import Answered, Heard
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import checkpoint, places
from fedtiny_lite.simulation.places import InProcess
from fedtiny_lite.simulation.rounds import run
from tests.helpers import Stop, four_clients, interrupted, trace

EVENTFUL = {"fl_pqsu": dict(lr=0.3), "lotteryfl": dict(lottery_accuracy=0.15)}


def tiny(method="fedtiny", **settings):
    return four_clients(method=method, **dict(rounds=4, adjust_until=4) | EVENTFUL.get(method, {}) | settings)


# --- the store --------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=5), max_size=8))
def test_a_memory_is_found_by_its_digest_and_held_once(memories):
    store = Memories()
    names = [store.remember(memory) for memory in memories]
    assert [store.recall(name) for name in names] == memories
    assert len(store.held) == len({*memories, EMPTY_MEMORY})
    store.keep(names[:1])
    assert all(store.recall(name) is None for name in names if name not in (names[0], NOTHING))


def test_nothing_is_always_remembered():
    store = Memories()
    store.keep(())
    assert store.recall(NOTHING) == EMPTY_MEMORY and store.recall(digest(b"other")) is None


def test_written_memories_outlive_the_process_and_damaged_ones_count_as_lost(tmp_path):
    folder = tmp_path / "clients"
    store = Memories(folder)
    one, two, three = (store.remember(memory) for memory in (b"one", b"two", b"three"))
    assert not folder.exists()
    store.write([one, two, NOTHING])
    assert sorted(path.stem for path in folder.iterdir()) == sorted([one, two])
    again = Memories(folder)
    assert again.recall(one) == b"one" and again.recall(three) is None
    (folder / f"{two}.memory").write_bytes(b"tow")
    assert Memories(folder).recall(two) is None
    store.write([one, two])
    assert Memories(folder).recall(two) == b"two"
    again.keep([two])
    assert [path.stem for path in folder.iterdir()] == [two]
    again.keep(())
    assert not folder.exists()


# --- in a run ---------------------------------------------------------------------------------------------


def test_what_is_heard_of_an_answer_goes_by_name_and_not_by_place(monkeypatch):
    monkeypatch.setattr(places, "Heard", namedtuple("Heard", Heard._fields[::-1]))
    heard = InProcess(tiny()).heard(Answered(b"reply", b"memory", 1, 2, 3, ("dense",)))
    assert (heard.reply, heard.memory) == (b"reply", digest(b"memory"))
    assert (heard.flops, heard.kept, heard.state_bytes, heard.trained_on) == (1, 2, 3, ("dense",))


class Forgetful(InProcess):
    """Client 1 has lost its memory when it is asked at one place."""

    def __init__(self, config, index: int, r: int):
        super().__init__(config)
        self.at, self.reminders = (index, r), []

    def ask(self, call, questions):
        for k, found in super().ask(call, questions):
            if (call.index, call.r) != self.at or k != 1:
                yield k, found
            elif self.reminders:
                self.reminders.append(questions[k])
                yield k, found
            else:
                self.reminders.append(questions[k])
                yield k, places.FORGOT


@pytest.mark.parametrize("method", METHODS)
def test_a_client_that_lost_its_memory_is_sent_everything_and_answers_as_before(method):
    """Only FL-PQSU's clients remember what no server knows, the loss at their last upload; they upload once more."""
    config = tiny(method, augment="crop_flip")
    expected, states = trace(config)
    place = Forgetful(config, -1, 2)
    record, found = trace(config, place=place)
    question, reminder = place.reminders
    assert question.memory != NOTHING == reminder.memory
    assert unpack(reminder.message).meta["known"] == 0 and "mask" in unpack(reminder.message).tensors
    assert record["rounds"][2]["bytes_down"] == expected["rounds"][2]["bytes_down"] + len(reminder.message)
    assert "lost" not in record["rounds"][2] and record["rounds"][2]["rejected_clients"] == []
    assert [entry.get("forgot") for entry in record["rounds"]] == [None, None, [1], None]
    if method != "fl_pqsu":
        for one, other in zip(found, states, strict=True):
            assert one.mask == other.mask
            assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
        assert record["final"]["test_loss"] == expected["final"]["test_loss"]


def test_a_client_that_forgot_the_pool_is_sent_it_again():
    config = tiny(rounds=0)
    expected, place = run(config), Forgetful(config, 1, -1)
    record = run(config, place=place)
    assert {"pool", "weights", "mask", "stats"} == set(unpack(place.reminders[1].message).tensors)
    assert [entry.get("forgot") for entry in record["prelude"]] == [None, None, [1]]
    assert record["prelude"][2]["selection"] == expected["prelude"][2]["selection"]
    assert record["final"]["test_loss"] == expected["final"]["test_loss"]


def flip_a_bit(path):
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


HARM = {
    "deleted": Path.unlink,
    "one bit flipped": flip_a_bit,
    "a byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl", "fl_pqsu"])
def test_a_run_whose_clients_lost_everything_with_the_server_goes_on_and_names_them(method, harm, tmp_path):
    config = tiny(method)
    interrupted(config, tmp_path, after=1)
    for path in (tmp_path / config.run_id / "clients").iterdir():
        harm(path)
    record = run(config, tmp_path)
    assert record["complete"] and all(entry["rejected_clients"] == [] for entry in record["rounds"])
    assert [entry.get("forgot") for entry in record["rounds"]] == [None, None, [0, 1, 2, 3], None]
    if method != "fl_pqsu":
        assert record["final"]["test_loss"] == run(config)["final"]["test_loss"]


def test_a_damaged_memory_is_written_anew_when_the_client_remembers_the_same_again(tmp_path):
    """LotteryFL's clients that do not prune keep the initial weights, so their digests stay as they are."""
    config = tiny("lotteryfl", lottery_accuracy=1.0, rounds=5, adjust_until=5)
    interrupted(config, tmp_path, after=0)
    for path in (tmp_path / config.run_id / "clients").iterdir():
        flip_a_bit(path)
    interrupted(config, tmp_path, after=1)
    record = run(config, tmp_path)
    assert [entry.get("forgot") for entry in record["rounds"]] == [None, [0, 1, 2, 3], None, None, None]


def test_folders_that_are_named_like_files_of_a_run_are_left_alone(tmp_path):
    config = tiny("lotteryfl")
    interrupted(config, tmp_path, after=1)
    folders = [tmp_path / config.run_id / name for name in ("clients/d.memory", "rounds/d.round")]
    for folder in folders:
        folder.mkdir()
    assert schema.canonical(run(config, tmp_path)) == schema.canonical(run(config))
    assert all(folder.is_dir() for folder in folders)


def test_memories_are_written_before_the_checkpoint_that_names_them_and_old_ones_deleted_after_it(
    tmp_path, monkeypatch
):
    """A process that is killed between any two of these steps goes on from memories that are there."""
    events = []

    def noted(name, inner):
        return lambda *given: events.append(name) or inner(*given)

    monkeypatch.setattr(checkpoint, "save", noted("save", checkpoint.save))
    place = InProcess(config := tiny("lotteryfl", rounds=2), tmp_path / config.run_id / "clients")
    place.secure, place.settle = noted("secure", place.secure), noted("settle", place.settle)
    run(config, tmp_path, place=place)
    assert events == ["secure", "save", "settle"] * 2 + ["settle"]


def test_clients_that_remember_the_same_take_one_file(tmp_path):
    """Twelve clients of FedTiny hold the same mask; those of LotteryFL differ."""
    found = {}
    for method in ("fedtiny", "lotteryfl"):
        config = tiny(method, clients=12, min_samples=5, alpha=10, rounds=2)
        interrupted(config, tmp_path, after=0)
        found[method] = len(list((tmp_path / config.run_id / "clients").iterdir()))
    assert found["fedtiny"] == 1


@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl", "fl_pqsu"])
def test_a_question_that_is_repeated_after_its_answer_got_lost_is_answered_the_same(method, tmp_path, monkeypatch):
    """The server dies after all clients answered round 2, and asks again: they answer from the memory before."""
    config, answers, inner = tiny(method), [], places.answer

    def note(call, k, message, memory):
        found = inner(call, k, message, memory)
        if call.r == 2:
            answers.append((k, found))
            if len(answers) == 4:
                raise Stop
        return found

    monkeypatch.setattr(places, "answer", note)
    with pytest.raises(Stop):
        run(config, tmp_path)
    record = run(config, tmp_path)
    assert len(answers) == 8 and answers[:4] == answers[4:]
    monkeypatch.setattr(places, "answer", inner)
    assert schema.canonical(record) == schema.canonical(run(config))


def test_checkpoints_hold_no_memory(tmp_path):
    """Nor does their history: of each client as much as fits on a line of text, whatever it remembers."""
    sizes = {}
    for width in (2, 8):
        config = tiny("lotteryfl", width=width, rounds=2)
        interrupted(config, tmp_path / str(width), after=0)
        [path] = (tmp_path / str(width)).rglob("*.round")
        sizes[width] = len(json.dumps(unpack(path.read_bytes()).meta["ledger"]["memories"]))
        assert sum(path.stat().st_size for path in path.parents[1].glob("clients/*")) > 1000
    assert sizes[2] == sizes[8] < 4 * 60
