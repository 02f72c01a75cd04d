"""Image files that somebody else made: found, and read as 8-bit RGB."""

import hashlib
import math
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtiny_lite.records.environment import check_memory

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
MOST_PIXELS = 4096 * 4096
"""Pixels of the largest image that is read; a file of a few bytes may announce any number."""
BACKGROUND = (255, 255, 255, 255)
"""What lies behind an image that is transparent: white."""
_FEWER = "keep fewer or smaller images in the folder"


def list_images(folder: Path, part: str) -> dict[str, list[Path]]:
    """Class name -> sorted image files."""
    if not (folder / part).is_dir():
        raise FileNotFoundError(
            f"{folder / part} does not exist: an image folder needs train/<class>/* and test/<class>/*"
        )
    found = {
        of_class.name: sorted(path for path in of_class.iterdir() if path.suffix.lower() in SUFFIXES)
        for of_class in sorted((folder / part).iterdir())
        if of_class.is_dir()
    }
    empty = [name for name, paths in found.items() if not paths]
    if empty or not found:
        raise FileNotFoundError(
            f"{folder / part} holds no images in {empty or 'any sub-folder'}; "
            f"file types read: {', '.join(sorted(SUFFIXES))}"
        )
    return found


def read_image(path: Path) -> np.ndarray:
    """An image as uint8 [3, H, W], upright and on a white background.

    16-bit grey levels are scaled to 8 bits, a rotation that a camera noted (EXIF) is applied, what is transparent is
    composited on BACKGROUND. Raises RuntimeError, naming the file, for what is no readable image of up to MOST_PIXELS.
    """
    from PIL import Image

    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("it is not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _decode(image)
    except Exception as error:  # Pillow raises many kinds for files that are damaged or hostile
        raise RuntimeError(f"{path} is not a readable image: replace or delete it ({error})") from error


def _decode(image: "Image") -> np.ndarray:
    from PIL import ImageOps

    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels, and at most {MOST_PIXELS:,} are read; make it smaller")
    upright = _on_background(_eight_bits(ImageOps.exif_transpose(image)))
    return np.asarray(upright.convert("RGB")).transpose(2, 0, 1)


def _eight_bits(image: "Image") -> "Image":
    """Grey levels 0 ... 65535 as 0 ... 255; Pillow itself would make every level above 255 white."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are fractions; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"its pixels reach from {levels.min()} to {levels.max()}; save it with 8 or 16 bits")
    return Image.fromarray(np.round(levels / 257).astype(np.uint8))


def _on_background(image: "Image") -> "Image":
    from PIL import Image

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    canvas = Image.new("RGBA", image.size, BACKGROUND)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas


def read_images(paths: list[Path], shape: tuple[int, ...]) -> np.ndarray:
    """Images of this `shape`, [3, H, W], as one array, uint8 [N, 3, H, W].

    Raises ValueError, naming the file, for an image of another shape, and for more than fits in memory; RuntimeError as
    `read_image` does.
    """
    check_memory({f"{len(paths):,} images of {shape[2]}x{shape[1]} pixels": len(paths) * math.prod(shape)}, _FEWER)
    images = np.empty((len(paths), *shape), np.uint8)
    for index, path in enumerate(paths):
        image = read_image(path)
        if image.shape != shape:
            raise ValueError(
                f"{path} is {image.shape[2]}x{image.shape[1]} pixels, the first training image "
                f"{shape[2]}x{shape[1]}: all images of a folder must have one size"
            )
        images[index] = image
    return images


def listing_digest(folder: Path, paths: list[Path]) -> str:
    """16 hex digits of `folder` and of the names, sizes and times of change of files below it, which are not read."""
    digest = hashlib.sha256(os.fsencode(folder.resolve()))
    for path in paths:
        status = path.stat()
        digest.update(os.fsencode(path.relative_to(folder)) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
