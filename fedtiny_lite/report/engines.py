"""The records of `benchmarks.sparse_step` and `benchmarks.inference`: engines beside each other.

The first holds `steps`, each with the seconds of one training step of a model under a mask in an engine; `memory`,
`growth` and `pairs` (two clients at once). The second holds `rows`, seconds of a prediction. Where `density` is null,
nothing is pruned.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedtiny_lite.records.bundles import COMMITTED, provenance
from fedtiny_lite.records.files import read_json

FLOAT32 = ("dense contiguous", "dense channels_last")
MASKS = {"uniform": "uniform", "erk": "ERK"}
"""A mask of the record -> its name in figures."""
PARTS = {  # what is drawn -> beginnings of its names in the record; all others are the rest
    "convolutions, forward": ("conv_forward",),
    "convolutions, backward": ("conv_backward", "weight_gradient"),
    "norms, ReLU, residual sums": ("norm_",),
    "strides, pooling": ("split_phases", "merge_phases", "max_pool"),
}
REFERENCE = "amd_epyc_avx512_bf16"
"""The processor on which the engine's targets were set, by the name of its record."""
Step = Mapping[str, Any]
"""A row of the record, as it was read from JSON."""


def step_records(folder: Path = COMMITTED) -> dict[str, Mapping]:
    """Kind of processor -> its record of training steps in `folder`, by name."""
    return {
        path.stem: read_json(path) | {"machine": path.stem} for path in sorted((folder / "sparse_step").glob("*.json"))
    }


def step_record() -> Mapping:
    """The committed record of the processor on which the engine's targets were set, which figures and bands are of."""
    return step_records()[REFERENCE]


def rows_with(rows: Sequence[Step], **wanted: object) -> list[Step]:
    """The rows of a list of the record that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def best_dense(rows: Sequence[Step], value: str = "seconds") -> Step:
    """Of dense float32 steps (or memory) the one with the least of `value`. Raises ValueError if there is none."""
    return min((row for row in rows if row["engine"] in FLOAT32), key=lambda row: row[value])


def sparse_steps(record: Mapping, model: str, width: int, mask: str) -> dict[float, Step]:
    """Density -> the sparse step of this model and mask, densest first."""
    rows = rows_with(record["steps"], model=model, width=width, mask=mask, engine="sparse")
    return {row["density"]: row for row in sorted(rows, key=lambda row: -row["density"])}


def times_as_fast(record: Mapping, model: str, width: int, mask: str) -> dict[float, float]:
    """Density -> seconds of the best dense float32 step / seconds of the sparse one."""
    dense = best_dense(rows_with(record["steps"], model=model, width=width))["seconds"]
    return {density: dense / row["seconds"] for density, row in sparse_steps(record, model, width, mask).items()}


def models(record: Mapping) -> list[tuple[str, int]]:
    """(model, width) in the order of the record."""
    return list(dict.fromkeys((row["model"], row["width"]) for row in record["steps"]))


def measured(record: Mapping, how: str = "CPU seconds, medians of {turns} turns") -> str:
    """Where and how the record was measured, for captions; `how` may name the number of turns."""
    threads = f"{record['threads']} thread" + ("s" if record["threads"] > 1 else "")
    how = how.format(turns=record["turns"])
    return f"measured on {record['machine']} ({provenance([record])}); {threads}, batch {record['batch']}, {how}"


def mask_name(mask: str) -> str:
    """A mask of the record, or `dense`, as figures write it."""
    return MASKS.get(mask, mask)


def grouped_parts(parts: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a step by the groups of `PARTS` and "rest"; the sum stays the same."""
    groups = dict.fromkeys((*PARTS, "rest"), 0.0)
    for name, seconds in parts.items():
        group = next((group for group, beginnings in PARTS.items() if name.startswith(beginnings)), "rest")
        groups[group] += seconds
    return groups


def fitted(rows: Sequence[Step]) -> tuple[float, float]:
    """(seconds of a step that no mask saves, seconds per multiply-add of one image), by least relative squares.

    The line seconds = fixed + rate x macs through the steps of one model, which need two numbers of `macs` at least.
    """
    seconds, macs = (np.array([row[key] for row in rows], float) for key in ("seconds", "macs"))
    fixed, rate = np.linalg.lstsq(np.stack([1 / seconds, macs / seconds], 1), np.ones(len(rows)), rcond=None)[0]
    return float(fixed), float(rate)


def recorded(record: Mapping, model: str, width: int) -> dict[str, float]:
    """The ratios of a record that bands are for, under uniform masks.

    "speed-<density>": times as fast as the best dense float32 step. "pair-<density>": two clients at once, times as
    fast as one after the other. At density 0.01, "bf16": times as fast as dense bfloat16; "memory": peak / the least of
    dense float32; "growth": a growth step in training steps.
    """
    steps = rows_with(record["steps"], model=model, width=width)
    [bf16] = rows_with(steps, engine="dense bf16")
    [peak] = rows_with(record["memory"], engine="sparse", density=0.01)
    [growth] = rows_with(record["growth"], density=0.01)
    speeds = {f"speed-{density:g}": ratio for density, ratio in times_as_fast(record, model, width, "uniform").items()}
    pairs = {f"pair-{row['density']:g}": row["speedup"] for row in rows_with(record["pairs"], engine="sparse")}
    return (
        speeds
        | pairs
        | {
            "bf16": bf16["seconds"] / sparse_steps(record, model, width, "uniform")[0.01]["seconds"],
            "memory": peak["peak_bytes"] / best_dense(record["memory"], "peak_bytes")["peak_bytes"],
            "growth": growth["seconds"] / growth["step_seconds"],
        }
    )


def predictions(record: Mapping) -> dict[int, float]:
    """Batch -> how many times as fast as the best dense program the sparse engine predicts it at density 0.01."""
    batches = dict.fromkeys(row["batch"] for row in record["rows"])
    least = {
        batch: min(row["seconds"] for row in rows_with(record["rows"], batch=batch, density=None)) for batch in batches
    }
    sparse = {row["batch"]: row["seconds"] for row in rows_with(record["rows"], engine="sparse", density=0.01)}
    return {batch: least[batch] / sparse[batch] for batch in batches}


# --- tables -----------------------------------------------------------------------------------------------


def speed_table(record: Mapping) -> pd.DataFrame:
    """Times as fast as the best dense float32 step, and the share of multiply-adds kept, by model, mask and density.

    The dense step itself stands at density 1.
    """
    rows = [row for model, width in models(record) for row in _speeds(record, model, width)]
    rounded = pd.DataFrame(rows).round({"ms a step": 1, "times as fast": 1, "multiply-adds": 4})
    return rounded.set_index(["model", "masks", "density"])


def _speeds(record: Mapping, model: str, width: int) -> list[dict]:
    name, dense = f"{model} width {width}", best_dense(rows_with(record["steps"], model=model, width=width))
    sparse = [(mask_name(mask), row) for mask in MASKS for row in sparse_steps(record, model, width, mask).values()]
    return [
        {
            "model": name,
            "masks": label,
            "density": row["density"] or 1.0,
            "ms a step": 1e3 * row["seconds"],
            "times as fast": dense["seconds"] / row["seconds"],
            "multiply-adds": row["macs"] / dense["macs"],
        }
        for label, row in [(dense["engine"], dense), *sparse]
    ]


def fit_table(record: Mapping) -> pd.DataFrame:
    """Per model what `fitted` finds, and how far the steps under uniform and ERK masks lie from that one line.

    Rates are 10^9 multiply-adds a second, three passes of the batch; the dense one is that of the whole dense step.
    """
    rows = {f"{model} width {width}": _fit(record, model, width) for model, width in models(record)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _fit(record: Mapping, model: str, width: int) -> dict:
    steps = rows_with(record["steps"], model=model, width=width)
    sparse, dense, work = rows_with(steps, engine="sparse"), best_dense(steps), 3e-9 * record["batch"]
    fixed, rate = fitted(sparse)
    off = max(abs((fixed + rate * row["macs"]) / row["seconds"] - 1) for row in sparse)
    uniform = sparse_steps(record, model, width, "uniform")
    return (
        {"ms no mask saves": round(1e3 * fixed, 1)}
        | {f"of a step at {density:g}": f"{fixed / row['seconds']:.0%}" for density, row in uniform.items()}
        | {"sparse rate": round(work / rate, 1), "dense rate": round(work * dense["macs"] / dense["seconds"], 1)}
        | {"off the line": f"{off:.0%}"}
    )


def whole_rounds(records: Sequence[Mapping]) -> pd.DataFrame:
    """Of runs of a few rounds, a row for each method and engine: how many rounds, and the median seconds of one."""
    return pd.DataFrame([_of_run(record) for record in records]).set_index(["method", "engine"])


def _of_run(record: Mapping) -> dict:
    return {key: record["config"][key] for key in ("method", "engine")} | {
        "rounds": len(record["rounds"]),
        "s a round": float(np.median([entry["seconds"] for entry in record["rounds"]])),
    }


def latency_table(record: Mapping) -> pd.DataFrame:
    """Milliseconds of one batch: a row per engine and batch, a column per density."""
    rows = pd.DataFrame(record["rows"])
    rows["at"] = [f"density {d:g}" if d else "unmasked" for d in rows["density"].fillna(0)]
    table = rows.assign(ms=1e3 * rows["seconds"]).pivot_table("ms", ["engine", "batch"], "at", sort=False)
    return table.round(1).rename_axis(columns=None)
