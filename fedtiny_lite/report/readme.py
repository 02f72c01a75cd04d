"""The verdicts in the README, between two marks: written by `report --readme`, and held there by a test."""

from collections.abc import Sequence
from pathlib import Path

from fedtiny_lite.records.files import ROOT, write_bytes
from fedtiny_lite.report.verdicts import Verdict, in_markdown

BEGIN, END = "<!-- verdicts: python -m fedtiny_lite report --readme -->", "<!-- end of verdicts -->"


def with_verdicts(text: str, found: Sequence[Verdict]) -> str:
    """`text` with the table of verdicts between its marks. Raises ValueError for a text without them."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"the README has no place for the verdicts, between {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{in_markdown(found)}\n{END}{rest.split(END, 1)[1]}"


def write_readme(found: Sequence[Verdict], path: Path = ROOT / "README.md") -> Path:
    """Put the verdicts into the README."""
    return write_bytes(path, with_verdicts(path.read_text(encoding="utf-8"), found).encode())
