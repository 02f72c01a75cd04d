"""`run(config) -> record`: the only round loop. It resumes, and its record does not depend on where clients run.

The loop packs what a method asks, hands the bytes to every client, and gives the method the answers in order
of client number. Clients run in this process or in worker processes; either way each answer depends on the
message, the client's samples, its memory and its own generator alone.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from fedtiny_lite.config import Config
from fedtiny_lite.export.tiny_model import final_model, save_tiny
from fedtiny_lite.federated.messages import pack, unpack
from fedtiny_lite.federated.protocol import Exchange, Method, State
from fedtiny_lite.federated.server import Server, accept
from fedtiny_lite.model.masks import check_masked
from fedtiny_lite.records import environment, files, schema
from fedtiny_lite.simulation import checkpoint
from fedtiny_lite.simulation.scoring import final, score
from fedtiny_lite.simulation.setup import Federation, build_federation, client_of, load_method, resolve_device


def run(config: Config, out: Path | str | None = None, on_round: Callable | None = None) -> dict:
    """Run `config` and return its record; with `out`, keep it as `out`/<run_id>/record.json and the
    final model beside it (`tiny_model.load_tiny`).

    A finished record there is returned as it is; an interrupted run continues after its last finished round,
    to the same record. `on_round(entry, state)` is called with the starting state (its round is -1) and after
    every round. Raises ValueError, OSError or RuntimeError for settings, files or hardware that do not fit,
    and FloatingPointError when every client diverged: the record so far is then kept, not complete.
    """
    config = replace(config, torch_device=resolve_device(config.torch_device))
    folder = None if out is None else Path(out) / config.run_id
    if folder and (folder / "record.json").exists():
        record = schema.read_record(folder / "record.json")
        checkpoint.check_identity(folder / "record.json", record["config"], config)
        if record["complete"]:
            return record
    if folder:  # an output that cannot be written shall not cost the work of a round
        files.write_bytes(folder / ".writable", b"").unlink(missing_ok=True)
    try:
        with _one_thread(), _pool(config) as pool:
            return _run(config, folder, on_round or (lambda entry, state: None), pool)
    except BrokenProcessPool as error:
        kept = "finished rounds are kept, so run the same again" if folder else "give `out` to keep finished rounds"
        raise RuntimeError(f"a worker process died, often for lack of memory; {kept}, with fewer workers") from error
    finally:
        if folder:  # a run that was refused leaves no empty folder behind
            with contextlib.suppress(OSError):
                folder.rmdir()


def _run(config: Config, folder: Path | None, on_round: Callable, pool: Executor | None) -> dict:
    federation, method = build_federation(config), load_method(config.method)
    saved = checkpoint.load(folder, config, federation.server) if folder else None
    record = saved[0] if saved else _new_record(config, federation)
    try:
        state, memories = saved[1:] if saved else _prepare(federation, method, record, on_round, pool)
        for r in range(len(record["rounds"]), config.rounds):
            began = time.perf_counter()
            state, memories, entry = carry_out(federation, method.training, -1, state, r, memories, pool)
            entry = {"round": r} | score(federation, state) | entry | {"seconds": time.perf_counter() - began}
            record["rounds"].append(entry)
            if folder:
                checkpoint.save(folder, config, record, state, memories)
            on_round(entry, state)
    except FloatingPointError as error:
        when = f"in round {len(record['rounds'])}" if record["start"] else "before training"
        _store(record | {"stopped": f"{when}: {error}"}, folder)
        raise
    record |= {"final": final(federation, method, record, state), "complete": True}
    if folder:
        save_tiny(folder / "model.tiny", final_model(federation.server, state))
    _store(record, folder)
    return record


def _prepare(
    federation: Federation, method: Method, record: dict, on_round: Callable, pool: Executor | None
) -> tuple[State, list[bytes]]:
    """The state that training starts from and the clients' memories; the record is told what it cost."""
    config = federation.server.config
    state, memories = method.start(federation.server), [pack({})] * config.clients
    for index, exchange in enumerate(method.prelude(config)):
        state, memories, entry = carry_out(federation, exchange, index, state, -1, memories, pool)
        record["prelude"].append({"exchange": exchange.name} | entry)
    record["start"] = {"round": -1} | score(federation, state)
    on_round(record["start"], state)
    return state, memories


def carry_out(
    federation: Federation,
    exchange: Exchange,
    index: int,
    state: State,
    r: int,
    memories: list[bytes],
    pool: Executor | None,
) -> tuple[State, list[bytes], dict]:
    """One round trip in round `r`: the next state, the clients' memories, and its cost and notes.

    `index`: the exchange's place in the method's prelude, -1 for training. `pool`: where clients answer; None = here.
    """
    began, server = time.perf_counter(), federation.server
    messages = _ask(exchange, server, state, r)
    # The clients with most samples first, so that workers finish together; folding is in order of number.
    order = sorted(messages, key=lambda k: -len(federation.splits[k]))
    tasks = [(server.config, index, k, r, messages[k], memories[k]) for k in order]
    answers = dict(zip(order, (pool.map if pool else map)(answer, *zip(*tasks, strict=True)), strict=True))
    replies, rejected = accept({k: unpack(found.reply) for k, found in answers.items()})
    state, note = exchange.fold(server, state, r, replies)
    check_masked(state.weights, state.mask)
    flops = [found.flops for found in answers.values()]
    cost = {
        "bytes_up": sum(len(found.reply) for found in answers.values()),
        "bytes_down": sum(map(len, messages.values())),
        "training_flops": sum(flops),
        "client_flops": max(flops),
        "client_kept": max(found.kept for found in answers.values()),
        "client_state_bytes": max(found.state_bytes for found in answers.values()),
        "rejected_clients": rejected,
        "trained_on": sorted({name for found in answers.values() for name in found.trained_on}),
        "seconds": time.perf_counter() - began,
    }
    return state, [answers[k].memory if k in answers else memories[k] for k in range(len(memories))], cost | note


def _ask(exchange: Exchange, server: Server, state: State, r: int) -> dict[int, bytes]:
    """The packed message to each client that is asked."""
    clients = range(server.config.clients)
    if not exchange.per_client:
        tensors, meta = exchange.ask(server, state, r)
        return dict.fromkeys(clients, pack(tensors, **meta))
    asked = {k: exchange.ask(server, state, r, k) for k in clients}
    return {k: pack(question[0], **question[1]) for k, question in asked.items() if question is not None}


class Answer(NamedTuple):
    """What comes back from a client: its packed reply and memory, what it cost (see `protocol.Reply`), and the engines
    that trained it.
    """

    reply: bytes
    memory: bytes
    flops: int
    kept: int
    state_bytes: int
    trained_on: tuple[str, ...]


def answer(config: Config, index: int, k: int, r: int, message: bytes, memory: bytes) -> Answer:
    """Client k's answer to exchange `index` (-1: training).

    Everything crosses as bytes; this is what a worker process executes.
    """
    federation, method = build_federation(config), load_method(config.method)
    exchange = (*method.prelude(config), method.training)[index]
    client = client_of(federation, k, r, unpack(memory).tensors)
    reply = exchange.answer(client, unpack(message))
    packed = pack(reply.tensors, **reply.meta)
    trained_on = tuple(sorted(client.trained_on))
    return Answer(packed, pack(client.memory), reply.flops, reply.kept, reply.state_bytes, trained_on)


def _new_record(config: Config, federation: Federation) -> dict:
    server = federation.server
    sizes = {layer.name: layer.weights for layer in federation.layers}
    return {
        "run_id": config.run_id,
        "config": config.identity(),
        "data": federation.summary,
        "model": {
            "parameters": server.parameters,
            "layers": sizes,
            "prunable": server.sizes,
            "budget": server.budget,
            "allowed": server.allowed,
        },
        "prelude": [],
        "start": {},
        "rounds": [],
        "final": {},
        "environment": environment.environment() | {"workers": config.workers},
        "complete": False,
    }


def _store(record: dict, folder: Path | None) -> None:
    """Write the record; a finished run then needs its checkpoint no more."""
    if folder:
        files.write_json(folder / "record.json", record)
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
    multiprocessing.parent_process().join()
    os._exit(1)
