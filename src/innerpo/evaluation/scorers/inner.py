"""Inner reward: pooled hidden states along the run's directions (methods/inner_reward.py)."""

import polars as pl


def inner(responses: pl.DataFrame) -> pl.Series:
    """Return r = sum_l a_l <w_l, s_l> / sigma_l per response, in reference standard deviations; NaN if unknown."""
    return responses["inner"]
