"""The state of an unfinished run after its last finished round, in one file that is whole or absent."""

from pathlib import Path

import torch

from fedtiny_lite.config import Config
from fedtiny_lite.federated.messages import decode_mask, decode_state, encode_mask, encode_state, pack, unpack
from fedtiny_lite.federated.protocol import State
from fedtiny_lite.federated.server import Server
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.records.files import plain, write_bytes


def path_in(folder: Path) -> Path:
    """Where the checkpoint of the run in `folder` lies."""
    return folder / "checkpoint.ftl"


def save(folder: Path, config: Config, record: dict, state: State, memories: list[bytes]) -> None:
    """Write the checkpoint beside its place and rename it. Raises OSError if it cannot be written."""
    order = list(state.mask)
    tensors = {"weights": encode_state(state.weights, state.mask), "mask": encode_mask(state.mask, order)}
    tensors |= {f"extra:{name}": tensor for name, tensor in state.extra.items()}
    tensors |= {f"memory:{k}": torch.frombuffer(bytearray(m), dtype=torch.uint8) for k, m in enumerate(memories)}
    data = pack(tensors, identity=config.identity(), record=plain(record), unsent=list(state.unsent))
    write_bytes(path_in(folder), data)


def remove(folder: Path) -> None:
    """Delete the checkpoint, if any, and what an interrupted writing left of one."""
    for path in folder.glob(".checkpoint.ftl.*.tmp"):
        path.unlink()
    path_in(folder).unlink(missing_ok=True)


def check_identity(path: Path, theirs: dict, config: Config) -> None:
    """Raise ValueError, naming the settings that differ, if the file at `path` belongs to another run."""
    ours = config.identity()
    differing = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
    if differing:
        raise ValueError(
            f"{path} is of another run (it differs in {', '.join(differing)}); "
            "choose another output folder, or delete it to start over"
        )


def load(folder: Path, config: Config, server: Server) -> tuple[dict, State, list[bytes]] | None:
    """Record so far, state and memories of an unfinished run, or None if there is no checkpoint.

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
    tensors = message.tensors
    mask = Mask(decode_mask(tensors["mask"], server.mask_shapes))
    weights = decode_state(tensors["weights"], mask, server.state_shapes)
    extra = {name.removeprefix("extra:"): t for name, t in tensors.items() if name.startswith("extra:")}
    memories = [tensors[f"memory:{k}"].numpy().tobytes() for k in range(config.clients)]
    return message.meta["record"], State(weights, mask, tuple(message.meta["unsent"]), extra), memories
