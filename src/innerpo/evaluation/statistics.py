"""Means of outcomes with their intervals: pairs of one prompt are not independent, so prompts are what varies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

Values = Float[np.ndarray, " pair"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; ``n`` pairs of ``clusters`` prompts. NaN where it is unknown, never 0."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"), 0, 0)

Statistic = Callable[[Values, Sequence[str]], Estimate]
"""One value per pair, and the prompt of each, to an estimate."""


def cluster_mean(values: Values, clusters: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of values with a 95 % interval from resampling whole clusters (Cameron et al. 2008, pairs bootstrap).

    Pairs of one prompt share a response, so they are not independent: resampling pairs would give intervals that are
    too narrow. Where all values are 0, or all 1, resampling sees no variance; the interval is then the exact binomial
    one for that many clusters (Clopper & Pearson 1934), not a point. With a single cluster there is none: NaN.
    """
    from scipy import stats  # not at the top: over a second that would stand before a run's first step

    if len(values) == 0 or np.isnan(values).any():
        return UNKNOWN
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=values)
    counts = np.bincount(index).astype(float)
    mean = float(sums.sum() / counts.sum())
    if len(names) < 2:
        return Estimate(mean, float("nan"), float("nan"), len(values), len(names))

    if mean in (0.0, 1.0):
        exact = stats.binomtest(round(mean * len(names)), len(names)).proportion_ci(method="exact")
        return Estimate(mean, float(exact.low), float(exact.high), len(values), len(names))

    def ratio(s: Any, c: Any, axis: int = -1) -> Any:
        return s.sum(axis) / c.sum(axis)

    found = stats.bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high), len(values), len(names))


def accuracy(outcomes: pl.DataFrame, statistic: Statistic = cluster_mean) -> Estimate:
    """Return the accuracy over rows of ``pair_outcomes``, commonly those of one model and set, prompts as clusters."""
    return statistic(outcomes["outcome"].to_numpy(), outcomes["prompt"].to_list())
