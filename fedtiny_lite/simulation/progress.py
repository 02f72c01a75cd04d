"""How far a run has come: all that a round starts from."""

from dataclasses import dataclass

from fedtiny_lite.federated.ledger import Ledger
from fedtiny_lite.federated.state import State


@dataclass(frozen=True)
class Progress:
    """The server's state and ledger. What clients remember stays with them."""

    state: State
    ledger: Ledger
