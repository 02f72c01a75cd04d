"""The sparse engine: masked networks trained on their kept weights alone, on the CPU.

Read the modules in this order: `layout`, `patterns`, `kernels`, `norms`, `activations`, `convolutions`, `layers`,
`network`. A client calls `training` and `growth`; `engine` chooses between this engine and dense torch.
"""
