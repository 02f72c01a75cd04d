"""One client of several sends nonsense: it is named with the reason, and the rest goes on as if it had not answered.

A run of each method is watched where replies are accepted. Each of its exchanges is then repeated with the reply of one
client exchanged for a wrong one: for every wrong value that a program could send, and for random ones.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedtiny_lite.config import METHODS, load_method
from fedtiny_lite.federated import survey
from fedtiny_lite.federated.checks import read_whole_mask
from fedtiny_lite.federated.encodings import decode_growth_lists, encode_growth_lists
from fedtiny_lite.federated.formats import decode_mask, encode_mask
from fedtiny_lite.federated.ledger import accept, mask_for
from fedtiny_lite.federated.messages import Message, pack, unpack
from fedtiny_lite.federated.survey import answer_survey, read_survey
from fedtiny_lite.model.masks import Mask, check_masked
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import exchanges, places
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import four_clients, sealed, seeded

VICTIM = 2
OWN = {"lotteryfl": dict(clients=5, clients_per_round=4, rounds=4, adjust_until=4, lottery_accuracy=0.0)}
"""LotteryFL asks something before training only where not all clients take part, and here clients prune twice."""
WATCHED = {"fl_pqsu": 0, "lotteryfl": 2}
"""The round that is watched, if not the second: where all upload, and where clients prune for the second time."""


def tiny(method: str, **more):
    own = OWN.get(method, {})
    return four_clients(method=method, **dict(rounds=3, adjust_until=3) | own | more)


@dataclass(frozen=True, repr=False)
class Stage:
    """An exchange of a run, as the server met it: what `accept` was given, and the client that shall be hostile."""

    given: tuple
    victim: int

    @property
    def name(self) -> str:
        method, exchange, *_ = self.given
        return f"{method.label}, {exchange.name}"

    def __repr__(self) -> str:
        return f"Stage({self.name}, client {self.victim})"

    @property
    def reply(self) -> Message:
        return unpack(self.given[-1][self.victim])

    def accepted(self, data: bytes | None):
        """What is accepted if the victim sends these bytes; None = if it had not been asked."""
        *others, packed = self.given
        rest = {k: reply for k, reply in packed.items() if k != self.victim}
        return accept(*others, rest if data is None else rest | {self.victim: data})

    def folded(self, accepted):
        _, exchange, server, state, r, *_ = self.given
        return exchange.fold(server, state, r, accepted.replies)


@functools.cache
def stages(method: str) -> tuple[Stage, ...]:
    """The exchanges before training and that of a round in which masks change."""
    seen: list[tuple] = []

    def spy(*given):
        seen.append(given)
        return accept(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchanges, "accept", spy)
        simulate.run(tiny(method))
    chosen = [given for given in seen if given[4] in (-1, WATCHED.get(method, 1))]
    return tuple(Stage(given, sorted(given[-1])[min(VICTIM, len(given[-1]) - 1)]) for given in chosen)


def same(one: Any, other: Any) -> bool:
    """Whether states, or parts of them, are equal bit for bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict | Mask):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "weights"):
        parts = [[of.weights, of.mask, dict(of.extra), dict(of.of_clients)] for of in (one, other)]
        return same(*parts)
    return one == other


# --- wrong replies ----------------------------------------------------------------------------------------


def wrong_replies(stage: Stage) -> dict[str, tuple[bytes, str]]:
    """What is wrong -> the bytes, and a word of the reason that the server shall give."""
    reply = stage.reply
    found = wrong_bytes(pack(reply.tensors, **reply.meta))
    for what, (tensors, meta, word) in (
        wrong_meta(reply) | wrong_tensors(stage) | wrong_masks_and_lists(stage)
    ).items():
        found[what] = pack(tensors, **meta), word
    return found


def wrong_bytes(whole: bytes) -> dict[str, tuple[bytes, str]]:
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    return {
        "nothing": (b"", "whole message"),
        "half of the bytes": (whole[: len(whole) // 2], "whole message"),
        "a byte too few": (whole[:-1], "whole message"),
        "a byte too many": (whole + b"\0", "whole message"),
        "a bit flipped": (bytes(flipped), "whole message"),
        "zeros": (bytes(len(whole)), "whole message"),
        "sealed nonsense": (sealed(whole[:8] + bytes(len(whole) - 12)), ""),
    }


Wrong = dict[str, tuple[dict[str, Tensor], dict[str, Any], str]]


def wrong_meta(reply: Message) -> Wrong:
    samples, meta = reply.meta["samples"], reply.meta
    values = [1e30, 10**30, math.nan, math.inf, -samples, 0, True, str(samples), [samples], None, float(samples)]
    found = {f"samples {value!r}": (meta | {"samples": value}, "samples") for value in (*values, samples + 1)}
    found |= {f"version {value!r}": (meta | {"version": value}, "version") for value in (0, -1, 7, "1", True, 1e30)}
    for name in ("samples", "version"):
        found[f"no {name}"] = {key: value for key, value in meta.items() if key != name}, name
    if "judged" in meta:
        bad = (meta["judged"] + 1, 0, -1, math.nan, 1e30, True, "5", None)
        found |= {f"judged {value!r}": (meta | {"judged": value}, "judged") for value in bad}
    return {what: (reply.tensors, changed, word) for what, (changed, word) in found.items()}


def wrong_tensors(stage: Stage) -> Wrong:
    reply, found = stage.reply, {}
    for name, tensor in reply.tensors.items():
        flat = tensor.flatten()
        for what, wrong in {
            "one number": flat[:1],
            "no number": flat[:0],
            "a number too many": torch.cat([flat, flat[:1]]),
            "a number too few": flat[:-1],
            "another shape": flat.view(1, 1, -1),
            "float64 or float32": tensor.to(torch.float32 if tensor.dtype == torch.float64 else torch.float64),
            "int32": tensor.to(torch.int32),
            "a scalar": flat[0].clone(),
        }.items():
            found[f"{name}: {what}"] = {name: wrong}, ""
        for value in (math.nan, math.inf, -math.inf) if tensor.is_floating_point() else ():
            for place in (0, -1):
                wrong = flat.clone()
                wrong[place] = value
                found[f"{name}: {value} at {place}"] = {name: wrong.view(tensor.shape)}, name
    for name in {"loss", "correct", "scores", "squares", "scales"} & reply.tensors.keys():
        wrong = reply.tensors[name].clone()
        wrong.view(-1)[0] = -1
        found[f"{name}: negative"] = {name: wrong}, name
    if "correct" in reply.tensors:  # as many as were judged may be correct
        one_more = torch.full_like(reply.tensors["correct"], reply.meta["judged"] + 1)
        found["correct: one more than judged"] = {"correct": one_more}, "correct"
        found["correct: 2^62"] = {"correct": torch.full_like(one_more, 2**62)}, "correct"
    wrong = with_a_negative_variance(stage)
    found |= {"a negative variance": (wrong, "negative")} if wrong else {}
    complete = {what: (reply.tensors | wrong, word) for what, (wrong, word) in found.items()}
    complete["one tensor more"] = reply.tensors | {"more": torch.zeros(3)}, "more"
    for name in reply.tensors:
        complete[f"without {name}"] = {n: t for n, t in reply.tensors.items() if n != name}, ""
    return {what: (tensors, reply.meta, word) for what, (tensors, word) in complete.items()}


def with_a_negative_variance(stage: Stage) -> dict[str, Tensor]:
    """The reply's tensors that hold variances, with the first of them below zero."""
    method, _, server, state, *_ = stage.given
    tensors, task = {name: tensor.clone() for name, tensor in stage.reply.tensors.items()}, server.task
    if "stats" in tensors:
        tensors["stats"][-1, next(iter(task.stats_shapes.values())).numel()] = -1  # behind the first layer's means
        return {"stats": tensors["stats"]}
    if not {"weights", "zeros"} & tensors.keys() or not task.stats_shapes:  # the small model has no batch norm
        return {}
    names = list(task.state_shapes)
    first = next(number for number, name in enumerate(names) if name.endswith("running_var"))
    if "zeros" in tensors:
        tensors["zeros"][first] = -1e6
        return {"zeros": tensors["zeros"]}
    own = read_whole_mask(task, tensors["mask"]) if "mask" in tensors else mask_for(method, server, state, stage.victim)
    before = sum(own.kept.get(name, task.state_shapes[name].numel()) for name in names[:first])
    tensors["weights"][before] = -0.5
    return {"weights": tensors["weights"]}


def wrong_masks_and_lists(stage: Stage) -> Wrong:
    _, exchange, server, state, r, *_ = stage.given
    reply, task, found = stage.reply, server.task, {}
    for name in {"mask", "votes"} & reply.tensors.keys():
        packed, layers = reply.tensors[name], decode_mask(reply.tensors[name], task.mask_shapes)
        where = next(iter(layers))
        for what, wrong in {
            "one weight too many": with_one(layers, where, not_in(layers, where)),
            "one weight too few": without_one(layers, where),
            "a layer left out": {layer: keep for layer, keep in layers.items() if layer != where},
            "everything": {layer: torch.ones_like(keep) for layer, keep in layers.items()},
            "nothing": {},
        }.items():
            if (what, exchange.name) != ("one weight too few", "initial_pruning"):  # which may stay below the budget
                found[f"{name}: {what}"] = {name: encode_mask(wrong, list(task.mask_shapes))}, ""
        found[f"{name}: a layer twice"] = {name: torch.cat([packed, packed])}, "damaged"
        garbage = torch.randint(256, packed.shape, generator=seeded(), dtype=torch.uint8)
        found[f"{name}: garbage"] = {name: garbage}, ""
    if "votes" in reply.tensors:
        votes = decode_mask(reply.tensors["votes"], task.mask_shapes)
        where = next(iter(votes))
        moved = without_one(with_one(votes, where, first_of(state.mask[where])), where, first_of(votes[where]))
        found["votes: for a kept weight"] = {"votes": encode_mask(moved, list(task.mask_shapes))}, "not pruned"
    if stage.name.startswith("LotteryFL") and "mask" in reply.tensors:
        layers = decode_mask(reply.tensors["mask"], task.mask_shapes)
        held = stage.given[0].mask_of(server, state, stage.victim)
        where = next((name for name in layers if not held[name].all()), None)
        if where:
            moved = without_one(with_one(layers, where, first_of(~held[where])), where, first_of(layers[where]))
            found["mask: a weight it had lost"] = {"mask": encode_mask(moved, list(task.mask_shapes))}, "kept before"
    if "growth_index" in reply.tensors:
        found |= wrong_lists(reply, exchange.ask(server, state, r).meta["grow"], task.sizes, state.mask)
    return {what: (reply.tensors | wrong, reply.meta, word) for what, (wrong, word) in found.items()}


def first_of(keep: Tensor) -> int:
    return int(keep.flatten().nonzero()[0])


def not_in(layers: dict[str, Tensor], where: str) -> int:
    return first_of(~layers[where])


def with_one(layers: dict[str, Tensor], where: str, place: int) -> dict[str, Tensor]:
    changed = layers[where].clone()
    changed.view(-1)[place] = True
    return layers | {where: changed}


def without_one(layers: dict[str, Tensor], where: str, place: int | None = None) -> dict[str, Tensor]:
    changed = layers[where].clone()
    changed.view(-1)[first_of(changed) if place is None else place] = False
    return layers | {where: changed}


def wrong_lists(reply: Message, counts: dict[str, int], sizes: dict[str, int], mask: Mask) -> dict:
    """Growth lists with a wrong list of the layer that lists most."""
    lists = decode_growth_lists(reply.tensors, counts, sizes)
    where = max(counts, key=lambda name: counts[name])
    (index, value), size = lists[where], sizes[where]
    assert len(index) > 2
    repeated, beyond, unsorted, kept = index.clone(), index.clone(), index.flip(0), index.clone()
    repeated[1], beyond[-1] = repeated[0], size
    kept[0] = first_of(mask[where])
    kept = kept.sort().values
    wrong = {
        "a position twice": ((repeated, value), "ascend"),
        "all at one position": ((torch.zeros_like(index), value), "ascend"),
        "out of range": ((beyond, value), "ascend"),
        "not ascending": ((unsorted, value), "ascend"),
        "at a kept position": ((kept, value), "not pruned"),
        "one entry fewer": ((index[1:], value[1:]), "growth_"),
        "one entry more": ((torch.cat([index, index[:1]]), torch.cat([value, value[:1]])), "growth_"),
        "values of another length": ((index, value[1:]), "growth_"),
    }
    return {
        f"lists: {what}": (encode_growth_lists(lists | {where: entries}, sizes), word)
        for what, (entries, word) in wrong.items()
    }


# --- each of them, in every exchange of every method ------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_reply_is_named_with_its_reason_and_changes_nothing(method):
    for stage in stages(method):
        if len(stage.given[-1]) == 1:
            continue
        reference = stage.accepted(None)
        state, note = stage.folded(reference)
        assert reference.rejections == {}
        for what, (data, word) in wrong_replies(stage).items():
            where, found = f"{stage.name}: {what}", stage.accepted(data)
            assert list(found.rejections) == [stage.victim], where
            assert word in found.rejections[stage.victim] != "", (where, found.rejections)
            assert [m.meta for m in found.replies] == [m.meta for m in reference.replies], where
            samples = found.ledger.samples
            assert {k: n for k, n in samples.items() if k != stage.victim} == {
                k: n for k, n in reference.ledger.samples.items() if k != stage.victim
            }
            following, told = stage.folded(found)
            assert same(following, state) and told == note, where


def test_where_one_client_is_asked_a_wrong_reply_stops_the_run():
    """PruneFL's first client, which prunes for all."""
    (stage, *_) = stages("prunefl")
    assert stage.given[1].name == "initial_pruning" and stage.victim == 0
    wrong = wrong_replies(stage)
    assert {"mask: one weight too many", "a negative variance", "without mask"} <= wrong.keys()
    for what, (data, word) in wrong.items():
        with pytest.raises(FloatingPointError, match=r"^1 of 1 replies were rejected \(client 0: ") as stopped:
            stage.accepted(data)
        assert word in str(stopped.value), what


def test_these_cases_are_those_that_the_methods_have():
    """Else something that is listed above was never tried."""
    tried = {what for method in METHODS for stage in stages(method) for what in wrong_replies(stage)}
    assert tried >= {
        "a negative variance", "judged nan", "loss: negative", "correct: negative", "scores: negative",
        "squares: negative", "scales: negative", "mask: one weight too many", "mask: a weight it had lost",
        "votes: one weight too few", "votes: for a kept weight", "lists: at a kept position", "codes: one number",
        "growth_value: nan at 0", "stats: inf at -1", "one tensor more", "a bit flipped",
    }  # fmt: skip
    assert len(tried) >= 60
    exchanges = {stage.given[1].name for method in METHODS for stage in stages(method)}
    assert exchanges >= {"bn_statistics", "candidate_losses", "saliency", "initial_pruning", "initial_weights", "train"}


# --- random ones ------------------------------------------------------------------------------------------

EXTREME = st.sampled_from([0.0, -0.0, 1e-45, -1e-30, 1e30, 3.4e38, -3.4e38, math.nan, math.inf]) | st.floats(-10, 10)
JSON = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3) | st.just([{}])


@st.composite
def mutated(draw, stage: Stage) -> bytes:
    """The victim's reply with something changed, under a right checksum."""
    reply = stage.reply
    kind = draw(st.sampled_from(["bytes", "value", "meta", "random"]))
    if kind == "random":
        return draw(st.binary(max_size=40).map(lambda data: sealed(b"FTL1" + data)) | st.binary(max_size=40))
    if kind == "meta":
        name = draw(st.sampled_from([*reply.meta, "client", "grow"]))
        return pack(reply.tensors, **reply.meta | {name: draw(JSON)})
    if kind == "value" and reply.tensors:
        tensors = {name: tensor.clone() for name, tensor in reply.tensors.items()}
        changed = tensors[draw(st.sampled_from(sorted(tensors)))].view(-1)
        for _ in range(draw(st.integers(1, 3))):
            value = draw(EXTREME if changed.is_floating_point() else st.integers(0, 255))
            changed[draw(st.integers(0, len(changed) - 1))] = value
        return pack(tensors, **reply.meta)
    raw = bytearray(pack(reply.tensors, **reply.meta)[:-4])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)) | st.integers(0, min(len(raw), 200)))
        raw[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return sealed(bytes(raw))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_random_reply_is_rejected_or_stays_in_shape(data):
    """Finite numbers of the right form may say anything; the server's state keeps its shapes, budget and mask."""
    method = data.draw(st.sampled_from(METHODS))
    stage = data.draw(st.sampled_from([stage for stage in stages(method) if len(stage.given[-1]) > 1]))
    accepted = stage.accepted(data.draw(mutated(stage)))
    following, _ = stage.folded(accepted)
    if accepted.rejections:
        assert list(accepted.rejections) == [stage.victim]
        assert same(following, stage.folded(stage.accepted(None))[0])
        return
    task, before = stage.given[2].task, stage.given[3]
    assert {name: t.shape for name, t in following.weights.items()} == dict(task.state_shapes)
    assert {name: keep.shape for name, keep in following.mask.items()} == dict(task.mask_shapes)
    assert all(bool(tensor.isfinite().all()) for tensor in following.weights.values())
    assert all(bool((t >= 0).all()) for name, t in following.weights.items() if name.endswith("running_var"))
    check_masked(following.weights, following.mask)
    assert following.mask.total <= max(task.budget, before.mask.total)
    if stage.given[1] is stage.given[0].training:
        for tensors in (following.extra, *following.of_clients.values()):
            pack(tensors)  # what a checkpoint holds


# --- whole runs -------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(monkeypatch):
    """hostile(where, change): the clients and places at which where(index, k, r) holds send change(reply) instead."""

    def install(where, change):
        inner = places.answer

        def answer(call, k, message, memory):
            index, r = call.index, call.r
            found = inner(call, k, message, memory)
            return found._replace(reply=change(found.reply)) if where(index, k, r) else found

        monkeypatch.setattr(places, "answer", answer)

    return install


def claiming_more(reply: bytes) -> bytes:
    message = unpack(reply)
    return pack(message.tensors, **message.meta | {"samples": 10**30})


@pytest.mark.parametrize("change", [claiming_more, lambda reply: reply[:-1]], ids=["samples", "torn"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_beside_a_client_that_is_wrong_in_every_exchange(method, change, hostile):
    """In LotteryFL it is asked in some rounds only; in PruneFL it isn't asked before training."""
    hostile(lambda index, k, r: k == VICTIM, change)
    record = simulate.run(tiny(method))
    assert record["complete"] is True and math.isfinite(record["final"]["test_loss"])
    entries = record["prelude"][1:] + record["rounds"]
    assert sum(VICTIM in entry["asked"] for entry in entries) >= 2
    for entry in entries:
        expected = [VICTIM] if VICTIM in entry["asked"] else []
        assert entry["rejected_clients"] == expected == [int(k) for k in entry.get("rejections", {})]
        assert all(reason for reason in entry.get("rejections", {}).values())


@pytest.mark.parametrize("method", ["magnitude", "fedtiny"])
def test_half_of_the_replies_are_enough_and_fewer_stop_the_run(method, hostile, tmp_path):
    config = tiny(method)
    expected = simulate.run(config)
    with pytest.MonkeyPatch.context() as patch:
        hostile(lambda index, k, r: (index, r) == (-1, 1) and k in (1, 3), claiming_more)
        half = simulate.run(config)
        patch.undo()
    assert [entry["rejected_clients"] for entry in half["rounds"]] == [[], [1, 3], []]
    hostile(lambda index, k, r: (index, r) == (-1, 1) and k == 0, lambda reply: b"")
    with pytest.raises(FloatingPointError, match=r"^3 of 4 replies were rejected"):
        simulate.run(config, tmp_path)
    record = schema.read_record(tmp_path / config.run_id / "record.json")
    assert record["complete"] is False and len(record["rounds"]) == 1
    assert schema.canonical(record) == schema.canonical(
        expected | {"rounds": expected["rounds"][:1], "final": {}, "complete": False, "stopped": record["stopped"]}
    )
    for words in ("in round 1: 3 of 4 replies", "client 0: these bytes are not", "client 1: samples is 1", "client 3:"):
        assert words in record["stopped"]


# --- the survey of pixels ---------------------------------------------------------------------------------


def white_and_black(total: int, squares: int, samples: Any) -> bytes:
    one = torch.tensor([1], dtype=torch.int64)
    return pack({"sums": one * total, "squares": one * squares}, samples=samples)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        pack({}, samples=50),
        pack({"sums": torch.zeros(1), "squares": torch.zeros(1)}, samples=50),
        pack({"sums": torch.zeros(2, dtype=torch.int64), "squares": torch.zeros(2, dtype=torch.int64)}, samples=50),
        white_and_black(-1, 1, 50),
        white_and_black(0, 1, 50),
        white_and_black(255 * 64 * 50 + 1, 255 * (255 * 64 * 50 + 1), 50),
        white_and_black(100, 99, 50),
        white_and_black(100, 25_501, 50),
        white_and_black(64, 64, 0),
        *(white_and_black(64, 64, samples) for samples in (1e30, 10**30, -1, math.nan, True, "50", None)),
    ],
)
def test_wrong_sums_of_pixels_are_left_out(wrong):
    federation = build_federation(tiny("magnitude"))
    replies = {k: answer_survey(split) for k, split in enumerate(federation.holdings.splits)}
    others = {k: reply for k, reply in replies.items() if k != VICTIM}
    pixels, samples, rejections = read_survey(replies | {VICTIM: wrong}, (1, 8, 8), 1)
    assert list(rejections) == [VICTIM] and rejections[VICTIM]
    assert (pixels, samples, {}) == read_survey(others, (1, 8, 8), 1)


def test_sums_of_pixels_of_any_size_add_up():
    """Sums of int64 would wrap around: three clients that hold as many white pixels as they may claim."""
    most = 2**63 - 1
    samples = most // (255 * 255 * 32 * 32) + 1
    claim = white_and_black(most // 255, most // 255 * 255, samples)
    pixels, _, rejections = read_survey(dict.fromkeys(range(3), claim), (1, 32, 32), 1)
    assert rejections == {} and 0 < pixels.mean[0] <= 1 and 0 < pixels.std[0] < 1


def test_a_run_without_the_sums_of_one_client_is_recorded_as_plain_json(monkeypatch, tmp_path):
    config = tiny("magnitude", seed=5)
    splits = build_federation(tiny("magnitude", seed=5)).holdings.splits
    build_federation.cache_clear()
    victims = survey.answer_survey(splits[VICTIM])
    torn = lambda split: b"" if survey.answer_survey(split) == victims else survey.answer_survey(split)  # noqa: E731
    monkeypatch.setattr("fedtiny_lite.simulation.setup.answer_survey", torn)
    record = simulate.run(config, tmp_path)
    assert record["prelude"][0]["rejected_clients"] == [VICTIM]
    assert schema.read_record(tmp_path / config.run_id / "record.json") == record
    build_federation.cache_clear()


def test_no_method_is_left_out():
    assert {stage.given[0].label for method in METHODS for stage in stages(method)} == {
        load_method(method).label for method in METHODS
    }
