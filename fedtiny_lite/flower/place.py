"""Flower's nodes as a place for clients: who is there, and what they answer within the time that they are given."""

import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedtiny_lite.config import Config
from fedtiny_lite.federated.checks import whole_number
from fedtiny_lite.federated.protocol import Heard, Lost
from fedtiny_lite.federated.task import described
from fedtiny_lite.flower.envelopes import EXCHANGE, SURVEY, WEIGH, enclosed, opened
from fedtiny_lite.simulation.places import FORGOT, Asked, Call
from fedtiny_lite.simulation.setup import Federation, Holdings, federate

PAUSE = 0.1  # seconds between two looks for answers
GRACE, PATIENCE = 30.0, 3
"""Who has not answered after GRACE seconds and PATIENCE times as long as the slowest that has is asked once more.

An answer may be lost on its way: after a SuperLink was restarted, a SuperNode of Flower 1.42 may hold an answer back
until it hears the next message. A repeated question gets the same answer.
"""


class OnFlower:
    """A client on each of Flower's nodes. What a client remembers stays on its node.

    `clients`: as many have to be there before the run begins, waited for `wait` seconds. `timeout`: seconds that an
    exchange waits for answers, 0 = without end; who has not answered by then is lost for this exchange.
    """

    def __init__(
        self, grid: Grid, config: Config, holdings: Holdings, clients: int = 0, wait: float = 600, timeout: float = 0
    ) -> None:
        self.grid, self.config, self.holdings, self.timeout = grid, config, holdings, timeout
        self.clients, self.wait = clients or config.clients, wait
        self.late = Lost(f"no answer within {timeout:g} s")
        self.nodes: dict[int, int] = {}  # client -> node
        self.known: set[int] = set()  # nodes that have said who they are
        self.silent: set[int] = set()  # clients that did not answer last

    def federation(self) -> Federation:
        """As `Place.federation`. Raises RuntimeError if too few clients come."""
        answers: dict[int, bytes | Lost] = {}
        until = time.monotonic() + self.wait
        while len(answers) < self.clients:
            answers |= self._meet()
            if time.monotonic() > until:
                raise RuntimeError(f"{len(answers)} of {self.clients} clients came within {self.wait:g} s")
            time.sleep(PAUSE)
        everyone = range(self.config.clients)
        found = federate(self.config, self.holdings, lambda: {k: answers.get(k, Lost("not there")) for k in everyone})
        self.task = found.task
        return found

    def ask(self, call: Call, questions: Mapping[int, Asked]) -> Iterator[tuple[int, Heard | Lost]]:
        """As `Place.ask`."""
        task = json.dumps(described(replace(self.task, pixels=call.pixels)))
        about = {"task": task, "index": call.index, "round": call.r}
        contents = {k: enclosed(asked.message, memory=asked.memory, **about) for k, asked in questions.items()}
        for k, found in self._exchange(EXCHANGE, contents, str(call.r)):
            yield k, found if isinstance(found, Lost) else read_answer(*found)

    def weigh(self, questions: Mapping[int, bytes]) -> Iterator[tuple[int, bytes | Lost]]:
        """As `Place.weigh`."""
        contents = {k: enclosed(question, config=self._settings()) for k, question in questions.items()}
        for k, found in self._exchange(WEIGH, contents, "end"):
            yield k, found if isinstance(found, Lost) else found[0]

    def secure(self, memories: Collection[str]) -> None:
        """As `Place.secure`: nodes write what they remember before they answer."""

    def settle(self, memories: Collection[str]) -> None:
        """As `Place.settle`: nodes forget by themselves."""

    def _settings(self) -> str:
        """The settings but for the device, which is each node's own."""
        return json.dumps({name: value for name, value in self.config.identity().items() if name != "torch_device"})

    def _meet(self) -> dict[int, bytes]:
        """Ask nodes that are new or back who they are; the answers to the survey of those that are clients of this run.

        A node that gives no answer in time is asked again the next time.
        """
        there = set(self.grid.get_node_ids())
        self.nodes = {k: node for k, node in self.nodes.items() if node in there}
        self.known &= there
        new, answers = there - self.known, {}
        content = {node: enclosed(b"", config=self._settings()) for node in new}
        for node, found in self._send(SURVEY, content, "start") if new else ():
            if found is not self.late:
                self.known.add(node)
            if isinstance(found, Lost):
                print(f"node {node}: {found.why}", flush=True)
                continue
            reply, about = found
            k = about.get("client")
            taken = self.nodes.keys() - self.silent
            if isinstance(k, int) and 0 <= k < self.config.clients and k not in taken:
                self.nodes[k], answers[k] = node, reply
            else:
                print(f"node {node} says that it is client {k!r}, which is taken or not of this run", flush=True)
        return answers

    def _exchange(
        self, kind: str, contents: Mapping[int, RecordDict], group: str
    ) -> Iterator[tuple[int, tuple[bytes, dict] | Lost]]:
        """The answers of these clients; new nodes are met first, as a client that was restarted may be one.

        Flower takes a node that was killed for connected for about a minute, so one that was silent can be replaced.
        """
        self._meet()
        client_on = {self.nodes[k]: k for k in contents if k in self.nodes}
        for k in contents:
            if k not in self.nodes:
                yield k, Lost("it is not connected")
        for node, found in self._send(kind, {node: contents[k] for node, k in client_on.items()}, group):
            (self.silent.add if isinstance(found, Lost) else self.silent.discard)(client_on[node])
            yield client_on[node], found

    def _send(
        self, kind: str, contents: Mapping[int, RecordDict], group: str
    ) -> Iterator[tuple[int, tuple[bytes, dict] | Lost]]:
        """What each node answers; the first answer counts, and none that comes after the timeout."""
        waiting, begun = self._push(kind, contents, group), time.monotonic()
        until, again, once_more = begun + (self.timeout or float("inf")), float("inf"), dict(contents)
        while waiting and time.monotonic() < until:
            for reply in self.grid.pull_messages(list(waiting)):
                node = waiting.get(reply.metadata.reply_to_message_id)
                if node is not None:
                    waiting = {number: other for number, other in waiting.items() if other != node}
                    again = time.monotonic() + GRACE + (PATIENCE - 1) * (time.monotonic() - begun)
                    yield node, _read(reply)
            if time.monotonic() > again:
                late = {node: once_more.pop(node) for node in waiting.values() if node in once_more}
                if late:
                    print(f"no answer yet, so asked again: nodes {[*late]}", flush=True)
                    waiting |= self._push(kind, late, group)
            time.sleep(PAUSE if waiting else 0)
        for node in dict.fromkeys(waiting.values()):
            yield node, self.late

    def _push(self, kind: str, contents: Mapping[int, RecordDict], group: str) -> dict[str, int]:
        """Sends each node its content; number of the message -> node. Raises RuntimeError if Flower takes too few."""
        messages = [Message(content, node, kind, group_id=group) for node, content in contents.items()]
        numbers = list(self.grid.push_messages(messages))
        if len(numbers) < len(contents) or None in numbers:
            raise RuntimeError(f"Flower took {len(numbers)} of {len(contents)} messages; its log says why")
        return dict(zip(numbers, contents, strict=True))


def _read(reply: Message) -> tuple[bytes, dict] | Lost:
    if reply.has_error():
        return Lost(f"Flower says: {reply.error.reason}"[-500:])
    try:
        return opened(reply.content)
    except ValueError as error:
        return Lost(str(error))


def read_answer(reply: bytes, about: Mapping[str, object]) -> Heard | Lost:
    """What a node answered to an exchange. What it says about itself is not trusted to be of the right kind."""
    if about.get("forgot") is True:
        return FORGOT
    memory, engines = about.get("memory"), about.get("trained_on")
    if not isinstance(memory, str) or len(memory) > 64 or not isinstance(engines, list):
        return Lost("its answer does not say what it remembers and what it trained on")
    try:
        flops, kept, state_bytes = (whole_number(about, name, high=2**62) for name in ("flops", "kept", "state_bytes"))
    except ValueError as error:
        return Lost(str(error))
    return Heard(reply, memory, flops, kept, state_bytes, tuple(str(name)[:64] for name in engines))
