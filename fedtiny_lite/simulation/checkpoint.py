"""How far an unfinished run has come after its last finished round, in one file that is whole or absent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedtiny_lite.config import Config
from fedtiny_lite.federated.formats import decode_mask, encode_mask
from fedtiny_lite.federated.ledger import Ledger
from fedtiny_lite.federated.messages import decode_state, encode_state, pack, unpack
from fedtiny_lite.federated.state import State
from fedtiny_lite.federated.task import Task
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.records.files import plain, write_bytes
from fedtiny_lite.simulation.progress import Progress


def path_in(folder: Path) -> Path:
    """Where the checkpoint of the run in `folder` lies."""
    return folder / "checkpoint.ftl"


def save(folder: Path, config: Config, record: dict[str, Any], progress: Progress) -> None:
    """Write the checkpoint beside its place and rename it. Raises OSError if it cannot be written.

    The method's tensors and the clients' memories are messages of their own inside it, so no name can meet another.
    """
    state, ledger = progress.state, progress.ledger
    tensors = {
        "weights": encode_state(state.weights, state.mask),
        "mask": encode_mask(state.mask, list(state.mask)),
        "extra": _as_tensor(pack(state.extra)),
        "memories": _as_tensor(pack({str(k): _as_tensor(memory) for k, memory in progress.memories.items()})),
    }
    known = {"versions": ledger.versions, "held": list(ledger.held.items()), "samples": list(ledger.samples.items())}
    write_bytes(path_in(folder), pack(tensors, identity=config.identity(), record=plain(record), ledger=known))


def remove(folder: Path) -> None:
    """Delete the checkpoint, if any, and what an interrupted writing left of one."""
    for path in folder.glob(".checkpoint.ftl.*.tmp"):
        path.unlink()
    path_in(folder).unlink(missing_ok=True)


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

    Raises ValueError for a torn checkpoint or one of other settings; neither is touched.
    """
    path = path_in(folder)
    if not path.exists():
        return None
    try:
        message = unpack(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it to start this run over") from error
    check_identity(path, message.meta.get("identity", {}), config)
    tensors, known = message.tensors, message.meta["ledger"]
    mask = Mask(decode_mask(tensors["mask"], task.mask_shapes))
    weights = decode_state(tensors["weights"], mask, task.state_shapes)
    state = State(weights, mask, unpack(_as_bytes(tensors["extra"])).tensors)
    memories = unpack(_as_bytes(tensors["memories"])).tensors
    ledger = Ledger(known["versions"], dict(known["held"]), dict(known["samples"]))
    return message.meta["record"], Progress(state, ledger, {int(k): _as_bytes(m) for k, m in memories.items()})


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _as_bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
