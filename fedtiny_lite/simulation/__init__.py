"""A whole federation in one process or in workers: set-up, the round loop, scores, checkpoints."""
