"""JSON files that are whole or absent: written beside their place and renamed, so a reader never sees half of one.

Imports neither torch nor anything else of the package.
"""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where there is one."""


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
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:
        reason = f"cannot write it ({error.strerror}); choose a folder that can be written to"
        raise type(error)(error.errno, reason, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return path


def read_json(path: str | Path) -> Json:
    """The JSON data in `path`. Raises FileNotFoundError, or ValueError if the file is torn or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is torn or is not JSON ({error}); delete it and run again") from error
