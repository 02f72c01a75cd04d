"""Peak resident memory of a call, as the operating system counts it (Linux)."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_growth(call: Callable[[], Any]) -> tuple[Any, int]:
    """What `call()` returns, and by how many bytes the process grew at most while it ran.

    Freed memory is handed back first, so that the call cannot hide in what earlier ones left.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    result = call()
    return result, _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
