"""A method in a file of one's own, outside the package: its name, which changes with its content, and its METHOD."""

import hashlib
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = "file:"
"""How the method in a file of one's own is named: file:PATH."""


def stamped(method: str) -> str:
    """The name of a method; that in a file of one's own with 8 hex digits of its content, as file:PATH#5f3a09bc.

    So another content is another run. Raises ValueError for a file that is not there.
    """
    if not method.startswith(FILE) or "#" in method:
        return method
    return f"{method}#{_stamp(_content(method))}"


@lru_cache
def method_in(name: str) -> Any:
    """The METHOD of a file, by its `stamped` name. Raises ValueError for a file that has changed or has none."""
    content, (place, _, stamp) = _content(name), name.partition("#")
    if stamp != _stamp(content):
        raise ValueError(f"method = {name!r}: the file has changed; name it {place} to run it as it is now")
    module = sys.modules[f"method_{stamp}"] = ModuleType(f"method_{stamp}")  # where dataclasses look themselves up
    exec(compile(content, place.removeprefix(FILE), "exec"), vars(module))
    if not hasattr(module, "METHOD"):
        raise ValueError(f"method = {name!r}: the file defines no METHOD; docs/methods.md shows one")
    return module.METHOD


def _stamp(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _content(name: str) -> str:
    path = Path(name.removeprefix(FILE).partition("#")[0])
    if not path.is_file():
        raise ValueError(f"method = {name!r}: there is no file {path}")
    return path.read_text(encoding="utf-8")
