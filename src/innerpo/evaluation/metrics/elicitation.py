"""Elicitation: accuracy on a target measured by what training on the target itself reaches (GENIES, 2311.07723)."""

from collections.abc import Mapping

import polars as pl

from innerpo.evaluation.metrics.metric import Measured, Metric, per_pair
from innerpo.evaluation.study import Study


def _elicitation(measured: Measured) -> pl.DataFrame:
    """Outcome / TTC per pair; NaN where the target-tuned capability of the data set is unknown."""
    return per_pair(measured, pl.col("outcome") / _capability(measured))


def _differential(measured: Measured) -> pl.DataFrame:
    """(outcome - outcome of the base) / TTC per pair."""
    return per_pair(measured, (pl.col("outcome") - pl.col("base_outcome")) / _capability(measured))


def _capability(measured: Measured) -> pl.Expr:
    known = dict(measured.capabilities)
    nan = float("nan")
    return pl.col("dataset").replace_strict(known, default=nan, return_dtype=pl.Float64) if known else pl.lit(nan)


def capabilities(study: Study, pairs: pl.DataFrame) -> Mapping[str, float]:
    """Return the target-tuned capability of each set's data, by data set: what a run's folder records, else the runs.

    Of the study's own runs it is the test accuracy (over all seeds) of the best method that was trained on the data, or
    on that of the set's ``target_reference`` where there is one. Data on which no run was trained are left out.
    ``pairs``: the joined pairs of the study.
    """
    own = pairs.filter(pl.col("role") == "test", pl.col("strength") == 1.0)
    by_method = own.group_by("source", "method").agg(pl.col("outcome").mean())
    reached = dict(by_method.group_by("source").agg(pl.col("outcome").max()).rows())
    sets = study.sets.unique(["run", "set"], keep="first")
    data_of = sets.select("run", target_reference="set", reference="dataset")
    joined = sets.join(data_of, on=["run", "target_reference"], how="left")
    joined = joined.with_columns(reference=pl.coalesce("reference", "dataset"))
    named = joined.select("dataset", "reference").unique().sort("dataset").rows()
    of_runs = {dataset: float(reached[reference]) for dataset, reference in named if reference in reached}
    return of_runs | dict(study.capabilities)


elicitation = Metric(_elicitation, "Elicitation, accuracy / target-tuned capability")
differential_elicitation = Metric(
    _differential, "Differential elicitation, (accuracy - base) / target-tuned capability", relative=True
)
