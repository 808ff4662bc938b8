"""Gain over base: accuracy less that of the base model on the same pairs, in points."""

import polars as pl

from innerpo.evaluation.metrics.metric import Measured, Metric, per_pair


def _gain(measured: Measured) -> pl.DataFrame:
    """100 (outcome - outcome of the base), per pair."""
    return per_pair(measured, 100.0 * (pl.col("outcome") - pl.col("base_outcome")))


gain = Metric(_gain, "Gain over base, points", bounds=(-100.0, 100.0), relative=True, digits=1)
