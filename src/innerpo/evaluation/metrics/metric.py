"""The record of a metric, and helpers that turn joined facts into its values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from innerpo.evaluation.joined import LABELS, joined
from innerpo.evaluation.study import Study

VALUES = [*LABELS, "prompt", "value", "weight"]
"""Columns of a metric's values. The metric is sum(value) / sum(weight); prompts are what varies."""


@dataclass(frozen=True)
class Measured:
    """What a metric reads: the pairs and the responses of a study, joined to the base's (joined.py).

    ``capabilities``: accuracy of a model trained on the target itself (its target-tuned capability), by data set.
    """

    pairs: pl.DataFrame
    responses: pl.DataFrame
    capabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A metric: ``function`` returns a frame of VALUES; the metric is ``transform`` of sum(value) / sum(weight).

    ``bounds``: what a value divided by its weight can be; None where it has no bounds. ``statistic`` is there for a
    metric that is no mean: it maps the rows of ``function`` of one cell to a number, which has no interval. ``better``:
    which direction is better, if either. ``scored``: it depends on the scorer. ``relative``: it is relative to the
    base, so that the base has no row of its own.
    """

    function: Callable[[Measured], pl.DataFrame]
    title: str
    bounds: tuple[float, float] | None = None
    transform: Literal["none", "exp"] = "none"
    statistic: Callable[[pl.DataFrame], float] | None = None
    better: Literal["larger", "smaller", "neither"] = "larger"
    scored: bool = True
    relative: bool = False
    digits: int = 3


def measure(study: Study, scorer: str = "mean_logp", capabilities: Mapping[str, float] | None = None) -> Measured:
    """Return what metrics read of a study. Raises UserError for an unknown scorer."""
    return Measured(*joined(study, scorer), capabilities or {})


def per_pair(measured: Measured, value: pl.Expr) -> pl.DataFrame:
    """Return VALUES with one row per pair, each with the weight 1."""
    return measured.pairs.select(*LABELS, "prompt", value=value, weight=pl.lit(1.0))


def per_response(measured: Measured, value: pl.Expr, weight: pl.Expr, chosen: bool = False) -> pl.DataFrame:
    """Return VALUES with one row per response, each once; with ``chosen`` only those that are the better of a pair."""
    rows = measured.responses.filter(pl.col("is_chosen")) if chosen else measured.responses
    return rows.select(*LABELS, "prompt", value=value, weight=weight.cast(pl.Float64))


def probability() -> pl.Expr:
    """Probability that the chosen response is the better one: the sigmoid of the difference of scores."""
    return 1.0 / (1.0 + (pl.col("score_rejected") - pl.col("score_chosen")).exp())
