"""What clients reveal by method, in bytes, and what clipping and noise cost in accuracy: an experiment, no guarantee.

    python -m benchmarks.privacy

The first table names every tensor that a client sends and the bytes it takes, in the last round of a run of the profile
smoke in which it is sent. The second trains FedTiny on digits with updates and lists clipped to a length of 1 and
Gaussian noise on them, over seeds 100 to 104; the interval is that of Student's t for the mean.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats

from fedtiny_lite.config import METHODS, load_method, make_config
from fedtiny_lite.federated.ledger import accept
from fedtiny_lite.federated.messages import unpack
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.environment import cpu_model
from fedtiny_lite.records.files import write_json
from fedtiny_lite.simulation import exchanges
from fedtiny_lite.simulation.rounds import run

SEEDS = range(100, 105)
LEVELS: tuple[Mapping[str, float], ...] = (
    {},
    {"clip_norm": 1.0},
    *({"clip_norm": 1.0, "noise": noise} for noise in (0.003, 0.01, 0.03)),
)


def revealed(method: str) -> dict[str, int]:
    """What a client of this method sends -> its bytes, client 0's where it is asked, else the first client's."""
    found: dict[str, int] = {}

    def spy(*given: Any) -> Any:
        exchange, packed = given[1], given[-1]
        reply = unpack(packed[min(packed)])
        found.update({f"{exchange.name}: {name}": tensor.nbytes for name, tensor in reply.tensors.items()})
        return accept(*given)

    exchanges.accept = spy
    try:
        run(make_config("smoke", method=method))
    finally:
        exchanges.accept = accept
    return found


def cost(level: Mapping[str, float]) -> dict[str, Any]:
    """Final test accuracy over SEEDS: each, the mean, half of its 95 % interval; None where a run stopped."""
    found = [_accuracy(seed, level) for seed in SEEDS]
    centre, half = interval([value for value in found if value is not None])
    return {**level, "accuracies": found, "mean": centre, "half": half}


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and half the width of its 95 % interval; None where there are too few values for it."""
    if len(values) < 2:
        return (values[0] if values else None), None
    return mean(values), stats.t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5


def _accuracy(seed: int, level: Mapping[str, float]) -> float | None:
    try:
        return run(make_config("digits", seed=seed, **level))["final"]["test_accuracy"]
    except FloatingPointError:
        return None


def main() -> int:
    """Print both tables and write records/privacy.json."""
    print("| method | what a client sends: bytes |\n|---|---|")
    kinds = {}
    for method in METHODS:
        kinds[method] = revealed(method)
        told = ", ".join(f"{name} {count:,}" for name, count in kinds[method].items())
        print(f"| {load_method(method).label} | {told} |", flush=True)
    print("| clip_norm | noise | test accuracy | less the first line, by seed | runs |\n|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for level in LEVELS:
        rows.append(row := cost(level))
        pairs = zip(row["accuracies"], rows[0]["accuracies"], strict=True)
        moved = interval([one - other for one, other in pairs if one is not None and other is not None])
        told = " | ".join(f"{c:.3f} ± {half:.3f}" if half else "-" for c, half in ((row["mean"], row["half"]), moved))
        kept = sum(value is not None for value in row["accuracies"])
        print(f"| {level.get('clip_norm', 0):g} | {level.get('noise', 0):g} | {told} | {kept} |", flush=True)
    record = {"cpu": cpu_model(), "sent_bytes": kinds, "noise": rows}
    print(write_json(Path(COMMITTED) / "privacy.json", record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
