"""The records of a plan, as a table and as they are."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fedtiny_lite.records.bundles import load_plan
from fedtiny_lite.report.frames import run_frame


class Loaded(NamedTuple):
    """The runs of a plan that finished, the records of these and of runs that diverged, and where they are from."""

    runs: pd.DataFrame
    records: list[dict]
    sentence: str


def load(plan: str, out: str | Path) -> Loaded:
    """What `bundles.load_plan` finds; nothing, and how to make it, if the plan was not run."""
    try:
        records, sentence = load_plan(plan, out)
    except FileNotFoundError as error:
        return Loaded(run_frame([]), [], str(error))
    names = ", ".join(record["run_id"] for record in records if not record["complete"])
    sentence += f"; diverged, so not among the finished runs: {names}" if names else ""
    return Loaded(run_frame(record for record in records if record["complete"]), records, sentence)
