"""Whether another program scored the same responses alike: is the adapter applied there, on the same tokens?"""

import polars as pl

from innerpo.errors import UserError
from innerpo.evaluation.facts import Scores

KEYS = ["dataset", "split", "prompt", "response", "tokens"]


def agreement(theirs: Scores, ours: Scores) -> pl.DataFrame:
    """Return how far each model of theirs is from each of ours, on the responses that both scored, token for token.

    One row per pair of models: ``theirs``, ``ours``, ``strength`` (of ours), ``responses``, ``tokens``, and
    ``difference``, the sum over responses of |log-probability - log-probability| divided by the tokens, in nats. A
    policy that is applied there is near our policy (rounding of another backend: about 1e-2 in bfloat16) and far from
    our base. Responses of another number of tokens are not compared. Raises UserError where none is left.
    """
    columns = ["model", "strength", *KEYS, "logp"]

    def facts(scores: Scores) -> pl.DataFrame:
        return scores.responses.select(columns).unique([*columns[:-1]], keep="first", maintain_order=True)

    both = facts(theirs).join(facts(ours), on=KEYS, suffix="_ours", maintain_order="left_right")
    if not len(both):
        raise UserError("no response was scored by both, with as many tokens; compare the same data set and tokenizer")
    return (
        both.group_by("model", "model_ours", "strength_ours", maintain_order=True)
        .agg(
            responses=pl.len(),
            tokens=pl.col("tokens").sum(),
            difference=(pl.col("logp") - pl.col("logp_ours")).abs().sum() / pl.col("tokens").sum(),
        )
        .rename({"model": "theirs", "model_ours": "ours", "strength_ours": "strength"})
    )
