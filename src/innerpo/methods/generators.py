"""Random generators of methods: one independent stream for each use of the training seed."""

import hashlib

import torch


def generator_for(seed: int, name: str) -> torch.Generator:
    """Return a new CPU generator whose seed is a hash of (seed, name).

    Two uses of the same training seed draw independent numbers as long as their names differ. ``initial_seed()`` of the
    generator seeds code that takes a number.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
