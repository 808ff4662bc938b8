"""Intervals by resampling: prompts, and seeds and shifts as whole rows; offered beside the t intervals."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from innerpo.evaluation.statistics.records import (
    NAN,
    PROMPTS,
    SEEDS,
    SHIFTS,
    SHIFTS_ONE_SEED,
    Clustered,
    Estimate,
    unknown,
)

DRAWS = 2000


def draw_weights(rng: np.random.Generator, n: int, draws: int) -> Float[np.ndarray, "draw n"]:
    """Return how often each of n things is drawn, in draws of n with replacement."""
    drawn = rng.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n).astype(float)


def clustered_bootstrap(data: Clustered, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean over pairs with the 2.5 and 97.5 % percentiles of means of prompts drawn with replacement.

    The seeds are taken as they are. Of no width where all pairs are alike; near 0 and 1 it covers less than
    ``one_run``, which is the default.
    """
    rng = np.random.default_rng(seed)
    weights = draw_weights(rng, data.n_clusters, draws)
    means = weights @ data.sums.mean(0) / (weights @ data.counts)
    return _percentiles([data], data.mean, means, PROMPTS)


def hierarchical_bootstrap(data: Clustered | Sequence[Clustered], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean with the percentiles of means of shifts, seeds and prompts, all drawn with replacement.

    Seeds are drawn once for all shifts, as they are trained once for all. Prompts are drawn within each shift. The
    variance of drawn means of S seeds is (S - 1) / S of what it should be: with 3 or 5 seeds the interval is too
    narrow (docs/statistics.md), and ``seeds_by_prompts`` and ``suite`` are the default.
    """
    shifts = [data] if isinstance(data, Clustered) else list(data)
    rng, n_seeds = np.random.default_rng(seed), shifts[0].n_seeds
    of_seeds = draw_weights(rng, n_seeds, draws) / n_seeds
    means = np.empty((draws, len(shifts)))
    for k, shift in enumerate(shifts):
        weights = draw_weights(rng, shift.n_clusters, draws)
        drawn = (weights @ shift.sums.T) / (weights @ shift.counts)[:, None]
        means[:, k] = (drawn * of_seeds).sum(1)
    level = SEEDS if n_seeds > 1 else PROMPTS
    if len(shifts) > 1:
        level = SHIFTS if n_seeds > 1 else SHIFTS_ONE_SEED
        means *= draw_weights(rng, len(shifts), draws)
    return _percentiles(shifts, float(np.mean([s.mean for s in shifts])), means.mean(1), level)


def _percentiles(data: Sequence[Clustered], mean: float, means: Float[np.ndarray, " draw"], level: str) -> Estimate:
    blank = unknown(data, level, mean)
    if math.isnan(mean):
        return blank
    low, high = np.quantile(means, [0.025, 0.975])
    se = float(means.std(ddof=1))
    return Estimate(mean, float(low), float(high), blank.n, blank.clusters, blank.seeds, blank.shifts, level, se, NAN)
