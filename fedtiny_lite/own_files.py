"""Files of one's own, outside the package: a method's and a network's. A name changes with the content of its file."""

import hashlib
import re
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = "file:"
"""How a method or a network in a file of one's own is named: file:PATH."""
_STAMP = re.compile("#[0-9a-f]{8}$")


def stamped(setting: str, name: str) -> str:
    """The value of a setting; of a file of one's own with 8 hex digits of its content, as file:PATH#5f3a09bc.

    So another content is another run. Raises ValueError for a file that is not there or cannot be read.
    """
    if not name.startswith(FILE) or _STAMP.search(name):
        return name
    return f"{name}#{_stamp(_content(setting, name))}"


def file_of(name: str) -> Path:
    """The file that a name stands for, whether it is `stamped` or not."""
    return Path(_STAMP.sub("", name.removeprefix(FILE)))


def method_in(name: str) -> Any:
    """The METHOD of a file, by its `stamped` name.

    Raises ValueError for a file that has changed, that cannot be executed or that has no METHOD; the message names the
    file and, where it can, the line.
    """
    method = _defined("method", name, "METHOD")
    parts = ("training", "settings")  # of a Method, which belongs to a room above this one
    if not all(hasattr(method, part) for part in parts):
        kind = type(method).__name__
        raise ValueError(
            f"{file_of(name)}: METHOD is of type {kind}; it must be a fedtiny_lite.federated.protocol.Method"
        )
    return method


def network_in(name: str, width: int, classes: int, in_channels: int) -> Any:
    """What the NETWORK of a file gives for these sizes, by its `stamped` name. Raises ValueError as `method_in`."""
    network, path = _defined("model", name, "NETWORK"), file_of(name)
    try:
        return network(width, classes, in_channels)
    except (Exception, SystemExit) as error:  # whatever a reader's file does wrong
        raise ValueError(f"{path}{_line(error, str(path))}: {_said(error)}") from error


def _defined(setting: str, name: str, variable: str) -> Any:
    module = _executed(setting, name)
    if not hasattr(module, variable):
        raise ValueError(f"{setting} = {name!r}: the file defines no {variable}; docs/methods.md shows one")
    return getattr(module, variable)


@lru_cache
def _executed(setting: str, name: str) -> ModuleType:
    """The module of a file, for what a setting names; one file may give both."""
    content, path, stamp = _content(setting, name), file_of(name), name[-8:]
    if stamp != _stamp(content):
        raise ValueError(f"{setting} = {name!r}: the file has changed; name it {name[:-9]} to run it as it is now")
    module = ModuleType(f"{setting}_{stamp}")
    sys.modules[module.__name__] = module  # where dataclasses look themselves up
    try:
        exec(compile(content, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:  # whatever a reader's file does wrong
        raise ValueError(f"{path}{_line(error, str(path))}: {_said(error)}") from error
    return module


def _line(error: BaseException, path: str) -> str:
    """The last line of the file that led to the error; nothing if it lies elsewhere alone."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""


def _said(error: BaseException) -> str:
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(words.split())}".removesuffix(": ")


def _stamp(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _content(setting: str, name: str) -> str:
    path = file_of(name)
    if not path.is_file():
        raise ValueError(f"{setting} = {name!r}: there is no file {path}")
    try:
        return path.read_text(encoding="utf-8-sig")  # which drops the mark that editors on Windows put first
    except UnicodeDecodeError:
        raise ValueError(f"{setting} = {name!r}: the file is not text in UTF-8") from None
