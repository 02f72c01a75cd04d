"""Training, evaluation and BN re-estimation on the sparse engine, with the results of dense torch but for rounding."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.training import (
    Evaluation,
    Normalisation,
    OnGradient,
    evaluate_predictions,
    sgd,
    training_batch,
)
from fedtiny_lite.pruning.bn_selection import BnStats, bn_stats, observe_all
from fedtiny_lite.sparse.network import SparseNetwork

_networks: WeakKeyDictionary[nn.Module, SparseNetwork] = WeakKeyDictionary()


def sparse_twin(model: nn.Module, mask: Mask, in_shape: tuple[int, int, int]) -> SparseNetwork:
    """The sparse network, or twin, of `model`, with the model's present state and `mask`.

    `in_shape`: (channels, height, width) of an image. A twin is kept as long as its model, so that its buffers serve
    again, and the patterns of layers whose mask did not change.
    """
    twin = _networks.get(model)
    if twin is None or twin.in_shape != in_shape:
        twin = _networks[model] = SparseNetwork(model, in_shape)
    twin.load(model, mask)
    return twin


def train_sparse(
    model: nn.Module,
    split: Split,
    pixels: Normalisation,
    mask: Mask,
    config: Config,
    schedule: Sequence[Tensor],
    generator: torch.Generator,
    on_gradient: OnGradient | None = None,
) -> None:
    """`training.train` on the kept weights alone: the same batches, augmentation and SGD.

    Dense masked training sets pruned weights back to 0 after every step, so that kept weights move as if pruned weights
    did not exist. Raises ValueError for an `on_gradient` other than None, which needs dense gradients.
    """
    if on_gradient:
        raise ValueError("the sparse engine has no gradients of pruned weights; use the dense engine for this method")
    model.train()
    network = sparse_twin(model, mask, split.in_shape)
    optimiser = sgd(network.parameters(), config)
    for index in schedule:
        network.backward(*training_batch(split, index, pixels, config.augment, generator))
        optimiser.step()
        network.mask_linear()
    network.store(model)
    apply_mask(dict(model.named_parameters()), mask)


def evaluate_sparse(model: nn.Module, mask: Mask, split: Split, pixels: Normalisation) -> Evaluation:
    """`training.evaluate` by the sparse engine."""
    network = sparse_twin(model, mask, split.in_shape)
    return evaluate_predictions(network.predict, split, pixels)


def recalibrate_sparse(model: nn.Module, mask: Mask, split: Split, pixels: Normalisation) -> BnStats:
    """`bn_selection.recalibrate_bn` by the sparse engine, on the same batches.

    The batches may be larger than those of training. They take a network of their own, which holds two activations at
    a time and is dropped at the end.
    """
    network = SparseNetwork(model, split.in_shape)
    network.load(model, mask)
    observe_all(network.recalibrate, split, pixels)
    network.store(model)
    return bn_stats(model)
