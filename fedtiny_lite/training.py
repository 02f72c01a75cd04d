"""Masked SGD and evaluation of one model on one split: the trainer of the server and of every client."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtiny_lite.augmentation import augment
from fedtiny_lite.config import Config
from fedtiny_lite.data import Split, batches, to_float
from fedtiny_lite.masks import Mask, apply_mask

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of a data set, in units of [0, 1] pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Score:
    """Summed cross-entropy, number of correct answers and number of images."""

    loss_sum: float
    correct: int
    count: int


def train(
    model: nn.Module, split: Split, pixels: Normalisation, mask: Mask, config: Config, epochs: int, generator
) -> None:
    """`epochs` of SGD in place, batches shuffled and augmented from `generator`, masked after every step."""
    model.train()
    parameters = dict(model.named_parameters())
    optimiser = torch.optim.SGD(
        parameters.values(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        foreach=True,  # the same arithmetic with less overhead a step
    )
    apply_mask(parameters, mask)
    for _ in range(epochs):
        for index in batches(len(split), config.batch_size, generator):
            images, labels = training_batch(split, index, pixels, config.augment, generator)
            loss = F.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            apply_mask(parameters, mask)


def training_batch(
    split: Split, index: Tensor, pixels: Normalisation, augmentation: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Augmented float images [B, C, H, W] and labels [B], on the split's device."""
    batch = split.take(index)
    images = augment(batch.images, augmentation, generator, fill=pixels.mean)
    return to_float(images, pixels.mean, pixels.std), batch.labels


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, pixels: Normalisation) -> Score:
    """Loss and accuracy in evaluation mode over every image of `split`; sums are exact in float64."""
    model.eval()
    loss_sum, correct = 0.0, 0
    for index in batches(len(split), EVALUATION_BATCH, None):
        batch = split.take(index)
        logits = model(to_float(batch.images, pixels.mean, pixels.std))
        loss_sum += float(F.cross_entropy(logits.double(), batch.labels, reduction="sum"))
        correct += int((logits.argmax(1) == batch.labels).sum())
    return Score(loss_sum, correct, len(split))
