"""SIGKILL at every file operation and at random moments; the same call then goes on, and its record is the same.

    python -m benchmarks.kill                   every place
    python -m benchmarks.kill flower            those on Flower alone

Each attempt is a process of its own. It is killed at the n-th file operation, for every n until none is left, in the
midst of the bytes where it writes; or after a random time. The same call then runs to its end, and what lies in the
output folder is compared with what a run leaves that nobody killed: records but for measured times, models bit for bit,
and no other file. Four places are killed so: a run in one process, a run with two workers, a sweep of two runs at a
time, and a notebook under papermill.

Two more are killed on Flower, few times, as a start takes seconds: the SuperLink with the server in it, which is
started again and given the same run; and a SuperNode, whose round closes without it. The record is compared with one
process: with the whole run, and with a run where the same client hears nothing in the same round. Exits with 1 if a
folder or a record differs.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments.devices import WithSilences, silences
from fedtiny_lite.experiments.sweep import run_all
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.environment import cpu_model
from fedtiny_lite.records.files import write_json
from fedtiny_lite.records.schema import canonical, read_record
from fedtiny_lite.simulation.rounds import run

SMALL = dict(samples=240, test_samples=60, server_shots=6, clients=3, width=4, density=0.2, rounds=3)
CONFIG = make_config("smoke", method="lotteryfl", **SMALL, lottery_accuracy=0.0)  # it has all kinds of files
SWEPT = [CONFIG, make_config("smoke", method="fedtiny", **SMALL)]
OPERATIONS = ((os, "replace"), (os, "fsync"), *((Path, name) for name in ("write_bytes", "unlink", "mkdir", "rmdir")))
if TYPE_CHECKING:
    from fedtiny_lite.flower.loopback import Loopback

Call = Callable[[Path], object]
"""What is killed, given its output folder."""


def notebook(out: Path) -> None:
    """Run a notebook whose cell runs CONFIG below `out`."""
    # Imported here, as worker processes import this module and need none of it.
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    from fedtiny_lite.experiments.notebook_runner import run_notebooks

    source = out.with_suffix(".nb") / "00_run.ipynb"
    source.parent.mkdir(exist_ok=True)
    lines = 'profile: str = "smoke"\nout: str = ""\ninteractive: bool = True'
    code = f"""from fedtiny_lite.config import make_config
from fedtiny_lite.simulation.rounds import run
record = run(make_config({{}}, **{CONFIG.identity()!r}), out)"""
    cells = [new_code_cell(lines, metadata={"tags": ["parameters"]}), new_code_cell(code)]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), source)
    assert run_notebooks([source], "smoke", out)[0].error is None


PLACES: dict[str, Call] = {
    "one process": lambda out: run(CONFIG, out),
    "two workers": lambda out: run(replace(CONFIG, workers=2), out),
    "a sweep": lambda out: run_all(SWEPT, out, 2),
    "a notebook": notebook,
}
RANDOM_KILLS = {"one process": 120, "two workers": 16, "a sweep": 12, "a notebook": 8}
FLOWER_KILLS = {"Flower's server": 4, "a SuperNode": 2}
ON_FLOWER = make_config("smoke", method="lotteryfl", **SMALL | {"clients": 2, "rounds": 2}, lottery_accuracy=0.0)


# --- one attempt ------------------------------------------------------------------------------------------

_groups: list[int] = []
"""Process groups of the attempts so far."""


def attempt(call: Callable[[], object], seconds: float | None = None) -> bool:
    """Whether `call` ended in a process of its own; False if it killed itself, or was killed after so many seconds.

    Its workers may outlive it: they are of the group that `outlived` waits for. Raises RuntimeError if it failed.
    """
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        _be_killed(call)
    _groups.append(pid)
    until = time.monotonic() + (seconds or float("inf"))
    while seconds and time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return _judged(status)
        time.sleep(0.002)
    if seconds:
        os.kill(pid, signal.SIGKILL)
    return _judged(os.waitpid(pid, 0)[1])


def outlived() -> None:
    """Wait until no process is left of all attempts so far; a worker of one that was killed finishes what it began.

    Not for more than a minute: an ended process that its new parent does not collect counts as one that is left.
    """
    until = time.monotonic() + 60
    for group in _groups:
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(group, 0)
                time.sleep(0.05)
    _groups.clear()


def _be_killed(call: Callable[[], object]) -> None:
    """The child's side: of what it prints only an error is shown."""
    errors = os.dup(2)
    with tempfile.TemporaryFile("w+") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            call()
            os._exit(0)
        except BaseException:
            os.dup2(errors, 2)
            traceback.print_exc()
            os._exit(1)


def _judged(status: int) -> bool:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status:
        raise RuntimeError(f"an attempt failed with status {status}; its error stands above")
    return True


def dying_at(number: int, call: Callable[[], object]) -> Callable[[], object]:
    """The call, in a process that kills itself at its n-th file operation; where it writes, after half of the bytes."""

    def doomed() -> object:
        left = [number]
        for owner, name in OPERATIONS:
            setattr(owner, name, _counting(left, name, getattr(owner, name)))
        return call()

    return doomed


def _counting(left: list[int], name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    def operation(*given: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            if name == "write_bytes":
                inner(given[0], given[1][: len(given[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*given, **options)

    return operation


# --- many -------------------------------------------------------------------------------------------------


def contents(out: Path) -> dict[str, bytes]:
    """Every file below `out` by its name: records but for measured times, models whole, nothing of others."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        whole = canonical(read_record(path)) if path.name == "record.json" else path.read_bytes()
        found[str(path.relative_to(out))] = whole if path.suffix == ".tiny" or path.name == "record.json" else b""
    return found


@dataclass
class Killed:
    """How a place fared: kills at file operations and at random moments, and the folders that differ at the end."""

    place: str
    operations: int = 0
    moments: int = 0
    folders: int = 0
    differing: int = 0


def kill(place: str, folder: Path, moments: int, operations: Iterator[int], rng: random.Random) -> Killed:
    """Kill a place at these file operations, and at so many random moments, up to three times before it may end."""
    call, found, seconds = PLACES[place], Killed(place), 0.0
    began = time.monotonic()
    attempt(lambda: call(folder / "whole"))
    seconds, expected = time.monotonic() - began, contents(folder / "whole")

    def finish(out: Path) -> None:
        attempt(lambda: call(out))
        outlived()
        found.folders += 1
        files = contents(out)
        differing = sorted(name for name in files.keys() | expected if files.get(name) != expected.get(name))
        if differing:
            print(f"{place}: these files differ: {', '.join(differing)}", flush=True)
        found.differing += bool(differing)
        shutil.rmtree(out)

    for number in operations:
        if attempt(dying_at(number, lambda: call(folder / "out"))):
            break
        found.operations += 1
        finish(folder / "out")
    shutil.rmtree(folder / "out", ignore_errors=True)
    while found.moments < moments:
        for _ in range(rng.randint(1, 3)):
            found.moments += not attempt(lambda: call(folder / "out"), rng.uniform(0.02, 1) * seconds)
        finish(folder / "out")
    return found


# --- on Flower --------------------------------------------------------------------------------------------


def kill_on_flower(place: str, folder: Path, moments: int, rng: random.Random) -> Killed:
    """Kill the server or a client of a federation of real processes at random moments, each in a run of its own."""
    from fedtiny_lite.flower.loopback import Loopback  # imported here, as Flower need not be installed

    found, config = Killed(place), ON_FLOWER
    with Loopback(config, folder) as federation:
        for _ in range(moments):
            if place == "a SuperNode":
                record = _kill_node(federation, rng.uniform(0, 3), rng.randrange(config.clients))
                expected = run(config, place=WithSilences(config, silences(record)))
                found.differing += not silences(record)  # then the kill came too late
            else:
                record, expected = _kill_server(federation, rng.uniform(0, 30)), run(config)
            found.moments, found.folders = found.moments + 1, found.folders + 1
            found.differing += canonical(record) != canonical(expected)
            shutil.rmtree(folder / "runs")
    return found


def _kill_server(federation: "Loopback", seconds: float) -> dict[str, Any]:
    """The record of a run whose SuperLink was killed so many seconds after the server began, and started again."""
    path = federation.submit(ON_FLOWER, stream=False)
    _wait_for(path.parent)
    time.sleep(seconds)
    federation.kill("superlink")
    federation.start_link()
    return read_record(federation.submit(ON_FLOWER))


def _kill_node(federation: "Loopback", seconds: float, k: int) -> dict[str, Any]:
    """The record of a run in which client k was killed in round 1, before it could answer, and started again."""
    path = federation.submit(ON_FLOWER, round_timeout=300, stream=False)  # on a busy machine Flower may lose an answer
    _wait_for(path.parent / "checkpoint.ftl")
    time.sleep(seconds)
    federation.kill(f"client{k}")
    federation.start_node(k)
    _wait_for(path)
    return read_record(path)


def _wait_for(path: Path, seconds: float = 600) -> None:
    """Raises RuntimeError if nothing comes to lie at `path` in time."""
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            raise RuntimeError(f"{path} did not come within {seconds:g} s")
        time.sleep(0.05)


def killed_places(names: Sequence[str], rng: random.Random) -> Iterator[Killed]:
    """Each place of these names, killed."""
    for place in names:
        with tempfile.TemporaryDirectory() as folder:
            if place in FLOWER_KILLS:
                yield kill_on_flower(place, Path(folder), FLOWER_KILLS[place], rng)
            else:
                operations = iter(range(1, 10_000) if place == "one process" else ())
                yield kill(place, Path(folder), RANDOM_KILLS[place], operations, rng)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each place, and write records/kill.json; 1 if a folder or a record differs, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__)
    parser.add_argument("only", nargs="?", choices=["flower"], help="the places on Flower alone")
    names = [*FLOWER_KILLS] if parser.parse_args(arguments).only else [*RANDOM_KILLS, *FLOWER_KILLS]
    print(f"{cpu_model()}, {os.cpu_count()} cores")
    print("| place | kills at file operations | at random moments | folders resumed | that differ |")
    print("|---|---|---|---|---|")
    run(CONFIG)  # what the processes forked from this one share need not be made by each
    rows = []
    for row in killed_places(names, random.Random(0)):
        print(f"| {row.place} | {row.operations} | {row.moments} | {row.folders} | {row.differing} |", flush=True)
        rows.append(row)
    kills = sum(row.operations + row.moments for row in rows)
    differing = sum(row.differing for row in rows)
    print(f"{kills} kills, {differing} records that differ")
    if len(rows) == len(RANDOM_KILLS) + len(FLOWER_KILLS):
        write_json(COMMITTED / "kill.json", {"cpu": cpu_model(), "kills": kills, "places": [vars(row) for row in rows]})
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
