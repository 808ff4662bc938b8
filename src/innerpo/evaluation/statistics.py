"""Means of outcomes with their intervals: pairs of one prompt are not independent, so prompts are what varies."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.special import stdtrit

Values = Float[np.ndarray, " pair"]

ADDED = 2
"""Successes, and as many failures, that ``proportion`` adds to the prompts."""


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


def proportion(values: Values, clusters: Sequence[str]) -> Estimate:
    """Mean of values in [0, 1] with a 95 % interval for prompts drawn anew, each with all its pairs.

    The interval is that of Agresti and Coull (1998), who add two successes and two failures to the sample, for
    clusters: two prompts won and two lost are added, each with the mean number of pairs m of a prompt. Of these G + 4
    prompts with n_g pairs and a sum of values y_g, c = sum y_g / sum n_g is the centre, and

        c -+ t (G' / (G' - 1) sum (y_g - c n_g)^2)^(1/2) / sum n_g,    G' = G + 4,  t: .975 quantile, G' - 1 d.o.f.,

    clipped to [0, 1]: the cluster-robust variance of a ratio (Liang and Zeger 1986; Cameron and Miller 2015, section
    VI, for t and its degrees of freedom). The added prompts leave some variance where all pairs are right, or all
    wrong, so one formula holds up to the edges. ``mean`` is that of the values alone. A single prompt has no interval
    (NaN); any NaN among the values makes the estimate unknown.
    """
    if len(values) == 0 or np.isnan(values).any():
        return UNKNOWN
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index).astype(float)
    mean = float(sums.sum() / counts.sum())
    if len(names) < 2:
        return Estimate(mean, float("nan"), float("nan"), len(values), len(names))
    size = counts.mean()
    sums = np.concatenate([sums, np.repeat([size, 0.0], ADDED)])
    counts = np.concatenate([counts, np.full(2 * ADDED, size)])
    n, total = len(counts), counts.sum()
    centre = sums.sum() / total
    variance = n / (n - 1) * np.square(sums - centre * counts).sum()
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance) / total
    return Estimate(mean, float(max(0.0, centre - half)), float(min(1.0, centre + half)), len(values), len(names))


def accuracy(outcomes: pl.DataFrame, statistic: Statistic = proportion) -> Estimate:
    """Return the accuracy over rows of ``pair_outcomes``, commonly those of one model and set, prompts as clusters."""
    return statistic(outcomes["outcome"].to_numpy(), outcomes["prompt"].to_list())
