"""Accuracy: the share of pairs in which the chosen response has the higher score."""

import polars as pl

from innerpo.evaluation.metrics.metric import Measured, Metric, per_pair


def _accuracy(measured: Measured) -> pl.DataFrame:
    """1 right, 0 wrong, 1/2 a tie, per pair."""
    return per_pair(measured, pl.col("outcome"))


accuracy = Metric(_accuracy, "Accuracy", bounds=(0.0, 1.0))
