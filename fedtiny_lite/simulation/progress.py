"""How far a run has come: all that a round starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedtiny_lite.federated.ledger import Ledger
from fedtiny_lite.federated.state import State


@dataclass(frozen=True)
class Progress:
    """The server's state and ledger, and the packed memory of each client that was ever asked."""

    state: State
    ledger: Ledger
    memories: Mapping[int, bytes] = field(default_factory=dict)
