"""Results as records: one JSON file a run, what it ran on, and the bands its numbers are expected in.

Records are plain JSON objects. Files are written beside their place and renamed, so a reader sees a whole
file or none. This module imports neither torch nor anything else of the package.
"""

import contextlib
import json
import math
import os
import platform
import subprocess
import textwrap
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = ROOT / "notebooks" / "expected.json"
RECORD_KEYS = frozenset({"run_id", "config", "rounds", "complete"})
PACKAGES = ("fedtiny-lite", "torch", "torchvision", "numpy", "numba", "scikit-learn", "matplotlib", "papermill")


def plain(value: object) -> object:
    """`value` as plain JSON data: arrays become lists, their scalars numbers, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_json(path: str | Path, obj: object) -> Path:
    """Write `obj` as JSON to `path`: to a file beside it first, then renamed. Folders are created.

    Numbers that JSON lacks (NaN, infinity) are written as null. Raises OSError, naming `path`, if it cannot
    be written; what was there before is then untouched.
    """
    text = json.dumps(plain(obj), indent=1, allow_nan=False) + "\n"
    return write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` to a file beside `path`, then rename it; folders are created. Raises OSError naming `path`."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:
        reason = f"cannot write it ({error.strerror}); choose a folder that can be written to"
        raise type(error)(error.errno, reason, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return path


def read_json(path: str | Path) -> object:
    """The JSON data in `path`. Raises FileNotFoundError, or ValueError if the file is torn or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is torn or is not JSON ({error}); delete it and run again") from error


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


def environment() -> dict:
    """What a run ran on: Python, platform, processor, packages, git commit (None outside a checkout)."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def cpu_model() -> str:
    """The processor's model name as the operating system gives it."""
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with `-dirty` appended if tracked files were changed."""
    if not (ROOT / ".git").exists():
        return None
    return _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def expected_bands() -> dict[str, dict]:
    """The claims in notebooks/expected.json by id: `claim`, `notebook`, `source`, and `profiles`.

    `profiles` maps a profile to [low, high], both ends included; null leaves an end open.
    """
    return {entry["id"]: entry for entry in read_json(EXPECTED)}


def check(claim_id: str, measured: float | None, profile: str) -> dict:
    """Hold a measured number against its expected band.

    Returns {id, claim, profile, low, high, measured, ok}. `ok` is None ("not judged") if the claim has no
    band at this profile; a number that is missing or NaN is outside any band. Raises ValueError for an
    unknown claim.
    """
    bands = expected_bands()
    if claim_id not in bands:
        raise ValueError(f"unknown claim {claim_id!r}; {EXPECTED.name} has {', '.join(sorted(bands))}")
    entry, number = bands[claim_id], plain(measured)
    row = {"id": claim_id, "claim": entry["claim"], "profile": profile, "low": None, "high": None}
    if profile not in entry["profiles"]:
        return row | {"measured": number, "ok": None}
    low, high = entry["profiles"][profile]
    above = number is not None and (low is None or number >= low)
    below = number is not None and (high is None or number <= high)
    return row | {"low": low, "high": high, "measured": number, "ok": above and below}


def save_claims(rows: Iterable[dict], out: str | Path, notebook: str) -> Path:
    """Write a notebook's checked claims to `out`/claims/<notebook>.json and return that path."""
    return write_json(claims_path(out, notebook), list(rows))


def claims_path(out: str | Path, notebook: str) -> Path:
    """Where the claims of a notebook, given by its file name or stem, are kept."""
    return Path(out) / "claims" / f"{Path(notebook).name.removesuffix('.ipynb')}.json"


def load_claims(out: str | Path, notebooks: Iterable[str] | None = None) -> list[dict]:
    """The claims checked below `out`, in notebook order: all, or those of the named `notebooks`."""
    paths = set((Path(out) / "claims").glob("*.json"))
    if notebooks is not None:
        paths &= {claims_path(out, name) for name in notebooks}
    return [row for path in sorted(paths) for row in read_json(path)]


def claim_cells(row: dict) -> tuple[str, str, str, str]:
    """A claim as text: the claim, its expected band, the measured number, and ok, MISS or not judged."""
    ends = [("≥", row["low"]), ("≤", row["high"])]
    band = " and ".join(f"{sign} {number:.4g}" for sign, number in ends if number is not None)
    measured = "none" if row["measured"] is None else f"{row['measured']:.4g}"
    verdict = {True: "ok", False: "MISS", None: "not judged"}[row["ok"]]
    return row["claim"], band or "-", measured, verdict


def claims_table(out: str | Path, notebooks: Iterable[str] | None = None) -> str:
    """The claims of `load_claims` as a text table, long ones wrapped at 60 characters."""
    table = [
        ("claim", "expected", "measured", ""),
        *(claim_cells(row) for row in load_claims(out, notebooks)),
    ]
    if len(table) == 1:
        return "no claims were checked"
    columns = [max(len(row[column]) for row in table) for column in (1, 2)]
    lines = []
    for claim, band, measured, verdict in table:
        first, *rest = textwrap.wrap(claim, 60) or [""]
        lines.append(f"{first:<60}  {band:<{columns[0]}}  {measured:>{columns[1]}}  {verdict}".rstrip())
        lines.extend(rest)
    return "\n".join(lines)
