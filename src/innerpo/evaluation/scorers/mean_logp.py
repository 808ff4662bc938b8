"""Log-probability per token."""

import polars as pl


def mean_logp(responses: pl.DataFrame) -> pl.Series:
    """Return the mean log-probability of a response's completion tokens, in nats."""
    return responses["logp"] / responses["tokens"]
