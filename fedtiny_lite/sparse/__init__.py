"""The sparse engine: masked networks trained on their kept weights alone, on the CPU.

Read `layout`, `patterns`, `kernels`, `norms`, `layers`, `network`, in this order; `training` and `growth` are what a
client calls.
"""
