"""Length alone: a check of the data that needs no model."""

import polars as pl


def longer(responses: pl.DataFrame) -> pl.Series:
    """Return the number of characters of a response."""
    return responses["characters"].cast(pl.Float64)
