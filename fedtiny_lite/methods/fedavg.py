"""FedAvg (McMahan et al., AISTATS 2017) of the dense model: the upper reference, at full cost."""

from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.server import Server, full_mask, pretrained
from fedtiny_lite.federated.state import State, masked_start
from fedtiny_lite.methods._averaging import AVERAGING


def start(server: Server) -> State:
    """The pretrained model, nothing pruned."""
    return masked_start(pretrained(server), full_mask(server.task.mask_shapes))


METHOD = Method("dense", "reference", start, AVERAGING)
