"""Many runs: side by side on the machine's cores, finished ones skipped, a failed one named and the rest done."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from fedtiny_lite.config import Config
from fedtiny_lite.simulate import run, start_worker


def run_all(configs: Sequence[Config], out: Path | str, processes: int | None = None) -> list[dict]:
    """The records of `configs`, in that order, kept below `out` as `run` keeps them.

    `processes`: runs at a time, default one per core; the clients of a run stay in its process, which changes no
    record. About five lines of progress go to standard output. Raises RuntimeError at the end if a run failed,
    naming it; what has finished is kept and is not run again.
    """
    processes = max(1, min(processes or os.cpu_count() or 1, len(configs)))
    records, failures, began = [None] * len(configs), [], time.perf_counter()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=start_worker) as pool:
        futures = {pool.submit(run, replace(config, workers=1), out): i for i, config in enumerate(configs)}
        for done, future in enumerate(as_completed(futures), start=1):
            i = futures[future]
            try:
                records[i] = future.result()
            except Exception as error:
                failures.append(f"{configs[i].run_id}: {error}")
            if done % -(-len(configs) // 5) == 0 or done == len(configs):
                left = (time.perf_counter() - began) / done * (len(configs) - done)
                print(f"{done} of {len(configs)} runs, about {left:.0f} s left", flush=True)
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(configs)} runs failed:\n" + "\n".join(failures))
    return records
