"""Masks and growth lists as bytes, and back: an index into n things takes ceil(log2 n) bits.

Readers are strict. Bytes that are no mask or list raise ValueError, so a reply can be judged by reading it. A mask in
another kind than the smallest, which no writer here makes, is read all the same.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedtiny_lite.model.costs import index_bits
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.pruning.progressive import GrowthList

_BITMAP, _INDICES, _ALL, _ROWS, _PRUNED_INDICES, _PRUNED_ROWS = range(6)
_COMPLEMENT = {_PRUNED_INDICES: _INDICES, _PRUNED_ROWS: _ROWS}
"""Kinds that write the pruned positions in the way in which the other kind writes the kept ones."""
_LAYER_HEADER = "<HBI"
"""Of each layer: its number, the kind, and how many weights are kept."""

Run = tuple[int, int]
"""(How many numbers, bits of each): the numbers lie packed in as many whole bytes as they need."""
PackedRun = tuple[np.ndarray, Run]


def encode_mask(layers: Mapping[str, Tensor], order: list[str]) -> Tensor:
    """Some layers' masks, bool tensors by name, as bytes, uint8 [bytes]. Rows are the first dimension of a layer.

    Each layer is its number in `order`, its kind and the number of kept weights, 7 bytes, and then the smallest of:
    a bitmap; the indices of the kept weights (COO); a count per row and a column per kept weight (CSR); the indices,
    or counts and columns, of the *pruned* weights. Nothing follows where all weights are kept. So a mask together with
    its kept values in 32 bits never takes more than the dense layer and these 7 bytes.

    Example: a layer of 16 weights that keeps number 9 alone takes 7 bytes and one index of 4 bits, in all 8 bytes.
    """
    parts = []
    for name, keep in layers.items():
        matrix = keep.unsqueeze(-1).flatten(1).numpy()
        kept = int(np.count_nonzero(matrix))
        rows, cols = matrix.shape
        kinds = _mask_kinds(rows, cols, kept)
        kind = min(kinds, key=lambda kind: sum(_packed_bytes(*run) for run in kinds[kind]))
        widths = [width for _, width in kinds[kind]]
        packed = map(_pack_numbers, _mask_numbers(kind, matrix), widths)
        parts += [np.frombuffer(struct.pack(_LAYER_HEADER, order.index(name), kind, kept), np.uint8), *packed]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.uint8)


def decode_mask(data: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The layers that `encode_mask` packed, bool tensors. `shapes`: shape of each prunable layer, in the same order.

    Raises ValueError for bytes that are no mask: cut short, too long, of an unknown or repeated layer, of an unknown
    kind, with a wrong number of kept weights, or with positions out of range or not ascending.
    """
    layers = {}
    for name, (kind, kept, runs) in _packed_layers(data, shapes).items():
        rows, cols = _matrix(shapes[name])
        numbers = [_unpack_numbers(packed, *run) for packed, run in runs]
        layers[name] = torch.from_numpy(_mask_of(kind, numbers, rows, cols, kept)).view(shapes[name])
    return layers


def mask_counts(data: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, int]:
    """How many weights the layers that `encode_mask` packed keep, as they announce it; takes no memory for any layer.

    Raises ValueError as `decode_mask` does, but for positions, which it does not read.
    """
    return {name: kept for name, (_, kept, _) in _packed_layers(data, shapes).items()}


def _packed_layers(data: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, tuple[int, int, list[PackedRun]]]:
    """The kind, the number of kept weights and the packed runs of each layer, cut out of the bytes."""
    raw, at, layers, names = _bytes_of(data), 0, {}, list(shapes)
    while at < len(raw):
        head, at = _cut(raw, at, struct.calcsize(_LAYER_HEADER))
        number, kind, kept = struct.unpack(_LAYER_HEADER, head.tobytes())
        if number >= len(names) or names[number] in layers:
            known = "comes twice" if number < len(names) else f"is none of {len(names)}"
            raise ValueError(f"a packed mask is damaged: layer {number} {known}")
        rows, cols = _matrix(shapes[names[number]])
        kinds = _mask_kinds(rows, cols, kept) if kept <= rows * cols else {}
        if kind not in kinds:
            raise ValueError(f"a packed mask is damaged: {kept} weights kept of {rows * cols}, written as kind {kind}")
        runs = []
        for run in kinds[kind]:
            packed, at = _cut(raw, at, _packed_bytes(*run))
            runs.append((packed, run))
        layers[names[number]] = kind, kept, runs
    return layers


def _matrix(shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of a layer of this shape."""
    return shape[0], shape.numel() // max(shape[0], 1)


def _bytes_of(data: Tensor) -> np.ndarray:
    if data.dtype != torch.uint8 or data.ndim != 1:
        raise ValueError(f"packed bytes are uint8 [bytes], not {data.dtype} {list(data.shape)}")
    return data.numpy()


def _cut(raw: np.ndarray, at: int, length: int) -> tuple[np.ndarray, int]:
    """The next `length` bytes from `at` on, and where they end."""
    if at + length > len(raw):
        raise ValueError(f"a packed mask is cut short: {length} bytes expected at byte {at} of {len(raw)}")
    return raw[at : at + length], at + length


def _mask_kinds(rows: int, cols: int, kept: int) -> dict[int, list[Run]]:
    """The ways to write a mask of `rows` x `cols` weights, `kept` of them kept: the runs of numbers by kind.

    The first three kinds take the bits that `costs.tensor_bytes` counts, but for the counts of CSR: they are
    0 ... min(kept, cols) in a message, and the cost model gives each ceil(log2 kept) bits.
    """
    if kept == rows * cols:
        return {_ALL: []}
    pruned = rows * cols - kept
    return {
        _BITMAP: [(rows * cols, 1)],
        _INDICES: [(kept, index_bits(rows * cols))],
        _ROWS: _row_runs(rows, cols, kept),
        _PRUNED_INDICES: [(pruned, index_bits(rows * cols))],
        _PRUNED_ROWS: _row_runs(rows, cols, pruned),
    }


def _row_runs(rows: int, cols: int, marked: int) -> list[Run]:
    """Runs of a count per row, 0 ... min(marked, cols), and a column per marked weight."""
    return [(rows, index_bits(min(marked, cols) + 1)), (marked, index_bits(cols))]


def _mask_numbers(kind: int, matrix: np.ndarray) -> list[np.ndarray]:
    """The runs of numbers that write a mask, bool [rows, cols]."""
    if kind in _COMPLEMENT:
        return _mask_numbers(_COMPLEMENT[kind], ~matrix)
    if kind in (_ALL, _BITMAP):
        return [matrix.ravel()] if kind == _BITMAP else []
    indices = matrix.ravel().nonzero()[0]
    if kind == _INDICES:
        return [indices]
    row, column = np.divmod(indices, matrix.shape[1])
    return [np.bincount(row, minlength=len(matrix)), column]


def _mask_of(kind: int, runs: list[np.ndarray], rows: int, cols: int, kept: int) -> np.ndarray:
    """The mask, bool [rows * cols], that `_mask_numbers` gave these runs for. Raises ValueError for impossible runs."""
    if kind in _COMPLEMENT:
        return ~_mask_of(_COMPLEMENT[kind], runs, rows, cols, rows * cols - kept)
    if kind == _BITMAP:
        if np.count_nonzero(runs[0]) != kept:
            raise ValueError(f"a packed mask is damaged: {np.count_nonzero(runs[0])} bits are set, {kept} announced")
        return runs[0].astype(bool)
    flat = np.full(rows * cols, kind == _ALL)
    if kind == _INDICES:
        flat[_ascending(runs[0], rows * cols)] = True
    elif kind == _ROWS:
        counts, columns = runs
        if counts.sum() != kept or (len(columns) and columns.max() >= cols):
            raise ValueError(f"a packed mask is damaged: rows do not add up to {kept} weights in {cols} columns")
        # With columns in range, ascending positions are ascending columns in each row.
        flat[_ascending(np.arange(rows).repeat(counts) * cols + columns, rows * cols)] = True
    return flat


def _ascending(index: np.ndarray, size: int) -> np.ndarray:
    """`index` itself, int64. Raises ValueError unless each is above the one before it and below `size`."""
    index = index.astype(np.int64, copy=False)  # differences of uint8 would wrap around
    if len(index) and (index[-1] >= size or (np.diff(index) <= 0).any()):
        raise ValueError(f"packed positions are damaged: they must ascend, each below {size}")
    return index


def encode_growth_list(entries: GrowthList, size: int) -> dict[str, Tensor]:
    """A layer's list as packed indices, uint8 [bytes], and values, float32 [entries]; `size`: weights of the layer.

    The indices must ascend, as those of `progressive.growth_lists` do.
    """
    index, value = entries
    return {"index": torch.from_numpy(_pack_numbers(index.numpy(), index_bits(size))), "value": value.float()}


def decode_growth_list(packed: Mapping[str, Tensor], size: int) -> GrowthList:
    """The list that `encode_growth_list` packed. A value may be NaN.

    Raises ValueError for anything else: parts that lack or are of another kind, bytes of another number than the values
    need, or indices that do not strictly ascend below `size`.
    """
    if packed.keys() != {"index", "value"}:
        raise ValueError(f"a growth list has an index and a value, not {sorted(packed)}")
    raw, value, width = _bytes_of(packed["index"]), packed["value"], index_bits(size)
    if value.dtype != torch.float32 or value.ndim != 1:
        raise ValueError(f"values of a growth list are float32 [entries], not {value.dtype} {list(value.shape)}")
    if len(value) > size or len(raw) != _packed_bytes(len(value), width):
        raise ValueError(f"a growth list has {len(value)} values and {len(raw)} bytes of indices below {size}")
    return torch.from_numpy(_ascending(_unpack_numbers(raw, len(value), width), size)), value


def growth_index_bytes(entries: int, size: int) -> int:
    """Bytes of the packed indices of a list of `entries` in a layer of `size` weights."""
    return _packed_bytes(entries, index_bits(size))


def _packed_bytes(count: int, width: int) -> int:
    return -(-count * width // 8)


def _pack_numbers(numbers: np.ndarray, width: int) -> np.ndarray:
    """Numbers below 2^width as bits, the highest bit of each first; zero bits fill up the last byte."""
    if width == 1:
        return np.packbits(numbers.astype(bool))
    bits = np.unpackbits(numbers.astype(">u4").view(np.uint8)).reshape(-1, 32)
    return np.packbits(bits[:, 32 - width :])


def _unpack_numbers(packed: np.ndarray, count: int, width: int) -> np.ndarray:
    """`count` numbers of `width` bits, int64 (uint8 if `width` is 1), from as many bytes as `_pack_numbers` gives.

    Raises ValueError if one of the bits that fill up the last byte is set.
    """
    spare = 8 * len(packed) - count * width
    if spare and packed[-1] & ((1 << spare) - 1):
        raise ValueError("packed numbers are damaged: a bit behind the last one is set")
    bits = np.unpackbits(packed, count=count * width)
    if width == 1:
        return bits
    words = np.zeros((count, 32), np.uint8)
    words[:, 32 - width :] = bits.reshape(count, width)
    return np.packbits(words).view(">u4").astype(np.int64)


@lru_cache(maxsize=8)
def read_mask(packed: bytes, shapes: tuple[tuple[str, torch.Size], ...]) -> Mask:
    """A whole mask from its bytes; remembered, as the clients of a process mostly share one."""
    return Mask(decode_mask(torch.frombuffer(bytearray(packed), dtype=torch.uint8), dict(shapes)))
