"""Where all randomness starts: (root seed, purpose, place) -> a generator of its own.

Nothing in the package touches the global random state, so a draw never depends on what ran before it:
client 3 in round 7 sees the same numbers whichever process it runs in, and whatever ran first.
"""

import hashlib

import numpy as np
import torch


def derive_seed(root: int, purpose: str, *place: int) -> int:
    """A 63-bit seed from the root seed, a purpose such as "train", and a place such as (round, client)."""
    text = "/".join([str(root), purpose, *map(str, place)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(root: int, purpose: str, *place: int) -> torch.Generator:
    """A torch generator on the CPU; draws are moved to the accelerator, so they are the same everywhere."""
    return torch.Generator().manual_seed(derive_seed(root, purpose, *place))


def numpy_generator(root: int, purpose: str, *place: int) -> np.random.Generator:
    """A numpy generator, for partitions and densities."""
    return np.random.default_rng(derive_seed(root, purpose, *place))
