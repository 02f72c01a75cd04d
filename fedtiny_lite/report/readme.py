"""The verdicts in the README, between marks: written by `report --readme`, and held there by a test."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedtiny_lite.records.files import ROOT, write_bytes
from fedtiny_lite.report.verdicts import Verdict, in_markdown, in_short

PLACES: Mapping[str, Callable[[Sequence[Verdict]], str]] = {"answer": in_short, "verdicts": in_markdown}
"""What stands between the marks of this name."""


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a place."""
    return f"<!-- {name}: python -m fedtiny_lite report --readme -->", f"<!-- end of {name} -->"


def with_verdicts(text: str, found: Sequence[Verdict]) -> str:
    """`text` with the verdicts between their marks. Raises ValueError for a text without one of them."""
    for name, written in PLACES.items():
        begin, end = marks(name)
        if begin not in text or end not in text:
            raise ValueError(f"the README has no place for the {name}, between {begin} and {end}")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n{written(found)}\n{end}{rest.split(end, 1)[1]}"
    return text


def write_readme(found: Sequence[Verdict], path: Path = ROOT / "README.md") -> Path:
    """Put the verdicts into the README."""
    return write_bytes(path, with_verdicts(path.read_text(encoding="utf-8"), found).encode())
