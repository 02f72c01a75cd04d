"""Masked SGD equals a loop written by hand; evaluation counts every image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import Split, batches, to_float
from fedtiny_lite.model import training
from fedtiny_lite.model.masks import Mask, apply_mask, random_mask
from fedtiny_lite.model.networks import build_model, prunable_names, state_of
from fedtiny_lite.model.training import Evaluation, Normalisation, epoch_batches, evaluate, train, training_batch
from tests.helpers import seeded

PIXELS = Normalisation((0.4,), (0.25,))


def images(samples: int, seed: int = 0) -> Split:
    generator = seeded(seed)
    pixels = torch.randint(256, (samples, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.randint(10, (samples,), generator=generator))


def network(name: str = "cnn"):
    return build_model(name, 2, 10, (1, 8, 8), seeded())


def sparse(model, density: float = 0.3) -> Mask:
    weights = {name: model.get_parameter(name) for name in prunable_names(model, prune_linear=True)}
    return random_mask(weights, {n: max(1, int(density * w.numel())) for n, w in weights.items()}, seeded(5))


def by_hand(model, split, mask, config, epochs, generator):
    """SGD with momentum and weight decay from its definition, one update of each weight at a time."""
    model.train()
    apply_mask(dict(model.named_parameters()), mask)
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for _ in range(epochs):
        for index in batches(len(split), config.batch_size, generator):
            logits = model((split.images[index] / 255 - 0.4) / 0.25)
            loss = -logits.log_softmax(1)[torch.arange(len(index)), split.labels[index]].mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for (name, weight), gradient in zip(model.named_parameters(), gradients, strict=True):
                step = gradient + config.weight_decay * weight.detach()
                velocity[name] = config.momentum * velocity[name] + step
                weight.data -= config.lr * velocity[name]
                if name in mask:
                    weight.data[~mask[name]] = 0


def run_epochs(model, split, pixels, mask, config, epochs, generator):
    train(model, split, pixels, mask, config, epoch_batches(split, epochs, config, generator), generator)


@pytest.mark.parametrize("momentum, weight_decay", [(0.9, 0.0), (0.0, 0.01), (0.5, 0.1)])
def test_training_equals_sgd_written_by_hand(momentum, weight_decay):
    config = make_config("smoke", momentum=momentum, weight_decay=weight_decay, batch_size=8)
    model, reference, split = network(), network(), images(30)
    mask = sparse(model)
    run_epochs(model, split, PIXELS, mask, config, 2, seeded(3))
    by_hand(reference, split, mask, config, 2, seeded(3))
    expected = state_of(reference)
    for name, tensor in state_of(model).items():
        assert torch.allclose(tensor, expected[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("name", ["cnn", "resnet18", "vgg11"])
def test_pruned_weights_are_exactly_zero_before_every_step_and_after_the_last(name):
    model, split = network(name), images(21)
    mask, steps = sparse(model), []

    def strays(*_):
        weights = dict(model.named_parameters())
        steps.append(sum(int(torch.count_nonzero(weights[n][~keep])) for n, keep in mask.items()))

    hook = model.register_forward_pre_hook(strays)
    config = make_config("smoke", batch_size=8, weight_decay=0.1, momentum=0.9)
    run_epochs(model, split, PIXELS, mask, config, 2, seeded())
    hook.remove()
    strays()
    assert steps == [0] * 7  # two epochs of three batches, and the end


def test_kept_weights_and_dense_layers_do_move():
    model, split = network(), images(20)
    mask, before = sparse(model), state_of(model)
    run_epochs(model, split, PIXELS, mask, make_config("smoke"), 1, seeded())
    for name, tensor in state_of(model).items():
        moved = tensor != before[name]
        assert moved[mask[name]].float().mean() > 0.5 if name in mask else moved.any(), name


def test_no_epochs_only_apply_the_mask():
    model, split = network(), images(20)
    mask, expected = sparse(model), state_of(model)
    run_epochs(model, split, PIXELS, mask, make_config("smoke"), 0, seeded())
    apply_mask(expected, mask)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state_of(model).items())


def test_training_depends_on_its_generator_alone():
    def trained(seed, global_seed):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            model = network()
            config = make_config("smoke", augment="crop_flip_cutout")
            run_epochs(model, images(40), PIXELS, sparse(model), config, 1, seeded(seed))
            assert torch.equal(before, torch.get_rng_state())
        return torch.cat([tensor.flatten() for tensor in state_of(model).values()])

    assert torch.equal(trained(1, 0), trained(1, 99))
    assert not torch.equal(trained(1, 0), trained(2, 0))


def test_a_training_batch_is_normalised_and_keeps_its_order():
    split = images(10)
    index = torch.tensor([7, 0, 3])
    batch, labels = training_batch(split, index, PIXELS, "none", seeded())
    assert batch.dtype == torch.float32 and labels.tolist() == split.labels[index].tolist()
    assert torch.allclose(batch, (split.images[index].float() / 255 - 0.4) / 0.25)


def test_cutout_removes_to_zero_after_normalisation():
    split = Split(torch.full((50, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64))
    batch, _ = training_batch(split, torch.arange(50), PIXELS, "crop_flip_cutout", seeded())
    values = batch.unique()
    white, black, removed = (1 - 0.4) / 0.25, -0.4 / 0.25, 0.0  # black: the padding of the crop
    assert all(min(abs(v - w) for w in (white, black, removed)) < 0.01 for v in values.tolist())
    assert any(abs(v) < 0.01 for v in values.tolist())


@settings(deadline=None, max_examples=25)
@given(samples=st.integers(1, 40), batch=st.integers(2, 9))
def test_evaluation_counts_every_image_once_whatever_the_batches(samples, batch):
    model, split = network(), images(samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "EVALUATION_BATCH", batch)
        score = evaluate(model, split, PIXELS)
    with torch.no_grad():
        logits = model.eval()(to_float(split.images, PIXELS.mean, PIXELS.std)).double()
    assert score.count == samples
    assert score.correct == int((logits.argmax(1) == split.labels).sum())
    assert score.loss_sum == pytest.approx(float(F.cross_entropy(logits, split.labels)) * samples, rel=1e-5)


def test_evaluation_of_known_logits():
    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 1.0]]).expand(len(x), 2)

    split = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 0]))
    # two equal logits: each image costs log 2, and the first class is answered
    assert evaluate(Constant(), split, PIXELS) == Evaluation(pytest.approx(4 * 0.6931471805599453), 3, 4)


def test_evaluation_leaves_the_model_as_it_is():
    model = network()
    before = state_of(model)
    evaluate(model, images(20), PIXELS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_steps_are_recorded_for_whole_batches_on_a_gpu_and_for_the_kits_own_networks(tmp_path):
    """A network in a file may ask for its numbers, as `if x.max() > 5` does, which no recording can."""
    (tmp_path / "net.py").write_text("NETWORK = None\n")
    kits = make_config("smoke", batch_size=2)
    own = make_config("smoke", batch_size=2, model=f"file:{tmp_path / 'net.py'}")
    on_gpu = type("OnGpu", (list,), {"is_cuda": True})
    assert training._recordable(on_gpu([0, 1]), kits) and not training._recordable(on_gpu([0]), kits)
    assert not training._recordable(torch.zeros(2), kits) and not training._recordable(on_gpu([0, 1]), own)
