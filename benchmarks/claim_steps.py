"""Seconds of a training step of each run of the claim's plan, under a mask of as many weights a layer as it kept.

    python -m benchmarks.claim_steps

`report.claim_costs` makes a run's time of them, so that accuracies can be compared at equal time: the runs' own seconds
were taken on several machines, beside other work. A step is a client's: batch, augmentation, forward and backward pass,
SGD, at the plan's settings, on noise, one thread, by each engine that trained a run of the arm on a CPU. The kept
weights of each layer are as many as at the end of the run, at random places. The runs of a density take turns, as they
are compared with each other; times are medians of the thread's CPU seconds. A density whose runs
records/claim_steps.json holds, timed on this kind of processor with these packages, stays as it is; delete the file to
time all anew, in some four minutes. The record's `environment` is that of the last addition.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.steps import CLASSES, SHAPE, interleaved, noise
from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.experiments.claim import WIDE
from fedtiny_lite.federated.task import Task, make_task, new_model
from fedtiny_lite.model.costs import training_flops
from fedtiny_lite.model.masks import random_mask
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.records.bundles import load_plan, records_so_far
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.files import read_json, write_json
from fedtiny_lite.report.claim_costs import STEPS, arm_of
from fedtiny_lite.report.claim_tables import shown_densities
from fedtiny_lite.sparse.engine import DENSE, SPARSE, Engine

KEYS = ("arm", "width", "density", "seed", "engine")
"""What a row of the record is of."""
BATCHES, TURNS = 5, 9
"""Steps that are taken at a time, and how often."""
PIXELS = Normalisation((0.5,) * 3, (0.25,) * 3)


def main() -> None:
    """Time the runs that are there, density by density."""
    torch.set_num_threads(1)
    records, origin = load_plan("claim", "results")
    print(origin, flush=True)
    known, here = read_json(STEPS) if STEPS.exists() else {}, environment()
    turns = cases(records, records_so_far("claim_wide", "results"))
    steps = [row for turn in turns for row in held(turn, known, here) or timed(turn)]
    print(write_json(STEPS, {"environment": here, "threads": 1, "turns": TURNS, "steps": steps}))


def cases(records: Sequence[Mapping], wide: Sequence[Mapping]) -> list[list[tuple[Mapping, Engine]]]:
    """The runs that take turns, and the engines of each: a list per density of the main table, and one of width 64.

    A dense run is in the list of its own density alone, though it stands beside any in the tables.
    """
    records, wide = ([record for record in some if record["complete"]] for some in (records, wide))
    found, tables = engines([*records, *wide]), shown_densities(records)
    tables |= shown_densities(wide, [WIDE["density"]])
    runs = {density: [run for arm in arms.values() for run in arm.values()] for density, arms in tables.items()}
    return [
        [(run, engine) for run in some if run["config"]["density"] == density for engine in found.get(arm_of(run), ())]
        for density, some in runs.items()
    ]


def engines(records: Sequence[Mapping]) -> dict[str, list[Engine]]:
    """Arm -> the engines that trained its runs on a CPU; an arm that only a GPU has trained is not timed."""
    names = defaultdict(set)
    for record in records:
        if record["config"]["torch_device"] != "cuda":
            names[arm_of(record)].update(name for entry in record["rounds"] for name in entry["trained_on"])
    return {arm: [engine for engine in (SPARSE, DENSE) if engine.name in names[arm]] for arm in names}


def held(cases: Sequence[tuple[Mapping, Engine]], known: Mapping, here: Mapping) -> list[dict]:
    """The rows of these runs and engines in the record `known`; none if it lacks one or was not made as `here`."""
    if any(known.get("environment", {}).get(part) != here[part] for part in ("cpu", "packages")):
        return []
    rows = {tuple(row[key] for key in KEYS): row for row in known["steps"]}
    found = [rows.get(tuple(_row(record, engine).values())) for record, engine in cases]
    return [row for row in found if row] if all(found) else []


def _row(record: Mapping, engine: Engine) -> dict:
    config = make_config({}, **record["config"])
    named = arm_of(record), config.width, config.density, config.seed, engine.name
    return dict(zip(KEYS, named, strict=True))


def timed(cases: Sequence[tuple[Mapping, Engine]]) -> list[dict]:
    """A row for each run and engine."""
    tasks = [task_of(record, engine) for record, engine in cases]
    calls = [train(task, record["final"]["kept"], engine) for task, (record, engine) in zip(tasks, cases, strict=True)]
    rows = []
    for case, seconds in interleaved(dict(enumerate(calls)), TURNS).items():
        (record, engine), config = cases[case], tasks[case].config
        kept = record["final"]["kept"] if engine is SPARSE else {}
        row = _row(record, engine)
        step = {"seconds": seconds / BATCHES, "flops": config.batch_size * training_flops(tasks[case].layers, kept)}
        rows.append(row | step)
        print(*row.values(), f"{1e3 * step['seconds']:.1f} ms", sep=", ", flush=True)
    return rows


def task_of(record: Mapping, engine: Engine) -> Task:
    config = make_config({}, **record["config"] | {"torch_device": "cpu", "engine": engine.name})
    return make_task(config, CLASSES, SHAPE, PIXELS)


def train(task: Task, kept: Mapping[str, int], engine: Engine) -> Callable[[], None]:
    """A call that takes `BATCHES` steps on a model with its mask."""
    model = new_model(task, torch.Generator().manual_seed(0))
    mask = random_mask(dict(model.named_parameters()), kept, torch.Generator().manual_seed(1))
    images, labels = noise(BATCHES * task.config.batch_size)
    split = Split((images * 50 + 128).clamp(0, 255).to(torch.uint8), labels)
    schedule = list(torch.arange(len(split)).split(task.config.batch_size))
    augmentation = torch.Generator().manual_seed(2)
    return lambda: engine.train(model, split, task.pixels, mask, task.config, schedule, augmentation, None)


if __name__ == "__main__":
    main()
