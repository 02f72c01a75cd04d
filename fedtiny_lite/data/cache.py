"""Decoded images in a file of their own, so that they are decoded once; deleting it loses nothing."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedtiny_lite.records.files import aside

Arrays = dict[str, np.ndarray]
"""`train_images` and `test_images`, uint8 [N, C, H, W]; `train_labels` and `test_labels`, int64 [N]; `classes`, str
[number of classes]."""
_KEYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")


def cached(path: Path, origin: Callable[[], str | None], read: Callable[[], Arrays]) -> Arrays:
    """The arrays in the file `path`; if they are not there or not those of `origin`, `read` makes them anew.

    `origin()`: names, sizes and times of the files that they are decoded from, as a digest; None if these are gone, so
    that there is nothing to compare with. What was decoded is kept in the file, with the origin and its own digest.
    """
    # Whatever is wrong with a cache (torn, foreign, absent), the files it was made from are the remedy.
    with contextlib.suppress(Exception), path.open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        arrays = {key: stored[key] for key in _KEYS}
        if origin() in (None, str(stored["origin"])) and str(stored["digest"]) == digest(arrays):
            return arrays
    arrays = read()
    about = {"origin": np.array(origin() or ""), "digest": np.array(digest(arrays))}
    try:
        with aside(path) as beside, beside.open("wb") as file:
            np.savez(file, **arrays, **about)  # type: ignore[arg-type]  # an array may not be called allow_pickle
    except OSError as error:
        warnings.warn(f"decoded images are not cached: {error}", stacklevel=2)
    return arrays


def digest(arrays: Arrays) -> str:
    """SHA-256 over all pixels and labels, in hexadecimal."""
    found = hashlib.sha256()
    for key in _KEYS[:-1]:
        found.update(np.ascontiguousarray(arrays[key]).data)
    return found.hexdigest()
