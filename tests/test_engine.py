"""The setting `engine`: what it chooses, that both engines end alike, and what the record says of it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from fedtiny_lite.config import METHODS, make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.model.architectures import SmallNet
from fedtiny_lite.model.costs import layer_shapes
from fedtiny_lite.model.masks import apply_mask, random_mask
from fedtiny_lite.model.networks import build_model, prunable_names, state_of
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.records import files, schema
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.sparse.engine import DENSE, SPARSE, SPARSE_SHARE, check_engine, engine_for
from tests.helpers import FOUR_CLIENTS, seeded

TINY = FOUR_CLIENTS | dict(density=0.1)
PIXELS = Normalisation((0.5,), (0.25,))


def network(name: str = "cnn"):
    model = build_model(name, 4, 5, (1, 8, 8), seeded())
    return model, layer_shapes(model, (1, 8, 8))


def test_auto_chooses_by_the_share_of_multiply_adds():
    """Of 4-8-16-16 channels on 8x8, 8x8, 4x4 and 4x4 pixels, and 64 inputs of 5 classes: 76,352 multiply-adds."""
    model, layers = network()
    total = 64 * (4 * 9 + 4 * 8 * 9) + 16 * (8 * 16 * 9 + 16 * 16 * 9) + 64 * 5
    assert sum(layer.positions * layer.weights for layer in layers) == total
    auto = make_config(engine="auto")
    always = {layer.name: 0 for layer in layers}
    just = int(SPARSE_SHARE * total) // 16
    assert engine_for(auto, model, layers, always | {"conv4.weight": just}) is SPARSE
    assert engine_for(auto, model, layers, always | {"conv4.weight": just + 1}) is DENSE
    assert engine_for(auto, model, layers, {}) is DENSE
    for name, engine in (("dense", DENSE), ("sparse", SPARSE)):
        assert engine_for(make_config(engine=name), model, layers, always) is engine
        assert engine_for(make_config(engine=name), model, layers, {}) is engine


def test_auto_is_dense_where_the_sparse_engine_cannot_run():
    small = SmallNet((2, 2, 2), 4, 5, (1, 8, 8))
    layers = layer_shapes(small, (1, 8, 8))
    nothing = {layer.name: 0 for layer in layers}
    assert engine_for(make_config(engine="auto"), small, layers, nothing) is DENSE
    model, layers = network()
    elsewhere = model.to("meta")
    assert engine_for(make_config(engine="auto"), elsewhere, layers, {layer.name: 0 for layer in layers}) is DENSE


def test_sparse_is_refused_where_it_cannot_run():
    with pytest.raises(ValueError, match=r"cannot train a network of the class SmallNet; set engine=auto or dense"):
        run(make_config("smoke", method="small_model", engine="sparse", density=0.1))
    with pytest.raises(ValueError, match=r"runs on the CPU; set torch_device=cpu, or engine=auto"):
        check_engine(make_config(engine="sparse", torch_device="cuda"), network()[0])
    check_engine(make_config(engine="auto", torch_device="cuda"), network()[0])


@pytest.mark.parametrize("name", ["cnn", "vgg11", "resnet18"])
@pytest.mark.parametrize("samples", [5, 257, 300])
def test_both_engines_re_estimate_the_same_statistics(name, samples):
    """Statistics are taken on batches of 256: 257 images are one batch with one image more, 300 are two batches."""
    generator = seeded(1)
    images = torch.randint(256, (samples, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.zeros(samples, dtype=torch.int64))
    model, _ = network(name)
    weights = {n: model.get_parameter(n) for n in prunable_names(model, prune_linear=True)}
    mask = random_mask(weights, {n: w.numel() // 4 for n, w in weights.items()}, generator)
    apply_mask(dict(model.named_parameters()), mask)
    before = state_of(model)
    dense = DENSE.recalibrate_bn(model, mask, split, PIXELS)
    model.load_state_dict(before, strict=False)
    sparse = SPARSE.recalibrate_bn(model, mask, split, PIXELS)
    assert list(sparse) == list(dense)
    for key, tensor in dense.items():
        torch.testing.assert_close(sparse[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
    assert DENSE.evaluate(model, mask, split, PIXELS).loss_sum == pytest.approx(
        SPARSE.evaluate(model, mask, split, PIXELS).loss_sum, rel=1e-4
    )


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"small_model"}))
def test_a_run_ends_alike_on_both_engines(method):
    """Costs and masks on the way down are the same; weights differ by rounding alone."""
    found = {
        name: run(make_config("smoke", method=method, engine=name, lr=0.01, **TINY)) for name in ("dense", "sparse")
    }
    dense, sparse = found["dense"], found["sparse"]
    assert dense["final"]["training_flops"] == sparse["final"]["training_flops"]
    assert [entry["trained_on"] for entry in dense["rounds"]] == [["dense"]] * 2
    assert [entry["trained_on"] for entry in sparse["rounds"]] == [
        ["dense" if method == "fedmef" or (method == "prunefl" and r == 1) else "sparse"] for r in range(2)
    ]
    assert sparse["start"]["test_loss"] == pytest.approx(dense["start"]["test_loss"], rel=1e-5)
    assert sparse["rounds"][0]["test_loss"] == pytest.approx(dense["rounds"][0]["test_loss"], rel=1e-3)
    # From here on one near tie, at a ReLU or in what grows, may go the other way; that moves a loss by little.
    assert sparse["final"]["test_loss"] == pytest.approx(dense["final"]["test_loss"], rel=0.1)


@pytest.mark.slow
def test_a_sparse_run_repeats_bit_for_bit_on_workers_too():
    config = make_config("smoke", engine="sparse", **TINY)
    other = make_config("smoke", engine="sparse", workers=2, **TINY)
    assert schema.canonical(run(config)) == schema.canonical(run(other))


@pytest.mark.slow
def test_code_that_is_compiled_now_gives_the_bits_of_code_from_the_cache(tmp_path):
    """Two processes, the first of which finds nothing compiled."""
    program = (
        "import json, sys; from fedtiny_lite.records import schema; from fedtiny_lite.config import make_config;"
        "from fedtiny_lite.simulation.rounds import run;"
        "config = make_config('smoke', engine='sparse', rounds=1, **json.loads(sys.argv[1]));"
        "sys.stdout.buffer.write(schema.canonical(run(config)))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program, json.dumps(TINY)],
            cwd=files.ROOT,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert list(tmp_path.rglob("*.nbc"))
    assert found[0] == found[1]
