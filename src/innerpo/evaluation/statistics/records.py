"""What statistics read and return: outcomes summed by prompt and seed, and means with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from innerpo.errors import UserError

NAN = float("nan")

Values = Float[np.ndarray, " pair"]

Bounds = tuple[float, float]
"""Smallest and largest value that one pair can have."""

UNIT: Bounds = (0.0, 1.0)
"""Bounds of outcomes."""

DIFFERENCE: Bounds = (-1.0, 1.0)
"""Bounds of differences between two outcomes."""

PROMPTS, SEEDS, SHIFTS, SHIFTS_ONE_SEED = (
    "prompts",
    "seeds x prompts",
    "shifts x seeds x prompts",
    "shifts x prompts",
)
"""What an interval covers: which things are thought of as drawn anew."""


@dataclass(frozen=True)
class Clustered:
    """Outcomes of pairs, summed within each prompt: one row per training seed, a single row for one run.

    ``counts``: pairs of each prompt, the same for all seeds. Raises UserError for a prompt without pairs, or none.
    """

    sums: Float[np.ndarray, "seed cluster"]
    counts: Float[np.ndarray, " cluster"]

    def __post_init__(self) -> None:
        if self.sums.shape[1] != len(self.counts) or self.sums.size == 0:
            raise UserError(f"sums of shape {self.sums.shape} and {len(self.counts)} counts; each prompt needs both")
        if not (self.counts > 0).all():
            raise UserError("a prompt has no pairs; leave it out of sums and counts")

    @property
    def n_seeds(self) -> int:
        """Number of seeds."""
        return len(self.sums)

    @property
    def n_clusters(self) -> int:
        """Number of prompts."""
        return len(self.counts)

    @property
    def mean(self) -> float:
        """The mean over pairs and seeds; NaN where any sum is."""
        return float(self.sums.mean(0).sum() / self.counts.sum())

    @property
    def seed_means(self) -> Float[np.ndarray, " seed"]:
        """The mean over pairs of each seed."""
        return np.asarray(self.sums.sum(1) / self.counts.sum())


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval. NaN where it is unknown, never 0.

    ``n`` pairs of ``clusters`` prompts, under each of ``seeds`` seeds, summed over ``shifts`` shifts; ``level``: what
    the interval covers. ``se``: standard error of the mean. ``df``: degrees of freedom of the one t distribution whose
    .975 quantile is that of the interval (``components.effective_df``).
    """

    mean: float
    low: float
    high: float
    n: int
    clusters: int
    seeds: int = 1
    shifts: int = 1
    level: str = PROMPTS
    se: float = NAN
    df: float = NAN


UNKNOWN = Estimate(NAN, NAN, NAN, 0, 0)


def clustered(values: Float[np.ndarray, "seed pair"], clusters: Sequence[str]) -> Clustered:
    """Sum the values of pairs by prompt, for each seed; ``clusters`` names the prompt of each pair.

    Prompts are in the order of their names. Raises UserError where there are no pairs, or not a prompt for each.
    """
    if values.shape[1] != len(clusters):
        raise UserError(f"{values.shape[1]} pairs and the prompts of {len(clusters)}; each pair needs its prompt")
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.array([np.bincount(index, weights=row, minlength=len(names)) for row in values])
    return Clustered(sums.reshape(len(values), len(names)), np.bincount(index).astype(float))


def unknown(data: Sequence[Clustered], level: str = PROMPTS, mean: float = NAN) -> Estimate:
    """Return an estimate without an interval, with the numbers of what it would be made from."""
    n, prompts = sum(int(d.counts.sum()) for d in data), sum(d.n_clusters for d in data)
    return Estimate(mean, NAN, NAN, n, prompts, data[0].n_seeds, len(data), level)
