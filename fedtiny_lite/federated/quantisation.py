"""Affine 8-bit quantisation: a tensor as one byte a value, with a scale and a zero point of its own.

As in FL-PQSU (Xu et al., IEEE Access 2021; code fangvv/FL-PQSU, `Quantification.py`), scale = (max - min) / 255. The
zero point there is a whole code clamped to 0 ... 255, which cuts off tensors on one side of 0, such as running
variances; here it is the number that code 0 stands for.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

LARGEST_CODE = 255


def quantise(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8, of the shape of `values`), scale and zero point (float32 scalars).

    No value is off by more than scale / 2, rounding of float32 aside, and a tensor of equal values comes back exactly.
    The scale or zero point of a tensor with a NaN or infinity is not finite.
    """
    if not values.numel():
        return values.to(torch.uint8), torch.tensor(0.0), torch.tensor(0.0)
    exact = values.double()
    low, high = exact.aminmax()
    scale = ((high - low) / LARGEST_CODE).float()
    codes = ((exact - low) / scale.double()).nan_to_num(0, LARGEST_CODE, 0)  # a scale of 0, or not finite
    return codes.round().clamp(0, LARGEST_CODE).to(torch.uint8), scale, low.float()


def dequantise(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The float32 values zero + scale * codes."""
    return (zero.double() + scale.double() * codes).float()


def quantise_parts(vector: Tensor, lengths: Sequence[int]) -> dict[str, Tensor]:
    """The consecutive parts of a vector, each quantised on its own: `codes` [n], `scales` and `zeros` [parts]."""
    codes, scales, zeros = zip(*map(quantise, vector.split(list(lengths))), strict=True)
    return {"codes": torch.cat(codes), "scales": torch.stack(scales), "zeros": torch.stack(zeros)}


def dequantise_parts(packed: Mapping[str, Tensor], lengths: Sequence[int]) -> Tensor:
    """The vector that `quantise_parts` made codes of, float32 [n]."""
    parts = zip(packed["codes"].split(list(lengths)), packed["scales"], packed["zeros"], strict=True)
    return torch.cat([dequantise(*part) for part in parts])
