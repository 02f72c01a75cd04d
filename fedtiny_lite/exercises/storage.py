"""Exercises of notebook 06: bytes of a tensor, and of the state that a client holds."""

import math

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise, whole_number
from fedtiny_lite.model import costs
from fedtiny_lite.model.costs import LayerShape

# --- bytes of a tensor ------------------------------------------------------------------------------------


def _matrix(generator: Generator) -> tuple[Tensor]:
    """A mask. Its columns and its kept weights are by chance a power of 2, as many as whole bits can number."""
    rows, cols = whole_number(generator, 5, 12), whole_number(generator, 20, 60)
    cols = (32, 64, cols)[whole_number(generator, 0, 2)]
    kept = (32, 64, rows * cols // 5)[whole_number(generator, 0, 2)]
    return ((torch.randperm(rows * cols, generator=generator) < kept).view(rows, cols),)


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


def _one_bit_more(keep: Tensor) -> int:
    """You take a bit too many for 32 or 64 things: numbered from 0, 64 take 6 bits, and `(64).bit_length()` is 7."""
    kept, (rows, cols) = int(keep.sum()), keep.shape
    return _bytes_of(kept * (32 + cols.bit_length()) + rows * kept.bit_length())


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
        _one_bit_more,
        _whole_indices,
    ),
    hints=(
        "Bits: kept · (32 + ⌈log₂ columns⌉) + rows · ⌈log₂ kept⌉. Then 8 bits a byte, rounded up.",
        "`math.ceil(math.log2(n))` bits number n things; `-(-bits // 8)` rounds up.",
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

EXERCISES = {"csr_bytes": _CSR_BYTES, "state_bytes": _STATE_BYTES}
