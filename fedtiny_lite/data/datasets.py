"""Images and labels in memory: named data sets, the server's public set, batches.

A split is one uint8 tensor of images and one tensor of labels. Nothing is loaded in the background, and no sample is
drawn from a global generator, so that a batch depends on its generator alone.
"""

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedtiny_lite.data import sources
from fedtiny_lite.data.cache import Arrays, digest
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.settings import check_choice


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [N, C, H, W], and their labels, int64 [N]. Raises ValueError for another dtype or shape."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images must be uint8 [N, C, H, W], not {_describe(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int64 [{len(self.images)}], not {_describe(self.labels)}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return image_shape(self.images)

    def take(self, index: Tensor | np.ndarray | slice) -> "Split":
        """The samples at `index`, in that order. A slice shares memory with this split, another index copies."""
        if isinstance(index, np.ndarray):
            index = torch.tensor(index)
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> "Split":
        """The same samples on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A train and a test split, and the names of the classes.

    `fingerprint`: 16 hex digits of the SHA-256 over all pixels and labels.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str


def default_data_dir() -> Path:
    """The folder `data/` of the project if the package runs from a checkout, else of the working directory."""
    return (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / "data"


def load_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """The data set `name`: digits, one of `sources.ARCHIVES`, or folder:PATH.

    PATH is relative to the working directory, or to the project if there is no such folder. The last four data sets
    stay in the memory of the process. Raises ValueError for an unknown name, FileNotFoundError for missing files and
    RuntimeError for corrupt files.
    """
    data_dir = Path(data_dir or default_data_dir()).resolve()
    if name.startswith("folder:"):
        path = Path(name.removeprefix("folder:")).expanduser()
        if not path.is_dir() and (ROOT / path).is_dir():
            path = ROOT / path
        return _load(name, data_dir, path.resolve())
    check_choice("dataset", name, ("digits", *sources.ARCHIVES, "folder:PATH"))
    return _load(name, data_dir, None)


@functools.lru_cache(maxsize=4)
def _load(name: str, data_dir: Path, folder: Path | None) -> Dataset:
    if folder is not None:
        arrays = sources.read_folder(folder, data_dir)
    else:
        arrays = _read_digits() if name == "digits" else sources.read_archive(name, data_dir)
    train, test = (
        Split(*(torch.from_numpy(arrays[f"{part}_{what}"]) for what in ("images", "labels")))
        for part in ("train", "test")
    )
    classes = tuple(str(label) for label in arrays["classes"])
    return Dataset(name, train, test, classes, digest(arrays)[:16])


def _read_digits() -> Arrays:
    """The 1,797 handwritten digits of scikit-learn, 8x8, with grey levels 0..16 scaled to 0..255.

    Every fifth digit is a test sample, beginning with the first. The package's file is read in place, as importing
    scikit-learn takes longer than all else here.
    """
    found = importlib.util.find_spec("sklearn")
    if not (found and found.origin):
        raise RuntimeError("the digits are in scikit-learn, which is not installed: pip install scikit-learn")
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = np.round(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    is_test = np.arange(len(labels)) % 5 == 0
    return {
        "train_images": images[~is_test],
        "train_labels": labels[~is_test],
        "test_images": images[is_test],
        "test_labels": labels[is_test],
        "classes": np.array([str(digit) for digit in range(10)]),
    }


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def image_shape(images: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of images [N, C, H, W]."""
    _, channels, height, width = images.shape
    return channels, height, width


def public_split(train: Split, shots: int, rng: np.random.Generator) -> tuple[Split, np.ndarray]:
    """The server's public set, `shots` samples of each class, and the sorted indices that remain for the clients.

    The set is taken from the training split before the partition, so that neither a client nor the test split holds
    any of it. The authors' 2022 code drew it from the test split. Raises ValueError for a class with too few samples.
    """
    labels = train.labels.numpy()
    classes, counts = np.unique(labels, return_counts=True)
    if shots < 1 or shots > counts.min():
        raise ValueError(
            f"{shots} samples per class asked for the server's public set; allowed: 1 to {counts.min()}, "
            f"the training samples of class {classes[counts.argmin()]}"
        )
    chosen = [rng.choice(np.flatnonzero(labels == label), shots, replace=False) for label in classes]
    public = np.sort(np.concatenate(chosen))
    return train.take(public), np.setdiff1d(np.arange(len(labels)), public)


def limit(split: Split, samples: int, rng: np.random.Generator) -> Split:
    """`samples` of the split, drawn in the split's class proportions and left in their order; 0 keeps all samples.

    Class sizes are rounded by largest remainder. Example: 3 of 4 images, two in each of two classes, are 2 images of
    the first class and 1 of the second. Raises ValueError for a negative number or more samples than there are.
    """
    if not 0 <= samples <= len(split):
        raise ValueError(f"{samples} samples asked, allowed: 1 to {len(split)}, or 0 for all")
    if samples == 0:
        return split
    labels = split.labels.numpy()
    classes, counts = np.unique(labels, return_counts=True)
    quota, remainder = np.divmod(samples * counts, len(labels))
    quota[np.argsort(-remainder, kind="stable")[: samples - quota.sum()]] += 1
    chosen = [
        rng.choice(np.flatnonzero(labels == label), size, replace=False)
        for label, size in zip(classes, quota, strict=True)
    ]
    return split.take(np.sort(np.concatenate(chosen)))


def distort(split: Split, generator: torch.Generator) -> Split:
    """A copy that looks unlike the clients' images: x * 0.5 + 0.4 + 0.3 * noise, clipped to [0, 1].

    x: a pixel scaled to [0, 1]; noise: uniform in [0, 1), drawn for each pixel.
    """
    noise = torch.rand(split.images.shape, generator=generator)
    pixels = (split.images / 255 * 0.5 + 0.4 + 0.3 * noise).clamp(0, 1)
    return Split((pixels * 255).round().to(torch.uint8), split.labels)


def to_float(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [B, C, H, W] -> float32 [B, C, H, W]: (x / 255 - mean) / std per channel."""
    shift, scale = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (mean, std))
    return (images / 255 - shift) / scale


def batches(samples: int, batch_size: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """The indices 0 .. samples-1 in batches, each int64 [B], every index once; shuffled if a generator is given.

    A last batch of a single sample joins the batch before it, because batch normalisation cannot train on one value per
    channel. The longest batch then holds batch_size + 1 samples. Example: 9 samples in batches of 4 are batches of 4
    and 5. Raises ValueError unless both sizes are positive.
    """
    if samples < 1 or batch_size < 1:
        raise ValueError(f"samples and batch_size must be at least 1, not {samples} and {batch_size}")
    order = torch.arange(samples) if generator is None else torch.randperm(samples, generator=generator)
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1 < batch_size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
