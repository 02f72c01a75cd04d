"""Training, evaluation and BN re-estimation on the sparse engine, with the results of the dense ones."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split, batches
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.training import (
    EVALUATION_BATCH,
    Evaluation,
    Normalisation,
    OnGradient,
    evaluate_predictions,
    sgd,
    training_batch,
)
from fedtiny_lite.pruning.bn_selection import BnStats, bn_stats, observe_all
from fedtiny_lite.sparse.network import SparseNetwork

PREDICTED = 64
"""Images predicted at a time, where training does not take more."""

_networks: WeakKeyDictionary[nn.Module, SparseNetwork] = WeakKeyDictionary()


def sparse_twin(model: nn.Module, mask: Mask, batch_size: int, in_shape: tuple[int, int, int]) -> SparseNetwork:
    """The sparse network with the model's present state and `mask`.

    A model's twin is kept as long as the model, unless a larger batch comes: its buffers, and the patterns of layers
    whose mask did not change, serve again.
    """
    twin = _networks.get(model)
    if twin is None or twin.capacity < batch_size or twin.in_shape != in_shape:
        twin = _networks[model] = SparseNetwork(model, batch_size, in_shape)
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
    """`training.train` on the kept weights alone: the same batches and augmentation, the same SGD.

    In dense masked training a pruned weight is set back to 0 after every step, so kept weights move as if the pruned
    ones did not exist. Raises ValueError for `on_gradient`, which needs dense gradients.
    """
    if on_gradient:
        raise ValueError("the sparse engine has no gradients of pruned weights; use the dense engine for this method")
    model.train()
    # A last batch of one image joins the one before it, so that a batch may hold batch_size + 1 images.
    room = max([config.batch_size, *map(len, schedule)])
    network = sparse_twin(model, mask, room, tuple(split.images.shape[1:]))
    optimiser = sgd(network.parameters(), config)
    for index in schedule:
        network.backward(*training_batch(split, index, pixels, config.augment, generator))
        optimiser.step()
        network.mask_linear()
    network.store(model)
    apply_mask(dict(model.named_parameters()), mask)


def evaluate_sparse(model: nn.Module, mask: Mask, split: Split, pixels: Normalisation) -> Evaluation:
    """`training.evaluate` by the sparse engine."""
    network = sparse_twin(model, mask, PREDICTED, tuple(split.images.shape[1:]))
    return evaluate_predictions(network.predict, split, pixels)


def recalibrate_sparse(model: nn.Module, mask: Mask, split: Split, pixels: Normalisation) -> BnStats:
    """`selection.recalibrate_bn` by the sparse engine: the same batches, so the same statistics.

    They may be larger than those trained on, so it has a network of its own; nothing but two activations is kept.
    """
    room = max(map(len, batches(len(split), EVALUATION_BATCH)))
    network = SparseNetwork(model, room, tuple(split.images.shape[1:]))
    network.load(model, mask)
    observe_all(network.recalibrate, split, pixels)
    network.store(model)
    return bn_stats(model)
