"""Samples in folders: each device has its own, the server has its public set and the images that it scores on.

A device's folder holds `samples.npz`: `images`, uint8 [N, C, H, W], and `labels`, int64 [N]. The server's holds
`public.npz` and `test.npz` of the same form, and `server.json` with the names of the classes. If the kit has handed
them out, that says of which data set they are, too.
"""

from pathlib import Path

import numpy as np
import torch

from fedtiny_lite.config import Config
from fedtiny_lite.data.cache import digest
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.records.files import read_json, write_json
from fedtiny_lite.simulation.setup import Holdings, hand_out

SAMPLES = "samples"


def write_split(folder: Path, name: str, split: Split) -> None:
    """Write a split as `name`.npz; the folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", images=split.images.cpu().numpy(), labels=split.labels.cpu().numpy())


def read_split(folder: Path, name: str) -> Split:
    """The split in `name`.npz. Raises ValueError, naming the file, for another form, and OSError if there is none."""
    path = folder / f"{name}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Split(*(torch.from_numpy(arrays[part]) for part in ("images", "labels")))
    except OSError:
        raise
    except Exception as error:  # numpy reads a file that somebody made, and the kind of error depends on it
        raise ValueError(f"{path}: {error}; it must hold images, uint8 [N, C, H, W], and labels, int64 [N]") from error


def write_holdings(folder: Path, dataset: str, holdings: Holdings) -> None:
    """Write what the server holds of a data set; no client's samples are part of it."""
    write_split(folder, "public", holdings.public)
    write_split(folder, "test", holdings.test)
    write_json(folder / "server.json", {"classes": holdings.classes, "dataset": dataset, "summary": holdings.summary})


def read_holdings(folder: Path, device: str) -> tuple[str, Holdings]:
    """The name of the data and what the server holds of them, the images to score on on `device`.

    Images that the kit has not handed out are `devices-` and a digest of them, so that runs on other images are other
    runs. Raises ValueError or OSError, naming the file, for what is missing or of another form.
    """
    told = read_json(folder / "server.json")
    if not isinstance(told, dict) or not isinstance(told.get("classes"), list):
        raise ValueError(f'{folder / "server.json"} must name the classes: {{"classes": ["cat", "dog"]}}')
    public, test = (_of_classes(folder, name, len(told["classes"])) for name in ("public", "test"))
    if public.in_shape != test.in_shape:
        raise ValueError(f"{folder}: images of public are {list(public.in_shape)}, of test {list(test.in_shape)}")
    parts = {"train_images": public.images, "train_labels": public.labels}
    parts |= {"test_images": test.images, "test_labels": test.labels}
    fingerprint = digest({name: tensor.numpy() for name, tensor in parts.items()})[:16]
    own = {"fingerprint": fingerprint, "public_images": len(public), "test_images": len(test)}
    dataset, summary = told.get("dataset", f"devices-{fingerprint}"), told.get("summary", own)
    if not isinstance(dataset, str) or not isinstance(summary, dict):
        raise ValueError(
            f"{folder / 'server.json'}: its summary must be an object, such as {own}, and its dataset a name; "
            "leave both out for images of your own"
        )
    return dataset, Holdings(public, (), test.to(device), tuple(map(str, told["classes"])), summary)


def _of_classes(folder: Path, name: str, classes: int) -> Split:
    split = read_split(folder, name)
    try:
        check_labels(split, classes)
    except ValueError as error:
        raise ValueError(f"{folder / name}.npz: {error}") from error
    return split


def check_labels(split: Split, classes: int) -> None:
    """Raises ValueError for no samples, and for a label that is none of so many classes."""
    if not len(split) or not 0 <= int(split.labels.min()) <= int(split.labels.max()) < classes:
        raise ValueError(f"there must be samples, with labels from 0 to {classes - 1}")


def hand_over(config: Config, folder: Path) -> Path:
    """Write a folder for the server and one for each client of a run, as if each had collected its own."""
    holdings = hand_out(config)
    write_holdings(folder / "server", config.dataset, holdings)
    for k, split in enumerate(holdings.splits):
        write_split(folder / f"client{k}", SAMPLES, split)
    return folder
