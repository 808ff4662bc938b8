"""What score rows mean: accuracy under several aggregates, ties one half, intervals clustered by prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from innerpo.evaluation.score import PairScore

Rows = Sequence[PairScore]
Outcomes = Float[np.ndarray, " pair"]


def _mean_logp(rows: Rows) -> Outcomes:
    return np.array([r.chosen_logp / r.chosen_tokens - r.rejected_logp / r.rejected_tokens for r in rows])


def _sum_logp(rows: Rows) -> Outcomes:
    return np.array([r.chosen_logp - r.rejected_logp for r in rows])


def _inner(rows: Rows) -> Outcomes:
    return np.array([r.chosen_inner - r.rejected_inner for r in rows])


def _longer(rows: Rows) -> Outcomes:
    return np.array([float(r.chosen_characters - r.rejected_characters) for r in rows])


AGGREGATES: dict[str, Callable[[Rows], Outcomes]] = {
    # name -> score of chosen minus score of rejected, one a pair
    "mean_logp": _mean_logp,
    "sum_logp": _sum_logp,
    "inner": _inner,
    "longer": _longer,
}


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; ``n`` pairs of ``clusters`` prompts. NaN where it is unknown, never 0."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"), 0, 0)


def outcomes(differences: Outcomes) -> Outcomes:
    """1 where the chosen response scores higher, 0 where lower, one half for a tie, NaN where unknown."""
    return np.asarray((np.sign(differences) + 1.0) / 2.0)


def accuracy(rows: Rows, aggregate: str = "mean_logp", *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Accuracy over all pairs, with a percentile bootstrap over prompts."""
    return cluster_mean(
        outcomes(AGGREGATES[aggregate](rows)), [r.cluster for r in rows], resamples=resamples, seed=seed
    )


def cluster_mean(values: Outcomes, clusters: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Estimate:
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
