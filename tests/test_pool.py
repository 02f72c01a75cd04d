"""FedTiny with the kit's own pool and trials: what is sent and judged, and that it runs wherever FedTiny runs."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import to_float
from fedtiny_lite.federated.encodings import encode_pool
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.server import pretrained
from fedtiny_lite.methods._pool import make_pool
from fedtiny_lite.methods._selection import Selection
from fedtiny_lite.model.costs import forward_flops
from fedtiny_lite.model.masks import uniform_counts, union_of
from fedtiny_lite.model.networks import bn_names, load_state, state_of
from fedtiny_lite.model.training import epoch_batches, train
from fedtiny_lite.pruning.allocations import FLOW_MASK, KINDS
from fedtiny_lite.report.labels import run_label
from fedtiny_lite.seeding import torch_generator
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation, client_of
from tests.helpers import interrupted, three_clients, trace

pytestmark = pytest.mark.usefixtures("one_thread")  # another number of threads may give other last bits

ours = partial(three_clients, pool="allocations", pool_size=6)
tried = partial(ours, trial_epochs=2)


def trained(config, mask):
    """The pretrained weights after plain SGD under `mask` on the public set, with the batches that `seeding` names."""
    server = build_federation(config).server
    generator = torch_generator(config.seed, "trial")
    schedule = epoch_batches(server.public, 2, config, generator)
    load_state(server.model, pretrained(server))
    assert config.lr == config.pretrain_lr
    train(server.model, server.public, server.task.pixels, mask, config, schedule, generator)
    return {name: tensor.clone() for name, tensor in state_of(server.model).items()}


def pool_of(config, candidates=6):
    server = build_federation(config).server
    return make_pool(server, pretrained(server), candidates)


# --- what is judged ---------------------------------------------------------------------------------------


def test_the_record_names_the_candidates_and_their_flops():
    config = ours(rounds=0)
    note = trace(config)[0]["prelude"][-1]["selection"]
    task = build_federation(config).server.task
    assert note["allocations"] == list(KINDS)
    assert note["kept"] == [mask.kept for mask in pool_of(config)]
    assert note["forward_flops"] == [forward_flops(task.layers, kept) for kept in note["kept"]]
    assert max(note["forward_flops"]) <= 2 * forward_flops(task.layers, uniform_counts(task.sizes, task.budget))
    assert max(sum(kept.values()) for kept in note["kept"]) <= task.budget


def test_the_papers_pool_and_its_record_are_what_they_were():
    note = trace(three_clients(rounds=0))[0]["prelude"][-1]["selection"]
    assert sorted(note) == ["chosen", "kept", "losses"]
    assert make_config(pool="paper", trial_epochs=0).run_id == make_config().run_id


def test_judging_happens_on_the_trained_candidates_and_training_goes_on_from_the_one_that_was_chosen():
    config = tried(rounds=0)
    record, (start,) = trace(config)
    federation, note = build_federation(config), record["prelude"][-1]["selection"]
    model, pixels = copy.deepcopy(federation.server.model), federation.server.task.pixels
    pool, losses, states = pool_of(config), [], []
    for mask in pool:
        state, sums, loss, images = trained(config, mask), {}, 0.0, 0
        splits = development_splits(config, federation)
        total = sum(map(len, splits))
        for split in splits:
            for name, value in batch_statistics(model, state, to_float(split.images, pixels.mean, pixels.std)).items():
                sums[name] = sums.get(name, 0) + value * len(split) / total
        load_state(model, state | sums)
        for split in splits:
            with torch.no_grad():
                logits = model.eval()(to_float(split.images, pixels.mean, pixels.std))
            loss += float(F.cross_entropy(logits, split.labels, reduction="sum"))
            images += len(split)
        losses.append(loss / images)
        states.append(state | sums)
    assert note["losses"] == pytest.approx(losses, rel=1e-4)
    assert note["chosen"] == int(np.argmin(losses))
    assert start.mask == pool[note["chosen"]]
    for name, tensor in states[note["chosen"]].items():
        assert torch.allclose(start.weights[name], tensor, rtol=1e-3, atol=1e-4), name


def development_splits(config, federation):
    clients = [client_of(config, federation.task.pixels, k, -1) for k in range(config.clients)]
    return [client.development_split(config.of(Selection).dev_fraction) for client in clients]


def batch_statistics(model, state, images):
    """The model's running statistics after one batch in train mode that counts alone."""
    load_state(model, state)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    return {name: model.get_buffer(name).clone() for name in bn_names(model)}


@pytest.mark.parametrize("selection", ["vanilla", "server"])
def test_trained_candidates_are_judged_by_other_statistics_too(selection):
    plain, with_trial = (trace(make(selection=selection, rounds=0))[0]["prelude"][-1] for make in (ours, tried))
    assert len(with_trial["selection"]["losses"]) == 6
    assert plain["selection"]["losses"] != with_trial["selection"]["losses"]


def test_a_fixed_candidate_is_trained_as_long_as_the_others_would_be():
    number = KINDS.index(FLOW_MASK)
    _, (start,) = trace(tried(selection="fixed", candidate=number, rounds=0))
    mask = pool_of(tried())[number]
    assert start.mask == mask
    assert all(torch.equal(start.weights[name], tensor) for name, tensor in trained(tried(), mask).items())


def test_trained_candidates_are_sent_whole_and_count_as_held():
    config = tried(rounds=0)
    record, task = trace(config)[0], build_federation(config).server.task
    statistics, pool = record["prelude"][1], pool_of(config)
    kept, union = [mask.total for mask in pool], union_of(pool)
    others = sum(shape.numel() for name, shape in task.state_shapes.items() if name not in task.mask_shapes)
    numbers = 4 * (sum(kept) + 6 * others)
    masks = len(encode_pool(pool, union)) + len(encode_mask(union, list(union)))
    assert numbers + masks < statistics["bytes_down"] / 3 < numbers + masks + 500  # and a header
    assert statistics["client_kept"] == sum(kept)
    assert trace(ours(rounds=0))[0]["prelude"][1]["client_kept"] < sum(kept)


# --- wherever FedTiny runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ours, tried])
def test_workers_and_interruptions_change_nothing(make, tmp_path):
    config = make(rounds=2)
    whole = comparable(simulate.run(config))
    interrupted(config, tmp_path)
    assert comparable(simulate.run(config, tmp_path)) == whole
    assert comparable(simulate.run(make(rounds=2, workers=2))) == whole


def comparable(record):
    """A record without what differs from run to run: the time it took."""
    drop = {"seconds", "environment"}
    if isinstance(record, dict):
        return {name: comparable(value) for name, value in record.items() if name not in drop}
    return [comparable(value) for value in record] if isinstance(record, list) else record


@pytest.mark.parametrize("model", [dict(model="cnn", width=4), dict(model="resnet18", width=4, density=0.1)])
def test_the_sparse_engine_judges_and_trains_the_same_candidates(model):
    records = [simulate.run(tried(rounds=1, engine=engine, **model)) for engine in ("dense", "sparse")]
    dense, sparse = (record["prelude"][-1]["selection"] for record in records)
    assert dense["kept"] == sparse["kept"]
    assert dense["losses"] == pytest.approx(sparse["losses"], rel=1e-3)
    assert records[1]["rounds"][0]["trained_on"] == ["sparse"]


# --- settings and names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "FedTiny"),
        ({"pool": "allocations"}, "FedTiny, pool of allocations (ours)"),
        ({"pool": "allocations", "trial_epochs": 5}, "FedTiny, pool of allocations after 5 trial epochs (ours)"),
        ({"trial_epochs": 5}, "FedTiny, 5 trial epochs (ours)"),
        ({"progressive": "no"}, "selection only"),
        ({"progressive": "no", "pool": "allocations"}, "selection only, pool of allocations (ours)"),
    ],
)
def test_what_is_ours_is_called_ours(settings, label):
    assert run_label({"config": make_config(**settings).identity()}).label == label
