"""Peak resident memory of a call, as the operating system counts it (Linux)."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_growth(call: Callable[[], Any]) -> tuple[Any, int]:
    """What `call()` returns, and by how many bytes the process grew at most while it ran."""
    before = settled()
    result = call()
    return result, high_water() - before


def settled() -> int:
    """Hands freed memory back, so that no call hides in what earlier ones left, and starts the high-water mark anew.

    Returns the bytes that the process holds.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def high_water() -> int:
    """The most bytes that the process has held since it was settled."""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
