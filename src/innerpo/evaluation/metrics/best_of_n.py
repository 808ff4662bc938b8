"""Best-of-n accuracy: is the response with the highest score the chosen one, where a prompt has more than two?"""

import polars as pl

from innerpo.evaluation.joined import LABELS
from innerpo.evaluation.metrics.metric import VALUES, Measured, Metric


def _best_of_n(measured: Measured) -> pl.DataFrame:
    """The share of chosen responses among those with the highest score, per prompt: 1, 0, or less than 1 for ties.

    Prompts with two responses are left out. NaN where the score of a response is unknown.
    """
    best = pl.col("score") == pl.col("score").max()
    right = (best & pl.col("is_chosen")).sum() / best.sum()
    value = pl.when(pl.col("score").is_nan().any()).then(float("nan")).otherwise(right)
    keys = [*LABELS, "prompt"]
    by_prompt = measured.responses.group_by(keys, maintain_order=True).agg(value=value, n=pl.len())
    return by_prompt.filter(pl.col("n") > 2).with_columns(weight=pl.lit(1.0)).select(VALUES)


best_of_n = Metric(_best_of_n, "Best-of-n accuracy", bounds=(0.0, 1.0))
