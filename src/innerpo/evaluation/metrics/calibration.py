"""Calibration: does a preference of 80 % turn out right in 80 % of pairs? (Guo et al. 2017, arXiv 1706.04599)."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from innerpo.evaluation.metrics.metric import Measured, Metric, per_pair, probability


@dataclass(frozen=True)
class Bin:
    """Pairs whose confidence lies in [low, high): how many, their mean confidence and their accuracy (NaN if none)."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Bins of confidence; ``ece`` the mean over pairs of |accuracy - confidence| of their bin, ``rms`` its root mean
    square."""

    bins: tuple[Bin, ...]
    ece: float
    rms: float


def calibration_table(probabilities: Float[np.ndarray, " pair"], bins: int = 10) -> Calibration:
    """Return the calibration of probabilities that the chosen response is better.

    Confidence is the probability of the response that the model prefers, max(p, 1 - p), and lies in [1/2, 1]; the bins
    divide that range equally. The model is right where p > 1/2, half right where p = 1/2. With n_b of N pairs in bin b,

        ECE = sum_b n_b / N |accuracy_b - confidence_b|      RMS = (sum_b n_b / N (accuracy_b - confidence_b)^2)^(1/2)

    NaN where there are no pairs or a probability is unknown.
    """
    p = np.asarray(probabilities, dtype=float)
    edges = np.linspace(0.5, 1.0, bins + 1)
    if len(p) == 0 or np.isnan(p).any():
        empty = tuple(Bin(float(a), float(b), 0, math.nan, math.nan) for a, b in itertools.pairwise(edges))
        return Calibration(empty, math.nan, math.nan)
    confidence, right = np.maximum(p, 1.0 - p), (np.sign(p - 0.5) + 1.0) / 2.0
    index = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    found = []
    for b in range(bins):
        inside = index == b
        means = (float(v[inside].mean()) if inside.any() else math.nan for v in (confidence, right))
        found.append(Bin(float(edges[b]), float(edges[b + 1]), int(inside.sum()), *means))
    errors = np.array([(b.n / len(p), abs(b.accuracy - b.confidence)) for b in found if b.n])
    ece, square = float(errors[:, 0] @ errors[:, 1]), float(errors[:, 0] @ errors[:, 1] ** 2)
    return Calibration(tuple(found), ece, math.sqrt(square))


def reliability(pairs: pl.DataFrame, bins: int = 10) -> Calibration:
    """Return the calibration of joined pairs (joined.py), commonly those of one row of a table on one set."""
    return calibration_table(pairs.select(probability()).to_series().to_numpy(), bins)


def _probabilities(measured: Measured) -> pl.DataFrame:
    """The probability that the chosen response is better, per pair."""
    return per_pair(measured, probability())


ece = Metric(
    _probabilities,
    "Expected calibration error",
    statistic=lambda rows: calibration_table(rows["value"].to_numpy()).ece,
    better="smaller",
)
