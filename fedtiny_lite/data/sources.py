"""From files to arrays: downloads with checksums, and image folders.

Every reader returns the dictionary that `cache.Arrays` describes. Addresses, file names, checksums and layout on disk
are those of torchvision, so that copies downloaded by torchvision are found.
"""

import contextlib
import gzip
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np

from fedtiny_lite.data.cache import Arrays, cached
from fedtiny_lite.data.images import list_images, listing_digest, read_image, read_images

_CONNECT_SECONDS = 30


def read_archive(name: str, data_dir: Path) -> Arrays:
    """The named torchvision data set; files that are missing in `data_dir` are downloaded to it.

    Raises FileNotFoundError for a file that is missing and cannot be downloaded, and RuntimeError for a file whose
    bytes differ from the published checksum. Both messages name the file and say what to do.
    """
    archive = ARCHIVES[name]

    def origin() -> str | None:
        files = sorted(path for pattern in archive.files for path in data_dir.glob(pattern))
        return listing_digest(data_dir, files) if files else None

    return cached(data_dir / ".cache" / f"{name}.npz", origin, lambda: archive.read(data_dir))


def read_folder(folder: Path, data_dir: Path) -> Arrays:
    """Images of `folder`/train/<class>/* and `folder`/test/<class>/*, as RGB, all of one size.

    Classes are the sub-folders of train in alphabetical order. The name of the cache depends on the files' names, sizes
    and times, so that a changed folder is read anew. Raises FileNotFoundError for a missing part, ValueError for test
    classes or image sizes that do not fit, and RuntimeError for a file that is no readable image.
    """
    files = {part: list_images(folder, part) for part in ("train", "test")}
    classes = tuple(files["train"])
    if tuple(files["test"]) != classes:
        raise ValueError(
            f"{folder}: train and test must have the same classes; only one of them has "
            f"{sorted(set(classes) ^ set(files['test']))}"
        )
    paths = {part: [path for of_class in files[part].values() for path in of_class] for part in files}
    labels = {part: [len(of_class) for of_class in files[part].values()] for part in files}
    shape = read_image(paths["train"][0]).shape

    def decode() -> Arrays:
        arrays = {"classes": np.array(classes)}
        for part in paths:
            arrays[f"{part}_images"] = read_images(paths[part], shape)
            arrays[f"{part}_labels"] = np.repeat(np.arange(len(classes)), labels[part])
        return arrays

    key = listing_digest(folder, paths["train"] + paths["test"])
    return cached(data_dir / ".cache" / f"folder-{folder.name}-{key}.npz", lambda: key, decode)


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
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(_fetch(source.url, archive, source.tgz_md5)) as tar:
            for name, _ in members:  # Python 3.11.0 to 3.11.3 cannot filter what `extractall` writes
                (folder / name).write_bytes(_member(tar, f"{source.base_folder}/{name}"))
    return _arrays(*(source(data_dir, train=train) for train in (True, False)))


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    """The bytes of a file in an archive. Raises ValueError if it is not one."""
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file in its archive")
    return file.read()


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


class Archive(NamedTuple):
    """`read(data_dir)`: its arrays. `files`: patterns of the files that they are read from, relative to `data_dir`."""

    read: Callable[[Path], Arrays]
    files: tuple[str, ...]


ARCHIVES = {
    "cifar10": Archive(partial(_read_cifar, "CIFAR10"), ("cifar-10-python.tar.gz", "cifar-10-batches-py/*")),
    "cifar100": Archive(partial(_read_cifar, "CIFAR100"), ("cifar-100-python.tar.gz", "cifar-100-python/*")),
    "svhn": Archive(_read_svhn, ("train_32x32.mat", "test_32x32.mat")),
    "fashion_mnist": Archive(_read_fashion_mnist, ("FashionMNIST/raw/*.gz",)),
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
