"""Log-probability of the whole response; it favours short ones."""

import polars as pl


def sum_logp(responses: pl.DataFrame) -> pl.Series:
    """Return the log-probability of a response, summed over its completion tokens, in nats."""
    return responses["logp"]
