"""The order of pairs in an epoch: shuffled by seed, with pairs of similar length in a step."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

# Pairs are sorted by length within pools of this many steps. Larger pools waste less padding; smaller ones are closer
# to a uniform shuffle.
POOL_OF_STEPS = 16


class PairSampler(Sampler[int]):
    """Yields every index once an epoch; the order depends on (seed, epoch) and on nothing else.

    The pairs are shuffled, cut into pools of ``POOL_OF_STEPS`` steps, sorted by length within a pool, and the steps
    are shuffled again. ``pairs_per_step`` counts all accumulated batches, so that accumulation changes no step.
    """

    def __init__(self, lengths: Sequence[int], pairs_per_step: int, seed: int) -> None:
        self.lengths = lengths
        self.pairs_per_step = pairs_per_step
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        pool = self.pairs_per_step * POOL_OF_STEPS
        steps: list[list[int]] = []
        for start in range(0, len(order), pool):
            members = sorted(order[start : start + pool], key=lambda i: (-self.lengths[i], i))
            steps += [members[i : i + self.pairs_per_step] for i in range(0, len(members), self.pairs_per_step)]
        full = [s for s in steps if len(s) == self.pairs_per_step]
        rng.shuffle(full)
        short = [s for s in steps if len(s) < self.pairs_per_step]  # at most one; last, so that steps stay whole
        return iter([i for step in full + short for i in step])
