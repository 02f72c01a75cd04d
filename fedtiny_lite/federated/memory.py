"""What clients remember between exchanges, found by its digest.

The server knows of a client's memory only the digest after the last answer that it took. It names that digest with each
question, and the client answers from the memory that has it: the one after its last answer, or the one before, if that
answer never arrived or the server was resumed from before it. So a repeated question gets the same answer. Example: a
server that is killed in round 7 goes on from round 6, and asks for round 7 again under the digest of round 6.
"""

import contextlib
import hashlib
from collections.abc import Collection
from pathlib import Path

from fedtiny_lite.federated.client import EMPTY_MEMORY
from fedtiny_lite.records.files import clear_leftovers, write_bytes

SUFFIX = ".memory"


def digest(data: bytes) -> str:
    """32 hex digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


NOTHING = digest(EMPTY_MEMORY)
"""The digest of a client's memory before it is first asked."""


class Memories:
    """Memories by their digest, each once however many clients share it; with `folder`, also as files there."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.held = folder, {NOTHING: EMPTY_MEMORY}

    def recall(self, name: str) -> bytes | None:
        """The memory of this digest; None if there is none, or its file was damaged, which is then deleted."""
        if name not in self.held and self.folder and name.isalnum():
            with contextlib.suppress(OSError):
                data = self._path(name).read_bytes()
                if digest(data) == name:
                    self.held[name] = data
                else:  # `write` leaves files that are there as they are
                    self._path(name).unlink()
        return self.held.get(name)

    def remember(self, memory: bytes) -> str:
        """The digest under which the memory is now held."""
        name = digest(memory)
        self.held[name] = memory
        return name

    def write(self, names: Collection[str]) -> None:
        """Write those of these memories that are not files yet. Raises OSError if that fails."""
        for name in names:
            if self.folder and name in self.held and name != NOTHING and not self._path(name).exists():
                write_bytes(self._path(name), self.held[name])

    def keep(self, names: Collection[str]) -> None:
        """Forget all others. A folder that is named like a memory is none of ours, and stays."""
        self.held = {name: self.held[name] for name in self.held if name in names or name == NOTHING}
        if self.folder and self.folder.is_dir():
            clear_leftovers(self.folder)
            for path in self.folder.glob(f"*{SUFFIX}"):
                if path.stem not in names and path.is_file():
                    path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _path(self, name: str) -> Path:
        assert self.folder
        return self.folder / f"{name}{SUFFIX}"
