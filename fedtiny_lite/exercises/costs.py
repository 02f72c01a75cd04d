"""Exercises of notebook 06: FLOPs of a layer, and of an adjusting round."""

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise, whole_number
from fedtiny_lite.model import costs
from fedtiny_lite.model.costs import LayerShape

# --- FLOPs of a layer -------------------------------------------------------------------------------------


def _layer(generator: Generator) -> tuple[Tensor, int, int]:
    """A mask, and the height and width of the output map."""
    keep = torch.rand(6, 4, 3, 3, generator=generator) < 0.2
    return keep, whole_number(generator, 4, 9), whole_number(generator, 10, 16)


def _layer_flops(keep: Tensor, height: int, width: int) -> int:
    shape = LayerShape("w", keep.numel(), height * width, len(keep), keep[0].numel())
    return costs.training_flops([shape], {"w": int(keep.sum())})


def _forward_alone(keep: Tensor, height: int, width: int) -> int:
    """You count the forward pass; training adds a backward pass of twice as much."""
    return _layer_flops(keep, height, width) // 3


def _multiply_adds(keep: Tensor, height: int, width: int) -> int:
    """You count multiply-adds; each is 2 FLOPs."""
    return _layer_flops(keep, height, width) // 2


def _all_weights(keep: Tensor, height: int, width: int) -> int:
    """You count all weights; count the kept ones."""
    return _layer_flops(torch.ones_like(keep), height, width)


def _two_passes(keep: Tensor, height: int, width: int) -> int:
    """You count the backward pass once; it takes two passes, for the gradients of the inputs and of the weights."""
    return _layer_flops(keep, height, width) // 3 * 2


def _pruned_weights(keep: Tensor, height: int, width: int) -> int:
    """You count the pruned weights; True means kept."""
    return _layer_flops(~keep, height, width)


def _once(keep: Tensor, height: int, width: int) -> int:
    """You count every weight once; it works once for each pixel of the output."""
    return _layer_flops(keep, 1, 1)


_LAYER_FLOPS = Exercise(
    inputs=_layer,
    right=_layer_flops,
    parts=("FLOPs",),
    mistakes=(_forward_alone, _two_passes, _multiply_adds, _all_weights, _pruned_weights, _once),
    hints=(
        "Forward: 2 · height · width · kept weights. The backward pass costs twice that.",
        "`3 * 2 * height * width * keep.sum()`",
    ),
)


# --- an adjusting round -----------------------------------------------------------------------------------

Flops = tuple[int, int, int, int, int]


def _round(generator: Generator) -> Flops:
    """F_s and F_d of the model, then of its block, and batches of the round; for one image a batch."""
    block, rest = whole_number(generator, 2000, 4000), whole_number(generator, 5000, 9000)
    sparse_block, sparse_rest = block // 50, rest // 40
    return sparse_block + sparse_rest, block + rest, sparse_block, block, whole_number(generator, 10, 40)


def _adjusting_round(sparse: int, dense: int, block_sparse: int, block_dense: int, batches: int) -> int:
    shapes = [LayerShape("rest", dense - block_dense, 1, 1, 1), LayerShape("block", block_dense, 1, 1, 1)]
    kept = {"rest": sparse - block_sparse, "block": block_sparse}
    doubled = batches * costs.training_flops(shapes, kept) + costs.growth_flops(shapes, kept, ["block"])
    return doubled // 2  # the shapes have a weight for each FLOP, and a weight counts 2


def _every_batch(sparse: int, dense: int, block_sparse: int, block_dense: int, batches: int) -> int:
    """You add the block's dense gradient in every batch; FedTiny takes it on one batch of the round."""
    return batches * (3 * sparse + block_dense - block_sparse)


def _whole_model(sparse: int, dense: int, block_sparse: int, block_dense: int, batches: int) -> int:
    """You add the dense gradient of the whole model; only one block is adjusted."""
    return 3 * sparse * batches + dense - sparse


def _prunefl(sparse: int, dense: int, block_sparse: int, block_dense: int, batches: int) -> int:
    """That is PruneFL's round, with the whole dense gradient in every batch; FedTiny needs one block's on one batch."""
    return (2 * sparse + dense) * batches


def _counted_twice(sparse: int, dense: int, block_sparse: int, block_dense: int, batches: int) -> int:
    """The kept weights of the block count twice; only its pruned weights are new: F_d − F_s of the block."""
    return 3 * sparse * batches + block_dense


def _one_pass(sparse: int, dense: int, block_sparse: int, block_dense: int, batches: int) -> int:
    """You count one pass a batch; training costs 3 F_s."""
    return sparse * batches + block_dense - block_sparse


def _once_as_each(sparse: int, dense: int, block_sparse: int, block_dense: int, batches: int) -> int:
    """You count one batch of training; a round has `batches` of them, and one growth step."""
    return 3 * sparse + block_dense - block_sparse


def _mean_of_batches(sparse: int, dense: int, block_sparse: int, block_dense: int, batches: int) -> float:
    """You return the mean over the batches; the whole round is asked for."""
    return _adjusting_round(sparse, dense, block_sparse, block_dense, batches) / batches


_ADJUSTING_ROUND = Exercise(
    inputs=_round,
    right=_adjusting_round,
    parts=("FLOPs",),
    mistakes=(_every_batch, _whole_model, _prunefl, _counted_twice, _one_pass, _once_as_each, _mean_of_batches),
    hints=(
        "Every batch: 3 F_s of the model. One batch of the round, on top: F_d − F_s of the block.",
        "`3 * sparse * batches + block_dense - block_sparse`",
    ),
)

EXERCISES = {"layer_flops": _LAYER_FLOPS, "adjusting_round": _ADJUSTING_ROUND}
