"""The versions of masks: what a client holds, what it lacks, and replies that belong to another mask."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtiny_lite.config import load_method
from fedtiny_lite.federated.client import EMPTY_MEMORY, build_client, take_mask
from fedtiny_lite.federated.formats import decode_mask, encode_mask
from fedtiny_lite.federated.ledger import lacking
from fedtiny_lite.federated.messages import Message, pack, unpack
from fedtiny_lite.federated.state import masked_start
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.simulation import exchanges, places
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import four_clients, seeded, trace

VICTIM = 2


def tiny(method="fedtiny", **settings):
    return four_clients(method=method, **dict(rounds=5, adjust_until=5) | settings)


@pytest.fixture
def watch(monkeypatch):
    """watch(memory, reply, asked): a run in which client VICTIM remembers memory(r, what it remembers), sends
    reply(r, its reply), and clients asked(r) take part.

    Returns the questions sent, by (r, client), and the replies as they left the client.
    """

    def install(memory=lambda r, own: own, reply=lambda r, own: own, asked=None):
        questions, replies, inner, exchange_at = {}, {}, places.answer, exchanges.exchange_at

        def answer(call, k, message, remembered):
            index, r = call.index, call.r
            if index == -1:
                questions[r, k] = unpack(message)
            hit = index == -1 and k == VICTIM
            found = inner(call, k, message, memory(r, remembered) if hit else remembered)
            if index == -1:
                replies[r, k] = found.reply
            return found._replace(reply=reply(r, found.reply)) if hit else found

        def some(method, config, index):
            exchange = exchange_at(method, config, index)
            return replace(exchange, clients=lambda config, r: asked(r)) if asked and index == -1 else exchange

        monkeypatch.setattr(places, "answer", answer)
        monkeypatch.setattr(exchanges, "exchange_at", some)
        return questions, replies

    return install


def layers_in(message: Message, config) -> list[str]:
    """The layers of its mask that a client is sent."""
    packed = message.tensors.get("mask")
    return [] if packed is None else list(decode_mask(packed, build_federation(config).task.mask_shapes))


def changed(before, after) -> list[str]:
    return [name for name in before.mask if not torch.equal(before.mask[name], after.mask[name])]


def rejections(record) -> list[dict]:
    return [entry.get("rejections", {}) for entry in record["rounds"]]


def without_victim(states, config, r: int):
    """The state after round r if the victim had not been asked in it, from the state before."""

    class Seen(Exception):
        pass

    found = []

    def stop(entry, state):
        if entry["round"] == r:
            found.append(state)
            raise Seen

    with pytest.MonkeyPatch.context() as patch:
        accept = exchanges.accept

        def drop(*given):
            *rest, packed = given
            gone = given[4] == r and given[1].name == "train"
            return accept(*rest, {k: reply for k, reply in packed.items() if not (gone and k == VICTIM)})

        patch.setattr(exchanges, "accept", drop)
        with pytest.raises(Seen):
            simulate.run(config, on_round=stop)
    return found[0]


def assert_same(one, other):
    assert one.mask == other.mask
    assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


# --- a reply under another version ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedtiny", "fedmef", "fedrts", "prunefl", "feddst"])
def test_a_reply_under_another_version_is_refused_and_never_scattered(method, watch):
    """A client repeats its reply of the round before. Masks keep as many weights as then, so it is as long as it has to
    be; but its numbers belong to other weights.
    """
    config = tiny(method, rounds=4)
    old = {}

    def repeat(r, own):
        old[r] = own
        return old[r - 1] if r == 3 else own

    questions, _ = watch(reply=repeat)
    record, states = trace(config)
    sent = questions[3, VICTIM].meta["version"]
    stale, right = unpack(old[2]), unpack(old[3])
    assert stale.meta["version"] < sent == right.meta["version"]
    if method != "prunefl":  # whose layers change their sizes
        assert stale.tensors["weights"].shape == right.tensors["weights"].shape
    reason = f"it answers under version {stale.meta['version']} of the mask, and version {sent} was sent"
    assert rejections(record) == [{}, {}, {}, {str(VICTIM): reason}]
    assert record["rounds"][3]["rejected_clients"] == [VICTIM] and record["complete"]
    assert_same(states[4], without_victim(states, config, 3))


def test_it_is_refused_although_nothing_else_is_wrong_with_it(watch):
    """Just the number differs."""
    wrong = {1: 1, 2: 99, 3: True}

    def renumber(r, own):
        message = unpack(own)
        return pack(message.tensors, **message.meta | {"version": wrong[r]}) if r in wrong else own

    watch(reply=renumber)
    record, _ = trace(tiny())
    found = rejections(record)
    assert [list(reasons) for reasons in found] == [[], ["2"], ["2"], ["2"], []]
    assert [reasons["2"].split(" of the mask")[0] for reasons in found[1:4]] == [
        f"it answers under version {number}" for number in (1, 99, 0)
    ]


# --- a client that forgot ---------------------------------------------------------------------------------


def test_a_client_that_forgot_its_mask_answers_nothing_and_is_sent_the_whole_one_next(watch):
    config = tiny()
    questions, replies = watch(memory=lambda r, own: EMPTY_MEMORY if r == 2 else own)
    record, states = trace(config)
    assert layers_in(questions[2, VICTIM], config) == changed(states[1], states[2]) != list(states[0].mask)
    answer = unpack(replies[2, VICTIM])
    assert answer.tensors == {} and (answer.meta["version"], answer.meta["holds"]) == (0, 0)
    sent = questions[2, VICTIM].meta["version"]
    reason = f"it answers under version 0 of the mask, and version {sent} was sent"
    assert rejections(record) == [{}, {}, {str(VICTIM): reason}, {}, {}]
    assert_same(states[3], without_victim(states, config, 2))
    for k in range(config.clients):
        message = questions[3, k]
        if k != VICTIM:
            assert layers_in(message, config) == changed(states[2], states[3])
            assert message.meta["known"] == sent
    again = questions[3, VICTIM]
    assert again.meta["known"] == 0
    assert Mask(decode_mask(again.tensors["mask"], build_federation(config).task.mask_shapes)) == states[3].mask
    assert again.meta["version"] == questions[3, 0].meta["version"]
    assert torch.equal(again.tensors["weights"], questions[3, 0].tensors["weights"])
    assert layers_in(questions[4, VICTIM], config) == layers_in(questions[4, 0], config)


def test_it_costs_nothing_but_its_bytes(watch):
    """And a client that is behind by a version, as if its last memory had not been written, is treated alike."""
    kept = {}

    def older(r, own):
        kept[r] = own
        return kept[2] if r == 3 else own

    questions, replies = watch(memory=older)
    record, _ = trace(tiny())
    behind = unpack(kept[2]).meta["version"]
    assert behind < questions[3, VICTIM].meta["known"]
    answer = unpack(replies[3, VICTIM])
    assert answer.tensors == {} and answer.meta["holds"] == behind
    assert list(rejections(record)[3]) == [str(VICTIM)] and rejections(record)[4] == {}
    flops = [entry["training_flops"] for entry in record["rounds"]]
    assert flops[3] < flops[2]
    assert questions[4, VICTIM].meta["known"] == behind  # of the server's own versions: just what changed since
    assert len(layers_in(questions[4, VICTIM], tiny())) >= len(layers_in(questions[4, 0], tiny()))


# --- a client that missed adjustments ---------------------------------------------------------------------


@pytest.mark.parametrize("missed", [1, 2, 3])
def test_a_client_that_missed_adjustments_is_sent_exactly_the_layers_that_changed(missed, watch):
    config = tiny()
    rest = [k for k in range(config.clients) if k != VICTIM]
    back = 1 + missed
    questions, _ = watch(asked=lambda r: rest if 0 < r < back else list(range(config.clients)))
    record, states = trace(config)
    assert rejections(record) == [{}] * 5
    expected = {name for r in range(back) for name in changed(states[r], states[r + 1])}
    message, shapes = questions[back, VICTIM], build_federation(config).task.mask_shapes
    sent = decode_mask(message.tensors["mask"], shapes) if "mask" in message.tensors else {}
    assert list(sent) == [name for name in shapes if name in expected]
    assert all(torch.equal(keep, states[back].mask[name]) for name, keep in sent.items())
    assert 0 < len(sent) < len(shapes) or missed > 2
    held = questions[0, VICTIM].meta["version"]
    assert message.meta["known"] == held < message.meta["version"]
    others = questions[back, 0]
    assert layers_in(others, config) == changed(states[back - 1], states[back])
    assert len(message.tensors["mask"]) >= len(others.tensors.get("mask", ()))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(-1, 8))
def test_what_is_lacking_is_what_changed_later_or_everything(numbers, held):
    versions = {f"layer{place}": number for place, number in enumerate(numbers)}
    newest = max(numbers)
    expected = [name for name, number in versions.items() if number > held or not 1 <= held <= newest]
    assert lacking(versions, held) == expected


# --- a client's side --------------------------------------------------------------------------------------


@pytest.fixture
def client(server):
    split = build_federation(four_clients()).holdings.splits[0]
    return lambda memory=EMPTY_MEMORY: build_client(server.task, 0, 0, split, memory)


def random_masks(task, count: int) -> list[dict]:
    generator = seeded(3)
    return [
        {name: torch.rand(shape, generator=generator) < 0.5 for name, shape in task.mask_shapes.items()}
        for _ in range(count)
    ]


def test_a_client_takes_a_whole_mask_whatever_it_held_and_layers_only_onto_the_right_version(client, server):
    names = list(server.task.mask_shapes)
    first, second = random_masks(server.task, 2)

    def question(layers, version, known):
        tensors = {"mask": encode_mask({name: second[name] for name in layers}, names)} if layers else {}
        return Message({"version": version, "known": known}, tensors)

    def holding(version):
        return client(pack({"held mask": encode_mask(first, names)}, version=version))

    mine = holding(3)
    assert take_mask(mine, question(names[1:3], 5, 3))
    assert mine.version == 5
    assert all(torch.equal(keep, (second if name in names[1:3] else first)[name]) for name, keep in mine.mask.items())
    for known in (0, 2, 3, 9):
        whole = holding(3)
        assert take_mask(whole, question(names, 1, known)) and whole.version == 1
        assert Mask(second) == whole.mask
    for layers in (names[1:3], []):
        for behind in (holding(2), holding(4), client()):
            before, version = behind.packed_mask, behind.version
            assert not take_mask(behind, question(layers, 5, 3))
            assert behind.packed_mask is before and behind.version == version
    assert take_mask(holding(3), question([], 3, 3))


def test_a_client_without_a_mask_says_so(client):
    with pytest.raises(ValueError, match=r"client 0 holds no mask yet; the server sends it with the first question"):
        client().mask  # noqa: B018


# --- masks of the clients' own ----------------------------------------------------------------------------


def lottery(**settings):
    """Clients prune to the budget in round 1, and whoever did not, in the next round; none does before."""
    return tiny("lotteryfl", lottery_accuracy=0.99, **settings)


def unchecked(reply: bytes) -> bytes:
    message = unpack(reply)
    return pack(message.tensors, **message.meta | {"samples": 1})


def test_after_a_rejected_reply_the_server_sends_the_clients_mask_again(watch):
    """The client pruned and the server did not hear of it: both go on from the mask that the server knows."""
    config = lottery(adjust_until=1)
    questions, replies = watch(reply=lambda r, own: unchecked(own) if r == 1 else own)
    record, states = trace(config)
    task, method = build_federation(config).task, load_method("lotteryfl")
    server = build_federation(config).server
    assert list(rejections(record)[1]) == [str(VICTIM)] and "samples is 1" in rejections(record)[1][str(VICTIM)]
    lost = unpack(replies[1, VICTIM])
    assert "mask" in lost.tensors and lost.meta["holds"] == 2
    again = questions[2, VICTIM]
    assert again.meta == {"version": 1, "known": 2}
    known = method.mask_of(server, states[2], VICTIM)
    assert known.prunable_density == 1  # as it was before it pruned
    assert Mask(decode_mask(again.tensors["mask"], task.mask_shapes)) == known
    weights = masked_start(states[2].weights, known).weights
    assert len(again.tensors["weights"]) == sum(tensor.numel() for tensor in weights.values())
    for k in range(config.clients):  # the others need no mask: it is they who made it
        if k != VICTIM:
            assert "mask" not in questions[2, k].tensors and questions[2, k].meta == {"version": 2, "known": 2}
    assert rejections(record)[2:] == [{}] * 3 and "mask" in unpack(replies[2, VICTIM]).tensors
    assert method.mask_of(server, states[3], VICTIM).total <= task.budget
    assert "mask" not in questions[3, VICTIM].tensors and questions[3, VICTIM].meta == {"version": 2, "known": 2}


def test_after_a_reply_that_got_lost_it_takes_one_round_more(watch):
    """A torn reply does not even say which mask the client holds now; the client does so when it is asked again."""
    config = lottery(adjust_until=1)
    questions, replies = watch(reply=lambda r, own: own[:-1] if r == 1 else own)
    record, states = trace(config)
    assert [list(reasons) for reasons in rejections(record)] == [[], [str(VICTIM)], [str(VICTIM)], [], []]
    assert "mask" not in questions[2, VICTIM].tensors and questions[2, VICTIM].meta == {"version": 1, "known": 1}
    answer = unpack(replies[2, VICTIM])
    assert answer.tensors == {} and answer.meta["holds"] == 2
    assert questions[3, VICTIM].meta == {"version": 1, "known": 2}
    assert layers_in(questions[3, VICTIM], config) == list(states[0].mask)
    server = build_federation(config).server
    assert load_method("lotteryfl").mask_of(server, states[4], VICTIM).total <= server.task.budget
