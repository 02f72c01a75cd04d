"""Claims: the numbers that notebooks state, held against the bands in `notebooks/expected.json`."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedtiny_lite.records.files import ROOT, plain, read_json, write_json

EXPECTED = ROOT / "notebooks" / "expected.json"
Band = Sequence[float | None]
"""The lowest and the highest number that is expected, both included; None leaves an end open."""


def expected_bands() -> dict[str, dict]:
    """The claims in notebooks/expected.json by id: `claim`, `notebook`, `source`, and `profiles`.

    `profiles` maps a profile to [low, high], both ends included; null leaves an end open.
    """
    return {entry["id"]: entry for entry in read_json(EXPECTED)}


def check(
    claim_id: str,
    measured: float | None,
    profile: str,
    band: Band | None = None,
    changed: Sequence[str] = (),
    missing: str = "",
) -> dict[str, Any]:
    """Hold a measured number against its expected band: the one in expected.json, or `band` where that is given.

    Returns {id, claim, profile, low, high, measured, ok, why}. `ok` is None ("not judged") if the claim has no band at
    this profile, if the notebook ran with `changed` parameters, for which no band was made, or if what is `missing` on
    the machine kept it from being measured; `why` says which. A number that is None or NaN is outside any band. Raises
    ValueError for an unknown claim.
    """
    bands = expected_bands()
    if claim_id not in bands:
        raise ValueError(f"unknown claim {claim_id!r}; {EXPECTED.name} has {', '.join(sorted(bands))}")
    entry, number = bands[claim_id], plain(measured)
    band = band or entry["profiles"].get(profile)
    row = {"id": claim_id, "claim": entry["claim"], "profile": profile, "low": None, "high": None, "why": ""}
    if missing:
        return row | {"measured": None, "ok": None, "why": f"{missing} is not installed"}
    if band is None or changed:
        return row | {"measured": number, "ok": None, "why": _not_judged(profile, changed)}
    low, high = band
    above = number is not None and (low is None or number >= low)
    below = number is not None and (high is None or number <= high)
    return row | {"low": low, "high": high, "measured": number, "ok": above and below}


def _not_judged(profile: str, changed: Sequence[str]) -> str:
    """Why there is no band to hold a number against."""
    if not changed:
        return f"no band at profile {profile}"
    return f"{' and '.join(changed)} {'differs' if len(changed) == 1 else 'differ'}"


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
    """A claim as text: the claim, its expected band, the measured number, and ok, MISS or not judged and why."""
    ends = [("≥", row["low"]), ("≤", row["high"])]
    band = " and ".join(f"{sign} {number:.4g}" for sign, number in ends if number is not None)
    measured = "none" if row["measured"] is None else f"{row['measured']:.4g}"
    verdict = {True: "ok", False: "MISS", None: ": ".join(filter(None, ("not judged", row["why"])))}[row["ok"]]
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
