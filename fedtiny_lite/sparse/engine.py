"""Which engine computes a masked network: dense torch, or the sparse engine, which computes the kept weights alone.

Dense torch is the reference and the path for GPUs. The setting `engine` is `dense`, `sparse` or `auto`. It says what
computes a client's training, evaluation, BN statistics and growth lists, and the scores of the server's model. All else
is computed by dense torch under every setting:
- training that needs gradients of pruned weights in every step (PruneFL's squares) or changes the network (FedMef);
- what the server computes on its public set: pretraining, trials of masks, BN statistics, saliency;
- saliency on a client's images (SSFL), and the accuracy of clients' own models by class.
The record of every round says which engine trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.model.costs import LayerShape, forward_flops
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.training import Evaluation, Normalisation, OnGradient, evaluate, train
from fedtiny_lite.own_files import FILE
from fedtiny_lite.pruning.bn_selection import BnStats, recalibrate_bn
from fedtiny_lite.pruning.progressive import GrowthList, growth_lists
from fedtiny_lite.sparse.growth import sparse_growth_lists
from fedtiny_lite.sparse.network import has_twin
from fedtiny_lite.sparse.training import evaluate_sparse, recalibrate_sparse, train_sparse

SPARSE_SHARE = 0.25
"""`auto` takes the sparse engine where a mask keeps at most this share of the multiply-adds. The share is counted and
not timed, so that a run chooses alike on every machine. `python -m benchmarks.engine_choice` is the basis of the value:
in that benchmark the sparse engine was faster at half of the multiply-adds too. A quarter leaves room for processors
whose dense torch is faster."""


Train = Callable[
    [nn.Module, Split, Normalisation, Mask, Config, Sequence[Tensor], torch.Generator, OnGradient | None], None
]
"""`training.train`. The sparse engine takes no `on_gradient` but None."""

Evaluate = Callable[[nn.Module, Mask, Split, Normalisation], Evaluation]
"""`training.evaluate` under a mask."""

Recalibrate = Callable[[nn.Module, Mask, Split, Normalisation], BnStats]
"""`bn_selection.recalibrate_bn` under a mask."""

ListGrowth = Callable[[nn.Module, Mask, Mapping[str, int], Tensor, Tensor], dict[str, GrowthList]]
"""`progressive.growth_lists`."""


@dataclass(frozen=True)
class Engine:
    """What is computed under a mask, each on a model that already holds the state, for one engine."""

    name: str
    train: Train
    evaluate: Evaluate
    recalibrate_bn: Recalibrate
    growth_lists: ListGrowth


def _evaluate_dense(model: nn.Module, mask: Mask, split: Split, pixels: Normalisation) -> Evaluation:
    return evaluate(model, split, pixels)


def _recalibrate_dense(model: nn.Module, mask: Mask, split: Split, pixels: Normalisation) -> dict[str, Tensor]:
    return recalibrate_bn(model, split, pixels)


DENSE = Engine("dense", train, _evaluate_dense, _recalibrate_dense, growth_lists)
SPARSE = Engine("sparse", train_sparse, evaluate_sparse, recalibrate_sparse, sparse_growth_lists)


def engine_for(config: Config, model: nn.Module, layers: Sequence[LayerShape], kept: Mapping[str, int]) -> Engine:
    """The engine that `config` asks for. `kept`: kept weights by layer name; a layer left out is dense."""
    if config.engine == "auto":
        fits = next(model.parameters()).device.type == "cpu" and _known(config, model)
        few = forward_flops(layers, kept) <= SPARSE_SHARE * forward_flops(layers, {})
        return SPARSE if fits and few else DENSE
    return SPARSE if config.engine == "sparse" else DENSE


def check_engine(config: Config, model: nn.Module) -> None:
    """Raises ValueError if the settings ask for the sparse engine on a model or a device where it cannot run."""
    if config.engine != "sparse":
        return
    if config.torch_device == "cuda":
        raise ValueError("engine = 'sparse' runs on the CPU; set torch_device=cpu, or engine=auto or dense for a GPU")
    if not _known(config, model):
        kind = type(model).__name__
        raise ValueError(f"engine = 'sparse' cannot train a network of the class {kind}; set engine=auto or dense")


def _known(config: Config, model: nn.Module) -> bool:
    """Whether the sparse engine computes this network: one of the kit's. What a file gives may be altered anyhow."""
    return has_twin(model) and not config.model.startswith(FILE)
