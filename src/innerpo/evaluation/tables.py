"""The headline table: a row per model, a column per evaluation set; the data sets are named beneath it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from innerpo.evaluation.facts import Scores
from innerpo.evaluation.outcomes import pair_outcomes
from innerpo.evaluation.sets import HEADLINE, EvaluationSet
from innerpo.evaluation.statistics import UNKNOWN, Estimate, Statistic, accuracy, proportion


@dataclass(frozen=True)
class Headline:
    """Accuracy of each model on each evaluation set (``columns``) by one scorer, and what the sets are."""

    scorer: str
    cells: Mapping[str, Mapping[str, Estimate]]
    sources: Mapping[str, str]
    notes: Sequence[str] = ()
    columns: Sequence[str] = HEADLINE

    @property
    def title(self) -> str:
        """The line above the table."""
        return f"Accuracy by {self.scorer}, 95 % interval over prompts"

    def lines(self) -> list[str]:
        """Return the lines beneath the table: the data set of each column, then notes."""
        named = [f"{name}: {self.sources[name]}" for name in self.columns if name in self.sources]
        return [*named, *self.notes]


def headline(
    scores: Scores, sets: Sequence[EvaluationSet], scorer: str = "mean_logp", statistic: Statistic = proportion
) -> Headline:
    """Return the accuracy of every model on every set, the headline's first. Raises UserError for an unknown scorer."""
    outcomes = pair_outcomes(scores, scorer)
    models = outcomes.select("model", "strength").unique(maintain_order=True)
    several = models.filter(pl.col("model").is_duplicated())["model"].to_list()
    names = [s.name for s in sets]
    columns = [*(n for n in HEADLINE if n in names), *(n for n in names if n not in HEADLINE)] or list(HEADLINE)
    cells = {}
    for model, strength in models.iter_rows():
        own = outcomes.filter(pl.col("model") == model, pl.col("strength") == strength)
        by_set = {name: own.filter(pl.col("set") == name) for name in columns}
        as_trained = strength in (0.0, 1.0) and model not in several
        label = model if as_trained else f"{model} x {strength:g}"
        cells[label] = {name: accuracy(rows, statistic) if len(rows) else UNKNOWN for name, rows in by_set.items()}
    sources = {s.name: s.source for s in sets if s.pairs}
    return Headline(scorer, cells, sources, [s.note for s in sets if s.note] + overlap_notes(sets), columns)


def overlap_notes(sets: Sequence[EvaluationSet]) -> list[str]:
    """Name the sets with prompts that were trained on: accuracy there is not held-out."""
    seen = (s for s in sets if s.role != "train" and s.n_seen)
    return [f"note: {s.n_seen} of {s.n_prompts} prompts of {s.name} are training prompts too" for s in seen]


def format_estimate(estimate: Estimate) -> str:
    """``.632 [.571, .690]``; a dash for what is unknown."""
    if math.isnan(estimate.mean):
        return "-"
    if math.isnan(estimate.low):
        return _short(estimate.mean)
    return f"{_short(estimate.mean)} [{_short(estimate.low)}, {_short(estimate.high)}]"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def as_plain(table: Headline) -> dict[str, Any]:
    """Return the table as plain JSON types: estimates by model and set, and the sources under ``columns``."""
    cells = {model: {name: asdict(e) for name, e in by_set.items()} for model, by_set in table.cells.items()}
    return cells | {"columns": dict(table.sources)}


def as_markdown(table: Headline) -> str:
    """Return the table and the lines beneath it as markdown."""
    lines = [
        table.title,
        "",
        "| method | " + " | ".join(table.columns) + " |",
        "| --- |" + " ---: |" * len(table.columns),
    ]
    for model, by_set in table.cells.items():
        lines.append(f"| {model} | " + " | ".join(format_estimate(by_set[name]) for name in table.columns) + " |")
    return "\n".join([*lines, "", *table.lines()]) + "\n"
