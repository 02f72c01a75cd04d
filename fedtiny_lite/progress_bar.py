"""How far a long call has come, for whoever waits for it: one bar with the time left, or plain lines in a log.

A notebook and a terminal show a bar. Where neither is there, as in CI, standard error gets lines. Worker processes and
threads show nothing, because whatever they work for tells how far it has come.
"""

import multiprocessing
import sys
import threading
from collections.abc import Iterable
from typing import Any

from tqdm import auto, std

SECONDS_BETWEEN_LINES = 10.0


class Lines(std.tqdm):
    """A bar of tqdm as plain lines, for logs: `refresh` prints one, and so does an `update` once in a while."""

    def __init__(self, *given: Any, **options: Any) -> None:
        told = "{desc}: {n_fmt} of {total_fmt} {unit}s, {remaining} left{postfix}"
        late = {"delay": sys.float_info.min, "mininterval": SECONDS_BETWEEN_LINES}  # nothing is told before the start
        super().__init__(*given, **options | late | {"bar_format": told})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print where the call stands."""
        print(self, file=self.fp, flush=True)

    def clear(self, nolock: bool = False) -> None:
        """A line that was printed stays."""

    def close(self) -> None:
        """The last step had its line."""
        self.disable = True


def progress_bar(of: Iterable | int, name: str, unit: str, **options: Any) -> Any:
    """A tqdm bar called `name` over things, or over their number; each of them is one `unit`.

    Iterate over it, or use it in `with` and call `update()` after each step. `options`: tqdm's. It vanishes at its end.
    """
    steps: dict[str, Any] = {"total": of} if isinstance(of, int) else {"iterable": of}
    if not of or multiprocessing.parent_process() or threading.current_thread() is not threading.main_thread():
        options["disable"] = True
    watched = auto.notebook_tqdm != std.tqdm or sys.stderr.isatty()
    bar = auto.tqdm if watched else Lines
    # Without smoothing, the time left follows from the mean of all steps.
    return bar(**steps, desc=name, unit=unit, smoothing=0, leave=False, **options)
