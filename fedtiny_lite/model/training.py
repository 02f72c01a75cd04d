"""Masked SGD and evaluation of one model on one split: the trainer of the server and of every client."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtiny_lite.config import Config
from fedtiny_lite.data.augmentation import augment
from fedtiny_lite.data.datasets import Split, batches, to_float
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.replay import WARM_UP, Step, replayed
from fedtiny_lite.own_files import FILE

EVALUATION_BATCH = 256

Predict = Callable[[Tensor], Tensor]
"""Float images [N, C, H, W] to logits [N, classes]."""

OnGradient = Callable[[Mapping[str, nn.Parameter]], None]
"""Called in every step between backward pass and update, with the parameters by name. Their gradients are dense."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel of a data set whose pixels are scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """What a model achieves on some images: summed cross-entropy, number of correct answers, number of images."""

    loss_sum: float
    correct: int
    count: int


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: sums in another order give other last bits, and workers would crowd each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def epoch_batches(split: Split, epochs: int, config: Config, generator: torch.Generator) -> list[Tensor]:
    """The shuffled batches of `epochs` epochs, each int64 [B], as indices into `split`. See `datasets.batches`."""
    return [index for _ in range(epochs) for index in batches(len(split), config.batch_size, generator)]


def train(
    model: nn.Module,
    split: Split,
    pixels: Normalisation,
    mask: Mask,
    config: Config,
    schedule: Sequence[Tensor],
    generator: torch.Generator,
    on_gradient: OnGradient | None = None,
) -> None:
    """Trains `model` in place by one SGD step for each batch of `schedule`; the mask is applied after every step.

    `schedule`: indices into `split`, one tensor a batch. `generator`: the source of the augmentation. Momentum starts
    at zero in each call. `on_gradient`: see `OnGradient`. On a GPU, steps are replayed from a CUDA graph (`replayed`).
    """
    model.train()
    parameters = dict(model.named_parameters())
    optimiser = sgd(parameters.values(), config)

    def eager(images: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        if on_gradient:
            on_gradient(parameters)
        optimiser.step()
        apply_mask(parameters, mask)

    apply_mask(parameters, mask)
    step: Step = eager
    for number, index in enumerate(schedule):
        images, labels = training_batch(split, index, pixels, config.augment, generator)
        if step is eager and number >= WARM_UP and _recordable(images, config) and not on_gradient:
            step = replayed(eager, images, labels)
        step(images, labels)


def _recordable(images: Tensor, config: Config) -> bool:
    """Whether a step on these images is worth replaying: they are a whole batch on a GPU.

    A network in a file of one's own may look at its numbers, and so wait for the GPU, which cannot be recorded.
    """
    return images.is_cuda and len(images) == config.batch_size and not config.model.startswith(FILE)


def gradient(parameter: Tensor) -> Tensor:
    """The gradient of a parameter after a backward pass, the very tensor that the optimiser will use."""
    if parameter.grad is None:
        raise RuntimeError("this parameter has no gradient; ask for it after a backward pass")
    return parameter.grad


def sgd(parameters: Iterable[Tensor], config: Config) -> torch.optim.SGD:
    """The optimiser of a round, with momentum at zero.

    `foreach` updates all parameters in one call: the same arithmetic with less overhead a step.
    """
    lr, momentum, decay = config.lr, config.momentum, config.weight_decay
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, foreach=True)


def training_batch(
    split: Split, index: Tensor, pixels: Normalisation, augmentation: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Augmented float images [B, C, H, W] and labels [B], on the split's device."""
    batch = split.take(index)
    images = augment(batch.images, augmentation, generator, fill=pixels.mean)
    return to_float(images, pixels.mean, pixels.std), batch.labels


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, pixels: Normalisation) -> Evaluation:
    """Loss and accuracy in evaluation mode over every image of `split`; the model is left in evaluation mode."""
    return evaluate_predictions(model.eval(), split, pixels)


def evaluate_predictions(predict: Predict, split: Split, pixels: Normalisation) -> Evaluation:
    """Loss and accuracy of the logits of `predict` over every image of `split`.

    The cross-entropy is computed and summed in float64, so that the sum hardly depends on the order of the images.
    """
    loss_sum, correct = 0.0, 0
    for logits, labels in _predictions(predict, split, pixels):
        loss_sum += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        correct += int((logits.argmax(1) == labels).sum())
    return Evaluation(loss_sum, correct, len(split))


@torch.no_grad()
def correct_by_class(model: nn.Module, split: Split, pixels: Normalisation, classes: int) -> tuple[Tensor, Tensor]:
    """Correct answers per class and images per class, int64 [classes] each, in evaluation mode over `split`."""
    predictions = _predictions(model.eval(), split, pixels)
    right = torch.cat([labels[logits.argmax(1) == labels] for logits, labels in predictions])
    return right.bincount(minlength=classes), split.labels.bincount(minlength=classes)


def _predictions(predict: Predict, split: Split, pixels: Normalisation) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of batches of `split`."""
    for index in batches(len(split), EVALUATION_BATCH, None):
        batch = split.take(index)
        yield predict(to_float(batch.images, pixels.mean, pixels.std)), batch.labels
