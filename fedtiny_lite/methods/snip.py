"""SNIP (Lee et al., ICLR 2019) on the server: one shot, one batch, one threshold for all layers; then FedAvg.

At low densities whole layers may lose all their weights; they are left so, and the record's `kept` shows it. As every
method it scores the pretrained weights, the paper untrained ones. Settings give the weaker variants of the 2022 code
of FedTiny's first author, which chose in each layer apart (`saliency_scope=layer`), in 5 steps (`saliency_steps=5`;
exponential here, linear there).
"""

from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import State
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.methods._saliency import public_batch, start_pruned
from fedtiny_lite.methods._settings import IteratedSaliency
from fedtiny_lite.pruning.saliency import snip_scores


def start(server: Server) -> State:
    """The pretrained weights that the loss on the public set is most sensitive to."""
    batch = public_batch(server)
    return start_pruned(
        server, lambda state: snip_scores(server.model, state, server.task.mask_shapes, *batch), steps=1
    )


METHOD = Method("SNIP", "masks that stay", start, AVERAGING, settings=IteratedSaliency)
