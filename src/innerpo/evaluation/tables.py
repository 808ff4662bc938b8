"""The headline table: rows are models, columns train, test, oos and rnd; every data set is named beneath it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from innerpo.evaluation.score import PairScore
from innerpo.evaluation.scorers import UNKNOWN, Estimate, accuracy

COLUMNS = ("train", "test", "oos", "rnd")


@dataclass(frozen=True)
class Headline:
    """Accuracy of each model in each column, and what the columns are."""

    aggregate: str
    cells: Mapping[str, Mapping[str, Estimate]]
    sources: Mapping[str, str]
    notes: Sequence[str] = ()

    def lines(self) -> list[str]:
        """The notes beneath the table."""
        named = [f"{column}: {self.sources[column]}" for column in COLUMNS if column in self.sources]
        return [*named, *self.notes]


def headline(
    rows: Sequence[PairScore], sources: Mapping[str, str], *, aggregate: str, resamples: int, notes: Sequence[str] = ()
) -> Headline:
    """Aggregate score rows into the headline table."""
    groups: dict[str, dict[str, list[PairScore]]] = {}
    for row in rows:
        groups.setdefault(row.model, {}).setdefault(row.column, []).append(row)
    cells = {
        model: {c: accuracy(by[c], aggregate, resamples=resamples) if by.get(c) else UNKNOWN for c in COLUMNS}
        for model, by in groups.items()
    }
    return Headline(aggregate, cells, sources, notes)


def format_estimate(estimate: Estimate) -> str:
    """``.632 [.571, .690]``; a dash for what is unknown."""
    if math.isnan(estimate.mean):
        return "-"
    if math.isnan(estimate.low):
        return _short(estimate.mean)
    return f"{_short(estimate.mean)} [{_short(estimate.low)}, {_short(estimate.high)}]"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def as_rich(table: Headline) -> Table:
    """Return the table for a terminal."""
    shown = Table(title=f"Accuracy by {table.aggregate}, 95 % interval over prompts", title_justify="left")
    shown.add_column("method")
    for column in COLUMNS:
        shown.add_column(column, justify="right")
    for model, by in table.cells.items():
        shown.add_row(model, *(format_estimate(by[c]) for c in COLUMNS))
    return shown


def as_markdown(table: Headline) -> str:
    """Return the table and its notes as markdown."""
    lines = [
        f"Accuracy by {table.aggregate}, 95 % interval over prompts",
        "",
        "| method | " + " | ".join(COLUMNS) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for model, by in table.cells.items():
        lines.append(f"| {model} | " + " | ".join(format_estimate(by[c]) for c in COLUMNS) + " |")
    return "\n".join([*lines, "", *table.lines()]) + "\n"
