"""From facts to outcomes: a scorer ranks the two responses of each pair."""

from collections.abc import Callable, Sequence

import polars as pl

from innerpo.errors import UserError
from innerpo.evaluation.facts import Scores
from innerpo.registry import SCORERS, resolve

Scorer = Callable[[pl.DataFrame], pl.Series]
"""Rows of facts.RESPONSES with ``base_logp`` to one number per row, higher is better; NaN where it is unknown.

``base_logp`` is the base model's log-probability of the same response, NaN where the base was not scored on it.
"""


def pair_outcomes(scores: Scores, scorer: str) -> pl.DataFrame:
    """Return model, strength, set, pair, prompt and outcome: one row per pair and model that was run on its set.

    The outcome is 1 where the chosen response has the higher score, 0 where it has the lower, 1/2 for a tie, NaN
    where a score is unknown. Raises UserError for an unknown scorer, or one that does not return a number per response.
    """
    keys = ["model", "strength", "set", "prompt", "response"]
    facts = with_base(scores.responses)
    scored = facts.select(keys).with_columns(score(facts, scorer).alias("score"))
    models = scored.select("model", "strength", "set").unique(maintain_order=True)
    table = models.join(scores.pairs, on="set", maintain_order="left_right")
    for side in ("chosen", "rejected"):
        on_side = scored.rename({"response": side, "score": f"{side}_score"})
        table = table.join(on_side, on=[*keys[:-1], side], maintain_order="left")
    difference = pl.col("chosen_score") - pl.col("rejected_score")
    return table.select("model", "strength", "set", "pair", "prompt", outcome=(difference.sign() + 1.0) / 2.0)


def with_base(responses: pl.DataFrame, also: Sequence[str] = ()) -> pl.DataFrame:
    """Add ``base_logp``: the log-probability of the same response by the base model of that row, NaN if unknown.

    The base's rows are those of the model ``base`` with the same ``reference``, set, prompt and response, and with the
    same values in the columns ``also`` (``run``, where rows of several runs stand together).
    """
    keys = [*also, "reference", "set", "dataset", "split", "prompt", "response"]
    base = responses.filter(pl.col("model") == "base").select(*keys, base_logp="logp").unique(keys, keep="first")
    joined = responses.join(base, on=keys, how="left", maintain_order="left")
    return joined.with_columns(pl.col("base_logp").fill_null(float("nan")))


def score(facts: pl.DataFrame, name: str) -> pl.Series:
    """Return a scorer's number of every response. ``facts``: rows of facts.RESPONSES with ``base_logp``.

    Raises UserError for an unknown scorer, or one that does not return a number per response.
    """
    function: Scorer = resolve(SCORERS, name, "scorer")
    found = function(facts)
    if not isinstance(found, pl.Series) or len(found) != len(facts) or not found.dtype.is_numeric():
        raise UserError(f"scorer {name!r} must return one number per response, as a polars Series of {len(facts)}")
    return found.cast(pl.Float64).fill_null(float("nan"))
