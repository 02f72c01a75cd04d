"""The first exchange: clients say how many images they hold, the sums of their pixels and of the pixels' squares.

From these the server knows the mean and the spread of all clients' pixels, which both sides normalise images by,
without seeing an image. All numbers are whole, so the result does not depend on the order of clients.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.checks import inspect, numbers, reason, whole_number
from fedtiny_lite.federated.ledger import too_few
from fedtiny_lite.federated.messages import Message, pack, unpack
from fedtiny_lite.federated.protocol import Lost
from fedtiny_lite.model.training import Normalisation

WHITE = 255
QUESTION = pack({})


def sums_of_pixels(images: Tensor) -> dict[str, Tensor]:
    """Per channel of uint8 [N, C, H, W] the sum of all pixels and of their squares, int64 [C] each."""
    values = torch.arange(WHITE + 1)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=WHITE + 1) for channel in images.cpu().unbind(1)])
    return {"sums": counts @ values, "squares": counts @ values**2}


def answer_survey(split: Split) -> bytes:
    """A client's reply: its sums of pixels and its number of images."""
    return pack(sums_of_pixels(split.images), samples=len(split))


def read_survey(
    answers: Mapping[int, bytes | Lost], in_shape: tuple[int, int, int], least: float
) -> tuple[Normalisation, dict[int, int], dict[int, str]]:
    """How pixels are normalised; the number of images of each client; the reason for each reply that was rejected.

    Raises ValueError, with the reasons, if fewer than `least` replies passed.
    """
    accepted: list[Message] = []
    samples: dict[int, int] = {}
    rejections: dict[int, str] = {}
    lost = {k: found.why for k, found in sorted(answers.items()) if isinstance(found, Lost)}
    for k, reply in sorted((k, found) for k, found in answers.items() if not isinstance(found, Lost)):
        try:
            accepted.append(_checked(unpack(reply), in_shape))
            samples[k] = accepted[-1].meta["samples"]
        except ValueError as error:
            rejections[k] = reason(error)
    if len(accepted) < least:
        raise ValueError(
            f"{len(accepted)} clients said how their pixels are spread, and {math.ceil(least)} are needed: "
            f"{too_few(rejections, lost, len(answers))}; start more clients, or lower clients or min_replies"
        )
    return normalisation([m.tensors for m in accepted], sum(samples.values()), in_shape), samples, rejections


def normalisation(parts: Sequence[Mapping[str, Tensor]], images: int, in_shape: tuple[int, int, int]) -> Normalisation:
    """Mean and standard deviation per channel of all images together, in units of [0, 1] pixels.

    A channel of one value has no spread: one grey level keeps the division by it finite.
    """
    pixels = images * in_shape[1] * in_shape[2]
    sums, squares = (_total([part[name] for part in parts]) for name in ("sums", "squares"))
    spreads = (math.sqrt(square * pixels - total**2) / pixels for total, square in zip(sums, squares, strict=True))
    return Normalisation(
        tuple(total / pixels / WHITE for total in sums), tuple(max(spread, 1) / WHITE for spread in spreads)
    )


def _total(parts: Sequence[Tensor]) -> list[int]:
    """The sum of int64 [C] tensors in Python's whole numbers, which do not wrap around."""
    return [sum(channel) for channel in zip(*(part.tolist() for part in parts), strict=True)]


def _checked(reply: Message, in_shape: tuple[int, int, int]) -> Message:
    """The reply, if it can be that of any images: no sum above that of white ones, and variances not negative."""
    whole = numbers(in_shape[0], dtype=torch.int64, low=0)
    inspect(reply, {"sums": whole, "squares": whole})
    pixels = whole_number(reply.meta, "samples", low=1) * in_shape[1] * in_shape[2]
    for total, square in zip(reply.tensors["sums"].tolist(), reply.tensors["squares"].tolist(), strict=True):
        if not (total <= square <= total * WHITE and total <= WHITE * pixels and total**2 <= square * pixels):
            raise ValueError(f"a sum of {total} and a sum of squares of {square} are not those of {pixels} pixels")
    return reply
