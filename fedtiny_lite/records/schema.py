"""The record of a run: a plain JSON object with these keys, how one is read, and when two are equal."""

import json
import warnings
from pathlib import Path

from fedtiny_lite.records.files import plain, read_json

RECORD_KEYS = frozenset({"run_id", "config", "rounds", "complete"})


def is_record(obj: object) -> bool:
    """Whether `obj` has the keys that every record of a run has."""
    return isinstance(obj, dict) and obj.keys() >= RECORD_KEYS


def read_record(path: str | Path) -> dict:
    """The record in `path`. Raises FileNotFoundError, or ValueError if it is torn or not a record."""
    record = read_json(path)
    if not is_record(record):
        raise ValueError(f"{path} is not a record of a run: those have {', '.join(sorted(RECORD_KEYS))}")
    return record


def load_records(folder: str | Path) -> list[dict]:
    """Every complete record below `folder`, sorted by path.

    Unfinished runs and JSON files of another kind are left out; a torn file is left out with a warning that
    names it.
    """
    records = []
    for path in sorted(Path(folder).rglob("*.json")):
        try:
            obj = read_json(path)
        except ValueError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
            continue
        if is_record(obj) and obj["complete"]:
            records.append(obj)
    return records


def canonical(record: dict) -> bytes:
    """The bytes two equal runs share: JSON with sorted keys, without measured times and the environment.

    Measured are every key `seconds`, at any depth, and the top-level key `environment`.
    """
    kept = {key: value for key, value in record.items() if key != "environment"}
    text = json.dumps(_without_seconds(plain(kept)), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_seconds(item) for key, item in value.items() if key != "seconds"}
    return [_without_seconds(item) for item in value] if isinstance(value, list) else value
