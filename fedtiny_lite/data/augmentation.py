"""Random crop, flip and Cutout of a whole batch of tensors, each image by its own draw."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedtiny_lite.settings import check_choice


def augment(images: Tensor, kind: str, generator: torch.Generator, fill: Sequence[float] | None = None) -> Tensor:
    """Random crop, horizontal flip and Cutout of a batch, uint8 [B, C, H, W], each image by its own draw.

    `kind`: "none", "crop_flip" or "crop_flip_cutout". Sizes follow the usual ones for 32x32 images. A crop pads an
    image by an eighth of its side (4 pixels). Cutout (DeVries and Taylor 2017) removes a square of half the side (16
    pixels) around a pixel drawn anywhere; what lies outside the image is cut off. `fill`: colour of the square per
    channel in [0, 1], black by default. With the data set's mean as `fill` the square is 0 after normalisation. Raises
    ValueError for another kind.
    """
    check_choice("augment", kind, ("none", "crop_flip", "crop_flip_cutout"))
    if kind == "none":
        return images
    images = _crop_and_flip(images, generator)
    return images if kind == "crop_flip" else _cutout(images, generator, fill or (0.0,))


def _draw(high: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """One integer in [0, high) per image, int64 [B] on the images' device."""
    draws = torch.randint(high, (len(images),), generator=generator, device=generator.device)
    return draws.to(images.device)


def _crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = images.shape
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view of every crop: [B, C, down, right, H, W]
    down, right = (_draw(2 * pad + 1, images, generator) for pad in (pad_y, pad_x))
    flipped = _draw(2, images, generator) == 1
    crop = crops[torch.arange(batch, device=images.device), :, down, right]
    return torch.where(flipped.view(-1, 1, 1, 1), crop.flip(3), crop)


def _cutout(images: Tensor, generator: torch.Generator, fill: Sequence[float]) -> Tensor:
    inside = []
    for side in images.shape[2:]:
        distance = torch.arange(side, device=images.device) - _draw(side, images, generator).view(-1, 1)
        half = side // 4
        inside.append((distance >= -half) & (distance < half))
    square = (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
    colour = (torch.tensor(fill, device=images.device) * 255).round().to(torch.uint8).view(-1, 1, 1)
    return torch.where(square, colour, images)
