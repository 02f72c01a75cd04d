"""Ctrl-C, or a cell that is interrupted: one line says what is kept and how to go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """The user stopped a long call; the text says what is kept and how to go on."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [str(self)]


@contextmanager
def stopping(kept: Callable[[], str]) -> Iterator[None]:
    """Turns an interruption of what stands inside into Stopped, with the sentence that `kept` gives at that moment."""
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt:
        raise Stopped(f"stopped; {kept()}") from None
