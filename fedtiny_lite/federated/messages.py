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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtiny_lite.model.masks import Mask, check_masked

MAGIC = b"FTL1"
_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "int64", "int32", "uint8", "bool")}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST_DIMENSIONS = 64  # of a numpy array, which `pack` goes through


@dataclass(frozen=True)
class Message:
    """`meta`: plain JSON values. `tensors`: named tensors on the CPU."""

    meta: dict
    tensors: dict[str, Tensor]


def pack(tensors: Mapping[str, Tensor], **meta: Any) -> bytes:
    """Named tensors and plain values as bytes; `unpack` gives them back bit for bit.

    Raises KeyError for a dtype that no message uses, such as float16.
    """
    shapes = [[name, _DTYPE_NAMES[t.dtype], list(t.shape)] for name, t in tensors.items()]
    header = json.dumps({"meta": meta, "tensors": shapes}, separators=(",", ":")).encode()
    body = [t.detach().cpu().contiguous().numpy().tobytes() for t in tensors.values()]
    content = b"".join([MAGIC, struct.pack("<I", len(header)), header, *body])
    return content + struct.pack("<I", zlib.crc32(content))


def unpack(data: bytes) -> Message:
    """The message that `pack` made.

    Raises ValueError for any other bytes: cut short or altered (their checksum differs), made by another program, or
    with a header that is not of the form that `pack` writes. No memory is taken for lengths that the header only
    claims: the tensors must fill the bytes exactly.
    """
    if len(data) < 12 or data[:4] != MAGIC or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise ValueError("these bytes are not a whole message: cut short, altered, or of another program")
    start, end = 8 + struct.unpack("<I", data[4:8])[0], len(data) - 4
    if start > end:
        raise ValueError(f"the header of a message claims {start - 8} bytes, there are {end - 8}")
    meta, listed = _read_header(data[8:start])
    tensors = {}
    for name, kind, shape in listed:
        stop = start + math.prod(shape) * kind.itemsize
        if stop > end:
            raise ValueError(f"tensor {name!r} of a message claims {stop - start} bytes, {end - start} are left")
        tensors[name] = _read_tensor(data[start:stop], kind, shape)
        start = stop
    if start != end:
        raise ValueError(f"{end - start} bytes of a message belong to no tensor")
    return Message(meta, tensors)


def _read_header(text: bytes) -> tuple[dict, list[tuple[str, torch.dtype, list[int]]]]:
    """The plain values, and (name, dtype, shape) of each tensor. Raises ValueError for another form."""
    try:
        header = json.loads(text)
    except RecursionError:
        raise ValueError("the header of a message is nested too deeply") from None
    match header:
        case {"meta": dict(meta), "tensors": list(entries), **rest} if not rest:
            listed = [_read_entry(entry) for entry in entries]
        case _:
            raise ValueError("the header of a message is not an object of meta and tensors")
    if len({name for name, _, _ in listed}) < len(listed):
        raise ValueError("the header of a message names a tensor twice")
    return meta, listed


def _read_entry(entry: object) -> tuple[str, torch.dtype, list[int]]:
    match entry:
        case [str(name), str(dtype), list(shape)] if dtype in _DTYPES and len(shape) <= _MOST_DIMENSIONS:
            # A side of 0 makes a tensor empty, but torch still multiplies the other sides for its strides.
            whole = all(type(side) is int and side >= 0 for side in shape)
            if whole and math.prod(max(side, 1) for side in shape) < 2**60:
                return name, _DTYPES[dtype], shape
    raise ValueError(f"no tensor of a message is described as {str(entry)[:100]}")


def _read_tensor(raw: bytes, kind: torch.dtype, shape: list[int]) -> Tensor:
    if not raw:
        return torch.empty(shape, dtype=kind)
    if kind == torch.bool and np.frombuffer(raw, np.uint8).max() > 1:
        raise ValueError("a bool tensor of a message holds a byte that is neither 0 nor 1")
    return torch.frombuffer(bytearray(raw), dtype=kind).view(shape)


# --- weights ----------------------------------------------------------------------------------------------


def encode_state(state: Mapping[str, Tensor], mask: Mask) -> Tensor:
    """A model's state as one float32 vector: kept weights of masked layers, everything else whole.

    Raises ValueError if a weight outside the mask is not zero.
    """
    check_masked(state, mask)
    return torch.cat([t.masked_select(mask[name]) if name in mask else t.flatten() for name, t in state.items()])


def state_lengths(mask: Mask, shapes: Mapping[str, torch.Size]) -> list[int]:
    """How many numbers each tensor of a model's state sends under `mask`, in the order of `shapes`."""
    return [mask.kept.get(name, shape.numel()) for name, shape in shapes.items()]


def decode_state(vector: Tensor, mask: Mask, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The state that `encode_state` made a vector of. `shapes`: names and shapes of the model's state, in order."""
    state = {}
    for (name, shape), values in zip(shapes.items(), vector.split(state_lengths(mask, shapes)), strict=True):
        if name in mask:
            state[name] = torch.zeros(shape).masked_scatter_(mask[name], values)
        else:
            state[name] = values.view(shape)
    return state
