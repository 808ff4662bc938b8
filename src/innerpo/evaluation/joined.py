"""A study's facts joined for measures: one row per pair, or per response, beside the base model's on the same text."""

from collections.abc import Sequence

import polars as pl

from innerpo.evaluation.outcomes import score, with_base
from innerpo.evaluation.remembered import remembered
from innerpo.evaluation.sets import HEADLINE
from innerpo.evaluation.study import Study

LABELS = ["run", "method", "source", "seed", "model", "strength", "row", "set", "dataset", "split", "role", "kind"]
"""What both frames begin with: whose row it is (``row`` is the name of the table's row), and of which set."""

RESPONSE = ["run", "model", "strength", "set", "dataset", "split", "prompt"]
FACTS = ["score", "base_score", "logp", "base_logp", "tokens", "characters", "abs_log_ratio"]


@remembered
def joined(study: Study, scorer: str = "mean_logp") -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return ``joined_pairs`` and ``joined_responses`` of a study. Raises UserError for an unknown scorer."""
    scored = _scored(study, scorer)
    return _pairs(study, scored), _responses(study, scored)


def joined_pairs(study: Study, scorer: str = "mean_logp") -> pl.DataFrame:
    """Return one row per run, model, strength, set and pair.

    Columns: LABELS, pair, prompt, chosen, rejected (indices of the responses), each of FACTS with ``_chosen`` and with
    ``_rejected`` behind it, outcome and base_outcome (1 right, 0 wrong, 1/2 tie, NaN unknown). Raises UserError for an
    unknown scorer.
    """
    return joined(study, scorer)[0]


def joined_responses(study: Study, scorer: str = "mean_logp") -> pl.DataFrame:
    """Return one row per run, model, strength, set and response that stands in a pair.

    Columns: LABELS, prompt, response, is_chosen (it is the better one of a pair), FACTS; those of the base model
    (``base_score``, ``base_logp``) are NaN where the run has no such row. Raises UserError for an unknown scorer.
    """
    return joined(study, scorer)[1]


def outcomes_by(study: Study, scorers: Sequence[str]) -> pl.DataFrame:
    """Return LABELS, pair, prompt and the outcome by each scorer, in columns of their names."""
    rows = with_base(study.responses, ["run"])
    rows = rows.with_columns(score(rows, name).alias(name) for name in scorers)
    table = _sides(study.pairs, rows, list(scorers))
    right = {n: ((pl.col(f"{n}_chosen") - pl.col(f"{n}_rejected")).sign() + 1.0) / 2.0 for n in scorers}
    return _labelled(table, study).select(*LABELS, "pair", "prompt", **right)


def outcomes(study: Study, scorer: str = "mean_logp") -> pl.DataFrame:
    """Return LABELS, pair, prompt and outcome: one row per run, model, strength, set and pair."""
    return joined_pairs(study, scorer).select(*LABELS, "pair", "prompt", "outcome")


def row_label() -> pl.Expr:
    """Name of the table's row: base, ``dpo``, ``dpo x 0.5``, ``dpo steered 2``, or another base model's name."""
    scaled = pl.format("{} x {}", "method", pl.col("strength").map_elements(lambda s: f"{s:g}", return_dtype=pl.String))
    policy = pl.when(pl.col("strength") == 1.0).then("method").otherwise(scaled)
    steered = pl.col("model").str.starts_with("steered ")
    return (
        pl.when(pl.col("strength") != 0.0)
        .then(policy)
        .when(steered)
        .then(pl.format("{} {}", "method", "model"))
        .otherwise("model")
    )


def _scored(study: Study, scorer: str) -> pl.DataFrame:
    """The responses with their score and the base's on the same response of the same run."""
    rows = with_base(study.responses, ["run"])
    rows = rows.with_columns(score(rows, scorer).alias("score"))
    keys = ["run", "set", "dataset", "split", "prompt", "response", "reference"]
    base = rows.filter(pl.col("model") == "base").select(*keys, base_score="score")
    rows = rows.join(base, on=keys, how="left", maintain_order="left")
    return rows.with_columns(pl.col("base_score").fill_null(float("nan")))


def _responses(study: Study, scored: pl.DataFrame) -> pl.DataFrame:
    used = pl.concat(
        [
            study.pairs.select("run", "set", "prompt", response=side, is_chosen=pl.lit(side == "chosen"))
            for side in ("chosen", "rejected")
        ]
    )
    used = used.group_by("run", "set", "prompt", "response").agg(pl.col("is_chosen").any())
    rows = scored.join(used, on=["run", "set", "prompt", "response"], maintain_order="left")
    return _labelled(rows, study).select(*LABELS, "prompt", "response", "is_chosen", *FACTS)


def _pairs(study: Study, scored: pl.DataFrame) -> pl.DataFrame:
    table = _sides(study.pairs, scored, FACTS)
    outcomes = {
        f"{before}outcome": ((pl.col(f"{before}score_chosen") - pl.col(f"{before}score_rejected")).sign() + 1.0) / 2.0
        for before in ("", "base_")
    }
    of_sides = [f"{c}_{side}" for side in ("chosen", "rejected") for c in FACTS]
    columns = [*LABELS, "pair", "prompt", "chosen", "rejected", *of_sides, *outcomes]
    return _labelled(table.with_columns(**outcomes), study).select(columns)


def _sides(pairs: pl.DataFrame, rows: pl.DataFrame, facts: Sequence[str]) -> pl.DataFrame:
    """The pairs of every model, with the facts of both responses."""
    table = pairs
    for side in ("chosen", "rejected"):
        own = rows.select(*RESPONSE, pl.col("response").alias(side), *(pl.col(c).alias(f"{c}_{side}") for c in facts))
        on = ["run", "set", "prompt", side] if side == "chosen" else [*RESPONSE, side]
        table = table.join(own, on=on, maintain_order="left_right" if side == "chosen" else "left")
    return table


def _labelled(table: pl.DataFrame, study: Study) -> pl.DataFrame:
    """Add the columns of LABELS that stand in the study's runs and sets. A set without a description is extra."""
    sets = study.sets.select("run", "set", "role", "kind").unique(["run", "set"], keep="first")
    named = pl.when(pl.col("set").is_in(HEADLINE)).then("set").otherwise(pl.lit("extra"))
    labels = study.runs.select("run", "method", "source", "seed")
    table = table.join(sets, on=["run", "set"], how="left", maintain_order="left")
    table = table.with_columns(pl.col("role").fill_null(named), pl.col("kind").fill_null(""))
    return table.join(labels, on="run", how="left", maintain_order="left").with_columns(row=row_label())
