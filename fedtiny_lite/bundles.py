"""Many records as one small JSON file: what the runs share stands once, rounds are columns, notes are left out.

A bundle is what is committed of a long sweep. Numbers in it are rounded to 7 digits; everything that figures and
tables read is there: settings, start, each round's accuracy and costs, final numbers, hardware, packages, commit.
Imports neither torch nor anything of the package but `records`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtiny_lite.records import ROOT, plain, read_json, write_json

COMMITTED = ROOT / "records"
_SECTIONS = ("config", "data", "model", "environment")
_LEFT_OUT = ("labels", "histogram", "sizes")  # of the data's summary: long, and the same for every method


def write_bundle(path: str | Path, plan: str, records: Sequence[dict]) -> Path:
    """Write `records` of finished and of stopped runs as the bundle of `plan`. Raises ValueError if there is none."""
    if not records:
        raise ValueError(f"plan {plan} has no finished run to bundle")
    slim = [_slim(plain(record)) for record in records]
    shared = {section: _common([record[section] for record in slim]) for section in _SECTIONS}
    for record in slim:
        for section in _SECTIONS:
            own = {key: value for key, value in record.pop(section).items() if key not in shared[section]}
            record |= {section: own} if own else {}
    return write_json(path, {"plan": plan, "shared": shared, "runs": slim})


def read_bundle(path: str | Path) -> list[dict]:
    """The records of a bundle, as `records.load_records` gives them but for what a bundle leaves out.

    Raises FileNotFoundError, or ValueError for a file that is torn or not a bundle.
    """
    bundle = read_json(path)
    if not isinstance(bundle, dict) or not bundle.keys() >= {"plan", "shared", "runs"}:
        raise ValueError(f"{path} is not a bundle of records: those have plan, shared and runs")
    return [_whole(run, bundle["shared"]) for run in bundle["runs"]]


def load_plan(plan: str, out: str | Path) -> tuple[list[dict], str]:
    """The records of a plan, and a sentence on where they are from.

    Those measured here, in `out`/plans, come before the ones that are committed with the kit. Raises
    FileNotFoundError, saying how to make them, if there are neither.
    """
    own, committed = (Path(folder) / f"{plan}.json" for folder in (Path(out) / "plans", COMMITTED))
    for path, origin in ((own, "measured on this machine"), (committed, "committed with the kit")):
        if path.exists():
            records = read_bundle(path)
            return records, f"{plan}: {len(records)} runs loaded from {path.name}, {origin}; {provenance(records)}"
    raise FileNotFoundError(f"no records of plan {plan}; make them with: python -m fedtiny_lite sweep {plan}")


def provenance(records: Sequence[dict]) -> str:
    """Processor, torch and commit of these runs, in words."""
    places = {
        (e["cpu"], e["packages"]["torch"], (e["commit"] or "no commit")[:9])
        for e in (record["environment"] for record in records)
    }
    return "; ".join(f"{cpu}, torch {torch}, commit {commit}" for cpu, torch, commit in sorted(places))


def _slim(record: dict) -> dict:
    data = {key: value for key, value in record["data"].items() if key not in _LEFT_OUT}
    rounds = {key: _column([entry[key] for entry in record["rounds"]]) for key in _round_keys(record)}
    kept = {key: record[key] for key in ("run_id", "config", "model", "environment", "complete")}
    stopped = {"stopped": record["stopped"]} if "stopped" in record else {}
    short = {key: _rounded(record[key]) for key in ("start", "final")}
    prelude = [{key: _rounded(value) for key, value in entry.items() if _small(value)} for entry in record["prelude"]]
    return (
        kept
        | stopped
        | {"data": data, "prelude": prelude, "number_of_rounds": len(record["rounds"])}
        | short
        | {"rounds": rounds}
    )


def _round_keys(record: dict) -> list[str]:
    """Of the rounds' entries what every round has and is a number or the list of empty layers."""
    entries = record["rounds"]
    return [key for key in (entries[0] if entries else ()) if all(key in e and _small(e[key]) for e in entries)]


def _small(value: object) -> bool:
    return isinstance(value, int | float | str) or value == [] or _is_names(value)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _column(values: list) -> object:
    """{"all": value} if each round has the same, else the list."""
    values = [_rounded(value) for value in values]
    return {"all": values[0]} if all(value == values[0] for value in values) else values


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _whole(run: dict, shared: Mapping[str, dict]) -> dict:
    count, columns = run["number_of_rounds"], run["rounds"]
    series = {key: column["all"] if isinstance(column, dict) else column for key, column in columns.items()}
    rounds = [
        {key: series[key] if isinstance(columns[key], dict) else series[key][r] for key in columns}
        for r in range(count)
    ]
    sections = {section: shared[section] | run.get(section, {}) for section in _SECTIONS}
    return {key: value for key, value in run.items() if key != "number_of_rounds"} | sections | {"rounds": rounds}


def _common(sections: Sequence[dict]) -> dict:
    """The entries that all have."""
    first, *others = sections
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}
