"""The words around a table of results: what its intervals cover, its data sets, marks, and what is missing."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from innerpo.evaluation.budgets import budget_notes
from innerpo.evaluation.columns import MEAN, Column
from innerpo.evaluation.marks import SIGNS, Mark
from innerpo.evaluation.metrics.metric import Metric
from innerpo.evaluation.statistics import Estimate
from innerpo.evaluation.study import Study


def signs_of(marks: Sequence[Mark], row: str, column: Column) -> tuple[str, ...]:
    """Return the signs of a row's marks on a column; of the set's own marks for the row ''."""
    if len(column.members) != 1:
        return ()
    ((source, dataset, split, role),) = column.members
    own = [
        m for m in marks if m.row == row and (m.source, m.dataset, m.split, m.role) == (source, dataset, split, role)
    ]
    return tuple(dict.fromkeys(SIGNS[m.kind] for m in own))


def caption_of(metric: Metric, scorer: str, table: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Return what is shown, and what its intervals cover."""
    title = f"{metric.title} by {scorer}" if metric.scored else metric.title
    if metric.statistic is not None:
        return f"{title}, without intervals"
    known = [e for by_column in table.values() for e in by_column.values() if not math.isnan(e.low)]
    levels = list(dict.fromkeys(e.level for e in known))
    if not levels:
        return title
    text = f"{title}, 95 % intervals over {', '.join(levels)}"
    return text if any("seeds" in level for level in levels) else f"{text} (seeds not covered: one seed)"


def seed_notes(
    table: Mapping[str, Mapping[str, Estimate]], columns: Sequence[Column], seeds: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Return a line for a column in which rows have fewer seeds than elsewhere: a mean takes those of all its sets."""
    lines = []
    for column in columns:
        cells = {row: by_column[column.name] for row, by_column in table.items()}
        fewer = {row: e for row, e in cells.items() if 0 < e.seeds < len(seeds[row]) and not math.isnan(e.mean)}
        if fewer:
            which = ", ".join(f"{e.seeds} of {len(seeds[row])} seeds of {row}" for row, e in fewer.items())
            why = ", those that all its sets have" if len(column.members) > 1 else ""
            alone = (
                "; an interval of one seed does not cover seeds" if any(e.seeds == 1 for e in fewer.values()) else ""
            )
            lines.append(f"{column.name}: {which}{why}{alone}")
    return lines


def notes_of(
    study: Study, marks: Sequence[Mark], columns: Sequence[Column], seeds: Mapping[str, tuple[int, ...]], scorer: str
) -> tuple[str, ...]:
    """Return the lines beneath a table: seeds, data sets, budgets, marks with their numbers, what is missing."""
    lines = [f"{row}: seeds {', '.join(map(str, own))}" for row, own in seeds.items() if len(own) > 1]
    for column in columns:
        if len(column.members) > 1:
            lines.append(
                f"{column.name}: mean over {len(column.members)} {'shifts' if column.name == MEAN else 'sets'}"
            )
        else:
            _, dataset, split, _ = column.members[0]
            kind = f", {column.kind}" if column.kind else ""
            lines.append(f"{column.name}: {dataset} ({split}){kind}")
    lines += budget_notes(study)
    if scorer == "inner" and study.runs.height > 1:
        lines.append(f"base: along the directions of {study.runs['run'][0]}")
    names = {c.members[0]: c.name for c in columns if len(c.members) == 1}
    for mark in marks:
        where = names.get((mark.source, mark.dataset, mark.split, mark.role), mark.dataset)
        whose = f"{mark.row}, " if mark.row else ""
        lines.append(f"({SIGNS[mark.kind]}) {mark.kind}: {whose}{where}: {mark.text}")
    empty = study.sets.filter(pl.col("note") != "")["note"].unique(maintain_order=True).to_list()
    return (*lines, *empty, *(f"left out: {fault}" for fault in study.faults))
