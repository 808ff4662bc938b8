"""Output drift: how far the policy's log-probabilities moved from the base's, per completion token, in nats."""

import polars as pl

from innerpo.evaluation.metrics.metric import Measured, Metric, per_response


def _drift(measured: Measured) -> pl.DataFrame:
    """sum_t |log pi(y_t) - log ref(y_t)| of each response, with its tokens as weight."""
    return per_response(measured, pl.col("abs_log_ratio"), pl.col("tokens"))


drift = Metric(_drift, "Output drift, nats per token", better="neither", scored=False, relative=True)
