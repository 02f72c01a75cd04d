"""Wrong replies by way of Flower: the table of `test_hostile_replies` as Flower's messages, and wrong messages.

Here `Canned` stands in for Flower's nodes: it answers each question with bytes that were laid down beforehand, so an
exchange takes milliseconds.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedtiny_lite.config import METHODS
from fedtiny_lite.flower.envelopes import enclosed
from fedtiny_lite.flower.place import OnFlower
from fedtiny_lite.simulation.exchanges import carry_out
from fedtiny_lite.simulation.progress import Progress
from tests.test_flower import Nodes
from tests.test_hostile_replies import Stage, same, stages, wrong_replies

TOLD = dict(memory="0a", trained_on=["dense"], flops=1, kept=2, state_bytes=3)
"""What a node says about its answer."""
GONE = Error(2, "gone")


class Canned(Nodes):
    """Nodes that answer with a content or an error that was laid down for each client; None = never."""

    def __init__(self, answers: dict[int, RecordDict | Error | None]):
        super().__init__({k: {} for k in answers})
        self.canned = answers

    def _answer(self, message, node):
        answer = self.canned[node - 100]
        return None if answer is None else Message(answer, reply_to=message)


class Again(Canned):
    """Nodes whose answer of an earlier exchange comes with the one of this exchange, and which answer it twice."""

    def pull_messages(self, names):
        found = super().pull_messages(names)
        old = [Message(enclosed(b"old", **TOLD), reply_to=message) for message in self.sent]
        for number, message in enumerate(old):
            message.metadata.__dict__["_reply_to_message_id"] = f"earlier {number}"
        return [*old, *found, *found]


def carried_out(stage: Stage, answer: RecordDict | Error | None, kind=Canned, **options):
    """The state after the exchange and its entry of the record, where the victim gives this answer through Flower."""
    method, exchange, server, state, r, ledger, packed = stage.given
    answers = {k: enclosed(reply, **TOLD) for k, reply in packed.items()} | {stage.victim: answer}
    place = OnFlower(kind(answers), server.task.config, None, **options)
    place.task, place.nodes = server.task, {k: 100 + k for k in packed}
    place.known = set(place.nodes.values())
    index = -1 if exchange is method.training else list(method.prelude(server.task.config)).index(exchange)
    progress, entry = carry_out(SimpleNamespace(server=server), method, index, Progress(state, ledger), r, place)
    return progress.state, entry


def asked_of_several(method: str) -> list[Stage]:
    return [stage for stage in stages(method) if len(stage.given[-1]) > 1]


@pytest.mark.parametrize("method", METHODS)
def test_each_wrong_reply_of_the_table_is_named_and_changes_nothing(method):
    for stage in asked_of_several(method):
        without, told = carried_out(stage, GONE)
        assert told["lost"] == {str(stage.victim): "Flower says: gone"}
        for what, (data, word) in wrong_replies(stage).items():
            state, entry = carried_out(stage, enclosed(data, **TOLD))
            assert entry["rejected_clients"] == [stage.victim], (stage, what)
            assert word in entry["rejections"][str(stage.victim)] != "", (stage, what)
            assert same(state, without), (stage, what)


def wrong_contents(right: bytes) -> dict[str, tuple[RecordDict, str]]:
    """What is wrong about the Flower message -> its content, and a word of the reason; the reply in it is right."""
    about, whole = ConfigRecord(TOLD), np.frombuffer(right, np.uint8)
    found = {
        "nothing": (RecordDict(), "without bytes"),
        "no bytes": (RecordDict({"about": about}), "without bytes"),
        "no values": (RecordDict({"message": ArrayRecord([whole])}), "without bytes"),
        "values for bytes": (RecordDict({"message": about, "about": about}), "without bytes"),
        "two arrays": (RecordDict({"message": ArrayRecord([whole, whole]), "about": about}), "too many values"),
        "no array": (RecordDict({"message": ArrayRecord([]), "about": about}), "not enough values"),
        "floats": (RecordDict({"message": ArrayRecord([whole.astype(float)]), "about": about}), "float64"),
        "a table": (RecordDict({"message": ArrayRecord([whole[None]]), "about": about}), "bytes of a Flower message"),
    }
    values = {"memory": (3, "x" * 65), "trained_on": ("dense", 1), "flops": (-1, 1.5, math.nan, 1e30, "1", True)}
    values |= {"kept": values["flops"], "state_bytes": values["flops"]}
    told = {"memory": "remembers", "trained_on": "trained on"}
    for name, wrong in values.items():
        for value in wrong:
            found[f"{name} {value!r}"] = enclosed(right, **TOLD | {name: value}), told.get(name, name)
        rest = {key: value for key, value in TOLD.items() if key != name}
        found[f"no {name}"] = enclosed(right, **rest), told.get(name, name)
    return found


@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl"])
def test_a_wrong_flower_message_is_named_and_changes_nothing(method):
    for stage in asked_of_several(method):
        without, _ = carried_out(stage, GONE)
        wrong = wrong_contents(stage.given[-1][stage.victim])
        assert len(wrong) >= 30
        for what, (content, word) in wrong.items():
            state, entry = carried_out(stage, content)
            assert list(entry["lost"]) == [str(stage.victim)] and entry["rejected_clients"] == [], (stage, what)
            assert word in entry["lost"][str(stage.victim)], (stage, what, entry["lost"])
            assert same(state, without), (stage, what)


@pytest.mark.parametrize("method", METHODS)
def test_who_never_answers_is_named_and_late_second_and_old_answers_count_for_nobody(method):
    for stage in asked_of_several(method):
        without, _ = carried_out(stage, GONE)
        state, entry = carried_out(stage, None, timeout=0.05)
        assert entry["lost"] == {str(stage.victim): "no answer within 0.05 s"} and same(state, without)
        state, entry = carried_out(stage, None, Again, timeout=0.05)
        assert list(entry["lost"]) == [str(stage.victim)] and same(state, without)
        whole, _ = carried_out(stage, right := enclosed(stage.given[-1][stage.victim], **TOLD))
        state, entry = carried_out(stage, right, Again)
        assert "lost" not in entry and entry["rejected_clients"] == [] and same(state, whole)


def test_an_old_reply_to_a_new_question_is_refused_where_the_mask_has_changed():
    """A node that answers round 1 with its reply of before the selection: that is under another mask."""
    _, losses, training = stages("fedtiny")
    _, entry = carried_out(training, enclosed(losses.given[-1][training.victim], **TOLD))
    assert "version" in entry["rejections"][str(training.victim)]
