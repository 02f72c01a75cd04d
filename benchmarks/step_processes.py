"""Steps that need processes of their own: peak memory, and two clients at once. Needs Linux.

Processes are spawned and begin as `simulation.places.start_worker` begins them, with one torch thread.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import median, median_low
from typing import Any, NamedTuple

from benchmarks.memory import high_water, settled
from benchmarks.steps import Case, Client, prepare
from fedtiny_lite.simulation.places import start_worker

WAIT = 600  # seconds for the other client, at most


class Turn(NamedTuple):
    """Wall seconds of a step of one client, alone (0 of a client that slept) and beside the other, and the share of
    the latter in which it had a processor: below 1 where other programs run.
    """

    alone: float
    together: float
    running: float


def peak_bytes(case: Case, steps: int, processes: int) -> dict[str, int]:
    """The most that a process holds during `steps` steps, beyond what it held without a model; the median of some.

    That is everything: model, mask, images, activations, gradients and the optimiser's state; and, on the sparse
    engine, the torch model that a client's weights come in and go out by. What only drawing the weights and the mask
    takes does not count. A tiny network of the same kind takes the same steps first, so that loading compiled code,
    torch's or numba's, does not count either.
    """
    peaks = []
    for _ in range(processes):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=start_worker) as pool:
            peaks.append(pool.submit(_peak, case, steps).result())
    return {"peak_bytes": median_low(peaks)}


def _peak(case: Case, steps: int) -> int:
    _take_steps(prepare(replace(case, width=8, batch=16)), steps)
    before, client = settled(), prepare(case)
    settled()
    _take_steps(client, steps)
    return high_water() - before


def _take_steps(client: Client, steps: int) -> None:
    for _ in range(steps):
        client.step()


def pair_seconds(case: Case, steps: int, turns: int) -> dict[str, float]:
    """Wall seconds of a step, of one client while the other sleeps and of both at once, and what the pair gains.

    In each turn one client takes `steps` steps, then both do.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(2, context, initializer=start_worker) as pool:
        barrier = manager.Barrier(2, timeout=WAIT)
        clients = [pool.submit(_client, case, first, barrier, steps, turns) for first in (True, False)]
        return paired(*[client.result() for client in clients])


def paired(first: Sequence[Turn], second: Sequence[Turn]) -> dict[str, float]:
    """Medians over the turns of two clients; together they take as long as the slower one.

    `speedup`: of both at once over one after the other. `running`: share of the time in which both had a processor.
    """
    both = list(zip(first, second, strict=True))
    alone = median(turn.alone for turn in first)
    together = median(max(a.together, b.together) for a, b in both)
    return {
        "alone_seconds": alone,
        "together_seconds": together,
        "speedup": 2 * alone / together,
        "running": median(min(a.running, b.running) for a, b in both),
    }


def _client(case: Case, first: bool, barrier: Any, steps: int, turns: int) -> list[Turn]:
    client, times = prepare(case), []
    client.step()
    for _ in range(turns):
        barrier.wait()
        alone = _clocked(client.step, steps)[0] if first else 0.0
        barrier.wait()
        times.append(Turn(alone, *_clocked(client.step, steps)))
    return times


def _clocked(step: Callable[[], Any], steps: int) -> tuple[float, float]:
    """Wall seconds of one of `steps` steps, and the share of them that were CPU seconds."""
    wall, cpu = time.perf_counter(), time.thread_time()
    for _ in range(steps):
        step()
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    return wall / steps, cpu / wall
