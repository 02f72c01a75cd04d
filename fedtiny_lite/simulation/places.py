"""Where clients are. A place asks them and says what came back, in any order, and why a client gave no answer.

Clients run in this process or in worker processes, and on Flower's nodes (`fedtiny_lite.flower`). An answer depends on
the message, the client's samples, its memory and its own generator alone, so the place changes no bit of a record.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from fedtiny_lite.config import Config, load_method
from fedtiny_lite.federated.memory import Memories, digest
from fedtiny_lite.federated.personal import weigh_classes
from fedtiny_lite.federated.protocol import Answered, Heard, Lost, answer_question, exchange_at
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.records.files import scratch_folder
from fedtiny_lite.simulation.setup import Federation, build_federation, client_of, hand_out, largest_first


@dataclass(frozen=True)
class Call:
    """Which exchange it is, by its place in the method's prelude (-1: training) and the round; and of which task."""

    config: Config
    pixels: Normalisation
    index: int
    r: int


class Asked(NamedTuple):
    """A question to one client: the packed message, and the digest of the memory that it is to answer from."""

    message: bytes
    memory: str


FORGOT = Lost("it lost its memory", forgot=True)


class Place(Protocol):
    """Where the clients of a run are.

    `ask` and `weigh` give (client number, answer) in the order in which answers come.
    """

    def federation(self) -> Federation:
        """The server's side, after the survey of pixels."""

    def ask(self, call: Call, questions: Mapping[int, Asked]) -> Iterable[tuple[int, Heard | Lost]]:
        """The answers of these clients to an exchange."""

    def weigh(self, questions: Mapping[int, bytes]) -> Iterable[tuple[int, bytes | Lost]]:
        """The answers of these clients to `personal.weigh_classes`."""

    def secure(self, memories: Collection[str]) -> None:
        """Called before a checkpoint that counts on these memories: write what would be lost with the process."""

    def settle(self, memories: Collection[str]) -> None:
        """Called after it: no other memory is asked for again."""


class InProcess:
    """All clients in this process, one after the other. `folder`: where their memories are written, if anywhere."""

    def __init__(self, config: Config, folder: Path | None = None) -> None:
        self.config, self.memories = config, Memories(folder)

    def federation(self) -> Federation:
        """As `Place.federation`."""
        return build_federation(self.config)

    def ask(self, call: Call, questions: Mapping[int, Asked]) -> Iterator[tuple[int, Heard | Lost]]:
        """As `Place.ask`."""
        for k, asked in questions.items():
            memory = self.memories.recall(asked.memory)
            yield k, FORGOT if memory is None else self.heard(answer(call, k, asked.message, memory))

    def heard(self, found: Answered) -> Heard:
        """What crosses of an answer; the memory stays here."""
        return Heard(**(found._asdict() | {"memory": self.memories.remember(found.memory)}))

    def weigh(self, questions: Mapping[int, bytes]) -> Iterator[tuple[int, bytes | Lost]]:
        """As `Place.weigh`."""
        for k, question in questions.items():
            yield k, weigh_classes(hand_out(self.config).splits[k].labels, question)

    def secure(self, memories: Collection[str]) -> None:
        """As `Place.secure`."""
        self.memories.write(memories)

    def settle(self, memories: Collection[str]) -> None:
        """As `Place.settle`."""
        self.memories.keep(memories)


def answer(call: Call, k: int, message: bytes, memory: bytes) -> Answered:
    """Client k's answer, computed here; everything crosses as bytes."""
    client = client_of(call.config, call.pixels, k, call.r, memory)
    return answer_question(client, exchange_at(load_method(call.config.method), call.config, call.index), message)


class InWorkers(InProcess):
    """All clients in worker processes; a message is handed over once an exchange, as a file, however many are sent it.

    Memories stay in this process, and each travels with its question.
    """

    def __init__(self, config: Config, folder: Path | None, pool: ProcessPoolExecutor, messages: Path) -> None:
        super().__init__(config, folder)
        self.pool, self.messages = pool, messages

    def ask(self, call: Call, questions: Mapping[int, Asked]) -> Iterator[tuple[int, Heard | Lost]]:
        """As `Place.ask`. Raises BrokenProcessPool if a worker dies."""
        paths = self._hand_over({asked.message for asked in questions.values()})
        waiting = {}
        for k in largest_first(hand_out(self.config), list(questions)):
            memory = self.memories.recall(questions[k].memory)
            if memory is None:
                yield k, FORGOT
            else:
                waiting[self.pool.submit(_answer_file, call, k, paths[questions[k].message], memory)] = k
        for done in as_completed(waiting):
            yield waiting[done], self.heard(done.result())
        for path in paths.values():
            path.unlink()

    def _hand_over(self, messages: Collection[bytes]) -> dict[bytes, Path]:
        paths = {message: self.messages / f"{number}.{digest(message)}" for number, message in enumerate(messages)}
        for message, path in paths.items():
            path.write_bytes(message)
        return paths


def _answer_file(call: Call, k: int, path: Path, memory: bytes) -> Answered:
    """What a worker process executes."""
    return answer(call, k, _read_once(path), memory)


@lru_cache(maxsize=2)
def _read_once(path: Path) -> bytes:
    return path.read_bytes()


@contextlib.contextmanager
def place_for(config: Config, folder: Path | None = None) -> Iterator[Place]:
    """This process, or as many worker processes as the config asks for; memories are files in `folder`, if given."""
    workers = min(config.workers, config.clients)
    if workers == 1:
        yield InProcess(config, folder)
        return
    context = multiprocessing.get_context("spawn")
    with (
        scratch_folder() as messages,
        ProcessPoolExecutor(workers, context, initializer=start_worker) as pool,
    ):
        yield InWorkers(config, folder, pool, messages)


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
