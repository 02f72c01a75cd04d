"""A client on a machine of its own: from the task, its samples and the question's bytes alone it answers as simulated.

The other machine is a process in which every way to a data set raises. It is given files: the task as JSON, the
client's images and labels, what it remembers, and the question.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedtiny_lite.config import load_method
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.client import EMPTY_MEMORY, laid_out
from fedtiny_lite.federated.messages import pack, unpack
from fedtiny_lite.federated.personal import weigh_classes
from fedtiny_lite.federated.task import described, task_from
from fedtiny_lite.model.training import correct_by_class
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation import places, scoring
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import four_clients, seeded, trace

ISOLATED = """
import json, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)

def refuse(*_, **__):
    raise AssertionError("a client's machine has no data set")

import fedtiny_lite.data.datasets as datasets
for name in ("load_dataset", "public_split"):
    setattr(datasets, name, refuse)

from fedtiny_lite.config import load_method
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.client import EMPTY_MEMORY, build_client
from fedtiny_lite.federated.protocol import answer_question
from fedtiny_lite.federated.task import task_from

assert not [name for name in sys.modules if name.startswith(("fedtiny_lite.simulation", "sklearn"))]
folder = Path(sys.argv[1])
task = task_from(json.loads((folder / "task.json").read_text()))
arrays = np.load(folder / "samples.npz")
split = Split(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
method = load_method(task.config.method)
exchanges = (*method.prelude(task.config), method.training)
memory = EMPTY_MEMORY
for number, (index, k, r) in enumerate(json.loads((folder / "calls.json").read_text())):
    question = (folder / f"{number}.question").read_bytes()
    found = answer_question(build_client(task, k, r, split, memory), exchanges[index], question)
    (folder / f"{number}.reply").write_bytes(found.reply)
    (folder / f"{number}.memory").write_bytes(memory := found.memory)
    costs = [found.flops, found.kept, found.state_bytes, list(found.trained_on)]
    (folder / f"{number}.costs").write_text(json.dumps(costs))

import fedtiny_lite.simulation.setup as setup
setup.load_dataset = refuse
try:
    setup.hand_out(task.config)
except AssertionError:
    print("isolated")
"""


def calls_of(config, k: int) -> tuple[list, dict, list]:
    """All exchanges with client k in a run: where, the bytes that it was sent, and what came back."""
    seen, inner = [], places.answer

    def spy(call, client, message, memory):
        index, r = call.index, call.r
        found = inner(call, client, message, memory)
        if client == k:
            seen.append(((index, client, r), message, memory, found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "answer", spy)
        record = simulate.run(config)
    return seen, record


def answered_elsewhere(config, k: int, seen: list, folder: Path) -> None:
    """The same exchanges in a process that has client k's samples alone; its memory stays there."""
    federation = build_federation(config)
    split = federation.holdings.splits[k]
    (folder / "task.json").write_text(json.dumps(described(federation.task)))
    np.savez(folder / "samples.npz", images=split.images.numpy(), labels=split.labels.numpy())
    (folder / "calls.json").write_text(json.dumps([place for place, *_ in seen]))
    for number, (_, message, _, _) in enumerate(seen):
        (folder / f"{number}.question").write_bytes(message)
    process = subprocess.run(
        [sys.executable, "-c", ISOLATED, folder],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.strip() == "isolated", process.stderr


@pytest.mark.parametrize(
    "method, settings",
    [
        ("fedtiny", {}),
        ("fedtiny", {"augment": "crop_flip_cutout", "clients_per_round": 2, "selection_clients": 3}),
        ("lotteryfl", {"lottery_accuracy": 0.15}),
        ("lotteryfl", {"lottery_accuracy": 0.15, "clients_per_round": 3}),
        ("fl_pqsu", {"lr": 0.3}),
        ("prunefl", {}),
    ],
    ids=str,
)
def test_a_client_alone_answers_byte_for_byte_as_in_the_simulation(method, settings, tmp_path):
    config = four_clients(method=method, rounds=4, adjust_until=4, seed=3, **settings)
    k = 0
    seen, record = calls_of(config, k)
    answered_elsewhere(config, k, seen, tmp_path)
    for number, (place, _, _, found) in enumerate(seen):
        assert (tmp_path / f"{number}.reply").read_bytes() == found.reply, place
        assert (tmp_path / f"{number}.memory").read_bytes() == found.memory, place
        costs = [found.flops, found.kept, found.state_bytes, list(found.trained_on)]
        assert json.loads((tmp_path / f"{number}.costs").read_text()) == costs
    replies = {place: unpack(found.reply) for place, _, _, found in seen}
    assert any(r >= 0 for _, _, r in replies)
    if method == "fedtiny" and not settings:
        assert {"stats", "loss"} <= {name for reply in replies.values() for name in reply.tensors}
        assert "growth_index" in replies[-1, k, 2].tensors
        remembered = {place: sorted(unpack(found.memory).tensors) for place, _, _, found in seen}
        assert remembered[0, k, -1] == ["held mask", "pool", "weights"] != remembered[1, k, -1] == ["held mask"]
    if method == "lotteryfl":
        assert any("mask" in reply.tensors for reply in replies.values())
    assert all(entry["rejected_clients"] == [] for entry in record["rounds"])


@pytest.mark.parametrize("channels", [1, 3])
def test_how_samples_lie_in_memory_does_not_matter(channels):
    """Strides decide which kernels torch takes, and a single channel's may be any."""
    images = torch.randint(256, (20, channels, 8, 8), generator=seeded(), dtype=torch.uint8)
    kinds = [images]
    for order in ((0, 2, 3, 1), (1, 0, 2, 3), (3, 2, 1, 0)):
        back = [order.index(axis) for axis in range(4)]
        kinds.append(torch.from_numpy(np.ascontiguousarray(images.permute(order).numpy())).permute(back))
    assert len({kind.stride() for kind in kinds}) > 1 and all(torch.equal(kind, images) for kind in kinds)
    found = [laid_out(Split(kind, torch.arange(20))).images for kind in kinds]
    assert len({kind.stride() for kind in found}) == 1 and all(torch.equal(kind, images) for kind in found)


def test_the_task_crosses_as_json_and_holds_no_image():
    federation = build_federation(four_clients())
    text = json.dumps(described(federation.task))
    assert len(text) < 3_000
    again = task_from(json.loads(text))
    assert again == federation.task and again.config == federation.task.config
    described_again = described(again)
    assert described_again == described(federation.task)


def test_neither_server_nor_task_holds_a_clients_samples():
    federation = build_federation(four_clients())
    own = {image.numpy().tobytes() for split in federation.holdings.splits for image in split.images}
    public = {image.numpy().tobytes() for image in federation.server.public.images}
    assert len(own) > 200 and not public & own
    held = [value for owner in (federation.server, federation.task) for value in vars(owner).values()]
    assert [value for value in held if isinstance(value, Split)] == [federation.server.public]


# --- personal accuracy, an exchange that tells no labels --------------------------------------------------


@pytest.fixture
def personal(monkeypatch):
    """What crosses when personal accuracy is measured: (labels, question, reply) of each client."""
    crossed = []

    def spy(labels, question):
        reply = weigh_classes(labels, question)
        crossed.append((labels, question, reply))
        return reply

    monkeypatch.setattr(places, "weigh_classes", spy)
    return crossed


def test_of_personal_accuracy_the_server_is_told_one_number_a_client(personal):
    config = four_clients(method="lotteryfl", lottery_accuracy=0.15)
    record, states = trace(config)
    federation = build_federation(config)
    assert len(personal) == config.clients
    found = []
    for split, (labels, question, reply) in zip(federation.holdings.splits, personal, strict=True):
        assert torch.equal(labels, split.labels)
        asked, told = unpack(question), unpack(reply)
        assert asked.meta == {} and list(asked.tensors) == ["accuracy"] and len(asked.tensors["accuracy"]) == 10
        assert told.meta == {} and list(told.tensors) == ["accuracy"]
        assert told.tensors["accuracy"].shape == () and told.tensors["accuracy"].dtype == torch.float64
        assert len(reply) < 80 and 0 <= float(told.tensors["accuracy"]) <= 1
        share = np.bincount(labels.numpy(), minlength=10) / len(labels)
        assert float(told.tensors["accuracy"]) == pytest.approx(float(share @ asked.tensors["accuracy"].numpy()))
        found.append(float(told.tensors["accuracy"]))
    assert record["final"]["personal_accuracy"] == pytest.approx(np.mean(found))
    assert len(states) == config.rounds + 1


@pytest.mark.parametrize(
    "junk",
    [
        b"junk",
        pack({}),
        pack({"accuracy": torch.tensor(0.5)}),
        *(pack({"accuracy": torch.tensor(value).double()}) for value in (math.nan, 1e6, -0.1, [0.5, 0.5])),
    ],
)
def test_a_reply_that_is_no_accuracy_counts_as_none(junk, monkeypatch):
    config = four_clients(method="lotteryfl", lottery_accuracy=0.15, rounds=1)
    given, weigh = [], places.weigh_classes
    honest = simulate.run(config)["final"]
    assert 0 < honest["personal_accuracy"] <= 1

    def first_lies(labels, question):
        given.append(weigh(labels, question))
        return junk if len(given) == 1 else given[-1]

    monkeypatch.setattr(places, "weigh_classes", first_lies)
    found = simulate.run(config)["final"]
    others = [float(unpack(reply).tensors["accuracy"]) for reply in given[1:]]
    assert found["personal_accuracy"] == pytest.approx(np.mean(others))


def test_other_labels_change_the_number_alone(personal):
    """The server's question does not depend on the clients' labels, so it cannot have seen them."""
    config = four_clients(method="lotteryfl", lottery_accuracy=0.15)
    simulate.run(config)
    labels, question, reply = personal[0]
    by_class = unpack(question).tensors["accuracy"]
    for other in range(10):
        only = torch.full_like(labels, other)
        assert float(unpack(weigh_classes(only, question)).tensors["accuracy"]) == float(by_class[other])
    assert weigh_classes(labels.flip(0), question) == reply


def test_a_class_without_scored_images_is_left_out():
    """Of classes 0 and 2 a client with the labels 0, 0, 1, 2 has two images and one: (1 + 1 + 0.25) / 3 = 0.75."""
    question = pack({"accuracy": torch.tensor([1.0, math.nan, 0.25], dtype=torch.float64)})
    reply = unpack(weigh_classes(torch.tensor([0, 0, 1, 2]), question))
    assert float(reply.tensors["accuracy"]) == 0.75
    assert unpack(weigh_classes(torch.tensor([1, 1]), question)).tensors["accuracy"].isnan()
    assert pack({}, version=0) == EMPTY_MEMORY
    federation = build_federation(four_clients())
    test, task = federation.holdings.test, federation.task
    correct, counts = correct_by_class(federation.server.model, test, task.pixels, task.classes)
    assert counts.tolist() == torch.bincount(test.labels, minlength=10).tolist() and bool((correct <= counts).all())


def test_perfect_models_are_perfect_whatever_is_not_scored(monkeypatch):
    """Class 0 alone has test images. Client 1 has no image of it and is left out; the others have some."""
    federation, method = build_federation(four_clients(method="lotteryfl")), load_method("lotteryfl")
    test = federation.holdings.test
    scored = replace(federation, holdings=replace(federation.holdings, test=test.take(test.labels == 0)))
    held = {k: torch.tensor(labels) for k, labels in enumerate([[0, 1], [1, 1], [0, 0], [0, 5, 9]])}

    class AtHand:
        def weigh(self, questions):
            return ((k, weigh_classes(held[k], question)) for k, question in questions.items())

    def all_correct(model, split, pixels, classes):
        counts = split.labels.bincount(minlength=classes)
        return counts, counts

    monkeypatch.setattr(scoring, "correct_by_class", all_correct)
    state = method.start(federation.server)
    assert scoring.personal_accuracy(scored, method, state, AtHand()) == {"personal_accuracy": 1.0}
