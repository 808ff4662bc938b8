"""Tests of no difference: by t from an estimate, McNemar's, and by flipping the signs of prompts."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from innerpo.errors import UserError
from innerpo.evaluation.statistics.records import NAN, Clustered, Estimate

EXACT_BELOW = 25
"""Discordant pairs below which McNemar's test is the exact binomial one."""

EXACT_PROMPTS = 14
"""Prompts with a difference up to which all signs are tried."""


def p_value(difference: Estimate) -> float:
    """Return the two-sided p of the t test of no difference: 2 P(T > |mean| / se), at the estimate's own df.

    It is below .05 exactly where the 95 % interval (before clipping) leaves out 0. NaN where the estimate is unknown.
    """
    if math.isnan(difference.mean) or math.isnan(difference.se):
        return NAN
    if difference.se == 0.0:
        return 1.0 if difference.mean == 0.0 else 0.0
    return 2.0 * float(stdtr(difference.df, -abs(difference.mean) / difference.se))


@dataclass(frozen=True)
class McNemar:
    """Pairs that only the first or only the second got right, and the two-sided p of as many of both."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Clustered, second: Clustered) -> McNemar:
    """McNemar's test of two runs on the same prompts of one pair each (statsmodels); exact with few discordant pairs.

    It takes pairs as independent, hence one pair a prompt, and one seed. p is NaN where an outcome is. Raises UserError
    for prompts of several pairs, several seeds, different prompts, or ties (outcomes other than 0 and 1).
    """
    for data in (first, second):
        if data.n_seeds != 1 or not (data.counts == 1).all():
            raise UserError("McNemar's test is for one run and one pair a prompt; use the paired t or sign flips")
    if first.n_clusters != second.n_clusters:
        raise UserError(f"two runs on the same prompts are needed, not on {first.n_clusters} and {second.n_clusters}")
    a, b = first.sums[0], second.sums[0]
    if np.isnan(a).any() or np.isnan(b).any():
        return McNemar(0, 0, NAN)
    ties = int((~np.isin(np.stack([a, b]), [0.0, 1.0])).any(0).sum())
    if ties:
        raise UserError(f"McNemar's test needs outcomes of 0 or 1 and {ties} are not; use the paired t or sign flips")
    from statsmodels.stats.contingency_tables import mcnemar as test

    table = [[int(((a == i) & (b == j)).sum()) for j in (1, 0)] for i in (1, 0)]
    only_first, only_second = table[0][1], table[1][0]
    found = test(table, exact=only_first + only_second < EXACT_BELOW, correction=True)
    return McNemar(only_first, only_second, float(found.pvalue))


def sign_flip(differences: Clustered, draws: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p of the permutation test that flips the sign of whole prompts, over all their seeds.

    The statistic is the absolute sum of differences. With up to ``EXACT_PROMPTS`` prompts that have any, all signs are
    tried; else ``draws`` of them, and p = (1 + #{as large}) / (1 + draws). It holds for these seeds: they are not
    drawn. NaN where a difference is.
    """
    sums = differences.sums.sum(0)
    if np.isnan(sums).any():
        return NAN
    sums = sums[sums != 0.0]
    seen = abs(float(sums.sum())) * (1.0 - 1e-12)
    n = len(sums)
    if n <= EXACT_PROMPTS:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ sums) >= seen).mean())
    rng, larger = np.random.default_rng(seed), 0
    for start in range(0, draws, 1000):
        signs = rng.choice([-1.0, 1.0], (min(1000, draws - start), n))
        larger += int((np.abs(signs @ sums) >= seen).sum())
    return (1 + larger) / (1 + draws)
