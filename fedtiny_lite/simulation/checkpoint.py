"""How far an unfinished run has come after its last finished round: the server's state in a file that is whole or
absent, and what each round added to the record and to what the server keeps of clients (`history`).

A round writes the state and what it added, so no more in a late round than in an early one, and no more of clients than
it asked; the first one writes besides what the survey said of each.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import load_dataset
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.ledger import Ledger
from fedtiny_lite.federated.messages import encode_state, pack, unpack
from fedtiny_lite.federated.task import Task
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.records.files import plain, read_bytes, write_bytes
from fedtiny_lite.simulation import history
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.reading import LEDGER, as_mapping, at_start, read_pixels, read_progress, record_so_far


class Mark(NamedTuple):
    """Up to where the history of a run tells it. `rounds`: as many; `last`: the name of its last file."""

    ledger: Ledger
    of_clients: Mapping[int, Mapping[str, Tensor]]
    rounds: int
    last: str


class Saved(NamedTuple):
    """What lies in the folder of an unfinished run; `pixels`: the statistics of pixels that it began with."""

    record: dict[str, Any]
    progress: Progress
    mark: Mark
    pixels: Normalisation


def path_in(folder: Path) -> Path:
    """Where the checkpoint of the run in `folder` lies."""
    return folder / "checkpoint.ftl"


def save(folder: Path, config: Config, record: dict[str, Any], progress: Progress, before: Mark | None = None) -> Mark:
    """Append what was added since `before`, then write the checkpoint beside its place and rename it.

    The method's tensors are a message of their own inside it, so no name can meet another. Raises OSError if something
    cannot be written; what lay there then still counts.
    """
    state = progress.state
    mark = _append(folder, record, progress, before or _nothing(config, state.mask))
    tensors = {
        "weights": encode_state(state.weights, state.mask),
        "mask": encode_mask(state.mask, list(state.mask)),
        "extra": _as_tensor(pack(state.extra)),
    }
    told = {"identity": config.identity(), "rounds": mark.rounds, "last": mark.last}
    write_bytes(path_in(folder), pack(tensors, **told, resumed=record["environment"].get("resumed", [])))
    return mark


def _nothing(config: Config, layers: Iterable[str]) -> Mark:
    """Where a history begins."""
    return Mark(at_start(config, layers), {}, 0, history.FIRST)


def _append(folder: Path, record: dict[str, Any], progress: Progress, before: Mark) -> Mark:
    ledger, of_clients, rounds = progress.ledger, progress.state.of_clients, len(record["rounds"])
    exchanged = {k: held for k, held in of_clients.items() if held is not before.of_clients.get(k)}
    tensors = {f"{k}.{name}": tensor for k, held in exchanged.items() for name, tensor in held.items()}
    added: dict[str, Any] = {
        "rounds": plain(record["rounds"][before.rounds :]),
        "ledger": {name: _changes(getattr(before.ledger, name), getattr(ledger, name)) for name in LEDGER},
    }
    if before.last == history.FIRST:
        added["record"] = plain(record | {"rounds": []})
    return Mark(ledger, of_clients, rounds, history.append(folder, before.last, tensors, **added))


def _changes(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> list[list[Any]]:
    """[key, value] of what is new or another; the value of what is gone is None."""
    gone = [[key, None] for key in before if key not in now]
    return [[key, value] for key, value in now.items() if before.get(key) != value] + gone


def remove(folder: Path) -> None:
    """Delete the checkpoint and the history, if any."""
    path_in(folder).unlink(missing_ok=True)
    history.remove(folder)


def kept(folder: Path | None, rounds: int) -> str:
    """What a stopped run of so many rounds has kept in its folder, and how to go on."""
    if folder is None:
        return "nothing is kept, because no folder `out` was given"
    if not path_in(folder).exists():
        return "no round was finished, so the same run begins anew"
    finished = unpack(path_in(folder).read_bytes()).meta["rounds"]
    return f"{finished} of {rounds} rounds are kept in {folder}: run the same again to go on from there"


def record_in(folder: Path, config: Config) -> dict[str, Any]:
    """The record so far of an unfinished run, which may go on in another process.

    Raises FileNotFoundError if there is no checkpoint, ValueError if it, or what it names, is torn or has just gone.
    """
    last = unpack(path_in(folder).read_bytes()).meta.get("last")
    return record_so_far(history.read(folder, last), config)


def check_identity(path: Path, theirs: Mapping[str, Any], config: Config) -> None:
    """Raise ValueError, naming the settings that differ, if the file at `path` belongs to another run."""
    differing = config.differing(theirs)
    if differing:
        raise ValueError(
            f"{path} is of another run (it differs in {', '.join(differing)}); "
            "choose another output folder, or delete it to start over"
        )


def check_data(folder: Path, theirs: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError if the images and their split are not those with which the run in `folder` began.

    `theirs`, `now`: its record, and one that begins. Statistics of pixels may differ where other clients answered the
    survey than did then.
    """
    differing = [name for name, value in plain(now["data"]).items() if theirs["data"].get(name) != value]
    if differing and (differing != ["pixels"] or _surveyed(theirs) == _surveyed(now)):
        raise ValueError(
            f"{path_in(folder)} began with other images (its {', '.join(differing)} differ); bring these back, or "
            "delete it to start over"
        )


def _surveyed(record: Mapping[str, Any]) -> list[Any]:
    """The clients that were asked for sums of their pixels, and those of them whose answers do not count."""
    first = as_mapping(plain(record["prelude"][0])) if record["prelude"] else {}
    if first.get("exchange") != "pixel_statistics":
        return []
    left_out = (as_mapping(first.get(name, {})) for name in ("lost", "rejections"))
    return [first.get("asked"), sorted(k for of_kind in left_out for k in of_kind)]


def check_images(path: Path, record: Mapping[str, Any], config: Config) -> None:
    """Raise ValueError if the folder of images, where it is still there, is not what the finished record is made of."""
    before = record["data"].get("fingerprint")
    if not config.dataset.startswith("folder:") or before is None:
        return
    with contextlib.suppress(FileNotFoundError):
        if load_dataset(config.dataset).fingerprint != before:
            raise ValueError(
                f"{path} was made of other images than {config.dataset} holds now; bring these back, choose another "
                "output folder, or delete it to start over"
            )


def load(folder: Path, config: Config, task: Task) -> Saved | None:
    """Record and progress of an unfinished run, or None if there is no checkpoint.

    Raises ValueError for a checkpoint or a history that is torn, crafted or of other settings; none is touched.
    """
    path = path_in(folder)
    if not path.exists():
        return None
    with _named(path):
        message = unpack(read_bytes(path))
        identity = as_mapping(message.meta.get("identity"))
    check_identity(path, identity, config)
    with _named(path):
        parts = history.read(folder, message.meta.get("last"))
        record, progress = record_so_far(parts, config), read_progress(message, parts, task)
        rounds = len(record["rounds"])
        if message.meta.get("rounds") != rounds:
            raise ValueError(f"it counts {str(message.meta.get('rounds'))[:100]} rounds, and {rounds} are there")
        resumed = message.meta.get("resumed", [])
        if not isinstance(resumed, list):
            raise ValueError(f"it was resumed {str(resumed)[:100]} in place of a list of environments")
        if resumed:
            record["environment"] |= {"resumed": [*map(as_mapping, resumed)]}
        mark = Mark(progress.ledger, progress.state.of_clients, rounds, message.meta["last"])
        return Saved(record, progress, mark, read_pixels(record, task.in_shape[0]))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raises what a check found, naming the file and what to do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it to start this run over") from error


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
