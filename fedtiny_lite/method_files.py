"""A method in a file of one's own, outside the package: its name, which changes with its content, and its METHOD."""

import hashlib
import re
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = "file:"
"""How the method in a file of one's own is named: file:PATH."""
_STAMP = re.compile("#[0-9a-f]{8}$")


def stamped(method: str) -> str:
    """The name of a method; that in a file of one's own with 8 hex digits of its content, as file:PATH#5f3a09bc.

    So another content is another run. Raises ValueError for a file that is not there or cannot be read.
    """
    if not method.startswith(FILE) or _STAMP.search(method):
        return method
    return f"{method}#{_stamp(_content(method))}"


def file_of(method: str) -> Path:
    """The file of a method in a file of one's own, whether its name is `stamped` or not."""
    return Path(_STAMP.sub("", method.removeprefix(FILE)))


@lru_cache
def method_in(name: str) -> Any:
    """The METHOD of a file, by its `stamped` name.

    Raises ValueError for a file that has changed, that cannot be executed or that has no METHOD; the message names the
    file and, where it can, the line.
    """
    content, path, stamp = _content(name), file_of(name), name[-8:]
    if stamp != _stamp(content):
        raise ValueError(f"method = {name!r}: the file has changed; name it {name[:-9]} to run it as it is now")
    module = sys.modules[f"method_{stamp}"] = ModuleType(f"method_{stamp}")  # where dataclasses look themselves up
    try:
        exec(compile(content, str(path), "exec"), vars(module))
    except Exception as error:  # whatever a reader's file does wrong
        raise ValueError(f"{path}{_line(error, str(path))}: {_said(error)}") from error
    if not hasattr(module, "METHOD"):
        raise ValueError(f"method = {name!r}: the file defines no METHOD; docs/methods.md shows one")
    parts = ("training", "settings")  # of a Method, which belongs to a room above this one
    if not all(hasattr(module.METHOD, part) for part in parts):
        kind = type(module.METHOD).__name__
        raise ValueError(f"{path}: METHOD is of type {kind}; it must be a fedtiny_lite.federated.protocol.Method")
    return module.METHOD


def _line(error: Exception, path: str) -> str:
    """The last line of the file that led to the error; nothing if it lies elsewhere alone."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""


def _said(error: Exception) -> str:
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(words.split())}".removesuffix(": ")


def _stamp(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _content(name: str) -> str:
    path = file_of(name)
    if not path.is_file():
        raise ValueError(f"method = {name!r}: there is no file {path}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"method = {name!r}: the file is not text in UTF-8") from None
