"""JSON files that are whole or absent: written beside their place and renamed, so a reader never sees half of one.

Imports neither torch nor anything else of the package.
"""

import contextlib
import errno
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where there is one."""

HOST = "".join(filter(str.isalnum, platform.node())) or "unnamed"
"""This machine's name in the names of temporary files: process numbers of another machine say nothing here."""

Json = Any
"""JSON data: a dict, a list, a string, a number, a bool or None; which of them, its reader knows."""


def plain(value: Any) -> Json:
    """`value` as plain JSON data: arrays become lists, their scalars numbers, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_json(path: str | Path, obj: object) -> Path:
    """Write `obj` as JSON to `path`: to a file beside it first, then renamed. Folders are created.

    Numbers that JSON lacks (NaN, infinity) are written as null. Raises OSError, naming `path`, if it cannot
    be written; what was there before is then untouched.
    """
    text = json.dumps(plain(obj), indent=1, allow_nan=False) + "\n"
    return write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` to a file beside `path`, then rename it; folders are created. Raises OSError naming `path`."""
    path = Path(path)
    with aside(path) as beside:
        beside.write_bytes(data)
    return path


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file to. It is renamed to `path` once its bytes have reached the disk.

    If the block raises, nothing is left of it, and what was at `path` stays. Folders are created; what killed processes
    of this machine left in the folder is swept. Raises OSError naming `path`.
    """
    beside = path.with_name(f".{path.name}.{threading.get_native_id()}.{HOST}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
        os.replace(beside, path)
    except OSError as error:
        reason = f"cannot write it ({error.strerror}); {_remedy(error)}"
        raise type(error)(error.errno, reason, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room and run the same again, which goes on from what is finished"
    return "choose a folder that can be written to"


def clear_leftovers(folder: Path, pattern: str = ".*.tmp") -> None:
    """Delete what `aside` left in `folder` of this machine's killed processes; that of running ones stays."""
    for path in folder.glob(pattern):
        host, _, pid = path.stem.rpartition(".")
        if host.endswith(f".{HOST}") and pid.isdecimal() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the time of the block; if the process is killed in it, the next call sweeps the folder away."""
    name = ".fedtiny-lite."
    clear_leftovers(Path(tempfile.gettempdir()), f"{name}*.tmp")
    with tempfile.TemporaryDirectory(prefix=name, suffix=f".{HOST}.{os.getpid()}.tmp") as folder:
        yield Path(folder)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """While the block runs, no other process is in a block with the same `path`; who comes second says so and waits.

    The operating system frees the lock of a process that was killed. The file at `path` stays.
    """
    from filelock import FileLock, Timeout  # imported here, as most commands need no lock

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process works in {path.parent}: waiting until it ends", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_running(pid: int) -> bool:
    """Whether a process of this number runs on this machine; where that cannot be known, it may."""
    if os.name != "posix" or not 0 < pid < 2**31:  # elsewhere signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def check_writable(folder: Path) -> None:
    """Create the folder and write a file there, and delete that again. Raises OSError naming it."""
    write_bytes(folder / ".writable", b"").unlink(missing_ok=True)


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file. Raises FileNotFoundError, or ValueError for what is no file, such as a pipe."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file")
    return path.read_bytes()


def read_json(path: str | Path) -> Json:
    """The JSON data in `path`. Raises FileNotFoundError, or ValueError if the file is torn or not JSON."""
    try:
        return json.loads(read_bytes(path).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is torn or is not JSON ({error}); delete it and run again") from error
