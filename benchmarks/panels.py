"""How long a reader waits for a panel after moving a control.

    python -m benchmarks.panels

Each control of each panel is moved through values that it did not have before; a move is timed from the new value to
the finished picture, in this process and without a browser. Prints medians of wall time and of CPU time: where the
machine is busy with something else, only the latter tells of the panel. Exits with 1 and a line for each panel whose
median wall time is above TARGET and that does not say that it is busy meanwhile.
"""

import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from ipywidgets import Widget

from fedtiny_lite.config import make_config
from fedtiny_lite.model.costs import layer_shapes
from fedtiny_lite.model.networks import empty_model
from fedtiny_lite.records.environment import cpu_model
from fedtiny_lite.report.engines import step_record
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.widgets import candidates, clients, costs, runs, sparse

TARGET = 0.3
DIGITS, PAPER = make_config("digits"), make_config("paper")
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.03)
SIDE = 32


class Move(NamedTuple):
    """Seconds of one move, wall and CPU; whether the panel said that it was busy."""

    wall: float
    cpu: float
    busy: bool


def panels() -> dict[str, tuple[Callable[[], Widget], dict[int, tuple]]]:
    """Name -> what makes the panel, and the values that each of its controls, by place, is moved through."""
    model = empty_model(PAPER.model, PAPER.width, 10, (3, SIDE, SIDE))
    layers, steps = layer_shapes(model, (3, SIDE, SIDE)), step_record()
    alphas, numbers, kinds = (0.1, 0.3, 1.0, 3.0, 10.0), (4, 7, 12, 16, 20), ("iid", "shards", "quantity")
    return {
        "density of the digits' model": (lambda: clients.density_panel(DIGITS, True), {0: DENSITIES}),
        "partition": (lambda: clients.partition_panel(DIGITS, True), {0: kinds, 1: alphas, 2: numbers}),
        "pool, noise": (lambda: candidates.pool_panel(DIGITS, True), {1: (0.1, 0.2, 0.3, 0.7, 0.9)}),
        "pool, size": (lambda: candidates.pool_panel(DIGITS, True), {0: (1, 4, 6, 8, 10)}),
        "rounds": (lambda: runs.round_panel(run(DIGITS), True), {0: (1, 4, 6, 9, 12)}),
        "costs of the paper's model": (lambda: costs.density_panel(PAPER, model, layers, True), {0: DENSITIES}),
        "speed of the paper's model": (lambda: sparse.speed_panel(steps, PAPER, model, layers, True), {0: DENSITIES}),
    }


def move_all(panel: Widget, values: dict[int, tuple]) -> list[Move]:
    """Each control through its values, one after the other."""
    said: list[str] = []
    *controls, busy, _ = panel.children
    busy.observe(lambda change: said.append(change.new), "value")
    return [move(controls[place], value, said) for place in values for value in values[place]]


def move(control: Widget, value: object, said: list[str]) -> Move:
    """Give the control a value and wait for the picture. `said`: where the panel's line of text is noted."""
    said.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    control.value = value
    return Move(time.perf_counter() - wall, time.process_time() - cpu, any(said))


def main() -> int:
    """Print a line a panel; 1 with a line for each that is slow and does not say so, else 0."""
    torch.set_num_threads(1)
    print(
        f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread; load {os.getloadavg()[0]:.1f}"
    )
    misses = []
    for name, (make, values) in panels().items():
        moves = move_all(make(), values)
        wall, cpu = (median(getattr(one, kind) for one in moves) for kind in ("wall", "cpu"))
        busy = all(one.busy for one in moves)
        print(
            f"{name}: {1e3 * wall:.0f} ms, CPU {1e3 * cpu:.0f} ms, {len(moves)} moves" + ", says busy" * busy,
            flush=True,
        )
        misses += [f"MISS: {name} takes {1e3 * wall:.0f} ms and does not say so"] * (wall > TARGET and not busy)
    print(*misses, sep="\n")
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
