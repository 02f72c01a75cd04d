"""Numbers and tables as text."""

import re
from collections.abc import Sequence

import pandas as pd

from fedtiny_lite.report.intervals import t_interval


def with_interval(values: Sequence[float], sign: str = "") -> str:
    """Mean and 95 % t interval, such as "0.523 [0.501, 0.545]"; the mean alone for a single value."""
    if len(values) < 2:
        return format(values[0], f"{sign}.3f") if values else "-"
    average, low, high = t_interval(values)
    return f"{average:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def as_markdown(table: pd.DataFrame) -> str:
    """The table as the documentation has it, a minus sign before what is below 0."""
    rows = [["", *table.columns], ["---"] * (len(table.columns) + 1), *table.astype(str).reset_index().values.tolist()]
    lines = "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
    return re.sub(r"(?<!\w)-(?=\d)", "−", lines)
