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

from fedtiny_lite.costs import index_bits
from fedtiny_lite.masks import Mask, check_masked
from fedtiny_lite.progressive import GrowthList

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

_BITMAP, _INDICES, _ALL = 0, 1, 2


def encode_mask(layers: Mapping[str, Tensor], order: list[str]) -> Tensor:
    """Some layers' masks as bytes, uint8 [bytes]: for each its number in `order`, then the smallest of
    bitmap, indices, and nothing where all is kept.
    """
    parts = []
    for name, keep in layers.items():
        flat = keep.flatten().numpy()
        kept, width = int(flat.sum()), index_bits(flat.size)
        if kept == flat.size:
            kind, body = _ALL, np.empty(0, np.uint8)
        elif kept * width < flat.size:
            kind, body = _INDICES, _pack_numbers(flat.nonzero()[0], width)
        else:
            kind, body = _BITMAP, np.packbits(flat)
        parts += [np.frombuffer(struct.pack("<HBI", order.index(name), kind, kept), np.uint8), body]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.uint8)


def decode_mask(data: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The layers that `encode_mask` packed. `shapes`: shape of each prunable layer, in the same order."""
    raw, at, layers, names = data.numpy(), 0, {}, list(shapes)
    while at < len(raw):
        number, kind, kept = struct.unpack("<HBI", raw[at : at + 7].tobytes())
        shape, at = shapes[names[number]], at + 7
        size = shape.numel()
        bits = {_ALL: 0, _INDICES: kept * index_bits(size), _BITMAP: size}[kind]
        body, at = raw[at : at - (-bits // 8)], at - (-bits // 8)
        flat = np.ones(size, bool)
        if kind == _INDICES:
            flat[:] = False
            flat[_unpack_numbers(body, index_bits(size), kept)] = True
        elif kind == _BITMAP:
            flat[:] = np.unpackbits(body, count=size)
        layers[names[number]] = torch.from_numpy(flat).view(shape)
    return layers


def encode_growth_list(entries: GrowthList, size: int) -> dict[str, Tensor]:
    """A layer's list as packed indices (uint8) and float32 values; `size`: weights of the layer."""
    index, value = entries
    return {"index": torch.from_numpy(_pack_numbers(index.numpy(), index_bits(size))), "value": value.float()}


def decode_growth_list(packed: Mapping[str, Tensor], size: int) -> GrowthList:
    """The list that `encode_growth_list` packed."""
    index = _unpack_numbers(packed["index"].numpy(), index_bits(size), len(packed["value"]))
    return torch.from_numpy(index), packed["value"]


def _pack_numbers(numbers: np.ndarray, width: int) -> np.ndarray:
    bits = (numbers.astype(np.int64)[:, None] >> np.arange(width - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8))


def _unpack_numbers(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    bits = np.unpackbits(packed, count=count * width).reshape(count, width).astype(np.int64)
    return bits @ (1 << np.arange(width - 1, -1, -1))


@lru_cache(maxsize=8)
def read_mask(packed: bytes, shapes: tuple[tuple[str, torch.Size], ...]) -> Mask:
    """A whole mask from its bytes; remembered, as the clients of a process mostly share one."""
    return Mask(decode_mask(torch.frombuffer(bytearray(packed), dtype=torch.uint8), dict(shapes)))
