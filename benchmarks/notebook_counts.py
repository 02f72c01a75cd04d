"""Counts that say how a notebook reads: `python -m benchmarks.notebook_counts` prints a row for each.

Lines are those of code cells that are not blank, words those of text cells between white space.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import nbformat
import pandas as pd

from fedtiny_lite.experiments.notebook_runner import find_notebooks


def counts(path: Path) -> dict[str, float]:
    """The counts of one notebook, by name of column."""
    cells = nbformat.read(path, as_version=4).cells
    code = [as_python(cell.source) for cell in cells if cell.cell_type == "code"]
    lines = [sum(bool(line.strip()) for line in source.splitlines()) for source in code]
    words = [len(cell.source.split()) for cell in cells if cell.cell_type == "markdown"]
    called = [name for source in code for name in _called(source)]
    return {
        "cells": len(cells),
        "median lines": median(lines),
        "most lines": max(lines),
        "median words": median(words),
        "defs": sum(isinstance(node, ast.FunctionDef) for source in code for node in ast.walk(ast.parse(source))),
        "exercises": called.count("check"),
        "figures": called.count("figure") + called.count("savefig"),
    }


def as_python(source: str) -> str:
    """The code of a cell; of one that writes a file, what it writes."""
    magic, _, rest = source.partition("\n")
    return rest if magic.startswith("%%") else source


def _called(source: str) -> Iterator[str]:
    """The last word of each name that is called, `check` only where it is a function of its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute) and node.func.attr != "check":
                yield node.func.attr


def main() -> None:
    """The table of all notebooks on standard output."""
    table = {path.stem: counts(path) for path in find_notebooks()}
    print(pd.DataFrame.from_dict(table, orient="index").convert_dtypes().to_string())


if __name__ == "__main__":
    main()
