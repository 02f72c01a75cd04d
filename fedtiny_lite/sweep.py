"""Many runs: side by side on the machine's cores, finished ones skipped, a failed one named and the rest done."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from fedtiny_lite.config import Config
from fedtiny_lite.simulate import run


def run_all(configs: Sequence[Config], out: Path | str, processes: int | None = None) -> list[dict]:
    """The records of `configs`, in that order, kept below `out` as `run` keeps them.

    `processes`: runs at a time, default one per core; each run's clients then stay in its process, which
    changes no record. Progress goes to standard output. Raises RuntimeError at the end if a run failed,
    naming it; what has finished is kept and is not run again.
    """
    processes = min(processes or os.cpu_count() or 1, len(configs))
    if processes <= 1:
        return [run(config, out) for config in configs]
    configs = [replace(config, workers=1) for config in configs]
    began, failures = time.perf_counter(), []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run, config, out): i for i, config in enumerate(configs)}
        records = [None] * len(configs)
        for done, future in enumerate(as_completed(futures), start=1):
            i = futures[future]
            try:
                records[i] = future.result()
            except Exception as error:
                failures.append(f"{configs[i].run_id}: {error}")
            left = (time.perf_counter() - began) / done * (len(configs) - done)
            print(f"\r{done} of {len(configs)} runs, about {left:.0f} s left ", end="", flush=True)
    print()
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(configs)} runs failed:\n" + "\n".join(failures))
    return records
