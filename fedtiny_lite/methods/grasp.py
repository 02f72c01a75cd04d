"""GraSP (Wang et al., ICLR 2020) on the server: one shot, one batch, one threshold for all layers; then FedAvg.

What was said of `snip` holds here too: pretrained weights, emptied layers, the settings of the weaker variants.
"""

from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import State
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.methods._saliency import public_batch, start_pruned
from fedtiny_lite.methods._settings import IteratedSaliency
from fedtiny_lite.pruning.saliency import grasp_scores


def start(server: Server) -> State:
    """The pretrained weights that carry most of the gradient's norm on the public set."""
    batch = public_batch(server)
    return start_pruned(
        server, lambda state: grasp_scores(server.model, state, server.task.mask_shapes, *batch), steps=1
    )


METHOD = Method("GraSP", "masks that stay", start, AVERAGING, settings=IteratedSaliency)
