"""The paper's headline by formula: FLOPs and model state of ResNet18, as shares of the dense model's."""

from statistics import mean

import pandas as pd

from fedtiny_lite.experiments.counted import paper_model
from fedtiny_lite.model import costs
from fedtiny_lite.model.networks import prunable_blocks

PAPER = pd.DataFrame(
    {"FLOPs, paper": {"FedTiny": 0.014, "PruneFL": 0.34}, "memory, paper": {"FedTiny": 0.03, "PruneFL": 0.51}}
)
"""What the paper says of ResNet18 at density 0.01, as recalled."""


def headline(density: float, batches: int) -> pd.DataFrame:
    """Per method the `FLOPs` of a round of so many batches and the `memory` of its model state, of dense FedAvg's.

    ResNet18 of width 64 for 32 x 32 images, uniform masks. FedTiny's FLOPs are the mean over its blocks, its memory is
    that of its longest growth list. Memory leaves out activations and the optimiser's state.
    """
    subject = paper_model((3, 32, 32), 10)
    shapes, others, entries = subject.layers, subject.others, subject.list_entries(density)
    blocks = prunable_blocks(subject.model, prune_linear=True)
    sizes, kept = (subject.kept(density)[which] for which in ("dense", "uniform"))
    static, dense = costs.training_flops(shapes, kept), costs.training_flops(shapes, {})
    growth = mean(costs.growth_flops(shapes, kept, block) for block in blocks) / batches
    longest = max(sum(entries[name] for name in block) for block in blocks)
    flops = {
        "FedTiny": static + growth,
        "PruneFL": 2 * costs.forward_flops(shapes, kept) + costs.forward_flops(shapes, {}),
        "uniform static mask": static,
    }
    memory = {
        "FedTiny": costs.model_state_memory(shapes, kept, *others, list_entries=longest),
        "PruneFL": costs.model_state_memory(shapes, kept, *others, dense_gradient=tuple(sizes)),
        "uniform static mask": costs.model_state_memory(shapes, kept, *others),
    }
    whole = costs.model_state_memory(shapes, {}, *others)
    return pd.DataFrame({"FLOPs": pd.Series(flops) / dense, "memory": pd.Series(memory) / whole})
