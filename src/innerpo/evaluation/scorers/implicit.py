"""Implicit reward: the log-probability beyond the base model's (Rafailov et al. 2023, arXiv 2305.18290, eq. 5)."""

import polars as pl


def implicit(responses: pl.DataFrame) -> pl.Series:
    """Return log pi(y) - log pi_ref(y), summed over completion tokens, in nats.

    That is DPO's reward up to the factor beta, which changes no ranking. 0 for the base itself, so that its pairs are
    ties; NaN where the base was not scored on the response.
    """
    return responses["logp"] - responses["base_logp"]
