"""How far an unfinished run has come after its last finished round, in one file that is whole or absent."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedtiny_lite.config import Config, load_method
from fedtiny_lite.federated.checks import inspect, model_values, numbers, read_whole_mask, whole_number
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.ledger import Ledger, lineage
from fedtiny_lite.federated.messages import Message, decode_state, encode_state, pack, unpack
from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.state import State
from fedtiny_lite.federated.task import Task
from fedtiny_lite.records.files import plain, read_bytes, write_bytes
from fedtiny_lite.records.schema import is_record
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.scoring import MAXIMA, TOTALS

OF_CLIENTS = {"held": int, "samples": int, "memories": str}
"""What the ledger keeps of each client, and of which kind it is."""


def path_in(folder: Path) -> Path:
    """Where the checkpoint of the run in `folder` lies."""
    return folder / "checkpoint.ftl"


def save(folder: Path, config: Config, record: dict[str, Any], progress: Progress) -> None:
    """Write the checkpoint beside its place and rename it. Raises OSError if it cannot be written.

    The method's tensors are a message of their own inside it, so no name can meet another.
    """
    state, ledger = progress.state, progress.ledger
    tensors = {
        "weights": encode_state(state.weights, state.mask),
        "mask": encode_mask(state.mask, list(state.mask)),
        "extra": _as_tensor(pack(state.extra)),
    }
    known = {"versions": ledger.versions} | {name: list(getattr(ledger, name).items()) for name in OF_CLIENTS}
    write_bytes(path_in(folder), pack(tensors, identity=config.identity(), record=plain(record), ledger=known))


def remove(folder: Path) -> None:
    """Delete the checkpoint, if any."""
    path_in(folder).unlink(missing_ok=True)


def kept(folder: Path | None, rounds: int) -> str:
    """What a stopped run of so many rounds has kept in its folder, and how to go on."""
    if folder is None:
        return "nothing is kept, because no folder `out` was given"
    if not path_in(folder).exists():
        return "no round was finished, so the same run begins anew"
    finished = len(unpack(path_in(folder).read_bytes()).meta["record"]["rounds"])
    return f"{finished} of {rounds} rounds are kept in {folder}: run the same again to go on from there"


def check_identity(path: Path, theirs: Mapping[str, Any], config: Config) -> None:
    """Raise ValueError, naming the settings that differ, if the file at `path` belongs to another run."""
    differing = config.differing(theirs)
    if differing:
        raise ValueError(
            f"{path} is of another run (it differs in {', '.join(differing)}); "
            "choose another output folder, or delete it to start over"
        )


def load(folder: Path, config: Config, task: Task) -> tuple[dict[str, Any], Progress] | None:
    """Record and progress of an unfinished run, or None if there is no checkpoint.

    Raises ValueError for a checkpoint that is torn, crafted or of other settings; none is touched.
    """
    path = path_in(folder)
    if not path.exists():
        return None
    with _named(path):
        message = unpack(read_bytes(path))
        identity = _mapping(message.meta.get("identity"))
    check_identity(path, identity, config)
    with _named(path):
        return _checked_record(message.meta.get("record"), config), _read(message, task)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raises what a check found, naming the file and what to do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it to start this run over") from error


def _read(message: Message, task: Task) -> Progress:
    """The progress in a checkpoint, each part checked as a reply is: it may be of a program that is not this one."""
    tensors, method = message.tensors, load_method(task.config.method)
    missing = {"weights", "mask", "extra"} - tensors.keys()
    if missing:
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    mask = read_whole_mask(task, tensors["mask"])
    model_values(task, mask)(tensors["weights"])
    extra = unpack(_as_bytes(tensors["extra"])).tensors
    declared = method.extra(task, mask)
    inspect(Message({}, {name: tensor for name, tensor in extra.items() if name in declared}), declared)
    state = State(decode_state(tensors["weights"], mask, task.state_shapes), mask, extra)
    return Progress(state, _read_ledger(message.meta.get("ledger"), method, task))


def _checked_record(record: Any, config: Config) -> dict[str, Any]:
    """The record so far. Raises ValueError if it is none, or lacks what a finished run sums up."""
    record = _mapping(record)
    prelude = record.get("prelude")
    unfinished = is_record(record) and not record["complete"] and len(record["rounds"]) <= config.rounds
    if not (unfinished and isinstance(prelude, list)):
        raise ValueError("it holds no record of an unfinished run")
    last = (record["rounds"] or [record.get("start")])[-1]
    for entry in (*prelude, *record["rounds"]):
        missing = {*TOTALS, *MAXIMA} - _mapping(entry).keys()
        if missing:
            raise ValueError(f"its record has an entry without {', '.join(sorted(missing))}")
    if not _mapping(record.get("start")).keys() <= {"round"} | _mapping(last).keys():
        raise ValueError("its record has an entry without scores")
    return record


def _read_ledger(known: Any, method: Method, task: Task) -> Ledger:
    lineages = {lineage(method, k) for k in range(task.config.clients)}
    match known:
        case {"versions": dict(versions), **of_clients} if versions.keys() == lineages:
            for of_one in map(_mapping, versions.values()):
                if of_one.keys() != task.mask_shapes.keys():
                    raise ValueError(f"its ledger has versions of {sorted(of_one)}, not of {sorted(task.mask_shapes)}")
                for layer in of_one:
                    whole_number(of_one, layer, low=1)
            known = [_by_client(of_clients.get(name), kind, task.config) for name, kind in OF_CLIENTS.items()]
            return Ledger(versions, *known)
    raise ValueError("its ledger is not one of these clients")


def _by_client(pairs: Any, kind: type, config: Config) -> dict[int, Any]:
    """Client -> what stands beside its number. Raises ValueError for a number that no client has."""
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        match pair:
            case [int(k), value] if 0 <= k < config.clients and isinstance(value, kind):
                continue
        raise ValueError(f"it has an entry of no client: {str(pair)[:100]}")
    return dict(pairs)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it has {str(value)[:100]} in place of named values")
    return value


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _as_bytes(tensor: Tensor) -> bytes:
    numbers(len(tensor.flatten()), dtype=torch.uint8)(tensor)
    return tensor.numpy().tobytes()
