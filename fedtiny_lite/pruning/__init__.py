"""The arithmetic of pruning: selection, progressive pruning, saliency, posteriors, pruned activations."""
