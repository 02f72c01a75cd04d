"""The model as a file: its size, its way there and back, folded batch norm, and what each engine makes of it."""

from dataclasses import fields, replace

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import to_float
from fedtiny_lite.export.tiny_model import TinyModel, export_onnx, fold_bn, load_tiny, predictor, save_tiny
from fedtiny_lite.federated.messages import pack, unpack
from fedtiny_lite.model.costs import layer_shapes, model_bytes, other_sizes
from fedtiny_lite.model.masks import Mask, apply_mask, random_mask
from fedtiny_lite.model.networks import build_model, load_state, prunable_names, state_of
from fedtiny_lite.model.training import Normalisation, evaluate
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import seeded

NETWORKS = {"cnn": (1, 8, 8), "vgg11": (3, 9, 11), "resnet18": (2, 7, 8), "small": (1, 10, 8)}
PIXELS = Normalisation((0.4, 0.5, 0.1), (0.25, 0.3, 1 / 3))
# The kernels of any two batch sizes or engines add in another order.
CLOSE = dict(rtol=1e-4, atol=1e-5)


def tiny(name: str, width: int = 4, density: float = 0.2, seed: int = 0, shape=None, prune_linear=True) -> TinyModel:
    """An untrained model under a random mask, whose norms have scales of both signs, shifts and statistics."""
    generator, shape = seeded(seed), shape or NETWORKS[name]
    network = build_model(name, width, 5, shape, generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(-0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.3, generator=generator)
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.05, 2, generator=generator)
    pixels = Normalisation(PIXELS.mean[: shape[0]], PIXELS.std[: shape[0]])
    dense = TinyModel(name, width, ("a", "β", "c", "d", '"e"'), shape, pixels, state_of(network), Mask({}))
    return pruned(dense, density, generator, prune_linear)


def pruned(dense: TinyModel, density: float, generator: torch.Generator, prune_linear=True) -> TinyModel:
    weights = {name: dense.state[name] for name in prunable_names(dense.empty(), prune_linear)}
    mask = random_mask(weights, {name: round(density * w.numel()) for name, w in weights.items()}, generator)
    state = {name: tensor.clone() for name, tensor in dense.state.items()}
    apply_mask(state, mask)
    return replace(dense, state=state, mask=mask)


def images_of(model: TinyModel, count: int) -> torch.Tensor:
    return torch.randint(256, (count, *model.in_shape), dtype=torch.uint8, generator=seeded(count))


def same(a: TinyModel, b: TinyModel) -> bool:
    """Bit for bit, and in the same order."""
    plain = [field.name for field in fields(a) if field.name != "state"]
    bits = [[(name, t.dtype, t.shape, t.numpy().tobytes()) for name, t in model.state.items()] for model in (a, b)]
    return bits[0] == bits[1] and all(getattr(a, name) == getattr(b, name) for name in plain)


# --- the file -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def papers() -> TinyModel:
    return tiny("resnet18", 64, 1.0, shape=(3, 32, 32))


@pytest.mark.parametrize("density", [0.1, 0.05, 0.01, 0.005])
def test_the_papers_model_takes_the_bytes_that_are_counted(density, papers, tmp_path):
    model = pruned(papers, density, seeded(1))
    network = model.empty()
    counted = model_bytes(layer_shapes(network, model.in_shape), model.mask.kept, sum(other_sizes(network)))
    assert model.counted_bytes == counted
    assert save_tiny(tmp_path / "a", model).stat().st_size == pytest.approx(counted, rel=0.02)
    folded = fold_bn(model)
    channels = sum(module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert folded.counted_bytes == counted - 3 * 4 * channels  # of four numbers a channel the bias is left
    assert save_tiny(tmp_path / "b", folded).stat().st_size == pytest.approx(folded.counted_bytes, rel=0.02)
    assert folded.dense_bytes == model.dense_bytes == 4 * sum(t.numel() for t in state_of(network).values())


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(sorted(NETWORKS)), st.integers(1, 5), st.sampled_from([0.0, 0.01, 0.3, 1.0]), st.integers(0, 99),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_a_model_comes_back_bit_for_bit(tmp_path_factory, name, width, density, seed, prune_linear, fold):
    model = tiny(name, width, density, seed, prune_linear=prune_linear)
    model = fold_bn(model) if fold else model
    path = save_tiny(tmp_path_factory.getbasetemp() / "model.tiny", model)
    found = load_tiny(path)
    assert same(found, model)
    assert 0 < path.stat().st_size - model.counted_bytes < 400 + 10 * len(model.mask)  # the header, 7 bytes a layer
    assert save_tiny(path.with_name("again"), found).read_bytes() == path.read_bytes()


def test_a_mask_that_names_no_layer_leaves_the_model_dense(tmp_path):
    model = replace(tiny("cnn", density=1.0), mask=Mask({}))
    assert same(load_tiny(save_tiny(tmp_path / "a", model)), model)
    assert model.counted_bytes == model.dense_bytes


def test_a_torn_altered_or_foreign_file_is_refused(tmp_path):
    path = save_tiny(tmp_path / "model.tiny", tiny("cnn", 1))
    data = path.read_bytes()
    for place in (*range(0, len(data), 97), len(data) - 1):
        altered = bytearray(data)
        altered[place] ^= 1
        for bad in (data[:place], bytes(altered), data + b"\0"):
            path.write_bytes(bad)
            with pytest.raises(ValueError, match=r"model\.tiny: these bytes are not a whole message.*copy the file"):
                load_tiny(path)
    path.write_bytes(pack({"values": torch.zeros(3)}, model="cnn"))
    with pytest.raises(ValueError, match="no tiny model"):
        load_tiny(path)
    with pytest.raises(FileNotFoundError):
        load_tiny(tmp_path / "none")


def test_building_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    tiny("resnet18").build()
    assert torch.equal(torch.get_rng_state(), before)


# --- batch norm, folded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "vgg11", "resnet18"])
def test_a_folded_model_computes_the_same(name):
    """In float64 to 12 digits: the same function, not a near one."""
    model = tiny(name, density=0.5)
    exact = replace(model, state={key: tensor.double() for key, tensor in model.state.items()})
    folded = fold_bn(exact)
    logits = []
    for form in (exact, folded):
        network = form.build().double()
        load_state(network, form.state)
        logits.append(network(torch.randn(9, *model.in_shape, generator=seeded(), dtype=torch.float64)).detach())
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-11, atol=1e-12)
    assert folded.mask == model.mask and not same(folded, exact)


def test_folding_by_hand():
    """Scale 3 / sqrt(3.99999 + 0.00001) = 1.5: weights times 1.5; bias 0.25 - 0.5 * 1.5 = -0.5."""
    model = tiny("cnn", 1, density=1.0)
    for part, value in {"weight": 3.0, "bias": 0.25, "running_mean": 0.5, "running_var": 3.99999}.items():
        model.state[f"bn1.{part}"].fill_(value)
    folded = fold_bn(model)
    torch.testing.assert_close(folded.state["conv1.weight"], 1.5 * model.state["conv1.weight"])
    torch.testing.assert_close(folded.state["bn1.bias"], torch.tensor([-0.5]))
    others = {part: folded.state[f"bn1.{part}"].item() for part in ("weight", "running_mean", "running_var")}
    assert others == {"weight": 1, "running_mean": 0, "running_var": 1}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_file_of_a_folded_model_has_one_number_a_channel(name, tmp_path):
    model = tiny(name)
    channels = sum(m.num_features for m in model.build().modules() if isinstance(m, nn.BatchNorm2d))
    plain, folded = (unpack(save_tiny(tmp_path / "a", form).read_bytes()) for form in (model, fold_bn(model)))
    assert len(plain.tensors["values"]) - len(folded.tensors["values"]) == 3 * channels
    assert torch.equal(plain.tensors["mask"], folded.tensors["mask"])


def test_folding_twice_or_without_batch_norm_changes_nothing():
    folded = fold_bn(tiny("resnet18"))
    assert fold_bn(folded) is folded
    small = tiny("small")
    assert fold_bn(small) is small


def test_folding_leaves_the_model_as_it_was():
    model, twin = tiny("cnn"), tiny("cnn")
    fold_bn(model)
    assert same(model, twin)


# --- inference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", ["cnn", "vgg11", "resnet18"])
def test_both_engines_give_the_models_logits(name, fold, tmp_path):
    model = tiny(name)
    images = images_of(model, 37)
    expected = model.build()(to_float(images, model.pixels.mean, model.pixels.std)).detach()
    loaded = load_tiny(save_tiny(tmp_path / "a", fold_bn(model) if fold else model))
    for engine in ("dense", "sparse"):
        predict = predictor(loaded, engine, batch_size=16)
        for count in (37, 1, 16):
            torch.testing.assert_close(predict(images[:count]), expected[:count], **CLOSE)


def test_the_small_model_is_computed_densely():
    model = tiny("small")
    images = images_of(model, 3)
    expected = model.build()(to_float(images, model.pixels.mean, model.pixels.std)).detach()
    torch.testing.assert_close(predictor(model)(images), expected, **CLOSE)
    with pytest.raises(ValueError, match="no SmallNet; use the dense engine"):
        predictor(model, "sparse")
    with pytest.raises(ValueError, match="engine = 'fast': choose one of dense, sparse"):
        predictor(model, "fast")


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_images_of_another_kind_are_refused(engine):
    model = tiny("cnn")
    images, predict = images_of(model, 3), predictor(model, engine)
    for wrong in (images.float(), images[:, 0], images[..., 1:], images.numpy()):
        with pytest.raises(ValueError, match=r"give a uint8 torch tensor of shape \(N, "):
            predict(wrong)


@pytest.mark.parametrize(("name", "fold"), [("cnn", True), ("resnet18", False), ("small", False)])
def test_onnx_gives_torchs_logits(name, fold, tmp_path):
    """From pixels in [0, 1], in batches of any size; the map before the cnn's linear layer does not divide evenly."""
    model = tiny(name, shape=(1, 13, 14) if name == "cnn" else None)
    path = export_onnx(fold_bn(model) if fold else model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given_, made] = [*session.get_inputs(), *session.get_outputs()]
    assert (given_.name, given_.type, given_.shape) == ("images", "tensor(float)", ["batch", *model.in_shape])
    assert (made.name, made.type, made.shape) == ("logits", "tensor(float)", ["batch", 5])
    for count in (1, 2, 5):
        images = images_of(model, count)
        [logits] = session.run(None, {"images": images.numpy().astype(np.float32) / 255})
        torch.testing.assert_close(torch.from_numpy(logits), predictor(model)(images), **CLOSE)
    data = path.read_bytes()
    assert b"site-packages" not in data and b"stack_trace" not in data
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_without_the_packages_for_onnx_the_error_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr("fedtiny_lite.export.tiny_model.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install 'fedtiny-lite\[onnx\]'"):
        export_onnx(tiny("cnn"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


# --- the model of a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedtiny", "fedavg", "lotteryfl", "small_model"])
def test_a_run_leaves_its_model_beside_its_record(method, tmp_path):
    """Equal runs leave equal bytes; their model is as accurate as the record says."""
    config = make_config("smoke", method=method, width=4, density=0.2, samples=240, clients=3)
    states, files = [], []
    for out in ("one", "two"):
        record = simulate.run(config, tmp_path / out, on_round=lambda entry, state: states.append(state))
        files.append(tmp_path / out / config.run_id / "model.tiny")
    assert files[0].read_bytes() == files[1].read_bytes()
    model, federation = load_tiny(files[0]), build_federation(config)
    assert model.mask == states[-1].mask and model.mask.kept == record["final"]["kept"]
    assert all(torch.equal(model.state[name], tensor) for name, tensor in states[-1].weights.items())
    assert model.classes == tuple("0123456789") and model.pixels == federation.task.pixels
    test = federation.holdings.test
    score = evaluate(model.build(), test, model.pixels)
    assert score.correct / score.count == record["final"]["test_accuracy"]
    right = (predictor(model)(test.images).argmax(1) == test.labels).sum()
    assert int(right) == score.correct


def test_a_run_that_nobody_keeps_writes_no_model(monkeypatch):
    monkeypatch.setattr(simulate, "save_tiny", lambda *_: pytest.fail("a model was written"))
    simulate.run(make_config("smoke", method="magnitude", width=4, density=0.2, samples=240, clients=3, rounds=1))
