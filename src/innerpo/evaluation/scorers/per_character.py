"""Log-probability per character: comparable between tokenisers, and less of a bonus for long tokens."""

import polars as pl


def per_character(responses: pl.DataFrame) -> pl.Series:
    """Return the log-probability of a response divided by its characters, in nats; NaN for an empty text."""
    characters = responses["characters"].cast(pl.Float64)
    return (responses["logp"] / characters).set(characters == 0, float("nan"))
