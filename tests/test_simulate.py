import json
import math

import pytest
import torch

from fedtiny_lite import records, simulate
from fedtiny_lite.config import METHODS, make_config
from fedtiny_lite.costs import forward_flops, training_flops
from fedtiny_lite.federation import build_federation
from fedtiny_lite.messages import decode_mask, encode_mask, read_mask, unpack
from fedtiny_lite.models import load_state
from fedtiny_lite.simulate import run
from fedtiny_lite.training import evaluate

TINY = dict(
    width=2, density=0.2, pretrain_epochs=1, samples=300, test_samples=60, server_shots=5, rounds=3,
    adjust_until=3,
)  # fmt: skip
CLIENTS = 4


def tiny(**settings):
    return make_config("smoke", **(TINY | settings))


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
    assert records.read_record(tmp_path / config.run_id / "record.json") == record
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
    assert [entry["exchange"] for entry in record["prelude"]] == ["bn_statistics", "candidate_losses"]
    entries = record["prelude"] + record["rounds"]
    for name in ("bytes_up", "bytes_down", "training_flops", "seconds"):
        assert record["final"][name] == sum(entry[name] for entry in entries)
        assert all(entry[name] > 0 for entry in entries)
    for name in ("test_accuracy", "test_loss", "model_density", "prunable_density"):
        assert record["final"][name] == record["rounds"][-1][name]


def test_every_state_is_reported_as_it_is():
    record, seen = watched(tiny())
    federation = build_federation(tiny())
    model, server = federation.server.model, federation.server
    assert [entry["round"] for entry, _ in seen] == [-1, 0, 1, 2]
    assert [record["start"], *record["rounds"]] == [entry for entry, _ in seen]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    dense = parameters - sum(server.sizes.values())
    for entry, state in seen:
        load_state(model, state.weights)
        score = evaluate(model, federation.test, server.pixels)
        assert entry["test_accuracy"] == score.correct / 60
        assert entry["test_loss"] == score.loss_sum / 60
        nonzero = {name: int(torch.count_nonzero(state.weights[name])) for name in state.mask}
        assert all(nonzero[name] <= kept for name, kept in state.mask.kept.items())
        kept = sum(state.mask.kept.values())
        assert entry["prunable_density"] == kept / sum(server.sizes.values())
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
    layers, kept = build_federation(tiny(method="magnitude")).layers, record["final"]["kept"]
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
    first = 12 + header([weights, masks]) + 4 * values + mask
    later = 12 + header([weights]) + 4 * values
    down = [entry["bytes_down"] for entry in record["rounds"]]
    assert down == [CLIENTS * first, CLIENTS * later, CLIENTS * later]
    up = sum(12 + header([weights], samples=n) + 4 * values for n in record["data"]["sizes"])
    assert [entry["bytes_up"] for entry in record["rounds"]] == [up] * 3


def test_a_sparse_round_costs_less_than_a_dense_one():
    sparse, dense = (run(tiny(method=method, density=0.02, width=8, rounds=1)) for method in ("magnitude", "fedavg"))
    for name in ("bytes_up", "bytes_down", "training_flops"):
        assert sparse["final"][name] < 0.5 * dense["final"][name]


# --- finished and interrupted runs ------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    record = run(tiny(), tmp_path)
    monkeypatch.setattr(simulate, "build_federation", None)
    monkeypatch.setattr(simulate, "answer", None)
    assert run(tiny(), tmp_path) == record
    assert run(tiny(workers=2), tmp_path) == record


def test_runs_of_other_settings_lie_beside_each_other(tmp_path):
    for seed in (0, 1):
        run(tiny(seed=seed, rounds=1), tmp_path)
    assert [record["config"]["seed"] for record in records.load_records(tmp_path)].count(0) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tiny(rounds=1))
    assert list(tmp_path.iterdir()) == []


# --- what crosses -----------------------------------------------------------------------------------------


def test_masks_cross_only_when_they_changed(monkeypatch):
    """Round 0 sends all masks; later rounds those that the adjustment before exchanged."""
    sent, inner = {}, simulate.answer

    def spy(config, index, k, r, message, memory):
        sent.setdefault((index, r), unpack(message))
        return inner(config, index, k, r, message, memory)

    monkeypatch.setattr(simulate, "answer", spy)
    record = run(tiny(rounds=5))
    shapes = build_federation(tiny(rounds=5)).server.mask_shapes
    for r in range(5):
        packed = sent[-1, r].tensors.get("mask")
        layers = [] if packed is None else list(decode_mask(packed, shapes))
        expected = list(shapes) if r == 0 else list(record["rounds"][r - 1].get("adjusted", {}))
        assert sorted(layers) == sorted(expected)
        assert list(sent[-1, r].meta.get("grow", {})) == list(record["rounds"][r].get("adjusted", {}))
    assert [bool(entry.get("adjusted")) for entry in record["rounds"]] == [False, True, True, False, False]


def test_clients_hold_the_servers_mask_in_every_round(monkeypatch):
    memories, inner = {}, simulate.answer

    def spy(config, index, k, r, message, memory):
        found = inner(config, index, k, r, message, memory)
        memories[index, r, k] = found.memory
        return found

    monkeypatch.setattr(simulate, "answer", spy)
    _, seen = watched(tiny(rounds=4, adjust_until=4))
    shapes = tuple(build_federation(tiny(rounds=4, adjust_until=4)).server.mask_shapes.items())
    for (_, before), r in zip(seen, range(4), strict=False):
        for k in range(CLIENTS):
            held = unpack(memories[-1, r, k]).tensors
            assert list(held) == ["mask"]
            assert read_mask(held["mask"].numpy().tobytes(), shapes) == before.mask


# --- devices ----------------------------------------------------------------------------------------------


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert simulate.resolve_device("auto") == "cpu" == simulate.resolve_device("cpu")
    with pytest.raises(RuntimeError, match=r"torch_device = 'cuda'.*use torch_device=auto or cpu"):
        run(tiny(torch_device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert simulate.resolve_device("auto") == "cuda" == simulate.resolve_device("cuda")


def test_auto_is_recorded_as_the_device_that_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto, cpu = (run(tiny(rounds=0, torch_device=name)) for name in ("auto", "cpu"))
    assert auto["config"]["torch_device"] == "cpu"
    assert records.canonical(auto) == records.canonical(cpu)
