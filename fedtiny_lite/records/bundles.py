"""Many records as one small JSON file: what the runs share stands once, rounds are columns, most notes are left out.

A bundle is what is committed of a long sweep. Numbers in it are rounded to 7 digits; everything that figures and
tables read is there: settings, what selection found, each round's accuracy and costs, final numbers, hardware,
packages, commit.
Imports neither torch nor anything of the package but `records`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtiny_lite.records.files import ROOT, plain, read_json, write_bytes

COMMITTED = ROOT / "records"
_SECTIONS = ("config", "data", "model", "environment")
_LEFT_OUT = ("labels", "histogram", "sizes", "effective_classes")  # of the data: long, and the same for every method
_ABSENT = object()


def write_bundle(path: str | Path, plan: str, records: Sequence[dict]) -> Path:
    """Write `records` of finished and of stopped runs as the bundle of `plan`. Raises ValueError if there is none."""
    if not records:
        raise ValueError(f"plan {plan} has no finished run to bundle")
    slim = [_slim(plain(record)) for record in records]
    shared = {section: _usual([record[section] for record in slim]) for section in _SECTIONS}
    for record in slim:
        for section in _SECTIONS:
            usual = shared[section]
            own = {key: value for key, value in record.pop(section).items() if usual.get(key, _ABSENT) != value}
            record |= {section: own} if own else {}
    lines = ",\n".join(json.dumps(record, separators=(",", ":"), allow_nan=False) for record in slim)
    head = f'{{"plan": {json.dumps(plan)},\n"shared": {json.dumps(shared, indent=1)},\n"runs": [\n'
    return write_bytes(path, f"{head}{lines}\n]}}\n".encode())


def read_bundle(path: str | Path) -> list[dict]:
    """The records of a bundle, as `schema.load_records` gives them but for what a bundle leaves out.

    Raises FileNotFoundError, or ValueError for a file that is torn or not a bundle.
    """
    bundle = read_json(path)
    if not isinstance(bundle, dict) or not bundle.keys() >= {"plan", "shared", "runs"}:
        raise ValueError(f"{path} is not a bundle of records: those have plan, shared and runs")
    try:
        return [_whole(run, bundle["shared"]) for run in bundle["runs"]]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole bundle of records ({error!r}); delete it and sweep again") from error


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


def records_so_far(plan: str, out: str | Path) -> list[dict]:
    """The records of `load_plan`, or none if there are none yet."""
    try:
        return load_plan(plan, out)[0]
    except FileNotFoundError:
        return []


def provenance(records: Sequence[Mapping]) -> str:
    """Processor (the GPU, where one was used), torch and commit of these runs, in words."""
    environments = [record["environment"] for record in records]
    places = {(e.get("gpu", e["cpu"]), e["packages"]["torch"], _short(e["commit"])) for e in environments}
    return "; ".join(f"{cpu}, torch {torch}, commit {commit}" for cpu, torch, commit in sorted(places))


def _short(commit: str | None) -> str:
    """The first 9 digits of a commit; that files were changed since is not cut off."""
    number, dirty, _ = (commit or "unknown").partition("-dirty")
    return number[:9] + dirty


def _slim(record: dict) -> dict:
    data = {key: value for key, value in record["data"].items() if key not in _LEFT_OUT}
    rounds = {key: _column([entry[key] for entry in record["rounds"]]) for key in _round_keys(record)}
    kept = {key: record[key] for key in ("run_id", "config", "model", "environment", "complete")}
    kept |= {key: record[key] for key in ("method", "stopped") if key in record}
    short = {key: _rounded(record[key]) for key in ("start", "final")}
    prelude = [_slim_prelude(entry) for entry in record["prelude"]]
    return (
        kept
        | {"data": data, "prelude": prelude, "number_of_rounds": len(record["rounds"])}
        | short
        | {"rounds": rounds}
    )


def _slim_prelude(entry: dict) -> dict:
    """Its numbers and lists, and what selection found, without the candidates' layers."""
    found = {key: value for key, value in entry.get("selection", {}).items() if key != "kept"}
    small = {key: value for key, value in entry.items() if _small(value)} | ({"selection": found} if found else {})
    return {key: _rounded(value) for key, value in small.items()}


def _round_keys(record: dict) -> list[str]:
    """Of the rounds' entries what every round has and is a number or a list of layers or clients."""
    entries = record["rounds"]
    names = [key for key in (entries[0] if entries else ()) if key != "round"]
    return [key for key in names if all(key in entry and _small(entry[key]) for entry in entries)]


def _small(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, int | str) for item in value)
    return value is None or isinstance(value, int | float | str)  # None: a loss that was no finite number


def _column(values: list) -> object:
    """{"all": value} if each round has the same, else the list."""
    values = [_rounded(value) for value in values]
    return {"all": values[0]} if all(value == values[0] for value in values) else values


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _whole(run: dict, shared: Mapping[str, dict]) -> dict:
    count, columns = run["number_of_rounds"], run["rounds"]
    series = {key: column["all"] if isinstance(column, dict) else column for key, column in columns.items()}
    rounds = [
        {"round": r} | {key: series[key] if isinstance(columns[key], dict) else series[key][r] for key in columns}
        for r in range(count)
    ]
    sections = {section: shared[section] | run.get(section, {}) for section in _SECTIONS}
    return {key: value for key, value in run.items() if key != "number_of_rounds"} | sections | {"rounds": rounds}


def _usual(sections: Sequence[dict]) -> dict:
    """The most frequent value of each entry that all have."""
    keys = [key for key in sections[0] if all(key in section for section in sections)]
    texts = {key: Counter(json.dumps(section[key]) for section in sections) for key in keys}
    return {key: json.loads(counted.most_common(1)[0][0]) for key, counted in texts.items()}
