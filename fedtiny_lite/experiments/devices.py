"""A run on devices beside the same run in one process: what was lost, what crossed, the same faults without devices."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedtiny_lite.config import Config
from fedtiny_lite.federated.ledger import SHARED, Versions, begin, note_changes
from fedtiny_lite.federated.messages import unpack
from fedtiny_lite.federated.protocol import Heard, Lost, Method
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import State
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.simulation.places import Asked, Call, InProcess

Silences = Mapping[tuple[int, int], str]
"""(round, client) -> why the client gave no answer in that round."""


class WithSilences(InProcess):
    """All clients in this process; those of `lost` do not hear the question of that round, as if they were gone."""

    def __init__(self, config: Config, lost: Silences) -> None:
        super().__init__(config)
        self.lost = lost

    def ask(self, call: Call, questions: Mapping[int, Asked]) -> Iterator[tuple[int, Heard | Lost]]:
        """As `Place.ask`."""
        gone = {k: Lost(self.lost[call.r, k]) for k in questions if (call.r, k) in self.lost}
        yield from gone.items()
        yield from super().ask(call, {k: asked for k, asked in questions.items() if k not in gone})


def silences(record: Mapping[str, Any]) -> dict[tuple[int, int], str]:
    """Who gave no answer in which round, and why, as a record tells it."""
    rounds = record["rounds"]
    return {(entry["round"], int(k)): why for entry in rounds for k, why in entry.get("lost", {}).items()}


def versions_after(method: Method, server: Server, states: list[State]) -> list[Versions]:
    """The versions of the layers' masks, which all clients share, in each of these consecutive states."""
    ledger, found = begin(method, server, states[0], {}), []
    for before, after in zip([states[0], *states], states, strict=False):
        ledger = note_changes(method, server, before, after, ledger)
        found.append(dict(ledger.versions[SHARED]))
    return found


def parts_of(packed: bytes, mask: Mask) -> dict[str, int]:
    """Bytes of a question with the weights of a model under `mask`, by what they are."""
    message = unpack(packed)
    weights, kept = message.tensors["weights"].nbytes, 4 * mask.total
    layers = message.tensors["mask"].nbytes if "mask" in message.tensors else 0
    rest = len(packed) - weights - layers
    return {"header": rest, "kept weights": kept, "never pruned": weights - kept, "mask": layers}


def kinds_of(record: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Kind of message -> bytes of one client (down, up), a mean over the exchanges of that kind and their clients."""
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in (*record["prelude"], *record["rounds"]):
        asked = len(entry["asked"])
        heard = asked - len(entry.get("lost", ()))
        found.setdefault(_kind(entry), []).append((entry["bytes_down"] / asked, entry["bytes_up"] / heard))
    return {kind: (_mean(down), _mean(up)) for kind, pairs in found.items() for down, up in [zip(*pairs, strict=True)]}


def _kind(entry: Mapping[str, Any]) -> str:
    return entry.get("exchange", "adjusting round" if entry.get("adjusted") else "round").replace("_", " ")


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
