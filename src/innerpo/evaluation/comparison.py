"""Two methods on the same prompts and seeds: differences with intervals, tests, and what could have been found."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from innerpo.errors import UserError
from innerpo.evaluation.columns import Column, columns_of
from innerpo.evaluation.estimates import PairedTest, at, compare_grids, estimate, trained_seeds
from innerpo.evaluation.grids import Cells, grids, paired
from innerpo.evaluation.joined import LABELS, outcomes_by
from innerpo.evaluation.marks import RANKING
from innerpo.evaluation.metrics.metric import Metric, measure
from innerpo.evaluation.statistics import Estimate, holm
from innerpo.evaluation.study import Study
from innerpo.registry import METRICS, SCORERS, resolve

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Two rows on one column, and a - b with its tests.

    ``p``: t test at the level that the interval covers; ``p_holm``: corrected over the columns; ``p_mcnemar``: for one
    seed and one pair a prompt, else NaN; ``p_sign_flip``: sign flips of whole prompts, for these seeds. ``detectable``:
    the smallest true difference found with 80 % power. ``drift_a``, ``drift_b``: output drift, nats per token.
    """

    column: Column
    a: Estimate
    b: Estimate
    difference: Estimate
    p: float
    p_holm: float
    p_mcnemar: float
    p_sign_flip: float
    detectable: float
    drift_a: float
    drift_b: float

    @property
    def found(self) -> bool:
        """Whether a difference was found: Holm's adjusted p is below .05."""
        return self.p_holm < LEVEL


@dataclass(frozen=True)
class Comparison:
    """Two methods, their differences by column, and who wins by each scorer (name, "=" for a tie, "-" unknown)."""

    a: str
    b: str
    scorer: str
    differences: tuple[Difference, ...]
    winners: Mapping[str, Mapping[str, str]]
    seeds_a: tuple[int, ...]
    seeds_b: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def verdict(self, difference: Difference) -> str:
        """Who is better, or that no difference was found and which one would have been."""
        if math.isnan(difference.difference.mean):
            return "unknown"
        if difference.found:
            return f"{self.a if difference.difference.mean > 0 else self.b} is better"
        if math.isnan(difference.detectable):
            return "no difference found"
        return f"no difference found (one of {difference.detectable:.3f} would be in 80 % of repeats)"


@dataclass(frozen=True)
class _Side:
    """One row of a study, as the grids of each metric."""

    name: str
    cells: Mapping[str, Cells]
    columns: tuple[Column, ...]
    row: str

    def on(self, metric: str, column: Column) -> list[Any]:
        return at(self.cells[metric], self.row, column.members)


def compare_studies(a: Study, b: Study, scorer: str = "mean_logp") -> Comparison:
    """Compare the one method of a study with that of another, paired by prompt and seed, on all sets that both have.

    Raises UserError where a study holds several methods or none, where the base models differ, where nothing was scored
    for both, and for an unknown scorer.
    """
    _check_bases(a, b)
    one, other = (_only_row(s) for s in (a, b))
    names = (one, other) if one != other else (", ".join(a.runs["run"]), ", ".join(b.runs["run"]))
    return _compare(a, b, (one, other), names, scorer)


def compare_rows(study: Study, a: str, b: str, scorer: str = "mean_logp") -> Comparison:
    """Compare two rows of one study (``dpo``, ``base``, ``dpo x 0.5``) like ``compare_studies``."""
    return _compare(study, study, (a, b), (a, b), scorer)


def _compare(a: Study, b: Study, rows: tuple[str, str], names: tuple[str, str], scorer: str) -> Comparison:
    one, other = _side(a, rows[0], names[0], scorer), _side(b, rows[1], names[1], scorer)
    theirs = {member for c in other.columns for member in c.members}
    columns = [c for c in one.columns if set(c.members) <= theirs]
    if not columns:
        raise UserError(f"{names[0]} and {names[1]} share no set that both were scored on after the same training data")
    metric: Metric = resolve(METRICS, "accuracy", "metric")
    tests = [compare_grids(one.on("accuracy", c), other.on("accuracy", c), metric) for c in columns]
    adjusted = holm([t.p for t in tests])
    found = [_difference(one, other, *row) for row in zip(columns, tests, adjusted, strict=True)]
    seeds_a, seeds_b = (
        trained_seeds([g for (r, _), g in s.cells["accuracy"].items() if r == s.row]) for s in (one, other)
    )
    scorers = [s for s in dict.fromkeys((scorer, *RANKING)) if s in SCORERS]
    winners = _winners(a, b, rows, names, columns, scorers)
    notes = _notes(seeds_a, seeds_b, found, winners)
    return Comparison(*names, scorer, tuple(found), winners, seeds_a, seeds_b, notes)


def _side(study: Study, row: str, name: str, scorer: str) -> _Side:
    measured = measure(study, scorer)
    if not (measured.pairs["row"] == row).any():
        known = ", ".join(measured.pairs["row"].unique(maintain_order=True))
        raise UserError(f"there is no row {row!r} to compare; the rows are {known}")
    own = replace(
        measured,
        pairs=measured.pairs.filter(pl.col("row") == row),
        responses=measured.responses.filter(pl.col("row") == row),
    )
    cells = {m: grids(resolve(METRICS, m, "metric").function(own)) for m in ("accuracy", "drift")}
    return _Side(name, cells, columns_of(own.pairs), row)


def _difference(one: _Side, other: _Side, column: Column, test: PairedTest, p_holm: float) -> Difference:
    accuracy, drift = (resolve(METRICS, m, "metric") for m in ("accuracy", "drift"))
    a, b = (estimate(s.on("accuracy", column), accuracy) for s in (one, other))
    drifts = [estimate(s.on("drift", column), drift).mean for s in (one, other)]
    tests = (test.p, p_holm, test.p_mcnemar, test.p_sign_flip, test.detectable)
    return Difference(column, a, b, test.difference, *tests, *drifts)


def _winners(
    a: Study, b: Study, rows: tuple[str, str], names: tuple[str, str], columns: Sequence[Column], scorers: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Who is more accurate on each column by each scorer, on the prompts and seeds that are compared."""
    sides = [outcomes_by(s, scorers).filter(pl.col("row") == row) for s, row in zip((a, b), rows, strict=True)]
    return {scorer: _winners_by(sides, rows, names, columns, scorer) for scorer in scorers}


def _winners_by(
    sides: Sequence[pl.DataFrame],
    rows: tuple[str, str],
    names: tuple[str, str],
    columns: Sequence[Column],
    scorer: str,
) -> dict[str, str]:
    values = [side.select(*LABELS, "prompt", value=scorer, weight=pl.lit(1.0)) for side in sides]
    one, other = (grids(v) for v in values)
    found = {}
    for c in columns:
        pairs = [paired(x, y) for x, y in zip(at(one, rows[0], c.members), at(other, rows[1], c.members), strict=True)
                 if x is not None and y is not None]  # fmt: skip
        mean = sum(p.mean for p in pairs if p is not None) if pairs and None not in pairs else math.nan
        found[c.name] = "-" if math.isnan(mean) else "=" if mean == 0 else names[0] if mean > 0 else names[1]
    return found


def _notes(
    seeds_a: Sequence[int],
    seeds_b: Sequence[int],
    found: Sequence[Difference],
    winners: Mapping[str, Mapping[str, str]],
) -> tuple[str, ...]:
    """What the intervals cover, which seeds are paired, what the columns are, and where the scorer decides."""
    levels = ", ".join(dict.fromkeys(d.difference.level for d in found if not math.isnan(d.difference.low)))
    notes = [f"difference: paired on the same prompts and seeds, 95 % interval over {levels}"] if levels else []
    if len(seeds_a) == 1 or len(seeds_b) == 1:
        notes.append("seeds are not covered: one seed")
    if seeds_a and seeds_b and set(seeds_a) != set(seeds_b):
        common = sorted(set(seeds_a) & set(seeds_b))
        shared = f"seeds {', '.join(map(str, common))}, which both have, are compared"
        notes.append(shared if common else "the two have no seed in common; theirs are paired in their order")
    notes.append(f"p: t test; corrected over {len(found)} columns by Holm's method")
    for d in found:
        _, dataset, split, _ = d.column.members[0]
        n = len(d.column.members)
        notes.append(f"{d.column.name}: {f'{dataset} ({split})' if n == 1 else f'mean over {n} sets'}")
    for d in found:
        said = {scorer: by_column[d.column.name] for scorer, by_column in winners.items()}
        if len({w for w in said.values() if w != "-"}) > 1:
            notes.append(
                f"{d.column.name}: the winner depends on the scorer: {', '.join(map(': '.join, said.items()))}"
            )
    return tuple(notes)


def _only_row(study: Study) -> str:
    """The one method of a study at strength 1. Raises UserError where there are several, or none."""
    measured = study.responses.filter(pl.col("strength") == 1.0).join(study.runs, on="run")
    rows = measured["method"].unique(maintain_order=True).to_list()
    if len(rows) != 1:
        what = f"several methods: {', '.join(rows)}" if rows else "no trained model"
        runs = ", ".join(study.runs["folder"])
        raise UserError(f"each side of a comparison is one method with its seeds; {runs} hold {what}")
    return str(rows[0])


def _check_bases(a: Study, b: Study) -> None:
    for x in a.runs.rows(named=True):
        for y in b.runs.rows(named=True):
            if x["reference"] and y["reference"] and x["reference"] != y["reference"]:
                raise UserError(
                    f"{x['folder']} and {y['folder']} were scored against different base models (fingerprints "
                    f"{x['reference']} and {y['reference']}); compare runs of one base model"
                )
