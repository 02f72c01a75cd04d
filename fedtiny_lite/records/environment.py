"""What a run ran on: Python, platform, processor, packages, commit."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from fedtiny_lite.records.files import ROOT

PACKAGES = ("fedtiny-lite", "torch", "torchvision", "numpy", "numba", "scikit-learn", "matplotlib", "papermill")


def environment(gpu: str | None = None) -> dict:
    """What a run ran on: Python, platform, processor, packages, git commit (None outside a checkout).

    `gpu`: the name of the GPU that it trained on, if it did.
    """
    used = {} if gpu is None else {"gpu": gpu}
    return used | {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def cpu_model() -> str:
    """The processor's model name as the operating system gives it."""
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """The memory that a process may have: the machine's, or less where a control group limits it; None if not known."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        limit = "max"
    return min(total, int(limit)) if limit.isdecimal() else total


def check_memory(needed: Mapping[str, int], advice: str) -> None:
    """Raises ValueError, with the numbers, if more bytes are needed at the same time than there is memory.

    `needed`: bytes by what they are for, `advice`: what to do.
    """
    total, there = sum(needed.values()), memory_bytes()
    if there is not None and total > there:
        parts = "; ".join(f"{what}: {_gigabytes(count)}" for what, count in needed.items() if count)
        raise ValueError(
            f"this takes at least {_gigabytes(total)} of memory at the same time ({parts}), and this machine has "
            f"{_gigabytes(there)}; {advice}"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with `-dirty` appended if tracked files were changed."""
    if not (ROOT / ".git").exists():
        return None
    return _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
