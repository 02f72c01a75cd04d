"""What goes wrong is said plainly, stops nothing that need not stop, and loses nothing that was finished."""

import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedtiny_lite.config import METHODS
from fedtiny_lite.federated.formats import read_mask
from fedtiny_lite.federated.messages import encode_state, pack, unpack
from fedtiny_lite.records import schema
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation import places
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import four_clients, is_alive

tiny = partial(four_clients, rounds=3, adjust_until=3)


@pytest.fixture
def poison(monkeypatch):
    """poison(where): clients at which where(index, k, r) holds answer NaN in their last tensor of floats.

    Returns the replies of all clients, by (index, k, r).
    """

    def install(where):
        inner, replies = places.answer, {}

        def poisoned(call, k, message, memory):
            index, r = call.index, call.r
            found = inner(call, k, message, memory)
            reply = unpack(found.reply)
            if where(index, k, r):
                [t for t in reply.tensors.values() if t.is_floating_point()][-1].view(-1)[-1] = math.nan
            replies[index, k, r] = reply
            return found._replace(reply=pack(reply.tensors, **reply.meta))

        monkeypatch.setattr(places, "answer", poisoned)
        return replies

    return install


# --- settings that do not fit together --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(clients=400), "400 clients with at least 10 samples each need 4000 samples, there are 250: "),
        (dict(clients=26), "26 clients .* lower clients or min_samples"),
        (dict(server_shots=31), "31 samples per class asked for the server's .*; allowed: 1 to 2[0-9]"),
        (dict(samples=10_000), "10000 samples asked, allowed: 1 to 1437, or 0 for all"),
        (dict(test_samples=361), "361 samples asked, allowed: 1 to 360, or 0 for all"),
        (dict(dataset="mnist"), "dataset = 'mnist': choose one of digits, cifar10, .*, folder:PATH"),
        (dict(adjust_blocks="4"), "adjust_blocks = '4': this model has blocks 1 to 3; write all, or such as"),
        (dict(adjust_blocks="0,1"), "adjust_blocks = '0,1': this model has blocks 1 to 3"),
        (dict(adjust_blocks="last"), "adjust_blocks = 'last': this model has blocks 1 to 3"),
        (dict(adjust_blocks=""), "adjust_blocks = '': this model has blocks 1 to 3"),
        (dict(model="vgg11", adjust_blocks="5", prune_linear="no"), "this model has blocks 1 to 4"),
        (dict(density=0.003, prune_linear="yes"), "density = 0.003 leaves 3 weights for 4 prunable layers; "),
        (
            dict(density=0.05, density_of="model"),
            "density = 0.05 leaves 0 weights for 4 prunable layers beside 72 parameters that are always "
            "dense; each layer keeps at least one, so choose a density of 0.05[0-9]+ or more, or a wider model",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_do_not_fit_are_named_with_what_is_allowed(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tiny(**settings), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_density_that_is_advised_is_enough():
    """Four prunable layers beside 72 dense parameters, 1,328 in all: 76 / 1,328 = 0.05723, so not 0.057."""
    budgeted = dict(density_of="model", prune_linear="yes", rounds=0)
    with pytest.raises(ValueError, match="or more") as refused:
        run(tiny(density=0.01, **budgeted))
    advised = float(re.search(r"density of (\S+) or more", str(refused.value))[1])
    assert run(tiny(density=advised, **budgeted))["complete"] is True


# --- files ------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    """A folder of images: two classes, 12 training and 3 test images each."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


def on_folder(path: Path):
    return tiny(dataset=f"folder:{path}", samples=0, test_samples=0, server_shots=2, clients=2, min_samples=5)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none"):
        run(on_folder(tmp_path / "none"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_corrupt_data_is_named(images, tmp_path):
    bad = images / "test" / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(RuntimeError, match=f"{bad} is not a readable image: replace or delete it"):
        run(on_folder(images), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("method", ["fedtiny", "magnitude"])
def test_an_output_that_cannot_be_written_is_named_before_any_work(method, tmp_path, monkeypatch):
    """A file where the folder should be: root may write anywhere else."""
    asked, inner = [], places.answer
    monkeypatch.setattr(places, "answer", lambda *call: asked.append(call) or inner(*call))
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OSError, match=r"choose a folder that can be written to.*/out"):
        run(tiny(method=method), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"
    assert asked == []


def test_a_run_that_is_interrupted_before_its_first_checkpoint_leaves_no_folder(tmp_path):
    def interrupt(entry, state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny(method="magnitude"), tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_record_is_named_and_never_taken_as_finished(tmp_path):
    config = tiny(method="magnitude")
    path = tmp_path / config.run_id / "record.json"
    expected = schema.canonical(run(config, tmp_path))
    torn = path.read_text()[:-20]
    path.write_text(torn)
    with pytest.raises(ValueError, match=rf"{path} is torn .*delete it and run again"):
        run(config, tmp_path)
    assert path.read_text() == torn
    path.unlink()
    assert schema.canonical(run(config, tmp_path)) == expected


def test_a_record_of_another_run_is_not_taken_for_this_one(tmp_path):
    theirs, ours = tiny(method="magnitude", rounds=1), tiny(method="magnitude", rounds=2)
    path = tmp_path / ours.run_id / "record.json"
    schema.write_record(path, run(theirs))
    with pytest.raises(ValueError, match=f"{path} .*another run"):
        run(ours, tmp_path)


# --- clients that diverge ---------------------------------------------------------------------------------


def test_a_client_that_returns_nan_is_named_and_left_out_of_the_average(poison):
    config, states = tiny(method="magnitude"), []
    replies = poison(lambda index, k, r: (k, r) == (2, 1))
    record = run(config, None, lambda entry, state: states.append(state))
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], [2], []]
    assert record["complete"] is True and math.isfinite(record["final"]["test_loss"])
    accepted = [replies[-1, k, 1] for k in (0, 1, 3)]
    expected = np.average(
        [reply.tensors["weights"].double().numpy() for reply in accepted],
        axis=0,
        weights=[record["data"]["sizes"][k] for k in (0, 1, 3)],
    )
    found = encode_state(states[2].weights, states[2].mask).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_without_a_client_that_returned_nan_in_an_adjustment(method, poison):
    """What the other clients, and in the next round that client too, return still fits what the server holds."""
    poison(lambda index, k, r: (index, k, r) == (-1, 2, 1))
    record = run(tiny(method=method))
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], [2], []]
    assert record["complete"] is True and math.isfinite(record["final"]["test_loss"])
    assert math.isfinite(record["final"].get("personal_accuracy", 0))


@pytest.mark.parametrize("exchange", [0, 1])
def test_a_client_that_returns_nan_before_training_has_no_say_in_the_selection(exchange, poison):
    replies = poison(lambda index, k, r: (index, k) == (exchange, 0))
    record = run(tiny())
    named = [entry["rejected_clients"] for entry in record["prelude"][1:]]  # after the survey of pixels
    assert named == [[0] if index == exchange else [] for index in (0, 1)]
    voters = [1, 2, 3] if exchange == 1 else [0, 1, 2, 3]
    answers = [replies[1, k, -1] for k in voters]
    images = sum(reply.meta["judged"] for reply in answers)
    losses = sum(reply.tensors["loss"].numpy() for reply in answers) / images
    choice = record["prelude"][2]["selection"]
    np.testing.assert_allclose(choice["losses"], losses, rtol=1e-12)
    assert choice["chosen"] == int(losses.argmin())


def test_a_client_that_returns_nan_in_its_list_neither_grows_nor_is_averaged(poison):
    poison(lambda index, k, r: (index, k, r) == (-1, 1, 1))
    record = run(tiny())
    assert record["rounds"][1]["adjusted"]
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], [1], []]
    assert math.isfinite(record["final"]["test_loss"])


@pytest.mark.parametrize("method", ["fedtiny", "magnitude"])
def test_when_all_clients_diverge_the_run_stops_with_its_record_so_far(method, poison, tmp_path, monkeypatch):
    config = tiny(method=method)
    expected = run(config)
    path = tmp_path / config.run_id / "record.json"
    with monkeypatch.context() as patch:
        poison(lambda index, k, r: r == 2)
        for _ in range(2):  # trying again changes nothing
            with pytest.raises(
                FloatingPointError, match=r"^4 of 4 replies were rejected .*NaN or infinite.*lower learning rate"
            ):
                run(config, tmp_path)
        patch.undo()
    record = schema.read_record(path)
    assert record["complete"] is False and record["stopped"].startswith("in round 2: 4 of 4 replies were rejected")
    cut = {"rounds": expected["rounds"][:2], "final": {}, "complete": False, "stopped": record["stopped"]}
    assert schema.canonical(record) == schema.canonical(expected | cut)
    assert schema.load_records(tmp_path) == []


def test_a_stopped_run_can_be_continued(poison, tmp_path, monkeypatch):
    config = tiny(method="magnitude")
    inner = places.answer
    poison(lambda index, k, r: r == 2)
    with pytest.raises(FloatingPointError):
        run(config, tmp_path)
    monkeypatch.setattr(places, "answer", inner)
    assert schema.canonical(run(config, tmp_path)) == schema.canonical(run(config))
    assert sorted(path.name for path in (tmp_path / config.run_id).iterdir()) == ["model.tiny", "record.json"]


@pytest.mark.parametrize(
    ("method", "settings"),
    [(method, {"pretrain_lr": 1e38}) for method in METHODS]
    + [(method, {"lr": 1e38}) for method in ("fedtiny", "magnitude", "prunefl")],
)
def test_an_absurd_learning_rate_stops_with_a_record(method, settings, tmp_path):
    """Nothing staged: SGD at 1e38 overflows, in training or already in pretraining, the weights of which are scored."""
    config = tiny(method=method, **settings)
    unscored = {"fedavg", "small_model", "random", "lotteryfl", "ssfl", "prunefl"}
    scored = "pretrain_lr" in settings and method not in unscored
    why = "scores are NaN" if scored else r"(4 of 4|1 of 1) replies were rejected .*NaN or infinite numbers"
    with pytest.raises(FloatingPointError, match=why):
        run(config, tmp_path)
    record = schema.read_record(tmp_path / config.run_id / "record.json")
    assert record["complete"] is False and record["rounds"] == [] == schema.load_records(tmp_path)
    asks_first = {"ssfl", "prunefl"} if "pretrain_lr" in settings else {"prunefl"}
    when = "before training" if scored or method in asks_first else "in round 0"
    assert re.match(rf"{when}: .*{why}", record["stopped"])


# --- processes that die -----------------------------------------------------------------------------------


RUNNER = """
import json, multiprocessing, sys
from fedtiny_lite.config import make_config
from fedtiny_lite.simulation.rounds import run

def report(entry, state):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if entry["round"] == 0:
        sys.stdin.read()

if __name__ == "__main__":
    run(make_config({}, **json.loads(sys.argv[1])), None, report)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are watched through /proc")
def test_workers_end_when_their_run_is_killed(tmp_path):
    script = tmp_path / "runner.py"
    script.write_text(RUNNER)
    settings = json.dumps(tiny(method="magnitude").identity() | {"workers": 2})
    process = subprocess.Popen(
        [sys.executable, script, settings],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        process.stdout.readline()  # the start
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2 and all(map(is_alive, workers))
        process.send_signal(signal.SIGKILL)
    waited_until = time.monotonic() + 30
    while (left := [pid for pid in workers if is_alive(pid)]) and time.monotonic() < waited_until:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


# --- memory -----------------------------------------------------------------------------------------------


def live_tensors() -> tuple[int, int]:
    """Number and bytes of all tensors that Python can reach."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("method", ["fedtiny", "magnitude"])
def test_memory_does_not_grow_with_the_rounds(method, tmp_path):
    """With an adjustment in each round. A few masks are remembered, so growth ends after some rounds."""
    read_mask.cache_clear()
    config, held = tiny(method=method, clients=2, rounds=20, adjust_until=21), {}

    def count(entry, state):
        if entry["round"] in (9, 19):
            held[entry["round"]] = live_tensors()

    run(config, tmp_path, count)
    assert held[9] == held[19]


def test_memory_grows_with_the_clients_by_their_updates_only():
    """Peak of Python's memory in a run; replies and what is unpacked from them are bytes that it counts."""
    peaks, update = {}, 0
    for clients in (4, 24):
        config = tiny(
            method="fedavg",
            density=1,
            width=16,
            clients=clients,
            min_samples=2,
            alpha=10,
            rounds=1,
            samples=0,
        )
        build_federation(config)
        tracemalloc.start()
        try:
            record = run(config)
            peaks[clients] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        update = record["rounds"][0]["bytes_up"] / clients
    assert update > 200_000
    assert peaks[24] - peaks[4] <= 20 * 2.2 * update
