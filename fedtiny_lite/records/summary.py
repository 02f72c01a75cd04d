"""What a record says of clients: of few each one, of many a summary."""

from collections.abc import Sequence
from statistics import fmean

from fedtiny_lite.records.files import Json

FEW = 100
"""So many clients have an entry each in a record."""


def of_each(values: Sequence[float]) -> Json:
    """A number of each client; the lowest, the mean and the highest, by name, where clients are more than `FEW`."""
    if len(values) <= FEW:
        return list(values)
    return {"lowest": min(values), "mean": fmean(values), "highest": max(values)}
