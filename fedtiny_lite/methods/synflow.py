"""SynFlow (Tanaka et al., NeurIPS 2020) on the server: no data, 100 steps, one threshold for all layers; then FedAvg.

The public set serves only for the pretraining that every method shares; the paper scores untrained weights. The
settings of weaker variants are those of `snip`.
"""

from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import State
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.methods._saliency import start_pruned, synaptic_flow
from fedtiny_lite.methods._settings import IteratedSaliency
from fedtiny_lite.pruning.saliency import SYNFLOW_STEPS


def start(server: Server) -> State:
    """The pretrained weights through which most of the synaptic flow passes."""
    return start_pruned(server, lambda state: synaptic_flow(server, state), SYNFLOW_STEPS)


METHOD = Method("SynFlow", "masks that stay", start, AVERAGING, settings=IteratedSaliency)
