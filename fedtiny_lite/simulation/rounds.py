"""`run(config) -> record`: the only round loop. It resumes, and its record does not depend on where clients run.

The loop packs what a method asks, hands the bytes to the place where clients are (`places.Place`), has the replies
checked, and gives the method those that passed, in order of client number.
"""

import contextlib
import time
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from fedtiny_lite.config import Config, load_method
from fedtiny_lite.export.tiny_model import final_model, save_tiny
from fedtiny_lite.federated.ledger import begin
from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.model.training import one_thread
from fedtiny_lite.own_files import FILE
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.files import alone, check_writable, clear_leftovers
from fedtiny_lite.records.schema import read_record, write_record
from fedtiny_lite.simulation import checkpoint
from fedtiny_lite.simulation.exchanges import carry_out, check_state
from fedtiny_lite.simulation.places import Place, place_for
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.scoring import final, score
from fedtiny_lite.simulation.setup import Federation, resolved, with_pixels
from fedtiny_lite.simulation.stopping import stopping
from fedtiny_lite.simulation.watching import OnRound, watched

LOCK = "lock"
"""The file in a run's folder by which processes let one another finish."""


def run(
    config: Config, out: Path | str | None = None, on_round: OnRound | None = None, place: Place | None = None
) -> dict[str, Any]:
    """Run `config` and return its record; with `out`, keep it as `out`/<run_id>/record.json and the
    final model beside it (`tiny_model.load_tiny`).

    `place`: where the clients are; by default here, or in as many worker processes as the config asks for.

    A finished record there is returned as it is; an interrupted run continues after its last finished round,
    to the same record. Of two processes with the same run and folder the second waits for the first.

    Raises ValueError, OSError or RuntimeError for settings, files or hardware that do not fit, and
    FloatingPointError when fewer than half of a round's replies could be used, or fewer than `min_replies`: the
    record so far is then kept, not complete. Ctrl-C raises Stopped, which says how many rounds are kept.
    """
    config = resolved(config)
    folder = None if out is None else Path(out) / config.run_id
    with stopping(lambda: checkpoint.kept(folder, config.rounds)):
        if folder is None:
            return _started(config, None, on_round, place)
        return _finished(folder, config) or _in_folder(config, folder, on_round, place)


def _in_folder(config: Config, folder: Path, on_round: OnRound | None, place: Place | None) -> dict[str, Any]:
    """The run in its folder, once no other process works there."""
    check_writable(folder)  # an output that cannot be written shall not cost the work of a round
    try:
        with alone(folder / LOCK):
            try:  # another process may have finished the run in the meantime
                return _finished(folder, config) or _started(config, folder, on_round, place)
            finally:
                if not checkpoint.path_in(folder).exists():
                    _drop_lock(folder)
    finally:
        with contextlib.suppress(OSError):  # a run that was refused leaves no empty folder behind
            folder.rmdir()


def _finished(folder: Path, config: Config) -> dict[str, Any] | None:
    """The finished record in `folder`, if there is one. Raises ValueError for that of another run."""
    clear_leftovers(folder)
    path = folder / "record.json"
    if not path.exists():
        return None
    record = read_record(path)
    checkpoint.check_identity(path, record["config"], config)
    if not record["complete"]:
        return None
    checkpoint.check_images(path, record, config)
    checkpoint.remove(folder)  # of a process that was killed in between
    _drop_lock(folder)
    return record


def _drop_lock(folder: Path) -> None:
    """Delete the lock's file, which a run that is finished or never began needs no more, if the system lets us."""
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()


def _started(config: Config, folder: Path | None, on_round: OnRound | None, place: Place | None) -> dict[str, Any]:
    """The run from where it stands, with its surroundings: a place for the clients, one thread, a bar."""
    try:
        with one_thread(), watched(config, on_round) as report, contextlib.ExitStack() as stack:
            place = place or stack.enter_context(place_for(config, folder and folder / "clients"))
            return _run(config, folder, report, place)
    except BrokenProcessPool as error:
        kept = "finished rounds are kept, so run the same again" if folder else "give `out` to keep finished rounds"
        raise RuntimeError(f"a worker process died, often for lack of memory; {kept}, with fewer workers") from error


def _run(config: Config, folder: Path | None, on_round: OnRound, place: Place) -> dict[str, Any]:
    federation, method = place.federation(), load_method(config.method)
    saved = checkpoint.load(folder, config, federation.task) if folder else None
    record = _new_record(federation, method)
    if saved and folder:
        checkpoint.check_data(folder, saved.record, record)
        federation = with_pixels(federation, saved.pixels)
        record = saved.record | {"environment": also_on(saved.record, record["environment"])}
    try:
        progress = saved.progress if saved else _prepare(federation, method, record, on_round, place)
        mark = saved.mark if saved else None
        for r in range(len(record["rounds"]), config.rounds):
            began = time.perf_counter()
            progress, entry = carry_out(federation, method, -1, progress, r, place)
            entry = {"round": r} | score(federation, progress.state) | entry | {"seconds": time.perf_counter() - began}
            record["rounds"].append(entry)
            memories = set(progress.ledger.memories.values())
            if folder:
                place.secure(memories)
                mark = checkpoint.save(folder, config, record, progress, mark)
            place.settle(memories)
            on_round(entry, progress.state)
    except FloatingPointError as error:
        when = f"in round {len(record['rounds'])}" if record["start"] else "before training"
        _store(record | {"stopped": f"{when}: {error}"}, folder)
        raise
    record |= {"final": final(federation, method, record, progress.state, place), "complete": True}
    if folder:
        classes = federation.holdings.classes
        tiny = final_model(federation.server, progress.state, classes)
        if not tiny.model.startswith(FILE):  # reading the file executes nothing, and so names no file of one's own
            save_tiny(folder / "model.tiny", tiny)
    place.settle(())
    _store(record, folder)
    return record


def _prepare(
    federation: Federation, method: Method, record: dict[str, Any], on_round: OnRound, place: Place
) -> Progress:
    """What training starts from; the record is told what it cost."""
    state = method.start(federation.server)
    check_state(federation.server, state)
    progress = Progress(state, begin(method, federation.server, state, federation.samples))
    for index, exchange in enumerate(method.prelude(federation.task.config)):
        progress, entry = carry_out(federation, method, index, progress, -1, place)
        record["prelude"].append({"exchange": exchange.name} | entry)
    record["start"] = {"round": -1} | score(federation, progress.state)
    on_round(record["start"], progress.state)
    return progress


def _new_record(federation: Federation, method: Method) -> dict[str, Any]:
    task = federation.task
    pixels = {"mean": list(task.pixels.mean), "std": list(task.pixels.std)}
    gpu = torch.cuda.get_device_name() if task.config.torch_device == "cuda" else None
    return {
        "run_id": task.config.run_id,
        "method": {"label": method.label, "family": method.family},
        "config": task.config.identity(),
        "data": federation.holdings.summary | {"pixels": pixels},
        "model": {
            "parameters": task.parameters,
            "layers": {layer.name: layer.weights for layer in task.layers},
            "prunable": task.sizes,
            "budget": task.budget,
            "allowed": task.allowed,
        },
        "prelude": [federation.survey] if federation.survey else [],
        "start": {},
        "rounds": [],
        "final": {},
        "environment": environment(gpu) | {"workers": task.config.workers},
        "complete": False,
    }


def also_on(saved: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a run that goes on `here`; where that is another, it is noted with the round it begins in."""
    before = saved["environment"]
    last = (before.get("resumed") or [before])[-1]
    if here.items() <= last.items():
        return before
    return before | {"resumed": [*before.get("resumed", ()), {"round": len(saved["rounds"]), **here}]}


def _store(record: dict[str, Any], folder: Path | None) -> None:
    """Write the record; a finished run then needs its checkpoint no more."""
    if folder:
        write_record(folder / "record.json", record)
        if record["complete"]:
            checkpoint.remove(folder)
