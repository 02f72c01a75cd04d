"""Samples in folders: each device has its own, the server has its public set and the images that it scores on.

A device's folder holds `samples.npz`: `images`, uint8 [N, C, H, W], and `labels`, int64 [N]. The server's holds
`public.npz` and `test.npz` of the same form, and `server.json` with the names of the classes.
"""

from pathlib import Path

import numpy as np
import torch

from fedtiny_lite.config import Config
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
        with np.load(path, allow_pickle=False) as arrays:
            return Split(*(torch.from_numpy(arrays[part]) for part in ("images", "labels")))
    except (ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path}: {error}; it must hold images, uint8 [N, C, H, W], and labels, int64 [N]") from error


def write_holdings(folder: Path, holdings: Holdings) -> None:
    """Write what the server holds; no client's samples are part of it."""
    write_split(folder, "public", holdings.public)
    write_split(folder, "test", holdings.test)
    write_json(folder / "server.json", {"classes": holdings.classes, "summary": holdings.summary})


def read_holdings(folder: Path) -> Holdings:
    """What the server holds. Raises ValueError or OSError, naming the file, for what is missing or of another form."""
    told = read_json(folder / "server.json")
    if not isinstance(told, dict) or not isinstance(told.get("classes"), list):
        raise ValueError(f'{folder / "server.json"} must name the classes: {{"classes": ["cat", "dog"]}}')
    public, test = (read_split(folder, name) for name in ("public", "test"))
    counts = {"public_images": len(public), "test_images": len(test)}
    return Holdings(public, (), test, tuple(map(str, told["classes"])), told.get("summary", counts))


def hand_over(config: Config, folder: Path) -> Path:
    """Write a folder for the server and one for each client of a run, as if each had collected its own."""
    holdings = hand_out(config)
    write_holdings(folder / "server", holdings)
    for k, split in enumerate(holdings.splits):
        write_split(folder / f"client{k}", SAMPLES, split)
    return folder
