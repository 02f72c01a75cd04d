"""`run(config) -> record`: the only round loop. It resumes, and its record does not depend on where clients run.

The loop packs what a method asks, hands the bytes to the clients that take part, has the replies checked, and gives
the method those that passed, in order of client number. Clients run in this process or in worker processes; either way
each answer depends on the message, the client's samples, its memory and its own generator alone.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedtiny_lite.config import Config, load_method
from fedtiny_lite.export.tiny_model import final_model, save_tiny
from fedtiny_lite.federated.client import EMPTY_MEMORY
from fedtiny_lite.federated.ledger import accept, address, begin, note_changes
from fedtiny_lite.federated.protocol import Answered, Exchange, Method, answer_question
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import State
from fedtiny_lite.model.masks import check_masked
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.files import check_writable, sweep
from fedtiny_lite.records.schema import read_record, write_record
from fedtiny_lite.simulation import checkpoint
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.scoring import final, score
from fedtiny_lite.simulation.setup import Federation, build_federation, client_of, largest_first, resolve_device
from fedtiny_lite.simulation.watching import OnRound, watched


def run(config: Config, out: Path | str | None = None, on_round: OnRound | None = None) -> dict[str, Any]:
    """Run `config` and return its record; with `out`, keep it as `out`/<run_id>/record.json and the
    final model beside it (`tiny_model.load_tiny`).

    A finished record there is returned as it is; an interrupted run continues after its last finished round,
    to the same record. Raises ValueError, OSError or RuntimeError for settings, files or hardware that do not fit,
    and FloatingPointError when fewer than half of a round's replies could be used: the record so far is then kept, not
    complete.
    """
    config = replace(config, torch_device=resolve_device(config.torch_device))
    folder = None if out is None else Path(out) / config.run_id
    if folder:
        sweep(folder)
    if folder and (folder / "record.json").exists():
        record = read_record(folder / "record.json")
        checkpoint.check_identity(folder / "record.json", record["config"], config)
        if record["complete"]:
            checkpoint.remove(folder)  # of a process that was killed in between
            return record
    if folder:  # an output that cannot be written shall not cost the work of a round
        check_writable(folder)
    try:
        with _one_thread(), _pool(config) as pool, watched(config, on_round) as report:
            return _run(config, folder, report, pool)
    except BrokenProcessPool as error:
        kept = "finished rounds are kept, so run the same again" if folder else "give `out` to keep finished rounds"
        raise RuntimeError(f"a worker process died, often for lack of memory; {kept}, with fewer workers") from error
    finally:
        if folder:  # a run that was refused leaves no empty folder behind
            with contextlib.suppress(OSError):
                folder.rmdir()


def _run(config: Config, folder: Path | None, on_round: OnRound, pool: Executor | None) -> dict[str, Any]:
    federation, method = build_federation(config), load_method(config.method)
    saved = checkpoint.load(folder, config, federation.task) if folder else None
    record = saved[0] if saved else _new_record(federation, method)
    try:
        progress = saved[1] if saved else _prepare(federation, method, record, on_round, pool)
        for r in range(len(record["rounds"]), config.rounds):
            began = time.perf_counter()
            progress, entry = carry_out(federation, method, -1, progress, r, pool)
            entry = {"round": r} | score(federation, progress.state) | entry | {"seconds": time.perf_counter() - began}
            record["rounds"].append(entry)
            if folder:
                checkpoint.save(folder, config, record, progress)
            on_round(entry, progress.state)
    except FloatingPointError as error:
        when = f"in round {len(record['rounds'])}" if record["start"] else "before training"
        _store(record | {"stopped": f"{when}: {error}"}, folder)
        raise
    record |= {"final": final(federation, method, record, progress.state), "complete": True}
    if folder:
        classes = federation.holdings.classes
        save_tiny(folder / "model.tiny", final_model(federation.server, progress.state, classes))
    _store(record, folder)
    return record


def _prepare(
    federation: Federation, method: Method, record: dict[str, Any], on_round: OnRound, pool: Executor | None
) -> Progress:
    """What training starts from; the record is told what it cost."""
    state = method.start(federation.server)
    _check_state(federation.server, state)
    progress = Progress(state, begin(method, federation.server, state, federation.samples))
    for index, exchange in enumerate(method.prelude(federation.task.config)):
        progress, entry = carry_out(federation, method, index, progress, -1, pool)
        record["prelude"].append({"exchange": exchange.name} | entry)
    record["start"] = {"round": -1} | score(federation, progress.state)
    on_round(record["start"], progress.state)
    return progress


def exchange_at(method: Method, config: Config, index: int) -> Exchange:
    """The exchange at a place of the method's prelude; -1: that of training."""
    return (*method.prelude(config), method.training)[index]


def carry_out(
    federation: Federation, method: Method, index: int, progress: Progress, r: int, pool: Executor | None
) -> tuple[Progress, dict[str, Any]]:
    """One round trip in round `r`: what follows from it, its cost, and the method's notes.

    `index`: the exchange's place in the method's prelude, -1 for training. `pool`: where clients answer; None = here.
    """
    began, server, config = time.perf_counter(), federation.server, federation.task.config
    exchange, state, ledger = exchange_at(method, config, index), progress.state, progress.ledger
    clients = list(exchange.clients(config, r))
    messages = address(method, server, state, ledger, exchange.ask(server, state, r), clients)
    answers = _gather(federation, index, r, messages, progress.memories, pool)
    packed = {k: found.reply for k, found in answers.items()}
    accepted = accept(method, exchange, server, state, r, ledger, packed)
    following, note = exchange.fold(server, state, r, accepted.replies)
    _check_state(server, following)
    memories = {**progress.memories, **{k: found.memory for k, found in answers.items()}}
    ledger = note_changes(method, server, state, following, accepted.ledger)
    cost = _cost(messages, answers, accepted.rejections) | {"seconds": time.perf_counter() - began}
    return Progress(following, ledger, memories), cost | note


def _check_state(server: Server, state: State) -> None:
    """Raises ValueError for a state that cannot be packed: both sides take its numbers in the order of the task."""
    task = server.task
    for part, given, needed in (
        ("weights", state.weights, task.state_shapes),
        ("mask", state.mask, task.mask_shapes),
    ):
        if list(given) != list(needed):
            raise ValueError(f"the {part} of a state must have the names {list(needed)}, in this order")
    check_masked(state.weights, state.mask)


def _gather(
    federation: Federation,
    index: int,
    r: int,
    messages: Mapping[int, bytes],
    memories: Mapping[int, bytes],
    pool: Executor | None,
) -> dict[int, Answered]:
    """The answer of each client that is asked."""
    config, pixels = federation.task.config, federation.task.pixels
    order = largest_first(federation.holdings, list(messages))
    tasks = [(config, pixels, index, k, r, messages[k], memories.get(k, EMPTY_MEMORY)) for k in order]
    return dict(zip(order, (pool.map if pool else map)(answer, *zip(*tasks, strict=True)), strict=True))


def answer(
    config: Config, pixels: Normalisation, index: int, k: int, r: int, message: bytes, memory: bytes
) -> Answered:
    """Client k's answer to exchange `index` (-1: training).

    Everything crosses as bytes; this is what a worker process executes.
    """
    client = client_of(config, pixels, k, r, memory)
    return answer_question(client, exchange_at(load_method(config.method), config, index), message)


def _cost(
    messages: Mapping[int, bytes], answers: Mapping[int, Answered], rejections: Mapping[int, str]
) -> dict[str, Any]:
    """What an exchange cost, for the record; the reasons of rejections only where there are any."""
    flops = [found.flops for found in answers.values()]
    return {
        "asked": sorted(messages),
        "bytes_up": sum(len(found.reply) for found in answers.values()),
        "bytes_down": sum(map(len, messages.values())),
        "training_flops": sum(flops),
        "client_flops": max(flops),
        "client_kept": max(found.kept for found in answers.values()),
        "client_state_bytes": max(found.state_bytes for found in answers.values()),
        "rejected_clients": sorted(rejections),
        "trained_on": sorted({name for found in answers.values() for name in found.trained_on}),
    } | ({"rejections": {str(k): reason for k, reason in rejections.items()}} if rejections else {})


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


def _store(record: dict[str, Any], folder: Path | None) -> None:
    """Write the record; a finished run then needs its checkpoint no more."""
    if folder:
        write_record(folder / "record.json", record)
        if record["complete"]:
            checkpoint.remove(folder)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: sums in another order give other last bits, and workers would crowd each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _pool(config: Config) -> Iterator[Executor | None]:
    """Worker processes if the config asks for more than one."""
    workers = min(config.workers, config.clients)
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
        yield pool


def start_worker() -> None:
    """What a process does before it works for another: one torch thread; it ends at Ctrl-C or when the other ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose run was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
