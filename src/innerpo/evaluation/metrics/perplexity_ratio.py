"""Perplexity ratio on chosen: how much less likely a token of the better responses became. Above 1 is less likely."""

import polars as pl

from innerpo.evaluation.metrics.metric import Measured, Metric, per_response


def _nats_lost(measured: Measured) -> pl.DataFrame:
    """log ref(y) - log pi(y) of each chosen response, with its tokens as weight."""
    return per_response(measured, pl.col("base_logp") - pl.col("logp"), pl.col("tokens"), chosen=True)


perplexity_ratio = Metric(
    _nats_lost,
    "Perplexity on chosen over the base's",
    transform="exp",
    better="smaller",
    scored=False,
    relative=True,
    digits=2,
)
"""exp(sum (log ref(y_c) - log pi(y_c)) / sum |y_c|), over all chosen tokens of a set."""
