"""A client that is lost in one exchange and back in the next is sent what it missed; nothing stale is folded."""

import pytest
import torch

from fedtiny_lite.config import METHODS, load_method
from fedtiny_lite.federated.memory import NOTHING
from fedtiny_lite.federated.messages import unpack
from fedtiny_lite.federated.protocol import Lost
from fedtiny_lite.simulation.places import InProcess
from fedtiny_lite.simulation.rounds import run
from tests.helpers import four_clients, trace

VICTIM = 2
OWN = {
    "lotteryfl": dict(lottery_accuracy=0.0),
    "lotteryfl of four in five": dict(lottery_accuracy=0.0, clients=5, clients_per_round=4),
}


def tiny(case: str, **settings):
    """A run of a method, whose name begins `case`; LotteryFL asks before training only where not all take part."""
    return four_clients(method=case.split()[0], **dict(rounds=3, adjust_until=3) | OWN.get(case, {}) | settings)


class Away(InProcess):
    """The victim does not hear the question of one exchange."""

    def __init__(self, config, at: tuple[int, int]):
        super().__init__(config)
        self.at, self.questions = at, []

    def ask(self, call, questions):
        self.questions.append(questions)
        here = dict(questions)
        if (call.index, call.r) == self.at:
            del here[VICTIM]
            yield VICTIM, Lost("gone")
        yield from super().ask(call, here)


class Torn(InProcess):
    """The victim's reply in one exchange arrives without its last byte. In training it keeps nothing of that exchange;
    before, it keeps what a later exchange builds on.
    """

    def __init__(self, config, at: tuple[int, int]):
        super().__init__(config)
        self.at = at

    def ask(self, call, questions):
        for k, found in super().ask(call, questions):
            if (call.index, call.r, k) == (*self.at, VICTIM):
                memory = found.memory if call.r < 0 else questions[k].memory
                found = found._replace(reply=found.reply[:-1], memory=memory)
            yield k, found


def exchanges_of(case: str) -> list[tuple[int, int]]:
    """The exchanges that several clients are asked, by their place in the prelude and the round."""
    config = tiny(case)
    prelude, training = load_method(config.method).prelude(config), load_method(config.method).training
    found = [(number, -1, exchange) for number, exchange in enumerate(prelude)]
    found += [(-1, r, training) for r in range(config.rounds)]
    return [(index, r) for index, r, exchange in found if {0, VICTIM} <= {*exchange.clients(config, r)}]


CASES = [(case, at) for case in (*METHODS, *OWN.keys() - set(METHODS)) for at in exchanges_of(case)]


@pytest.mark.parametrize(("case", "at"), CASES, ids=str)
def test_a_lost_client_changes_as_much_as_one_whose_reply_is_torn(case, at):
    """In either run the others' replies count, and the victim answers the next question from what it was sent."""
    config = tiny(case)
    record, states = trace(config, place=Away(config, at))
    torn, expected = trace(config, place=Torn(config, at))
    entries = record["prelude"][1:] + record["rounds"]
    assert [entry["lost"] for entry in entries if "lost" in entry] == [{str(VICTIM): "gone"}]
    assert all(entry["rejected_clients"] == [] for entry in entries)
    for state, other in zip(states, expected, strict=True):
        assert state.mask == other.mask
        assert all(torch.equal(tensor, other.weights[name]) for name, tensor in state.weights.items())
    assert record["final"]["test_loss"] == torn["final"]["test_loss"]


def test_too_few_replies_say_how_many_were_rejected_and_how_many_did_not_come():
    class TwoAway(Torn):
        def ask(self, call, questions):
            yield from ((k, Lost("gone") if k in (0, 1) else found) for k, found in super().ask(call, questions))

    reasons = rf"\(client {VICTIM}: .*; client 0: gone; client 1: gone\)"
    with pytest.raises(
        FloatingPointError, match=rf"^1 of 4 replies were rejected and 2 of 4 replies did not come {reasons}; where"
    ):
        run(tiny("magnitude"), place=TwoAway(tiny("magnitude"), (-1, 1)))


# --- what a client that missed the first exchange is sent --------------------------------------------------


def tensors_sent(place: Away) -> list[list[str]]:
    """The names of the tensors that the victim was sent, by exchange."""
    return [sorted(unpack(questions[VICTIM].message).tensors) for questions in place.questions]


def test_a_client_that_missed_the_first_round_has_the_same_initial_weights_as_the_others():
    """The first weights that it is sent are those of round 1; the initial ones are sent beside them."""
    config = tiny("lotteryfl")
    place = Away(config, (-1, 0))
    initial = []

    def note(entry, state):
        packed = (unpack(memory).tensors for memory in place.memories.held.values())
        initial.append({tensors["initial"].numpy().tobytes() for tensors in packed if "initial" in tensors})

    run(config, on_round=note, place=place)
    assert len(initial[1]) == 1 and initial[1] == initial[2]
    assert tensors_sent(place)[:2] == [["mask", "weights"], ["initial", "mask", "weights"]]


def test_a_client_that_missed_the_pool_is_sent_it_with_the_statistics():
    """The statistics are those of the other three; all four judge the candidates on them."""
    config = tiny("fedtiny")
    place = Away(config, (0, -1))
    prelude = run(config, place=place)["prelude"]
    assert [entry.get("lost") for entry in prelude] == [None, {"2": "gone"}, None]
    assert [entry["asked"] for entry in prelude] == [[0, 1, 2, 3]] * 3
    assert tensors_sent(place)[:2] == [["mask", "pool", "weights"], ["mask", "pool", "stats", "weights"]]
    assert sorted(unpack(place.questions[1][0].message).tensors) == ["stats"]


def test_a_client_that_was_lost_in_training_goes_on_from_what_it_remembers():
    """It is sent the layers that changed and nothing else beside the weights. It last answered in round 0."""
    config = tiny("magnitude")
    place = Away(config, (-1, 1))
    run(config, place=place)
    asked = [questions[VICTIM] for questions in place.questions]
    assert asked[0].memory == NOTHING != asked[1].memory == asked[2].memory
    assert tensors_sent(place) == [["mask", "weights"], ["weights"], ["weights"]]


def test_a_client_that_was_lost_before_training_begins_anew():
    """It had the pool and missed the question for losses: the server counts on nothing that it remembers."""
    config = tiny("fedtiny")
    place = Away(config, (1, -1))
    run(config, place=place)
    asked = [questions[VICTIM] for questions in place.questions]
    assert asked[0].memory == NOTHING != asked[1].memory and asked[2].memory == NOTHING != asked[3].memory
