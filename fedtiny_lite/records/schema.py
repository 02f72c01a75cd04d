"""The record of a run: a plain JSON object with these keys, how one is read, and when two are equal."""

import hashlib
import json
import warnings
from pathlib import Path

from fedtiny_lite.records.files import Json, plain, read_json, write_json

FAMILIES = REFERENCE, STAY, CHANGE = "reference", "masks that stay", "masks that change"
"""The families of methods, as records name them, in the order of figures and tables."""
RECORD_KEYS = frozenset({"run_id", "config", "rounds", "complete"})


def is_record(obj: object) -> bool:
    """Whether `obj` has the keys that every record of a run has, each of its kind."""
    match obj:
        case {"run_id": str(), "config": dict(), "rounds": [*rounds], "complete": bool()}:
            return all(isinstance(entry, dict) for entry in rounds)
    return False


def write_record(path: str | Path, record: dict) -> Path:
    """Write a record and its checksum, by which a changed one is known. Raises OSError as `write_json` does."""
    record = plain(record)
    return write_json(path, record | {"checksum": _checksum(record)})


def read_record(path: str | Path) -> dict:
    """The record in `path`, without its checksum.

    Raises FileNotFoundError, or ValueError if it is torn, changed or not a record.
    """
    record = read_json(path)
    if not is_record(record):
        raise ValueError(f"{path} is not a record of a run: those have {', '.join(sorted(RECORD_KEYS))}")
    return _unchanged(record, path)


def load_records(folder: str | Path) -> list[dict]:
    """Every complete record below `folder`, sorted by path.

    Unfinished runs and JSON files of another kind are left out; a torn or changed file is left out with a warning that
    names it.
    """
    records = []
    for path in sorted(Path(folder).rglob("*.json")):
        try:
            obj = read_json(path)
            if is_record(obj) and obj["complete"]:
                records.append(_unchanged(obj, path))
        except ValueError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
    return records


def _unchanged(record: dict, path: str | Path) -> dict:
    """The record without its checksum. Raises ValueError if that is missing or one of other contents."""
    rest = {key: value for key, value in record.items() if key != "checksum"}
    if record.get("checksum") != _checksum(rest):
        raise ValueError(f"{path} was changed after it was written (its checksum is wrong); delete it and run again")
    return rest


def _checksum(record: Json) -> str:
    """SHA-256 over the record as JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
