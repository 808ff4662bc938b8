"""Lengths of texts in tokens as a histogram, with what a limit cuts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from statistics import median

MOST_BINS = 12


@dataclass(frozen=True)
class Lengths:
    """A histogram: ``counts[i]`` texts have at least ``edges[i]`` and fewer than ``edges[i + 1]`` tokens.

    ``limit`` is the most that is kept, ``n_cut`` the texts that are longer, ``lost`` the tokens that are cut off them.
    """

    what: str
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    limit: int
    n_cut: int
    lost: int
    middle: float
    longest: int

    @property
    def n(self) -> int:
        """Number of texts."""
        return sum(self.counts)


def lengths(what: str, found: Sequence[int], limit: int) -> Lengths:
    """Return the histogram of some lengths, in at most 12 bins of equal width (1, 2 or 5 times a power of ten)."""
    longest, first = max(found), min(found)
    widths = ((1, 2, 5)[k % 3] * 10 ** (k // 3) for k in count())
    width = next(w for w in widths if longest // w - first // w < MOST_BINS)
    low, high = first // width, longest // width
    counts = [0] * (high - low + 1)
    for n in found:
        counts[n // width - low] += 1
    over = [n - limit for n in found if n > limit]
    edges = tuple(width * i for i in range(low, high + 2))
    return Lengths(what, edges, tuple(counts), limit, len(over), sum(over), float(median(found)), longest)
