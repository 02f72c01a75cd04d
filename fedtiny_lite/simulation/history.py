"""What each round added to an unfinished run: a file for each, which is written once and never changed.

A file is named by the digest of its bytes and names the one before it; the checkpoint names the last. So a round writes
what it added, however many rounds and clients there are, and two processes in one folder do not meet.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fedtiny_lite.federated.memory import digest
from fedtiny_lite.federated.messages import Message, pack, unpack
from fedtiny_lite.records.files import clear_leftovers, read_bytes, write_bytes

SUFFIX = ".round"
FIRST = ""
"""What the first file names as the one before it."""


def append(folder: Path, before: str, tensors: Mapping[str, Tensor], **meta: Any) -> str:
    """Write what a round added after the file that is named `before`; its own name. Raises OSError if that fails."""
    data = pack(tensors, **meta, before=before)
    write_bytes(_path(folder, digest(data)), data)
    return digest(data)


def read(folder: Path, last: object) -> list[Message]:
    """All files up to the one of this name, the first one first. Raises ValueError if one is damaged or missing."""
    found: list[Message] = []
    while last != FIRST:
        found.append(unpack(_whole(folder, last)))
        last = found[-1].meta.get("before")
    return found[::-1]


def _whole(folder: Path, name: object) -> bytes:
    if not isinstance(name, str) or not name.isalnum():
        raise ValueError(f"it names {str(name)[:100]} in place of a file of a round")
    with contextlib.suppress(OSError):
        data = read_bytes(_path(folder, name))
        if digest(data) == name:
            return data
    raise ValueError(f"{_path(folder, name)}, which it names, is damaged or missing")


def remove(folder: Path) -> None:
    """Delete all files of rounds, if any. A folder that is named like one is none of ours, and stays."""
    rounds = _path(folder, FIRST).parent
    if rounds.is_dir():
        clear_leftovers(rounds)
        for path in filter(Path.is_file, rounds.glob(f"*{SUFFIX}")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            rounds.rmdir()


def _path(folder: Path, name: str) -> Path:
    return folder / "rounds" / f"{name}{SUFFIX}"
