"""BN statistics, pools of candidates and growth lists of a whole model, each as tensors for a message, and back."""

import struct
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedtiny_lite.federated.formats import (
    decode_growth_list,
    decode_mask,
    encode_growth_list,
    encode_mask,
    growth_index_bytes,
)
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.pruning.bn_selection import BnStats
from fedtiny_lite.pruning.progressive import GrowthList

Shapes = Mapping[str, torch.Size]
GROWTH_PARTS = GROWTH_INDEX, GROWTH_VALUE = "growth_index", "growth_value"


def encode_stats(stats: Sequence[BnStats], shapes: Shapes) -> Tensor:
    """Running means and variances of several models, float32 [models, statistics of one], in the order of `shapes`."""
    return torch.stack([torch.cat([of_one[name] for name in shapes]) for of_one in stats])


def decode_stats(rows: Tensor, shapes: Shapes) -> list[BnStats]:
    """The statistics that `encode_stats` made rows of."""
    lengths = [shape.numel() for shape in shapes.values()]
    return [dict(zip(shapes, row.split(lengths), strict=True)) for row in rows]


def encode_pool(pool: Sequence[Mask], union: Mask) -> Tensor:
    """Masks, each as a choice among what `union` keeps, uint8 [bytes]: for each its length and its encoded mask."""
    parts = []
    for mask in pool:
        encoded = encode_mask({name: mask[name][keep] for name, keep in union.items()}, list(union))
        parts += [torch.frombuffer(bytearray(struct.pack("<I", len(encoded))), dtype=torch.uint8), encoded]
    return torch.cat(parts)


def decode_pool(data: Tensor, union: Mask) -> list[Mask]:
    """The masks that `encode_pool` packed. Raises ValueError for bytes of another form."""
    shapes = {name: torch.Size([kept]) for name, kept in union.kept.items()}
    pool, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4].numpy().tobytes(), "little")
        within = decode_mask(data[at + 4 : at + 4 + length], shapes)
        pool.append(Mask({name: keep.clone().masked_scatter_(keep, within[name]) for name, keep in union.items()}))
        at += 4 + length
    return pool


def encode_growth_lists(lists: Mapping[str, GrowthList], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Layers' lists one after the other, as packed indices (uint8) and float32 values; nothing for no list.

    `sizes`: weights of each layer. A layer's indices start at a whole byte.
    """
    packed = [encode_growth_list(entries, sizes[name]) for name, entries in lists.items()]
    if not packed:
        return {}
    return {
        GROWTH_INDEX: torch.cat([layer["index"] for layer in packed]),
        GROWTH_VALUE: torch.cat([layer["value"] for layer in packed]),
    }


def decode_growth_lists(
    tensors: Mapping[str, Tensor], counts: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, GrowthList]:
    """The lists that `encode_growth_lists` packed, of `counts[name]` entries each. Raises ValueError for others."""
    if not counts:
        return {}
    widths = [growth_index_bytes(count, sizes[name]) for name, count in counts.items()]
    index, value = (tensors[part] for part in GROWTH_PARTS)
    if len(index) != sum(widths) or len(value) != sum(counts.values()):
        raise ValueError(f"growth lists of {len(index)} bytes and {len(value)} values do not hold {dict(counts)}")
    parts = zip(counts, index.split(widths), value.split(list(counts.values())), strict=True)
    return {name: decode_growth_list({"index": i, "value": v}, sizes[name]) for name, i, v in parts}
