import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.config import METHODS, load_method
from fedtiny_lite.data.datasets import Split, to_float
from fedtiny_lite.federated.checks import numbers
from fedtiny_lite.federated.formats import decode_mask, encode_mask, read_mask
from fedtiny_lite.federated.ledger import accept, begin
from fedtiny_lite.federated.messages import pack, unpack
from fedtiny_lite.federated.protocol import Exchange
from fedtiny_lite.federated.state import Question, Reply, masked_start
from fedtiny_lite.model.costs import forward_flops, training_flops
from fedtiny_lite.model.networks import load_state
from fedtiny_lite.model.training import Normalisation, correct_by_class, evaluate
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import exchanges, places
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation, client_of, resolve_device, resolved
from tests.helpers import four_clients

CLIENTS = 4

tiny = partial(four_clients, rounds=3, adjust_until=3)


def watched(config, out=None) -> tuple[dict, list]:
    """The record, and (entry, state) of the start and of every round."""
    seen = []
    return run(config, out, lambda entry, state: seen.append((entry, state))), seen


@pytest.fixture(scope="module")
def magnitude():
    return watched(tiny(method="magnitude"))


# --- the record -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_record_says_everything_and_is_plain_json(method, tmp_path):
    config = tiny(method=method)
    record = run(config, tmp_path)
    assert json.loads(json.dumps(record)) == record
    assert schema.read_record(tmp_path / config.run_id / "record.json") == record
    assert record["run_id"] == config.run_id and record["config"] == config.identity()
    assert record["complete"] is True and "stopped" not in record
    assert [entry["round"] for entry in record["rounds"]] == [0, 1, 2]
    measured = {
        "test_accuracy", "test_loss", "model_density", "prunable_density", "empty_layers", "client_kept",
        "bytes_up", "bytes_down", "training_flops", "seconds",
    }  # fmt: skip
    largest = {"client_flops", "client_state_bytes"}
    assert all(entry.keys() >= measured | largest | {"rejected_clients"} for entry in record["rounds"])
    personal = {"personal_accuracy"} if method == "lotteryfl" else set()
    assert record["final"].keys() == measured | {"kept"} | {f"most_{name}" for name in largest} | personal
    assert record["environment"].keys() >= {"python", "cpu", "packages", "workers"}


def test_totals_are_sums_over_the_prelude_and_the_rounds():
    record = run(tiny())
    assert [entry["exchange"] for entry in record["prelude"]] == [
        "pixel_statistics",
        "bn_statistics",
        "candidate_losses",
    ]
    entries = record["prelude"] + record["rounds"]
    for name in ("bytes_up", "bytes_down", "training_flops", "seconds"):
        assert record["final"][name] == sum(entry[name] for entry in entries)
        computed = entries if name.startswith("bytes") else entries[1:]  # nothing is computed for pixel statistics
        assert all(entry[name] > 0 for entry in computed)
    for name in ("test_accuracy", "test_loss", "model_density", "prunable_density"):
        assert record["final"][name] == record["rounds"][-1][name]


def test_every_state_is_reported_as_it_is():
    record, seen = watched(tiny())
    federation = build_federation(tiny())
    model, server = federation.server.model, federation.server
    assert [entry["round"] for entry, _ in seen] == [-1, 0, 1, 2]
    assert [record["start"], *record["rounds"]] == [entry for entry, _ in seen]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    dense = parameters - sum(server.task.sizes.values())
    for entry, state in seen:
        load_state(model, state.weights)
        score = evaluate(model, federation.holdings.test, server.task.pixels)
        assert entry["test_accuracy"] == score.correct / 60
        assert entry["test_loss"] == score.loss_sum / 60
        nonzero = {name: int(torch.count_nonzero(state.weights[name])) for name in state.mask}
        assert all(nonzero[name] <= kept for name, kept in state.mask.kept.items())
        kept = sum(state.mask.kept.values())
        assert entry["prunable_density"] == kept / sum(server.task.sizes.values())
        assert math.isclose(entry["model_density"], (kept + dense) / parameters)


@pytest.mark.parametrize("density_of", ["prunable", "model"])
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"fedavg"}))
def test_no_round_exceeds_the_budget(method, density_of):
    density = 0.3
    record, seen = watched(tiny(method=method, density=density, density_of=density_of))
    assert record["model"]["budget"] >= 4
    assert record["rounds"][-1]["client_kept"] <= record["model"]["budget"]
    allowed = record["model"]["allowed"] / record["model"]["parameters"]
    assert density_of == "prunable" or allowed <= density
    for entry, state in seen[1:] if method != "lotteryfl" else ():  # whose server holds the union of the clients' masks
        assert entry["client_kept"] <= record["model"]["budget"]
        assert entry["model_density"] <= allowed
        assert state.mask.total <= record["model"]["budget"]


def test_fedavg_is_dense():
    record = run(tiny(method="fedavg"))
    assert record["final"]["model_density"] == record["final"]["prunable_density"] == 1


def test_every_training_image_is_the_servers_or_one_clients():
    record = run(tiny(rounds=0))
    assert record["data"]["public_images"] == 50 and record["data"]["test_images"] == 60
    assert sum(record["data"]["sizes"]) == 300 - 50
    assert record["data"]["sizes"] == [sum(row) for row in record["data"]["histogram"]]
    assert len(record["data"]["sizes"]) == CLIENTS


def test_no_rounds_is_the_start():
    record = run(tiny(rounds=0))
    assert record["rounds"] == [] and record["complete"] is True
    assert record["final"]["test_loss"] == record["start"]["test_loss"]


# --- what a round costs, by hand --------------------------------------------------------------------------


def test_training_flops_are_three_forward_passes_of_every_image(magnitude):
    record, _ = magnitude
    layers, kept = build_federation(tiny(method="magnitude")).task.layers, record["final"]["kept"]
    # 8x8 images; a max-pool after the second and the fourth of four convolutions 1-2-4-8-8.
    dense = 64 * 1 * 2 * 9
    forward = 2 * (dense + 64 * kept["conv2.weight"] + 16 * (kept["conv3.weight"] + kept["conv4.weight"]))
    forward += 2 * kept["linear.weight"]
    assert forward_flops(layers, kept) == forward and training_flops(layers, kept) == 3 * forward
    assert [entry["training_flops"] for entry in record["rounds"]] == [3 * forward * 250] * 3


def header(tensors: list, **meta) -> int:
    return len(json.dumps({"meta": meta, "tensors": tensors}, separators=(",", ":")))


def test_bytes_are_those_of_the_messages(magnitude):
    record, seen = magnitude
    state = seen[-1][1]
    # Kept weights, 18 of conv1, scale, shift, mean and variance of 2+4+8+8 maps, 10 biases.
    values = sum(state.mask.kept.values()) + 18 + 4 * 22 + 10
    mask = len(encode_mask(state.mask, list(state.mask)))
    weights, masks = ["weights", "float32", [values]], ["mask", "uint8", [mask]]
    first = 12 + header([weights, masks], version=1, known=0) + 4 * values + mask
    later = 12 + header([weights], version=1, known=1) + 4 * values
    down = [entry["bytes_down"] for entry in record["rounds"]]
    assert down == [CLIENTS * first, CLIENTS * later, CLIENTS * later]
    up = sum(12 + header([weights], samples=n, version=1, holds=1) + 4 * values for n in record["data"]["sizes"])
    assert [entry["bytes_up"] for entry in record["rounds"]] == [up] * 3


def test_a_sparse_round_costs_less_than_a_dense_one():
    sparse, dense = (run(tiny(method=method, density=0.02, width=8, rounds=1)) for method in ("magnitude", "fedavg"))
    for name in ("bytes_up", "bytes_down", "training_flops"):
        assert sparse["final"][name] < 0.5 * dense["final"][name]


# --- finished and interrupted runs ------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    record = run(tiny(), tmp_path)
    monkeypatch.setattr(places, "build_federation", None)
    monkeypatch.setattr(places, "answer", None)
    assert run(tiny(), tmp_path) == record
    assert run(tiny(workers=2), tmp_path) == record


def test_runs_of_other_settings_lie_beside_each_other(tmp_path):
    for seed in (0, 1):
        run(tiny(seed=seed, rounds=1), tmp_path)
    assert [record["config"]["seed"] for record in schema.load_records(tmp_path)].count(0) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tiny(rounds=1))
    assert list(tmp_path.iterdir()) == []


# --- what crosses -----------------------------------------------------------------------------------------


def test_masks_cross_only_when_they_changed(monkeypatch):
    """The pool is sent under the union of its masks, round 0 sends the layers in which the chosen one differs, later
    rounds those that the adjustment before changed: of the layers that it exchanged, all but one that came out alike.
    """
    sent, inner = {}, places.answer

    def spy(call, k, message, memory):
        index, r = call.index, call.r
        sent.setdefault((index, r), unpack(message))
        return inner(call, k, message, memory)

    monkeypatch.setattr(places, "answer", spy)
    record, seen = watched(tiny(rounds=5))
    server = build_federation(tiny(rounds=5)).server
    shapes, before = server.task.mask_shapes, load_method("fedtiny").start(server).mask
    assert list(decode_mask(sent[0, -1].tensors["mask"], shapes)) == list(shapes)
    assert "mask" not in sent[1, -1].tensors
    for r, (_, state) in enumerate(seen[:5]):
        packed = sent[-1, r].tensors.get("mask")
        layers = [] if packed is None else list(decode_mask(packed, shapes))
        assert layers == [name for name in shapes if not torch.equal(state.mask[name], before[name])]
        adjusted, before = set(record["rounds"][r - 1].get("adjusted", {})), state.mask
        assert r == 0 or (set(layers) <= adjusted and len(adjusted - set(layers)) <= 1)
        assert list(sent[-1, r].meta.get("grow", {})) == list(record["rounds"][r].get("adjusted", {}))
    assert [bool(entry.get("adjusted")) for entry in record["rounds"]] == [False, True, True, False, False]


def test_clients_hold_the_servers_mask_in_every_round(monkeypatch):
    memories, inner = {}, places.answer

    def spy(call, k, message, memory):
        index, r = call.index, call.r
        found = inner(call, k, message, memory)
        memories[index, r, k] = found.memory
        return found

    monkeypatch.setattr(places, "answer", spy)
    _, seen = watched(tiny(rounds=4, adjust_until=4))
    shapes = tuple(build_federation(tiny(rounds=4, adjust_until=4)).server.task.mask_shapes.items())
    for (_, before), r in zip(seen, range(4), strict=False):
        for k in range(CLIENTS):
            held = unpack(memories[-1, r, k]).tensors
            assert list(held) == ["held mask"]
            assert read_mask(held["held mask"].numpy().tobytes(), shapes) == before.mask


# --- exchanges with some of the clients -----------------------------------------------------------------------


@pytest.fixture
def every_second(monkeypatch):
    """An exchange that asks clients 1 and 3 only, carried out twice: what it records, how far it comes, the memories.

    A client is sent 5, and the sum that it remembers grows by 5 k; it answers with that sum.
    """

    def ask(server, state, r):
        return Question({"number": torch.tensor([5.0])}, {"round": r}, with_model=False)

    def answer(client, message):
        total = client.memory.get("total", torch.zeros(1)) + client.id * message.tensors["number"]
        client.memory["total"] = total
        return Reply({"total": total}, 10 * client.id, client.id, 100 - client.id, {"client": 0})

    def expect(server, state, r, k, reply):
        return {"total": numbers(1)}

    def fold(server, state, r, replies):
        return state, {"totals": {m.meta["client"]: m.tensors["total"].item() for m in replies}}

    exchange = Exchange("some", ask, answer, expect, fold, lambda config, r: [1, 3])
    method = replace(load_method("magnitude"), training=exchange)
    monkeypatch.setattr(places, "load_method", lambda name: method)
    federation, place, entries = build_federation(tiny()), places.InProcess(tiny()), []
    state = method.start(federation.server)
    progress = Progress(state, begin(method, federation.server, state, federation.samples))
    for r in (0, 1):
        progress, entry = exchanges.carry_out(federation, method, -1, progress, r, place)
        entries.append(entry)
    return entries, progress, {k: place.memories.recall(name) for k, name in progress.ledger.memories.items()}


def test_only_clients_that_are_asked_answer_remember_and_cost(every_second):
    (first, second), progress, memories = every_second
    assert first["totals"] == {1: 5, 3: 15} and second["totals"] == {1: 10, 3: 30}
    memories = {k: unpack(memory).tensors for k, memory in memories.items()}
    assert {k: sorted(memory) for k, memory in memories.items()} == {k: ["held mask", "total"] for k in (1, 3)}
    assert memories[3]["total"].item() == 30 and progress.ledger.held == {1: 1, 3: 1}
    for entry in (first, second):
        assert entry["asked"] == [1, 3]
        assert entry["training_flops"] == 10 + 30 and entry["client_flops"] == 30
        assert entry["client_kept"] == 3 and entry["client_state_bytes"] == 99
        assert entry["rejected_clients"] == [] and "rejections" not in entry
    mask = encode_mask(progress.state.mask, list(progress.state.mask))
    number = {"number": torch.zeros(1)}
    assert first["bytes_down"] == 2 * len(pack(number | {"mask": mask}, round=0, version=1, known=0))
    assert second["bytes_down"] == 2 * len(pack(number, round=1, version=1, known=1))


def test_a_clients_number_is_what_the_server_knows_not_what_was_sent(every_second):
    """It is set by whom the server asked, so no client can speak for another: here all say that they are client 0."""
    (first, _), progress, _ = every_second
    sizes = [len(split) for split in build_federation(tiny()).holdings.splits]
    total, rest = {"total": torch.zeros(1)}, dict(version=1, holds=1)
    assert first["bytes_up"] == sum(len(pack(total, client=0, samples=sizes[k], **rest)) for k in (1, 3))
    method, server = places.load_method("magnitude"), build_federation(tiny()).server
    sent = {k: pack(total, client=1, samples=sizes[k], **rest) for k in (3, 0)}
    accepted = accept(method, method.training, server, progress.state, 1, progress.ledger, sent)
    assert [message.meta["client"] for message in accepted.replies] == [0, 3] and accepted.rejections == {}


# --- models of the clients' own -------------------------------------------------------------------------------


def test_personal_accuracy_weighs_classes_as_the_client_holds_them():
    """The mean over clients of sum_c share_c * accuracy_c, computed here image by image."""
    config = tiny(method="lotteryfl", lottery_accuracy=0.15, adjust_until=3)
    record, seen = watched(config)
    federation, state, accuracies = build_federation(config), seen[-1][1], []
    model, pixels = federation.server.model, federation.server.task.pixels
    for k, split in enumerate(federation.holdings.splits):
        mask = load_method("lotteryfl").mask_of(federation.server, state, k)
        assert mask.total <= federation.server.task.budget
        load_state(model, masked_start(state.weights, mask).weights)
        model.eval()
        with torch.no_grad():
            found = model(to_float(federation.holdings.test.images, pixels.mean, pixels.std)).argmax(1)
        by_class = {
            label: [bool(f == t) for f, t in zip(found, federation.holdings.test.labels, strict=True) if t == label]
            for label in range(10)
        }
        held = split.labels.tolist()
        accuracies.append(sum(sum(by_class[label]) / len(by_class[label]) for label in held) / len(held))
    assert record["final"]["personal_accuracy"] == pytest.approx(sum(accuracies) / CLIENTS)
    assert len({round(accuracy, 3) for accuracy in accuracies}) > 1


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20), st.integers(1, 7))
def test_correct_answers_are_counted_by_class_whatever_the_batches(pairs, batch):
    """A model that answers with the value of the first pixel."""
    answers, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))

    class First(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(images[:, 0, 0, 0].mul(255).round().long(), 5).float()

    split = Split(answers.to(torch.uint8).view(-1, 1, 1, 1), labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedtiny_lite.model.training.EVALUATION_BATCH", batch)
        correct, counts = correct_by_class(First(), split, Normalisation((0.0,), (1.0,)), 5)
    assert correct.tolist() == [sum(a == b == label for a, b in pairs) for label in range(5)]
    assert counts.tolist() == [sum(b == label for _, b in pairs) for label in range(5)]


# --- devices ----------------------------------------------------------------------------------------------


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu" == resolve_device("cpu")
    with pytest.raises(RuntimeError, match=r"torch_device = 'cuda'.*use torch_device=auto or cpu"):
        run(tiny(torch_device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda" == resolve_device("cuda")


def test_a_federation_is_built_for_the_device_that_auto_means():
    """As notebooks do whose profile says auto: build it, and a client of it."""
    config = tiny(torch_device="auto")
    federation = build_federation(config)
    assert federation.task == replace(build_federation(tiny()).task, config=federation.task.config)
    assert federation.task.config == replace(config, torch_device=resolved(config).torch_device)
    assert client_of(config, federation.task.pixels, 0, 0).task.config == federation.task.config


def test_auto_is_recorded_as_the_device_that_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto, cpu = (run(tiny(rounds=0, torch_device=name)) for name in ("auto", "cpu"))
    assert auto["config"]["torch_device"] == "cpu"
    assert schema.canonical(auto) == schema.canonical(cpu)
