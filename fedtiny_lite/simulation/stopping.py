"""Errors, Ctrl-C and interrupted cells, in a line for people: what is wrong, or what is kept and how to go on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import CalledProcessError


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


def exit_status(command: Callable[[], int]) -> int:
    """What a command of the command line returns; 1 for an error, 130 for Ctrl-C, with a line on standard error."""
    try:
        return command()
    except (ValueError, OSError, RuntimeError, FloatingPointError, CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        kept = "stopped; what was finished is kept, and the same command goes on from there"
        print(f"\n{str(stop) or kept}", file=sys.stderr)
        return 130
