"""Which engine computes a masked network: dense torch, or the sparse engine, which does the kept weights alone.

Dense torch is the reference and the path for GPUs. The setting `engine` is `dense`, `sparse` or `auto`. Whatever needs
gradients of pruned weights in every step (PruneFL's squares) or changes the network (FedMef's pruned activations) is
dense under each of them; the record says of every round which engine trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.model.costs import LayerShape, forward_flops
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.training import Evaluation, Normalisation, evaluate, train
from fedtiny_lite.pruning.bn_selection import recalibrate_bn
from fedtiny_lite.pruning.progressive import growth_lists
from fedtiny_lite.sparse.growth import sparse_growth_lists
from fedtiny_lite.sparse.network import has_twin
from fedtiny_lite.sparse.training import evaluate_sparse, recalibrate_sparse, train_sparse

SPARSE_SHARE = 0.25
"""`auto` takes the sparse engine where a mask keeps at most this share of the multiply-adds. It is a count, not a
timing, so that a run chooses alike everywhere. `python -m benchmarks.engine_choice` is its basis: there the sparse
engine was faster at half of the multiply-adds too; a quarter leaves room for processors whose dense torch is faster."""


@dataclass(frozen=True)
class Engine:
    """What is computed under a mask, each on a model that already holds the state, for one engine.

    train(model, split, pixels, mask, config, schedule, generator, on_gradient): `training.train`; the sparse engine
    takes no `on_gradient` but None;
    evaluate(model, mask, split, pixels) -> Evaluation: `training.evaluate`;
    recalibrate_bn(model, mask, split, pixels) -> BnStats: `selection.recalibrate_bn`;
    growth_lists(model, mask, counts, images, labels): `progressive.growth_lists`.
    """

    name: str
    train: Callable
    evaluate: Callable
    recalibrate_bn: Callable
    growth_lists: Callable


def _evaluate_dense(model: nn.Module, mask: Mask, split: Split, pixels: Normalisation) -> Evaluation:
    return evaluate(model, split, pixels)


def _recalibrate_dense(model: nn.Module, mask: Mask, split: Split, pixels: Normalisation) -> dict[str, Tensor]:
    return recalibrate_bn(model, split, pixels)


DENSE = Engine("dense", train, _evaluate_dense, _recalibrate_dense, growth_lists)
SPARSE = Engine("sparse", train_sparse, evaluate_sparse, recalibrate_sparse, sparse_growth_lists)


def engine_for(config: Config, model: nn.Module, layers: Sequence[LayerShape], kept: Mapping[str, int]) -> Engine:
    """The engine of `config` for a mask that keeps `kept` weights of each layer (see `costs`)."""
    if config.engine == "auto":
        fits = next(model.parameters()).device.type == "cpu" and has_twin(model)
        few = forward_flops(layers, kept) <= SPARSE_SHARE * forward_flops(layers, {})
        return SPARSE if fits and few else DENSE
    return SPARSE if config.engine == "sparse" else DENSE


def check_engine(config: Config, model: nn.Module, device: torch.device) -> None:
    """Raises ValueError if the settings ask for the sparse engine on a model or a device where it cannot run."""
    if config.engine != "sparse":
        return
    if device.type != "cpu":
        raise ValueError("engine = 'sparse' runs on the CPU; set torch_device=cpu, or engine=auto or dense for a GPU")
    if not has_twin(model):
        raise ValueError(f"engine = 'sparse' cannot train the network of {config.method}; set engine=auto or dense")
