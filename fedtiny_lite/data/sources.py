"""From files to arrays: downloads with checksums, image folders, and the cache of decoded images.

Every reader returns the same dictionary: `train_images` and `test_images`, uint8 [N, C, H, W]; `train_labels` and
`test_labels`, int64 [N]; `classes`, str [number of classes]. Addresses, file names, checksums and layout on disk are
those of torchvision, so that copies downloaded by torchvision are found.
"""

import contextlib
import gzip
import hashlib
import os
import socket
import tarfile
import warnings
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

Arrays = dict[str, np.ndarray]

_KEYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
_CONNECT_SECONDS = 30


def read_archive(name: str, data_dir: Path) -> Arrays:
    """The named torchvision data set; files that are missing in `data_dir` are downloaded to it.

    Raises FileNotFoundError for a file that is missing and cannot be downloaded, and RuntimeError for a file whose
    bytes differ from the published checksum. Both messages name the file and say what to do.
    """
    return _cached(data_dir / ".cache" / f"{name}.npz", lambda: ARCHIVES[name](data_dir))


def read_folder(folder: Path, data_dir: Path) -> Arrays:
    """Images of `folder`/train/<class>/* and `folder`/test/<class>/*, as RGB, all of one size.

    Classes are the sub-folders of train in alphabetical order. The name of the cache depends on the files' names, sizes
    and times, so that a changed folder is read anew. Raises FileNotFoundError for a missing part, ValueError for test
    classes or image sizes that do not fit, and RuntimeError for a file that is no readable image.
    """
    files = {part: _list_images(folder, part) for part in ("train", "test")}
    classes = tuple(files["train"])
    if tuple(files["test"]) != classes:
        raise ValueError(
            f"{folder}: train and test must have the same classes; only one of them has "
            f"{sorted(set(classes) ^ set(files['test']))}"
        )
    paths = {part: [path for of_class in files[part].values() for path in of_class] for part in files}
    labels = {part: [len(of_class) for of_class in files[part].values()] for part in files}
    shape = _read_image(paths["train"][0]).shape

    def decode() -> Arrays:
        arrays = {"classes": np.array(classes)}
        for part in paths:
            arrays[f"{part}_images"] = _read_images(paths[part], shape)
            arrays[f"{part}_labels"] = np.repeat(np.arange(len(classes)), labels[part])
        return arrays

    key = _listing_digest(folder, paths["train"] + paths["test"])
    return _cached(data_dir / ".cache" / f"folder-{folder.name}-{key}.npz", decode)


# --- downloads -------------------------------------------------------------------------------------------


def _datasets() -> ModuleType:
    """torchvision.datasets; imported late because digits and folders do not need it."""
    from fedtiny_lite.data.vision import torchvision

    return torchvision.datasets


def _read_cifar(class_name: str, data_dir: Path) -> Arrays:
    source = getattr(_datasets(), class_name)
    folder = data_dir / source.base_folder
    archive = data_dir / source.filename
    members = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    if not all(_datasets().utils.check_integrity(folder / name, md5) for name, md5 in members):
        if not archive.exists():
            for name, md5 in members:
                _is_whole(folder / name, md5)
        with tarfile.open(_fetch(source.url, archive, source.tgz_md5)) as tar:
            tar.extractall(data_dir, filter="data")
    return _arrays(*(source(data_dir, train=train) for train in (True, False)))


def _read_svhn(data_dir: Path) -> Arrays:
    source = _datasets().SVHN
    for part in ("train", "test"):
        url, name, md5 = source.split_list[part]
        _fetch(url, data_dir / name, md5)
    parts = [source(data_dir, split=part) for part in ("train", "test")]
    return {
        "train_images": np.ascontiguousarray(parts[0].data),
        "train_labels": parts[0].labels,
        "test_images": np.ascontiguousarray(parts[1].data),
        "test_labels": parts[1].labels,
        "classes": np.array([str(digit) for digit in range(10)]),
    }


def _read_fashion_mnist(data_dir: Path) -> Arrays:
    """Read from the compressed files, which are the ones that have published checksums."""
    source = _datasets().FashionMNIST
    raw = data_dir / "FashionMNIST" / "raw"
    content = [
        gzip.decompress(_fetch(source.mirrors[0] + name, raw / name, md5).read_bytes())
        for name, md5 in source.resources
    ]
    arrays = {"classes": np.array(source.classes)}
    # An IDX file is a header of 4 bytes and 4 more per dimension, then the bytes themselves.
    for part, images, labels in (("train", content[0], content[1]), ("test", content[2], content[3])):
        arrays[f"{part}_images"] = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28).copy()
        arrays[f"{part}_labels"] = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    return arrays


class _Cifar(Protocol):
    """A CIFAR data set of torchvision; `data`: images [N, H, W, C]; `targets`: their labels."""

    classes: list[str]
    data: np.ndarray
    targets: list[int]


def _arrays(train: _Cifar, test: _Cifar) -> Arrays:
    arrays = {"classes": np.array(train.classes)}
    for part, source in (("train", train), ("test", test)):
        arrays[f"{part}_images"] = np.ascontiguousarray(source.data.transpose(0, 3, 1, 2))
        arrays[f"{part}_labels"] = np.array(source.targets, np.int64)
    return arrays


ARCHIVES: dict[str, Callable[[Path], Arrays]] = {
    "cifar10": lambda data_dir: _read_cifar("CIFAR10", data_dir),
    "cifar100": lambda data_dir: _read_cifar("CIFAR100", data_dir),
    "svhn": _read_svhn,
    "fashion_mnist": _read_fashion_mnist,
}


def _fetch(url: str, path: Path, md5: str) -> Path:
    """`path`, checked against `md5`; downloaded beside and renamed if missing, so never half there."""
    if _is_whole(path, md5):
        return path
    part = path.with_name(path.name + ".part")
    try:
        with _connect_timeout(_CONNECT_SECONDS):
            _datasets().utils.download_url(url, path.parent, part.name, md5)
        os.replace(part, path)
    except (OSError, HTTPException, RuntimeError) as error:
        raise FileNotFoundError(
            f"{path.name} is not in {path.parent} and could not be downloaded from {url} ({error}): "
            "connect to the internet and run again, or put the file there; dataset=digits needs no download"
        ) from error
    return path


def _is_whole(path: Path, md5: str) -> bool:
    """Whether `path` exists; RuntimeError if it does and its bytes are not those published."""
    if path.exists() and not _datasets().utils.check_integrity(path, md5):
        raise RuntimeError(f"{path} is corrupt (its MD5 is not {md5}): delete it and run again")
    return path.exists()


@contextlib.contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """A silent network must fail, not hang; torchvision's download has no setting for that."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# --- image folders ---------------------------------------------------------------------------------------


def _list_images(folder: Path, part: str) -> dict[str, list[Path]]:
    """Class name -> sorted image files."""
    if not (folder / part).is_dir():
        raise FileNotFoundError(
            f"{folder / part} does not exist: an image folder needs train/<class>/* and test/<class>/*"
        )
    found = {
        of_class.name: sorted(path for path in of_class.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)
        for of_class in sorted((folder / part).iterdir())
        if of_class.is_dir()
    }
    empty = [name for name, paths in found.items() if not paths]
    if empty or not found:
        raise FileNotFoundError(
            f"{folder / part} holds no images in {empty or 'any sub-folder'}; "
            f"file types read: {', '.join(sorted(_IMAGE_SUFFIXES))}"
        )
    return found


def _read_image(path: Path) -> np.ndarray:
    """uint8 [3, H, W]."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except (OSError, SyntaxError) as error:
        raise RuntimeError(f"{path} is not a readable image: replace or delete it ({error})") from error


def _read_images(paths: list[Path], shape: tuple[int, ...]) -> np.ndarray:
    images = np.empty((len(paths), *shape), np.uint8)
    for index, path in enumerate(paths):
        image = _read_image(path)
        if image.shape != shape:
            raise ValueError(
                f"{path} is {image.shape[2]}x{image.shape[1]} pixels, the first training image "
                f"{shape[2]}x{shape[1]}: all images of a folder must have one size"
            )
        images[index] = image
    return images


def _listing_digest(folder: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


# --- cache -----------------------------------------------------------------------------------------------


def _cached(path: Path, read: Callable[[], Arrays]) -> Arrays:
    """The arrays in the file `path`. If the file is absent or torn, `read` makes them and they are written there."""
    # Whatever is wrong with a cache (torn, foreign, absent), the files it was made from are the remedy.
    with contextlib.suppress(Exception), path.open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        return {key: stored[key] for key in _KEYS}
    arrays = read()
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # an array may not be called allow_pickle
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        warnings.warn(f"decoded images are not cached, {path.parent}: {error.strerror}", stacklevel=2)
    return arrays
