"""Exercises of notebook 06: FLOPs of a layer, bytes of a tensor, an adjusting round, the state that a client holds."""

import math

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


# --- bytes of a tensor ------------------------------------------------------------------------------------


def _matrix(generator: Generator) -> tuple[Tensor]:
    rows, cols = whole_number(generator, 5, 12), whole_number(generator, 20, 60)
    return (torch.rand(rows, cols, generator=generator) < 0.2,)


def _csr_bytes(keep: Tensor) -> int:
    return costs.tensor_bytes(keep.numel(), int(keep.sum()), *keep.shape)["csr"]


def _bytes_of(bits: float) -> int:
    return math.ceil(bits / 8)


def _in_bits(keep: Tensor) -> int:
    """You return bits; 8 of them are a byte, and the last byte is rounded up."""
    kept, (rows, cols) = int(keep.sum()), keep.shape
    return kept * (32 + costs.index_bits(cols)) + rows * costs.index_bits(kept)


def _rows_for_columns(keep: Tensor) -> int:
    """You exchange rows and columns; `rows, columns = keep.shape`, an index names a column, a count stands per row."""
    return _csr_bytes(keep.T)


def _floored(keep: Tensor) -> int:
    """You round the last byte down; bits that fill a part of a byte take the whole byte: `-(-bits // 8)`."""
    return _in_bits(keep) // 8


def _unrounded(keep: Tensor) -> float:
    """You return parts of a byte; round up to whole bytes: `-(-bits // 8)`."""
    return _in_bits(keep) / 8


def _as_coo(keep: Tensor) -> int:
    """You number positions in the whole tensor, which is COO; CSR names a column, and a count for every row."""
    return costs.tensor_bytes(keep.numel(), int(keep.sum()), *keep.shape)["coo"]


def _without_rows(keep: Tensor) -> int:
    """You leave out the counts of the rows; without them nobody knows where a row ends."""
    return _bytes_of(int(keep.sum()) * (32 + costs.index_bits(keep.shape[1])))


def _without_values(keep: Tensor) -> int:
    """You leave out the values, 32 bits each."""
    return _bytes_of(_in_bits(keep) - 32 * int(keep.sum()))


def _parts_of_bits(keep: Tensor) -> int:
    """You use parts of a bit; round each logarithm up to whole bits."""
    kept, (rows, cols) = int(keep.sum()), keep.shape
    return _bytes_of(kept * (32 + math.log2(cols)) + rows * math.log2(kept))


def _whole_indices(keep: Tensor) -> int:
    """You take 32 bits for an index; as many as number the columns will do."""
    return _bytes_of((2 * int(keep.sum()) + len(keep)) * 32)


_CSR_BYTES = Exercise(
    inputs=_matrix,
    right=_csr_bytes,
    parts=("bytes",),
    mistakes=(
        _in_bits,
        _rows_for_columns,
        _floored,
        _unrounded,
        _as_coo,
        _without_rows,
        _without_values,
        _parts_of_bits,
        _whole_indices,
    ),
    hints=(
        "Bits: kept · (32 + ⌈log₂ columns⌉) + rows · ⌈log₂ kept⌉. Then 8 bits a byte, rounded up.",
        "`math.ceil(math.log2(n))` bits number n things; `-(-bits // 8)` rounds up.",
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


# --- what a client holds ----------------------------------------------------------------------------------


def _client(generator: Generator) -> tuple[int, int, int, int]:
    """Kept weights of pruned layers, dense parameters, running statistics, entries of the growth list."""
    return tuple(whole_number(generator, low, 5 * low) for low in (300, 60, 20, 30))  # type: ignore[return-value]


def _state_bytes(kept: int, dense: int, statistics: int, entries: int) -> int:
    pruned = LayerShape("w", 100 * kept, 1, 1, 1)
    return costs.model_state_memory([pruned], {"w": kept}, dense, statistics, entries)


def _no_gradients(kept: int, dense: int, statistics: int, entries: int) -> int:
    """You leave out the gradients; each kept weight and each dense parameter has one."""
    return 4 * (2 * kept + dense + statistics + 2 * entries)


def _no_indices(kept: int, dense: int, statistics: int, entries: int) -> int:
    """You leave out the positions of kept weights; each takes a word beside its value and gradient."""
    return 4 * (2 * kept + 2 * dense + statistics + 2 * entries)


def _trained_statistics(kept: int, dense: int, statistics: int, entries: int) -> int:
    """You give running statistics a gradient; they are observed, not trained."""
    return 4 * (3 * kept + 2 * dense + 2 * statistics + 2 * entries)


def _bare_list(kept: int, dense: int, statistics: int, entries: int) -> int:
    """An entry of the growth list takes one word; it is a position and a value."""
    return 4 * (3 * kept + 2 * dense + statistics + entries)


def _no_list(kept: int, dense: int, statistics: int, entries: int) -> int:
    """You leave out the growth list."""
    return 4 * (3 * kept + 2 * dense + statistics)


def _words(kept: int, dense: int, statistics: int, entries: int) -> int:
    """You return words of 32 bits; a word is 4 bytes."""
    return _state_bytes(kept, dense, statistics, entries) // 4


def _bits_of_state(kept: int, dense: int, statistics: int, entries: int) -> int:
    """You return bits; a word of 32 bits is 4 bytes."""
    return 8 * _state_bytes(kept, dense, statistics, entries)


_STATE_BYTES = Exercise(
    inputs=_client,
    right=_state_bytes,
    parts=("bytes",),
    mistakes=(_no_gradients, _no_indices, _trained_statistics, _bare_list, _no_list, _words, _bits_of_state),
    hints=(
        "Words of 32 bits: a kept weight 3, a dense parameter 2, a running statistic 1, an entry of the list 2.",
        "`4 * (3 * kept + 2 * dense + statistics + 2 * entries)`",
    ),
)

EXERCISES = {
    "layer_flops": _LAYER_FLOPS,
    "csr_bytes": _CSR_BYTES,
    "adjusting_round": _ADJUSTING_ROUND,
    "state_bytes": _STATE_BYTES,
}
