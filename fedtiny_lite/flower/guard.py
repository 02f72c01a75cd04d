"""Processes that end with this one, however it ends: a small process waits for that and then kills them."""

import subprocess
import sys

_WAIT = """
import contextlib, os, signal, sys
groups = set()
for line in sys.stdin:
    groups ^= {int(line)}  # a group that is named again has ended
for group in groups:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
"""


class Guard:
    """Kills the groups of processes that it watches when this process has ended, by SIGKILL too."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _WAIT]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def watch(self, group: int) -> None:
        """From now on this group ends with this process."""
        self._tell(group)

    def release(self, group: int) -> None:
        """This group has ended; its number may become that of another."""
        self._tell(group)

    def close(self) -> None:
        """Kill what is still watched."""
        self._process.communicate()

    def _tell(self, group: int) -> None:
        assert self._process.stdin
        print(group, file=self._process.stdin, flush=True)
