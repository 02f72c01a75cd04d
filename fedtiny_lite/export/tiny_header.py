"""What the file of a tiny model says of itself before its numbers, read without trusting it."""

from collections.abc import Mapping
from typing import Any

from fedtiny_lite.config import MODELS
from fedtiny_lite.federated.checks import whole_number
from fedtiny_lite.model.training import Normalisation

VERSION = 1
LARGEST = 4096
"""The largest width, side of an image, number of its channels and mean that a file may say."""
SMALLEST_STD = 1e-6
"""Of pixels in [0, 1]; one grey level is 1 / 255."""
MOST_WEIGHTS_A_BYTE = 500
"""Weights of the dense model for each byte of its file; ResNet18 of width 256 at density 0.001 has 119."""


def read_header(meta: Mapping[str, Any]) -> dict[str, Any]:
    """`model`, `width`, `classes`, `in_shape`, `pixels` and `folded` of the `TinyModel` that a file holds.

    Raises ValueError for a header that `save_tiny` cannot have written.
    """
    if "tiny_model" not in meta:
        raise ValueError("it is a message of this package, but no tiny model; those are named model.tiny")
    if meta["tiny_model"] != VERSION:
        raise ValueError(f"it has format {meta['tiny_model']}, this package reads {VERSION}")
    match meta:
        case {"model": str(name), "classes": [*classes], "in_shape": [*in_shape], "folded": bool(folded)} if (
            name in (*MODELS, "small")
            and classes
            and all(isinstance(label, str) for label in classes)
            and len(in_shape) == 3
            and all(type(side) is int and 1 <= side <= LARGEST for side in in_shape)
        ):
            mean, std = (_per_channel(meta.get(part), part, in_shape[0]) for part in ("mean", "std"))
            if min(std) < SMALLEST_STD:
                raise ValueError(f"its std is {std}, and pixels in [0, 1] are divided by it")
            return {
                "model": name,
                "width": whole_number(meta, "width", 1, LARGEST),
                "classes": tuple(classes),
                "in_shape": tuple(in_shape),
                "pixels": Normalisation(mean, std),
                "folded": folded,
            }
    raise ValueError("it does not say model, classes, in_shape and folded as a tiny model does")


def _per_channel(values: Any, name: str, channels: int) -> tuple[float, ...]:
    numbers = isinstance(values, list) and len(values) == channels and all(type(v) in (int, float) for v in values)
    if not numbers or not all(-LARGEST < value < LARGEST for value in values):  # NaN is in no range
        raise ValueError(f"its {name} is {str(values)[:100]} in place of a number for each of {channels} channels")
    return tuple(values)


def check_declared(weights: int, file_bytes: int) -> None:
    """Raises ValueError for more weights of a dense model, for which memory will be taken, than a file can describe."""
    if weights > MOST_WEIGHTS_A_BYTE * file_bytes:
        raise ValueError(
            f"it declares a model of {weights:,} weights and has {file_bytes:,} bytes; "
            f"{MOST_WEIGHTS_A_BYTE} weights a byte are allowed"
        )
