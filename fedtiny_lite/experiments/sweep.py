"""Many runs: side by side on the machine's cores, finished ones skipped, a failed one named and the rest done."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from fedtiny_lite.config import Config
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.progress_bar import progress_bar
from fedtiny_lite.records.bundles import records_so_far, write_bundle
from fedtiny_lite.records.files import check_writable
from fedtiny_lite.records.schema import read_record
from fedtiny_lite.simulation.places import start_worker
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import resolved
from fedtiny_lite.simulation.stopping import stopping


def run_all(configs: Sequence[Config], out: Path | str, processes: int | None = None) -> list[dict]:
    """The records of `configs`, in that order, kept below `out` as `run` keeps them.

    `processes`: runs at a time, default one per core; the clients of a run stay in its process, which changes no
    record. A progress bar shows the time left. Raises RuntimeError at the end if a run failed, naming it;
    what has finished is kept and is not run again. Raises ValueError for fewer than one process. Ctrl-C raises
    Stopped, which says how many runs are finished.
    """
    records, failures = _run_each(configs, Path(out), processes)
    failures += [f"{record['run_id']}: {record['stopped']}" for record in records if record and "stopped" in record]
    _raise_for(failures, len(configs))
    return [record for record in records if record]  # all of them: none failed


def run_plan(plan: str, out: Path | str, processes: int | None = None, go_on: bool = False) -> Path:
    """Run what is left of a named plan, below `out`/runs, and bundle its records as `out`/plans/<plan>.json.

    A run that diverged is a result, and is bundled as far as it came. A plan to which its own records add runs, as a
    tuning whose grid widens, goes on until they add nothing. `go_on`: runs that the plan's bundle holds are not
    repeated, on whatever processor or GPU they were made. Raises RuntimeError at the end, naming them, if runs failed;
    the others are done and bundled, and only those that failed are run again.
    """
    configs, out = plan_configs(plan, out), Path(out)
    held = _held(plan, out, configs) if go_on else {}
    left = [config for config in configs if config not in held]
    records, failures = _run_each(left, out / "runs", processes)
    found = held | {config: record for config, record in zip(left, records, strict=True) if record}
    path = out / "plans" / f"{plan}.json"
    if found:
        write_bundle(path, plan, [found[config] for config in configs if config in found])
    _raise_for(failures, len(left))
    return path if plan_configs(plan, out) == configs else run_plan(plan, out, processes, go_on)


def bundle_finished(plan: str, out: Path | str, go_on: bool = False) -> Path:
    """Bundle what has finished of a named plan below `out`, without running anything, as `run_plan` would.

    A sweep of many hours can so be looked at, and kept, while it is under way. Raises ValueError if nothing has
    finished.
    """
    configs, out = plan_configs(plan, out), Path(out)
    found = _held(plan, out, configs) if go_on else {}
    for config in (config for config in configs if config not in found):
        ran = resolved(config)
        path = out / "runs" / ran.run_id / "record.json"
        if path.exists():
            found[config] = read_record(path)
    return write_bundle(out / "plans" / f"{plan}.json", plan, [found[config] for config in configs if config in found])


def _held(plan: str, out: Path, configs: Sequence[Config]) -> dict[Config, dict]:
    """The runs among `configs` that the plan's bundle holds, made on whatever device."""
    records = records_so_far(plan, out)
    return {
        config: record
        for config in configs
        for record in records
        if record["config"]["method"] == config.method and set(config.differing(record["config"])) <= {"torch_device"}
    }


def _run_each(configs: Sequence[Config], out: Path, processes: int | None) -> tuple[list[dict | None], list[str]]:
    """A record per config, None where there is none, and a line for each failure.

    If a process dies, the rest is done with one process fewer. Raises OSError if `out` cannot be written.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes = {processes}: it must be at least 1")
    check_writable(out)  # said once, not by every run
    processes = max(1, min(processes or os.cpu_count() or 1, len(configs)))
    try:
        with stopping(lambda: _kept(configs, out)):
            return _run_side_by_side(configs, out, processes)
    except BrokenProcessPool as error:
        died = "a process died, often for lack of memory"
        if processes == 1:
            raise RuntimeError(f"{died}; what has finished is kept, so run the same again") from error
        print(f"{died}; going on with {processes - 1} at a time", flush=True)
        return _run_each(configs, out, processes - 1)


def _kept(configs: Sequence[Config], out: Path) -> str:
    """What a stopped sweep has kept, and how to go on."""
    folders = (out / resolved(config).run_id for config in configs)
    finished = sum((folder / "record.json").exists() for folder in folders)
    return (
        f"{finished} of {len(configs)} runs are finished and kept in {out}, and the finished rounds of the others: "
        "run the same again to go on from there"
    )


def _run_side_by_side(configs: Sequence[Config], out: Path, processes: int) -> tuple[list[dict | None], list[str]]:
    """As `_run_each`, but raises BrokenProcessPool if a process dies."""
    records: list[dict | None] = [None] * len(configs)
    failures, began = [], time.time()
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=start_worker)
    try:
        futures = {pool.submit(run, replace(config, workers=1), out): i for i, config in enumerate(configs)}
        with progress_bar(len(configs), "sweep", "run") as bar:
            for future in as_completed(futures):
                i = futures[future]
                try:
                    records[i] = record = future.result()
                    written = (out / record["run_id"] / "record.json").stat().st_mtime
                    bar.initial += written < began  # the time left follows from runs that were carried out
                except FloatingPointError as error:
                    ran = resolved(configs[i])
                    records[i] = read_record(out / ran.run_id / "record.json")
                    bar.write(f"{ran.run_id} diverged: {error}")
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    failures.append(f"{configs[i].run_id}: {error}")
                bar.update()
            bar.refresh()
    finally:  # when interrupted, runs that wait do not begin
        pool.shutdown(cancel_futures=True)
    return records, failures


def _raise_for(failures: Sequence[str], runs: int) -> None:
    if failures:
        raise RuntimeError(f"{len(failures)} of {runs} runs failed:\n" + "\n".join(failures))
