"""Brier score: the squared error of the probability that the chosen response is better."""

import polars as pl

from innerpo.evaluation.metrics.metric import Measured, Metric, per_pair, probability


def _brier(measured: Measured) -> pl.DataFrame:
    """(1 - p)^2 per pair, p the sigmoid of the score difference (Brier 1950, of one of the two outcomes)."""
    return per_pair(measured, (1.0 - probability()) ** 2)


brier = Metric(_brier, "Brier score", bounds=(0.0, 1.0), better="smaller")
