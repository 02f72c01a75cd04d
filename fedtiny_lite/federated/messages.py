"""What crosses between server and client: tensors and a few plain values, packed into bytes and back.

A message is `magic, header length, JSON header, tensors, CRC-32`. Nothing in it is code, so reading one never
executes anything. A model's weights travel as one vector of the *kept* values: both sides know the mask, so
no index is sent with them. Checkpoints use the same format.
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedtiny_lite.model.costs import index_bits
from fedtiny_lite.model.masks import Mask, check_masked
from fedtiny_lite.pruning.progressive import GrowthList

MAGIC = b"FTL1"
_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "int64", "int32", "uint8", "bool")}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Message:
    """`meta`: plain JSON values. `tensors`: named tensors on the CPU."""

    meta: dict
    tensors: dict[str, Tensor]


def pack(tensors: Mapping[str, Tensor], **meta) -> bytes:
    """Named tensors and plain values as bytes; `unpack` gives them back bit for bit.

    Raises KeyError for a dtype that no message uses, such as float16.
    """
    shapes = [[name, _DTYPE_NAMES[t.dtype], list(t.shape)] for name, t in tensors.items()]
    header = json.dumps({"meta": meta, "tensors": shapes}, separators=(",", ":")).encode()
    body = [t.detach().cpu().contiguous().numpy().tobytes() for t in tensors.values()]
    content = b"".join([MAGIC, struct.pack("<I", len(header)), header, *body])
    return content + struct.pack("<I", zlib.crc32(content))


def unpack(data: bytes) -> Message:
    """The message that `pack` made. Raises ValueError for bytes that are torn, altered or something else."""
    if len(data) < 12 or data[:4] != MAGIC or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise ValueError("these bytes are not a whole message: cut short, altered, or of another program")
    start = 8 + struct.unpack("<I", data[4:8])[0]
    header = json.loads(data[8:start])
    tensors = {}
    for name, dtype, shape in header["tensors"]:
        count, kind = math.prod(shape), _DTYPES[dtype]
        if count:
            tensors[name] = torch.frombuffer(bytearray(data[start : start + count * kind.itemsize]), dtype=kind).view(
                shape
            )
        else:
            tensors[name] = torch.empty(shape, dtype=kind)
        start += count * kind.itemsize
    return Message(header["meta"], tensors)


# --- weights ----------------------------------------------------------------------------------------------


def encode_state(state: Mapping[str, Tensor], mask: Mask) -> Tensor:
    """A model's state as one float32 vector: kept weights of masked layers, everything else whole.

    Raises ValueError if a weight outside the mask is not zero.
    """
    check_masked(state, mask)
    return torch.cat([t.masked_select(mask[name]) if name in mask else t.flatten() for name, t in state.items()])


def decode_state(vector: Tensor, mask: Mask, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The state that `encode_state` made a vector of. `shapes`: names and shapes of the model's state, in order."""
    lengths = [mask.kept.get(name, shape.numel()) for name, shape in shapes.items()]
    state = {}
    for (name, shape), values in zip(shapes.items(), vector.split(lengths), strict=True):
        if name in mask:
            state[name] = torch.zeros(shape).masked_scatter_(mask[name], values)
        else:
            state[name] = values.view(shape)
    return state


# --- masks and lists: indices take ceil(log2 n) bits ------------------------------------------------------

_BITMAP, _INDICES, _ALL, _ROWS = range(4)


def encode_mask(layers: Mapping[str, Tensor], order: list[str]) -> Tensor:
    """Some layers' masks as bytes, uint8 [bytes]: for each its number in `order`, what it keeps in all, then the
    smallest of bitmap, indices (COO), and a count per row with a column per kept weight (CSR); nothing where all is
    kept. Rows are the first dimension.
    """
    parts = []
    for name, keep in layers.items():
        matrix = keep.unsqueeze(-1).flatten(1).numpy()
        kept = int(np.count_nonzero(matrix))
        kinds = _mask_kinds(*matrix.shape, kept)
        kind = min(kinds, key=lambda kind: sum(_packed_bytes(*run) for run in kinds[kind]))
        widths = [width for _, width in kinds[kind]]
        packed = map(_pack_numbers, _mask_numbers(kind, matrix), widths)
        parts += [np.frombuffer(struct.pack("<HBI", order.index(name), kind, kept), np.uint8), *packed]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.uint8)


def decode_mask(data: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The layers that `encode_mask` packed. `shapes`: shape of each prunable layer, in the same order."""
    raw, at, layers, names = data.numpy(), 0, {}, list(shapes)
    while at < len(raw):
        number, kind, kept = struct.unpack("<HBI", raw[at : at + 7].tobytes())
        shape, at, runs = shapes[names[number]], at + 7, []
        rows, cols = shape[0], shape.numel() // max(shape[0], 1)
        for count, width in _mask_kinds(rows, cols, kept)[kind]:
            end = at + _packed_bytes(count, width)
            runs.append(_unpack_numbers(raw[at:end], width, count))
            at = end
        layers[names[number]] = torch.from_numpy(_mask_of(kind, runs, rows, cols)).view(shape)
    return layers


def _mask_kinds(rows: int, cols: int, kept: int) -> dict[int, list[tuple[int, int]]]:
    """The ways to write a mask, each as runs of (how many numbers, bits of each), as `costs.tensor_bytes` counts them.

    But for CSR's counts, which are 0 ... min(kept, cols) here and take ceil(log2 kept) bits there.
    """
    if kept == rows * cols:
        return {_ALL: []}
    return {
        _BITMAP: [(rows * cols, 1)],
        _INDICES: [(kept, index_bits(rows * cols))],
        _ROWS: [(rows, index_bits(min(kept, cols) + 1)), (kept, index_bits(cols))],
    }


def _mask_numbers(kind: int, matrix: np.ndarray) -> list[np.ndarray]:
    """The runs of numbers that write a mask, bool [rows, cols]."""
    if kind in (_ALL, _BITMAP):
        return [matrix.ravel()] if kind == _BITMAP else []
    indices = matrix.ravel().nonzero()[0]
    if kind == _INDICES:
        return [indices]
    row, column = np.divmod(indices, matrix.shape[1])
    return [np.bincount(row, minlength=len(matrix)), column]


def _mask_of(kind: int, runs: list[np.ndarray], rows: int, cols: int) -> np.ndarray:
    """The mask, bool [rows * cols], that `_mask_numbers` gave these runs for."""
    if kind == _BITMAP:
        return runs[0].astype(bool)
    flat = np.full(rows * cols, kind == _ALL)
    if kind == _INDICES:
        flat[runs[0]] = True
    elif kind == _ROWS:
        flat[np.arange(rows).repeat(runs[0]) * cols + runs[1]] = True
    return flat


def encode_growth_list(entries: GrowthList, size: int) -> dict[str, Tensor]:
    """A layer's list as packed indices (uint8) and float32 values; `size`: weights of the layer."""
    index, value = entries
    return {"index": torch.from_numpy(_pack_numbers(index.numpy(), index_bits(size))), "value": value.float()}


def decode_growth_list(packed: Mapping[str, Tensor], size: int) -> GrowthList:
    """The list that `encode_growth_list` packed."""
    index = _unpack_numbers(packed["index"].numpy(), index_bits(size), len(packed["value"]))
    return torch.from_numpy(index), packed["value"]


def growth_index_bytes(entries: int, size: int) -> int:
    """Bytes of the packed indices of a list of `entries` in a layer of `size` weights."""
    return _packed_bytes(entries, index_bits(size))


def _packed_bytes(count: int, width: int) -> int:
    return -(-count * width // 8)


def _pack_numbers(numbers: np.ndarray, width: int) -> np.ndarray:
    if width == 1:
        return np.packbits(numbers.astype(bool))
    bits = np.unpackbits(numbers.astype(">u4").view(np.uint8)).reshape(-1, 32)
    return np.packbits(bits[:, 32 - width :])


def _unpack_numbers(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    bits = np.unpackbits(packed, count=count * width).astype(np.int64)
    if width == 1:
        return bits
    return bits.reshape(count, width) @ (1 << np.arange(width - 1, -1, -1))


@lru_cache(maxsize=8)
def read_mask(packed: bytes, shapes: tuple[tuple[str, torch.Size], ...]) -> Mask:
    """A whole mask from its bytes; remembered, as the clients of a process mostly share one."""
    return Mask(decode_mask(torch.frombuffer(bytearray(packed), dtype=torch.uint8), dict(shapes)))
