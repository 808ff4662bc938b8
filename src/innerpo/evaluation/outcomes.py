"""From facts to outcomes: a scorer ranks the two responses of each pair."""

from collections.abc import Callable

import polars as pl

from innerpo.errors import UserError
from innerpo.evaluation.facts import Scores
from innerpo.registry import SCORERS, resolve

Scorer = Callable[[pl.DataFrame], pl.Series]
"""Rows of facts.RESPONSES to one number per row, higher is better; NaN where it is unknown."""


def pair_outcomes(scores: Scores, scorer: str) -> pl.DataFrame:
    """Return model, strength, set, pair, prompt and outcome: one row per pair and model that was run on its set.

    The outcome is 1 where the chosen response has the higher score, 0 where it has the lower, 1/2 for a tie, NaN
    where a score is unknown. Raises UserError for an unknown scorer, or one that does not return a number per response.
    """
    keys = ["model", "strength", "set", "prompt", "response"]
    scored = scores.responses.select(keys).with_columns(_score(scores.responses, scorer).alias("score"))
    models = scored.select("model", "strength").unique(maintain_order=True)
    table = models.join(scores.pairs, how="cross", maintain_order="left_right")
    for side in ("chosen", "rejected"):
        on_side = scored.rename({"response": side, "score": f"{side}_score"})
        table = table.join(on_side, on=[*keys[:-1], side], maintain_order="left")
    difference = pl.col("chosen_score") - pl.col("rejected_score")
    return table.select("model", "strength", "set", "pair", "prompt", outcome=(difference.sign() + 1.0) / 2.0)


def _score(responses: pl.DataFrame, name: str) -> pl.Series:
    function: Scorer = resolve(SCORERS, name, "scorer")
    found = function(responses)
    if not isinstance(found, pl.Series) or len(found) != len(responses) or not found.dtype.is_numeric():
        raise UserError(f"scorer {name!r} must return one number per response, as a polars Series of {len(responses)}")
    return found.cast(pl.Float64).fill_null(float("nan"))
