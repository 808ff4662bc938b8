"""The table of a study: a row per method, a column per set or shift, a metric with its interval in each cell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from innerpo.evaluation.columns import Column, columns_of
from innerpo.evaluation.estimates import at, compare_grids, estimate, statistic_of, trained_seeds
from innerpo.evaluation.grids import Cells, grids
from innerpo.evaluation.marks import find_marks
from innerpo.evaluation.metrics.elicitation import capabilities as known_capabilities
from innerpo.evaluation.metrics.metric import Metric, measure
from innerpo.evaluation.result_notes import caption_of, notes_of, seed_notes, signs_of
from innerpo.evaluation.statistics import Estimate, holm
from innerpo.evaluation.study import Study
from innerpo.registry import METRICS, SCORERS, resolve

LEVEL = 0.05
"""Holm's adjusted p below which the best of a column is called the best."""


@dataclass(frozen=True)
class Cell:
    """An estimate, the signs of its marks, and whether it is the best of its column beyond chance."""

    estimate: Estimate
    marks: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class ResultTable:
    """A metric of every row on every column. ``column_marks``: signs of the marks of sets, by column name.

    ``seeds``: training seeds of each row, empty for the base. ``caption`` says what the intervals cover, ``notes`` what
    the marks mean and what is missing.
    """

    metric: str
    scorer: str
    digits: int
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    column_marks: Mapping[str, tuple[str, ...]]
    seeds: Mapping[str, tuple[int, ...]]
    caption: str
    notes: tuple[str, ...] = ()


def result_table(
    study: Study,
    metric: str = "accuracy",
    scorer: str = "mean_logp",
    *,
    capabilities: Mapping[str, float] | None = None,
    strengths: bool = False,
) -> ResultTable:
    """Return the table of a metric. Raises UserError for an unknown metric or scorer.

    ``capabilities``: target-tuned capability by data set; by default those that the study's own runs show. With
    ``strengths`` every strength of a policy has a row, else that of 1. The best of a column is best only where the
    paired test against the next one holds after Holm's correction over the columns.
    """
    kind: Metric = resolve(METRICS, metric, "metric")
    measured = measure(study, scorer)
    known = known_capabilities(study, measured.pairs) if capabilities is None else capabilities
    values = kind.function(type(measured)(measured.pairs, measured.responses, known))
    lacking = [] if strengths else _without_full_strength(values)
    if not strengths:
        values = values.filter((pl.col("strength") == 1.0) | (pl.col("strength") == 0.0))
    if kind.relative:
        values = values.filter(pl.col("model") != "base")
    columns, cells = columns_of(values), grids(values)
    rows = _order(values)
    table = {
        row: {
            c.name: estimate(at(cells, row, c.members), kind)
            if kind.statistic is None
            else statistic_of(values, row, c, kind)
            for c in columns
        }
        for row in rows
    }
    best = _best(table, columns, cells, kind)
    marks = find_marks(study, scorer, measured)
    shown = {
        row: {c.name: Cell(by_column[c.name], signs_of(marks, row, c), best.get(c.name) == row) for c in columns}
        for row, by_column in table.items()
    }
    seeds = {row: trained_seeds([g for (r, _), g in cells.items() if r == row]) for row in rows}
    return ResultTable(
        metric,
        scorer,
        kind.digits,
        columns,
        shown,
        {c.name: signs_of(marks, "", c) for c in columns},
        seeds,
        caption_of(kind, scorer, table),
        (*lacking, *seed_notes(table, columns, seeds), *notes_of(study, marks, columns, seeds, scorer)),
    )


def known_scorers(study: Study) -> list[str]:
    """Return the scorers of the registry that need nothing that is unknown of this study, ``longer`` apart."""
    lacking = {"inner"} if study.responses["inner"].is_nan().all() else set()
    if not (study.responses["model"] == "base").any():
        lacking.add("implicit")
    return [name for name in SCORERS if name != "longer" and name not in lacking]


def _order(values: pl.DataFrame) -> list[str]:
    """The rows: the base, other models that were not trained, then the methods by name and strength."""
    found = values.select("row", "model", "method", "strength").unique("row", keep="first", maintain_order=True)
    kind = pl.when(pl.col("model") == "base").then(0).when(pl.col("strength") == 0.0).then(1).otherwise(2)
    first = found.with_row_index("at").with_columns(place=pl.col("at").min().over("method"))
    return first.sort(kind, "place", "strength", "at", maintain_order=True)["row"].to_list()


def _without_full_strength(values: pl.DataFrame) -> list[str]:
    """A line about every policy that has no row, as it was not scored as trained."""
    policies = values.filter(pl.col("strength") != 0.0)
    found = policies.group_by("method", maintain_order=True).agg(pl.col("strength").unique().sort())
    return [
        f"{method}: scored at {', '.join(f'{s:g}' for s in own)} times the adapter's update, not at 1; it has no row"
        for method, own in found.iter_rows()
        if 1.0 not in own
    ]


def _best(
    table: Mapping[str, Mapping[str, Estimate]], columns: Sequence[Column], cells: Cells, metric: Metric
) -> dict[str, str]:
    """The best row of each column, where it differs from the next one at LEVEL after Holm's correction."""
    if metric.better == "neither" or metric.statistic is not None:
        return {}
    sign = 1.0 if metric.better == "larger" else -1.0
    leaders, p = {}, []
    for column in columns:
        ranked = [row for row in table if not math.isnan(table[row][column.name].mean)]
        ranked.sort(key=lambda row: -sign * table[row][column.name].mean)
        if len(ranked) > 1:
            first, second = (at(cells, row, column.members) for row in ranked[:2])
            leaders[column.name] = ranked[0]
            p.append(compare_grids(first, second, metric).p)
    adjusted = dict(zip(leaders, holm(p), strict=True))
    return {name: row for name, row in leaders.items() if adjusted[name] < LEVEL}
