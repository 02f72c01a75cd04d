"""What a run of the claim's plan spends, counted in FLOPs or timed on one core, and how accurate it is within a budget.

A run's own seconds were taken on whatever machine it ran on, beside other work. So time is the time of a step, measured
for each run by `benchmarks.claim_steps`, times the steps that the run made.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import accumulate
from math import nan
from statistics import mean

from fedtiny_lite.experiments.claim import ARMS, LATE, ROUNDS, Values
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.files import read_json

STEPS = COMMITTED / "claim_steps.json"
ROUND = 50_000 / 64
"""Steps of a round of the plan: all clients together see each of CIFAR-10's images once, in batches of 64."""
DENSE_SHARE = 0.25
"""A round of two engines (PruneFL's) that costs more than this share of a dense one was dense: the gradients of all
weights alone are a third of it."""

Spend = Callable[[Mapping, Mapping], float]
"""What a run (its record) spends in one of its rounds, or in an exchange before them (an entry of the record)."""


def arm_of(record: Mapping, arms: Mapping[str, Values] = ARMS) -> str:
    """The name of the arm that a run belongs to. Raises ValueError for a run of none."""
    for name, arm in arms.items():
        if arm.items() <= record["config"].items():
            return name
    raise ValueError(f"{record['run_id']} belongs to no arm of the claim's plan; its arms are {', '.join(arms)}")


def flops(record: Mapping, entry: Mapping) -> float:
    """Training FLOPs of all clients, as counted."""
    return entry["training_flops"]


def seconds(record: Mapping, entry: Mapping) -> float:
    """Seconds that the clients train, one after the other on one core; nan for a run whose step was not timed.

    A round is `ROUND` steps. What precedes the rounds takes the time of as many steps as its FLOPs are worth. So it is
    for a run that a GPU made, too: its work is the same.
    """
    if not entry["training_flops"]:
        return 0.0
    step = _step(record, entry)
    steps = ROUND if "round" in entry else entry["training_flops"] / step["flops"]
    return steps * step["seconds"]


def _step(record: Mapping, entry: Mapping) -> Mapping[str, float]:
    """A step of the engine that a CPU trains with; of two, dense before the rounds and in the costly ones."""
    steps = _steps().get(_key(record["config"], arm_of(record)), {"": {"seconds": nan, "flops": nan}})
    if len(steps) == 1:
        return next(iter(steps.values()))
    cheap = "round" in entry and entry["training_flops"] <= DENSE_SHARE * ROUND * steps["dense"]["flops"]
    return steps["sparse" if cheap else "dense"]


@cache
def _steps() -> dict[tuple, dict[str, Mapping[str, float]]]:
    """`_key` of a run -> engine -> seconds and FLOPs of a step."""
    found: dict[tuple, dict[str, Mapping[str, float]]] = {}
    for step in read_json(STEPS)["steps"]:
        found.setdefault(_key(step, step["arm"]), {})[step["engine"]] = step
    return found


def _key(values: Mapping[str, object], arm: str) -> tuple:
    return arm, values["width"], values["density"], values["seed"]


def total(record: Mapping, spend: Spend) -> float:
    """What a run spends in all, before the first round included."""
    return sum(spend(record, entry) for entry in (*record["prelude"], *record["rounds"]))


def total_flops(record: Mapping) -> float:
    """Training FLOPs of all clients, those before the first round included."""
    return total(record, flops)


def accuracy_within(record: Mapping, budget: float, spend: Spend = flops) -> float:
    """Mean test accuracy over the last quarter of the rounds that end within the budget.

    A quarter is what `late_accuracy` takes of a whole run: 5 of 20 rounds, so 1 of 4. What precedes training counts as
    spent. It is nan if not even the first round ends within the budget, or if it is not known what the run spends.
    """
    inside = [entry["test_accuracy"] for so_far, entry in _spending(record, spend) if so_far <= budget]
    late = max(1, round(len(inside) * LATE["test"] / ROUNDS))
    return mean(inside[-late:]) if inside else nan


def _spending(record: Mapping, spend: Spend) -> Iterator[tuple[float, Mapping]]:
    """Each round, with what the run has spent when it ends."""
    before = sum(spend(record, entry) for entry in record["prelude"])
    _, *so_far = accumulate((spend(record, entry) for entry in record["rounds"]), initial=before)
    return zip(so_far, record["rounds"], strict=True)
