"""The norm rule: one client's update that is far longer than the others' is left out, where a limit is set."""

import pytest
import torch

from fedtiny_lite.config import METHODS
from fedtiny_lite.federated.checks import too_long, update_norm
from fedtiny_lite.federated.messages import encode_state, pack, unpack
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import places
from fedtiny_lite.simulation import rounds as simulate
from tests.helpers import four_clients

VICTIM = 2
LARGE = dict(update_limit=1e6)
OWN = {"fl_pqsu": dict(selective_upload="no")}
"""The victim uploads in every round."""


def tiny(method: str, **more):
    return four_clients(method=method, rounds=2, adjust_until=2, **OWN.get(method, {}), **more)


def test_a_limit_is_a_multiple_of_the_median():
    lengths = {0: 1.0, 1: 2.0, 5: 2.0, 7: 9.0}
    assert list(too_long(lengths, 4)) == [7] and list(too_long(lengths, 4.5)) == []
    assert too_long(lengths, 4)[7] == "its update is 9 long, and 8 is allowed: 4 times the round's median"
    assert too_long({0: 1.0, 1: 1e9}, 2) == {} == too_long({0: 0.0, 1: 0.0}, 3)


def test_the_length_of_an_update_by_hand():
    """Of two kept weights one moved by 3 and the bias by 4; the pruned weight is not sent."""
    shapes = {"a.weight": torch.Size([3]), "a.bias": torch.Size([1])}
    mask = Mask({"a.weight": torch.tensor([True, False, True])})
    before = {"a.weight": torch.tensor([1.0, 0.0, 2.0]), "a.bias": torch.tensor([0.0])}
    after = {"a.weight": torch.tensor([1.0, 0.0, 5.0]), "a.bias": torch.tensor([-4.0])}
    assert {name: tensor.shape for name, tensor in before.items()} == shapes
    assert update_norm(before, mask, encode_state(after, mask)) == 5.0


@pytest.fixture
def sent(monkeypatch):
    """sent(change): in round 1 the victim sends change(reply) in place of its reply."""

    inner = places.answer

    def install(change):
        def answer(call, k, *rest):
            found = inner(call, k, *rest)
            return found._replace(reply=change(found.reply)) if (call.r, k) == (1, VICTIM) else found

        monkeypatch.setattr(places, "answer", answer)

    return install


def a_million_times(reply: bytes) -> bytes:
    """The same weights, plain or as 8-bit codes, a million times as large; those that variances are among, positive."""
    message = unpack(reply)
    changed = {name: message.tensors[name].abs() * 1e6 for name in {"weights", "scales", "zeros"} & {*message.tensors}}
    return pack(message.tensors | changed, **message.meta)


def without_reasons(record: dict) -> bytes:
    rounds = [{k: v for k, v in entry.items() if k not in ("rejections", "bytes_up")} for entry in record["rounds"]]
    kept = {name: value for name, value in record.items() if name not in ("config", "run_id", "final")}
    return schema.canonical(kept | {"rounds": rounds})


@pytest.mark.parametrize("method", ["fl_pqsu", "lotteryfl"])
def test_a_client_whose_update_is_left_out_answers_next_from_what_it_remembered_before(method, sent, monkeypatch):
    """FL-PQSU's compares its loss with that of the upload that counts; LotteryFL's has the mask that counts."""
    sent(a_million_times)
    inner, memories, questions = places.answer, {}, {}

    def answer(call, k, message, memory):
        memories[call.r, k], questions[call.r, k] = memory, unpack(message).meta["known"]
        return inner(call, k, message, memory)

    monkeypatch.setattr(places, "answer", answer)
    config = four_clients(method=method, rounds=3, adjust_until=3, update_limit=20)
    record = simulate.run(config)
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], [VICTIM], []]
    assert [k for k in range(config.clients) if memories[2, k] == memories[1, k]] == [VICTIM]
    assert questions[2, VICTIM] == questions[1, VICTIM]


@pytest.mark.parametrize("method", METHODS)
def test_an_update_a_million_times_too_large_is_left_out_of_the_model(method, sent):
    """The run is the one in which that reply was torn; its reason names the rule."""
    sent(lambda reply: reply[:-1])
    expected = simulate.run(tiny(method))
    sent(a_million_times)
    record = simulate.run(tiny(method, update_limit=20))
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], [VICTIM]]
    assert "20 times the round's median" in record["rounds"][1]["rejections"][str(VICTIM)]
    assert without_reasons(record) == without_reasons(expected)


def test_without_a_limit_it_is_folded(sent):
    """Off by default: finite numbers of the right form may say anything."""
    sent(a_million_times)
    record = simulate.run(tiny("magnitude"))
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], []]
    sent(lambda reply: reply)
    assert not record["final"]["test_loss"] < 100 * simulate.run(tiny("magnitude"))["final"]["test_loss"]


def test_an_update_is_measured_under_the_clients_own_mask():
    """From round 2 on LotteryFL's clients send no mask; theirs are smaller than the union that the server holds."""
    settings = dict(lottery_accuracy=0.0, adjust_until=1, rounds=4)
    plain, limited = (simulate.run(four_clients(method="lotteryfl", **settings, **more)) for more in ({}, LARGE))
    assert plain["rounds"][-1]["model_density"] > max(plain["rounds"][-1]["client_density"])
    assert without_reasons(limited) == without_reasons(plain)


@pytest.mark.parametrize("method", METHODS)
def test_a_limit_that_nobody_exceeds_changes_nothing(method):
    plain, limited = simulate.run(tiny(method)), simulate.run(tiny(method, **LARGE))
    assert without_reasons(limited) == without_reasons(plain)
